//!

use std::sync::Arc;

use imbl::HashMap;
use serde::{Deserialize, Serialize};

use crate::core::ids::{Position, ServerId, ValueId};
use crate::core::model::grant::Grant;
use crate::core::model::package::InstalledPackage;
use crate::core::model::remote::{ProtocolMode, Remote};
use crate::core::model::server::{Replicas, ServerConfig};
use crate::core::model::tool::Tools;
use crate::core::names::{SecretName, ServerName, UserName};

/// One registered server and everything that ends with it.
#[derive(Debug, Clone)]
pub struct Server {
    pub id: ServerId,
    pub name: ServerName,
    pub config: Arc<ServerConfig>,
    pub enabled: bool,
    /// Where it was registered, updated, enabled or disabled last: what was started before that is to be
    /// started anew.
    pub changed: Position,
    pub tools: Tools,
    /// How a server behind a URL was found to speak.
    pub era: Option<ProtocolMode>,
    /// Where its session lies.
    pub session: Option<ValueId>,
    /// The access that was given for all its users.
    pub grant: Option<Grant>,
    /// The access that users have given for themselves.
    pub user_grants: HashMap<UserName, Grant>,
    /// What it was installed from.
    pub package: Option<Arc<InstalledPackage>>,
    pub secrets: HashMap<UserName, Arc<Vec<SecretRef>>>,
    /// Where the tokens lie that let it act for a user at Google.
    pub google: HashMap<UserName, ValueId>,
}

/// A secret as the catalogue knows it: what it is called and where its value lies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SecretRef {
    pub name: SecretName,
    pub value: ValueId,
}

impl Server {
    /// Its id, where one process in the whole cluster runs it and that one must be asked.
    pub fn held(&self) -> Option<ServerId> {
        (self.config.replicas == Replicas::One).then_some(self.id)
    }

    pub fn secrets_of(&self, user: &str) -> &[SecretRef] {
        self.secrets
            .get(user)
            .map_or(&[], |secrets| secrets.as_slice())
    }

    /// Where it is, if it is behind a URL.
    pub fn remote(&self) -> Option<&Remote> {
        self.config.remote()
    }

    /// Where a user's tokens for Google lie.
    pub fn google_tokens_of(&self, user: &str) -> Option<ValueId> {
        self.google.get(user).copied()
    }

    /// That user's own grant, or the one for all where none is named.
    pub fn grant(&self, user: Option<&UserName>) -> Option<Grant> {
        match user {
            Some(user) => self.user_grants.get(user).copied(),
            None => self.grant,
        }
    }

    /// Where every secret of this server lies, whosever it is, tokens too; its own credentials and its session.
    pub fn values(&self) -> impl Iterator<Item = ValueId> + '_ {
        let secrets = self
            .secrets
            .values()
            .flat_map(|secrets| secrets.iter().map(|secret| secret.value));
        let secrets = secrets.chain(self.google.values().copied());
        let grants = self.grant.iter().chain(self.user_grants.values());
        let grants = grants.flat_map(|grant| [grant.tokens.access, grant.tokens.renewal]);
        let package = self
            .package
            .iter()
            .flat_map(|installed| installed.package.values());
        let own = self
            .remote()
            .into_iter()
            .flat_map(Remote::values)
            .chain(self.session)
            .chain(package);
        secrets.chain(own).chain(grants)
    }
}
