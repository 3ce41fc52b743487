//! A catalogue as it is stored, so that a start need not fold from the beginning.

use std::iter::once;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Catalog;
use super::server::{SecretRef, Server};
use crate::core::event::DeadLetterStored;
use crate::core::ids::{Position, ServerId, ValueId};
use crate::core::model::dead_letter::DeadLetter;
use crate::core::model::grant::Grant;
use crate::core::model::idempotency::IdempotencyRecord;
use crate::core::model::job::Job;
use crate::core::model::package::InstalledPackage;
use crate::core::model::remote::ProtocolMode;
use crate::core::model::server::ServerConfig;
use crate::core::model::tool::Tools;
use crate::core::names::{ServerName, UserName};

/// A snapshot is JSON texts one after the other: so it is written and read with no more than one of them in memory.
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
    Dead(DeadLetter),
    Request(IdempotencyRecord),
    /// Without it, it was cut off.
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
    era: Option<ProtocolMode>,
    session: Option<ValueId>,
    grant: Option<Grant>,
    user_grants: Vec<(UserName, Grant)>,
    package: Option<Arc<InstalledPackage>>,
    secrets: Vec<(UserName, Arc<Vec<SecretRef>>)>,
    google: Vec<(UserName, ValueId)>,
}

impl Catalog {
    /// All there is, servers before jobs, as texts of JSON. A tool is kept as its server wrote it, line feeds and all.
    pub fn snapshot(&self) -> impl Iterator<Item = Result<Vec<u8>, serde_json::Error>> {
        let Self {
            position,
            tools_changed,
            servers_changed,
            ..
        } = *self;
        let head = Part::Head {
            position,
            tools_changed,
            servers_changed,
        };
        let servers = self
            .servers()
            .into_iter()
            .map(|server| Part::Server(Box::new(stored(server))));
        let jobs = self.jobs.all().map(Part::Job);
        let dead = self.dead.all().cloned().map(Part::Dead);
        let requests = self.requests.all().copied().map(Part::Request);
        let parts = once(head)
            .chain(servers)
            .chain(jobs)
            .chain(dead)
            .chain(requests)
            .chain(once(Part::End));
        parts.map(|part| serde_json::to_vec(&part))
    }

    /// Puts the next text of a snapshot back, into a catalogue that has those before it and nothing else. True: it
    /// was the last.
    pub fn put_back(&mut self, text: &[u8]) -> Result<bool, serde_json::Error> {
        match serde_json::from_slice::<Part<Job>>(text)? {
            Part::Head {
                position,
                tools_changed,
                servers_changed,
            } => {
                (self.position, self.tools_changed) = (position, tools_changed);
                self.servers_changed = servers_changed;
            }
            Part::Server(server) => self.put_back_server(*server),
            Part::Job(job) => {
                let known = |name: &ServerName| {
                    self.servers
                        .get_key_value(name)
                        .map(|(known, _)| known.clone())
                };
                let server = job.server.as_ref().and_then(known);
                self.jobs.put_back(job, server);
            }
            Part::Dead(letter) => self.dead.kept(&DeadLetterStored { letter }),
            Part::Request(request) => self.requests.insert(request),
            Part::End => return Ok(true),
        }
        Ok(false)
    }

    fn put_back_server(&mut self, server: ServerSnapshot) {
        self.names.insert(server.id, server.name.clone());
        let stored = Server {
            id: server.id,
            name: server.name.clone(),
            config: server.config,
            enabled: server.enabled,
            changed: server.changed,
            tools: server.tools,
            era: server.era,
            session: server.session,
            grant: server.grant,
            user_grants: server.user_grants.into_iter().collect(),
            package: server.package,
            secrets: server.secrets.into_iter().collect(),
            google: server.google.into_iter().collect(),
        };
        self.servers.insert(server.name, Arc::new(stored));
    }
}

fn stored(server: &Server) -> ServerSnapshot {
    ServerSnapshot {
        id: server.id,
        name: server.name.clone(),
        config: server.config.clone(),
        enabled: server.enabled,
        changed: server.changed,
        tools: server.tools.clone(),
        era: server.era,
        session: server.session,
        grant: server.grant,
        user_grants: by_user(
            server
                .user_grants
                .iter()
                .map(|(user, grant)| (user.clone(), *grant)),
        ),
        package: server.package.clone(),
        secrets: by_user(
            server
                .secrets
                .iter()
                .map(|(user, refs)| (user.clone(), refs.clone())),
        ),
        google: by_user(
            server
                .google
                .iter()
                .map(|(user, value)| (user.clone(), *value)),
        ),
    }
}

/// In an order that says nothing, and is always the same.
fn by_user<T>(all: impl Iterator<Item = (UserName, T)>) -> Vec<(UserName, T)> {
    let mut all: Vec<_> = all.collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}
