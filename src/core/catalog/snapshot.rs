//! The stored form of the catalog. A starting process loads a snapshot and folds only the entries after it.

use std::iter::once;
use std::sync::Arc;

use imbl::HashMap;
use serde::{Deserialize, Serialize};

use super::Catalog;
use super::server::{SecretRef, Server};
use super::token_table::TokenSnapshot;
use crate::core::event::DeadLetterStored;
use crate::core::ids::{Position, ServerId, ValueId};
use crate::core::model::dead_letter::DeadLetter;
use crate::core::model::description::ServerDescription;
use crate::core::model::grant::Grant;
use crate::core::model::idempotency::IdempotencyRecord;
use crate::core::model::job::Job;
use crate::core::model::package::InstalledPackage;
use crate::core::model::remote::ProtocolMode;
use crate::core::model::server::ServerConfig;
use crate::core::model::tool::Tools;
use crate::core::names::{ServerName, UserName};

/// One part of a snapshot. A snapshot is a sequence of JSON texts, so that a process holds only one part in memory.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Part<J> {
    #[serde(rename_all = "camelCase")]
    Head {
        position: Position,
        tools_changed: Position,
        servers_changed: Position,
    },
    Server(Box<ServerSnapshot>),
    Job(J),
    DeadLetter(DeadLetter),
    Idempotency(IdempotencyRecord),
    Token(TokenSnapshot),
    /// The last part. A snapshot without it is incomplete.
    End,
}

#[derive(Serialize, Deserialize)]
struct ServerSnapshot {
    id: ServerId,
    name: ServerName,
    config: Arc<ServerConfig>,
    enabled: bool,
    changed: Position,
    tools: Tools,
    /// Absent in snapshots of earlier versions.
    #[serde(default)]
    description: Option<Arc<ServerDescription>>,
    protocol: Option<ProtocolMode>,
    session: Option<ValueId>,
    /// Absent in snapshots of earlier versions.
    #[serde(default)]
    fencing_token: u64,
    grant: Option<Grant>,
    user_grants: Vec<(UserName, Grant)>,
    package: Option<Arc<InstalledPackage>>,
    secrets: Vec<(UserName, Arc<Vec<SecretRef>>)>,
    /// Absent in snapshots of earlier versions.
    #[serde(default)]
    shared_secrets: Arc<Vec<SecretRef>>,
    google: Vec<(UserName, ValueId)>,
}

impl Catalog {
    /// Returns the parts of a snapshot as JSON. Servers come before jobs. A tool keeps the spelling of its server, line
    /// feeds included.
    pub fn snapshot(&self) -> impl Iterator<Item = Result<Vec<u8>, serde_json::Error>> {
        let head = Part::Head {
            position: self.position,
            tools_changed: self.tools_changed,
            servers_changed: self.servers_changed,
        };
        let servers = self
            .servers()
            .into_iter()
            .map(|server| Part::Server(Box::new(server_snapshot(server))));
        let jobs = self.jobs.all().map(Part::Job);
        let dead_letters = self.dead_letters.all().cloned().map(Part::DeadLetter);
        let idempotency = self.idempotency.all().copied().map(Part::Idempotency);
        let tokens = self
            .tokens
            .all()
            .map(|stored| Part::Token(stored.to_snapshot()));
        once(head)
            .chain(servers)
            .chain(jobs)
            .chain(dead_letters)
            .chain(idempotency)
            .chain(tokens)
            .chain(once(Part::End))
            .map(|part| serde_json::to_vec(&part))
    }

    /// Restores the next part of a snapshot into a catalog that holds the parts before it and nothing else.
    /// Returns true after the last part.
    ///
    /// # Errors
    /// Fails if the text is no part of a snapshot.
    pub fn restore_part(&mut self, text: &[u8]) -> Result<bool, serde_json::Error> {
        match serde_json::from_slice::<Part<Job>>(text)? {
            Part::Head {
                position,
                tools_changed,
                servers_changed,
            } => {
                self.position = position;
                self.tools_changed = tools_changed;
                self.servers_changed = servers_changed;
            }
            Part::Server(server) => self.restore_server(*server),
            Part::Job(job) => {
                let server = job
                    .target
                    .server
                    .as_ref()
                    .map(|name| self.shared_name(name));
                self.jobs.restore(job, server);
            }
            Part::DeadLetter(dead_letter) => {
                self.dead_letters.store(&DeadLetterStored { dead_letter });
            }
            Part::Idempotency(record) => self.idempotency.insert(record),
            Part::Token(stored) => self.tokens.restore(stored),
            Part::End => return Ok(true),
        }
        Ok(false)
    }

    fn restore_server(&mut self, server: ServerSnapshot) {
        self.names.insert(server.id, server.name.clone());
        let restored = Server {
            id: server.id,
            name: server.name.clone(),
            config: server.config,
            enabled: server.enabled,
            changed: server.changed,
            tools: server.tools,
            description: server.description,
            protocol: server.protocol,
            session: server.session,
            fencing_token: server.fencing_token,
            grant: server.grant,
            user_grants: server.user_grants.into_iter().collect(),
            package: server.package,
            secrets: server.secrets.into_iter().collect(),
            shared_secrets: server.shared_secrets,
            google: server.google.into_iter().collect(),
        };
        self.servers.insert(server.name, Arc::new(restored));
    }
}

fn server_snapshot(server: &Server) -> ServerSnapshot {
    ServerSnapshot {
        id: server.id,
        name: server.name.clone(),
        config: server.config.clone(),
        enabled: server.enabled,
        changed: server.changed,
        tools: server.tools.clone(),
        description: server.description.clone(),
        protocol: server.protocol,
        session: server.session,
        fencing_token: server.fencing_token,
        grant: server.grant,
        user_grants: sorted_by_user(&server.user_grants),
        package: server.package.clone(),
        secrets: sorted_by_user(&server.secrets),
        shared_secrets: server.shared_secrets.clone(),
        google: sorted_by_user(&server.google),
    }
}

/// Returns the entries in the order of the user names, so that equal catalogs have equal snapshots.
fn sorted_by_user<T: Clone>(by_user: &HashMap<UserName, T>) -> Vec<(UserName, T)> {
    let mut entries: Vec<_> = by_user
        .iter()
        .map(|(user, value)| (user.clone(), value.clone()))
        .collect();
    entries.sort_by(|left, right| left.0.cmp(&right.0));
    entries
}
