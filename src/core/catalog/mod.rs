//! The catalogue: all events folded into what reads need. Persistent maps make a new version of it
//! cheap, so readers keep the one they have and writers never wait for them.

pub mod dead_letter_table;
pub mod idempotency_table;
pub mod job_table;
pub mod scheduler;
pub mod server;
mod snapshot;

use std::sync::Arc;

use imbl::HashMap;

use self::dead_letter_table::DeadLetters;
use self::idempotency_table::IdempotencyRecords;
use self::job_table::JobTable;
use self::server::{SecretRef, Server};
use super::event::{DecodeError, Entry, Event};
use super::ids::{Position, ServerId, ValueId};
use super::model::grant::{Grant, GrantState};
use super::model::package::InstalledPackage;
use super::model::remote::Remote;
use super::model::tool::Tools;
use super::names::{ServerName, UserName};

/// Raised whenever the meaning of a fold changes: a snapshot of another version is not used.
pub const FOLD_VERSION: u32 = 9;

/// What is true at one position of the log.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    pub position: Position,
    /// Where the answer of `GET /mcp/tools` last changed.
    pub tools_changed: Position,
    /// Where what is to run last changed.
    pub servers_changed: Position,
    pub jobs: JobTable,
    pub dead: DeadLetters,
    pub requests: IdempotencyRecords,
    servers: HashMap<ServerName, Arc<Server>>,
    names: HashMap<ServerId, ServerName>,
}

impl Catalog {
    pub fn server(&self, name: &str) -> Option<&Arc<Server>> {
        self.servers.get(name)
    }

    pub fn server_by_id(&self, id: ServerId) -> Option<&Arc<Server>> {
        self.names
            .get(&id)
            .and_then(|name| self.servers.get(name.as_str()))
    }

    pub fn is_enabled(&self, id: ServerId) -> bool {
        self.server_by_id(id).is_some_and(|server| server.enabled)
    }

    /// All servers in the order of their names.
    pub fn servers(&self) -> Vec<&Arc<Server>> {
        let mut servers: Vec<_> = self.servers.values().collect();
        servers.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        servers
    }

    /// Everything in the Vault that something names.
    pub fn values(&self) -> std::collections::HashSet<ValueId> {
        self.servers
            .values()
            .flat_map(|server| server.values())
            .chain(self.jobs.values())
            .chain(self.dead.values())
            .collect()
    }

    /// Folds one append. An unreadable event leaves the catalogue as it was.
    pub fn fold(&mut self, entry: &Entry) -> Result<(), DecodeError> {
        let stored = entry.commits.iter().flat_map(|commit| &commit.events);
        let events = stored.map(Event::decode).collect::<Result<Vec<_>, _>>()?;
        self.position = entry.position;
        for event in &events {
            self.apply(event);
        }
        Ok(())
    }

    /// Folds one event at the position that was already set.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::ServerRegistered(e) => {
                let server = Server {
                    id: e.server,
                    name: e.name.clone(),
                    config: e.config.clone().into(),
                    enabled: e.enabled,
                    changed: self.position,
                    tools: Tools::default(),
                    era: None,
                    session: None,
                    grant: None,
                    user_grants: HashMap::new(),
                    package: None,
                    secrets: HashMap::new(),
                    google: HashMap::new(),
                };
                self.names.insert(e.server, e.name.clone());
                self.servers.insert(e.name.clone(), Arc::new(server));
                (self.tools_changed, self.servers_changed) = (self.position, self.position);
            }
            Event::ServerUpdated(e) => self.change_run(e.server, |server| {
                let before = std::mem::replace(&mut server.config, e.config.clone().into());
                // At another place nothing is known of the old one.
                if server.remote().map(|remote| &remote.url)
                    != before.remote().map(|remote| &remote.url)
                {
                    (server.era, server.session) = (None, None);
                }
                // Nor is another site given the tokens that were meant for it.
                if server.remote().map(Remote::origin) != before.remote().map(Remote::origin) {
                    (server.grant, server.user_grants) = (None, HashMap::new());
                }
            }),
            Event::ServerEnabled(e) => {
                self.change_run(e.server, |server| server.enabled = true);
                self.tools_changed = self.position;
            }
            Event::ServerDisabled(e) => {
                self.change_run(e.server, |server| server.enabled = false);
                self.tools_changed = self.position;
            }
            Event::ServerToolsDiscovered(e) => self.change_tools(e.server, |server| {
                server.tools = Tools {
                    digest: e.digest.clone(),
                    tools: e.tools.clone(),
                };
            }),
            Event::ServerProtocolDetected(e) => {
                self.change(e.server, |server| server.era = Some(e.protocol))
            }
            Event::ServerSessionOpened(e) => {
                self.change(e.server, |server| server.session = Some(e.value))
            }
            Event::ServerSessionEnded(e) => self.change(e.server, |server| {
                server.session.take_if(|value| *value == e.value);
            }),
            Event::GrantStored(e) => {
                let grant = Grant {
                    tokens: e.tokens,
                    since: self.position,
                    state: GrantState::Good,
                };
                match &e.user {
                    Some(user) => self.change(e.server, |server| {
                        server.user_grants.insert(user.clone(), grant);
                    }),
                    // Another grant is another session.
                    None => self.change_run(e.server, |server| {
                        (server.grant, server.session) = (Some(grant), None);
                    }),
                }
            }
            Event::GrantRefreshStarted(e) => {
                self.change_grant(e.server, e.user.as_ref(), |grant| {
                    if grant.tokens.access == e.access {
                        grant.state = GrantState::Refreshing;
                    }
                })
            }
            Event::GrantRefreshed(e) => self.change_grant(e.server, e.user.as_ref(), |grant| {
                (grant.tokens, grant.state) = (e.tokens, GrantState::Good);
            }),
            Event::GrantRefreshFailed(e) => self.change_grant(e.server, e.user.as_ref(), |grant| {
                if grant.tokens.access == e.access {
                    grant.state = if e.refused {
                        GrantState::Refused
                    } else {
                        GrantState::Good
                    };
                }
            }),
            Event::ServerDeleted(e) => {
                if let Some(name) = self.names.remove(&e.server) {
                    self.servers.remove(name.as_str());
                }
                (self.tools_changed, self.servers_changed) = (self.position, self.position);
            }
            Event::PackageInstalled(e) => self.change_package(e.server, |_| {
                Some(InstalledPackage {
                    package: e.package.clone(),
                    installed: e.at,
                    upgraded: None,
                    latest: None,
                })
            }),
            Event::PackageUpgraded(e) => self.change_package(e.server, |old| {
                let old = old?.clone();
                Some(InstalledPackage {
                    package: e.package.clone(),
                    upgraded: Some(e.at),
                    ..old
                })
            }),
            Event::PackageLatestFound(e) => self.change(e.server, |server| {
                server.package.iter_mut().for_each(|installed| {
                    Arc::make_mut(installed).latest = Some(e.latest.clone());
                });
            }),
            Event::PackageRemoved(e) => self.change_package(e.server, |_| None),
            Event::SecretSet(e) => self.change(e.server, |server| {
                let secrets = Arc::make_mut(server.secrets.entry(e.user.clone()).or_default());
                secrets.retain(|secret| secret.name != e.name);
                secrets.push(SecretRef {
                    name: e.name.clone(),
                    value: e.value,
                });
            }),
            Event::SecretDeleted(e) => self.change(e.server, |server| {
                let Some(secrets) = server.secrets.get_mut(e.user.as_str()) else {
                    return;
                };
                Arc::make_mut(secrets).retain(|secret| secret.name != e.name);
                if secrets.is_empty() {
                    server.secrets.remove(e.user.as_str());
                }
            }),
            Event::JobAccepted(e) => {
                // Of one name there is one text, however many jobs there are.
                let known = e
                    .server
                    .as_ref()
                    .and_then(|name| self.servers.get_key_value(name));
                let server = known.map(|(name, _)| name).or(e.server.as_ref()).cloned();
                self.jobs.accepted(e, server);
            }
            Event::JobStarted(e) => self.jobs.started(e),
            Event::JobProgressed(e) => self.jobs.progressed(e),
            Event::JobRequeued(e) => self.jobs.returned(e),
            Event::JobCancelRequested(e) => self.jobs.cancel_requested(e),
            Event::JobFinished(e) => self.jobs.finished(e),
            Event::JobExpired(e) => self.jobs.forgotten(e),
            Event::GoogleConnected(e) => self.change(e.server, |server| {
                server.google.insert(e.user.clone(), e.value);
            }),
            Event::DeadLetterStored(e) => self.dead.kept(e),
            Event::DeadLetterRemoved(e) => self.dead.dropped(e),
            Event::IdempotencyRecorded(e) => self.requests.insert(e.request),
            Event::IdempotencyExpired(e) => e
                .scopes
                .iter()
                .for_each(|scope| self.requests.forget(*scope)),
        }
    }

    fn change(&mut self, id: ServerId, with: impl FnOnce(&mut Server)) {
        let server = self
            .names
            .get(&id)
            .and_then(|name| self.servers.get_mut(name.as_str()));
        if let Some(server) = server {
            with(Arc::make_mut(server));
        }
    }

    fn change_grant(
        &mut self,
        id: ServerId,
        user: Option<&UserName>,
        with: impl FnOnce(&mut Grant),
    ) {
        self.change(id, |server| {
            let grant = match user {
                Some(user) => server.user_grants.get_mut(user),
                None => server.grant.as_mut(),
            };
            if let Some(grant) = grant {
                with(grant);
            }
        });
    }

    /// A change after which the server is started anew.
    fn change_run(&mut self, id: ServerId, with: impl FnOnce(&mut Server)) {
        let position = self.position;
        self.change(id, |server| {
            with(server);
            server.changed = position;
        });
        self.servers_changed = position;
    }

    fn change_package(
        &mut self,
        id: ServerId,
        with: impl FnOnce(Option<&InstalledPackage>) -> Option<InstalledPackage>,
    ) {
        self.change_run(id, |server| {
            server.package = with(server.package.as_deref()).map(Arc::new)
        });
    }

    fn change_tools(&mut self, id: ServerId, with: impl FnOnce(&mut Server)) {
        self.change(id, with);
        self.tools_changed = self.position;
    }
}
