//! One registered server, as the catalog knows it.

use std::sync::Arc;

use imbl::HashMap;
use serde::{Deserialize, Serialize};

use crate::core::ids::{Position, ServerId, ValueId};
use crate::core::model::description::ServerDescription;
use crate::core::model::grant::Grant;
use crate::core::model::package::InstalledPackage;
use crate::core::model::remote::{ProtocolMode, Remote};
use crate::core::model::server::{Replicas, ServerConfig};
use crate::core::model::tool::Tools;
use crate::core::names::{SecretName, ServerName, UserName};

/// One registered server with its secrets, grants, tools and package. A deletion of the server removes all of them.
#[derive(Debug, Clone)]
pub struct Server {
    pub id: ServerId,
    pub name: ServerName,
    pub config: Arc<ServerConfig>,
    pub enabled: bool,
    /// The position of the last change that restarts the server. A worker restarts a connection that is older.
    pub changed: Position,
    pub tools: Tools,
    /// The description that the server gave of itself, once a worker has recorded it.
    pub description: Option<Arc<ServerDescription>>,
    /// The protocol mode of the server, once a worker has detected it.
    pub protocol: Option<ProtocolMode>,
    /// The id of the sealed session in the Vault.
    pub session: Option<ValueId>,
    /// The highest fencing token of an owner that has recorded a finding. An owner with a lower one has lost its lease.
    pub fencing_token: u64,
    /// The grant for all users of the server.
    pub grant: Option<Grant>,
    /// The grants of single users.
    pub user_grants: HashMap<UserName, Grant>,
    /// The package that the server was installed from.
    pub package: Option<Arc<InstalledPackage>>,
    pub secrets: HashMap<UserName, Arc<Vec<SecretRef>>>,
    /// The values of the credentials that all users share.
    pub shared_secrets: Arc<Vec<SecretRef>>,
    /// The ids of the sealed Google tokens, for each user.
    pub google: HashMap<UserName, ValueId>,
}

/// A secret as the catalog knows it: its name and the id of its sealed value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SecretRef {
    pub name: SecretName,
    pub value: ValueId,
}

impl Server {
    /// Returns the id of the server if only one process in the cluster may run it. Then a command for the server must
    /// go to its owner.
    pub fn exclusive_id(&self) -> Option<ServerId> {
        (self.config.replicas == Replicas::One).then_some(self.id)
    }

    /// Returns whether a worker with this fencing token has lost the server to a later owner.
    pub fn has_later_owner(&self, fencing_token: Option<u64>) -> bool {
        fencing_token.is_some_and(|token| token < self.fencing_token)
    }

    /// Remembers the fencing token of an owner that has recorded a finding.
    pub fn record_owner(&mut self, fencing_token: Option<u64>) {
        self.fencing_token = self.fencing_token.max(fencing_token.unwrap_or(0));
    }

    pub fn secrets_of(&self, user: &str) -> &[SecretRef] {
        self.secrets
            .get(user)
            .map_or(&[], |secrets| secrets.as_slice())
    }

    /// Returns the configuration of the remote endpoint, if the server is behind a URL.
    pub fn remote(&self) -> Option<&Remote> {
        self.config.remote()
    }

    /// Returns the id of the sealed Google tokens of a user.
    pub fn google_tokens_of(&self, user: &str) -> Option<ValueId> {
        self.google.get(user).copied()
    }

    /// Returns the grant of a user, or the grant for all users if `user` is `None`.
    pub fn grant(&self, user: Option<&UserName>) -> Option<Grant> {
        match user {
            Some(user) => self.user_grants.get(user).copied(),
            None => self.grant,
        }
    }

    /// Returns the ids of all values in the Vault that belong to this server: secrets and tokens of all users,
    /// credentials, the session and the package.
    pub fn values(&self) -> impl Iterator<Item = ValueId> + '_ {
        let secrets = self
            .secrets
            .values()
            .chain([&self.shared_secrets])
            .flat_map(|secrets| secrets.iter().map(|secret| secret.value));
        let google_tokens = self.google.values().copied();
        let grants = self
            .grant
            .iter()
            .chain(self.user_grants.values())
            .flat_map(|grant| [grant.tokens.access, grant.tokens.renewal]);
        let package = self
            .package
            .iter()
            .flat_map(|installed| installed.package.values());
        let credentials = self.remote().into_iter().flat_map(Remote::values);
        secrets
            .chain(google_tokens)
            .chain(credentials)
            .chain(self.session)
            .chain(package)
            .chain(grants)
    }
}
