//! The catalog: the state that results from folding all entries up to one position.
//!
//! Its maps are persistent, so a copy is cheap. Readers keep their copy, and a writer never waits for them.

pub mod dead_letter_table;
#[cfg(test)]
mod description_tests;
pub mod ended_jobs;
pub mod idempotency_table;
pub mod job_table;
pub mod scheduler;
pub mod server;
mod snapshot;
#[cfg(test)]
mod snapshot_tests;
#[cfg(test)]
mod tests;
pub mod token_table;

use std::collections::HashSet;
use std::sync::Arc;

use imbl::HashMap;

use self::dead_letter_table::DeadLetters;
use self::idempotency_table::IdempotencyRecords;
use self::job_table::JobTable;
use self::server::{SecretRef, Server};
use self::token_table::TokenTable;
use super::event::{
    DecodeError, Entry, Event, GrantRemoved, GrantStored, ServerDescribed, ServerRegistered,
};
use super::ids::{Position, ServerId, ValueId};
use super::model::credential::CredentialOwner;
use super::model::description::ServerDescription;
use super::model::grant::{Grant, GrantState};
use super::model::package::InstalledPackage;
use super::model::remote::Remote;
use super::model::server::ServerConfig;
use super::model::tool::Tools;
use super::names::{SecretName, ServerName, UserName};

/// The version of the fold and of the snapshot form. A process ignores a snapshot of another version.
pub const FOLD_VERSION: u32 = 13;

/// The state at one position of the log.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    pub position: Position,
    /// The position of the last change of the response of `GET /mcp/tools`.
    pub tools_changed: Position,
    /// The position of the last change after which a worker starts, restarts or stops a server.
    pub servers_changed: Position,
    pub jobs: JobTable,
    pub dead_letters: DeadLetters,
    pub idempotency: IdempotencyRecords,
    pub tokens: TokenTable,
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

    /// Returns all servers in the order of their names.
    pub fn servers(&self) -> Vec<&Arc<Server>> {
        let mut servers: Vec<_> = self.servers.values().collect();
        servers.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        servers
    }

    /// Returns the ids of all values that the Vault must keep.
    pub fn values(&self) -> HashSet<ValueId> {
        self.servers
            .values()
            .flat_map(|server| server.values())
            .chain(self.jobs.values())
            .chain(self.dead_letters.values())
            .collect()
    }

    /// Folds one entry.
    ///
    /// # Errors
    /// Fails if the program cannot decode an event. Then the catalog is unchanged.
    pub fn fold(&mut self, entry: &Entry) -> Result<(), DecodeError> {
        let stored = entry.commits.iter().flat_map(|commit| &commit.events);
        let events = stored.map(Event::decode).collect::<Result<Vec<_>, _>>()?;
        self.position = entry.position;
        for event in &events {
            self.apply(event);
        }
        Ok(())
    }

    /// Folds one event at the current position of the catalog.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::ServerRegistered(event) => self.register_server(event),
            Event::ServerUpdated(event) => {
                self.update_server(event.server, &event.config);
            }
            Event::ServerEnabled(event) => {
                self.restart(event.server, |server| server.enabled = true);
                self.tools_changed = self.position;
            }
            Event::ServerDisabled(event) => {
                self.restart(event.server, |server| server.enabled = false);
                self.tools_changed = self.position;
            }
            Event::ServerDeleted(event) => self.delete_server(event.server),
            Event::ServerToolsDiscovered(event) => {
                self.change(event.server, |server| {
                    server.tools = Tools {
                        digest: event.digest.clone(),
                        tools: event.tools.clone(),
                    };
                    server.record_owner(event.fencing_token);
                });
                self.tools_changed = self.position;
            }
            Event::ServerDescribed(event) => self.change(event.server, |server| {
                server.description = Some(Arc::new(described(event)));
                server.record_owner(event.fencing_token);
            }),
            Event::ServerProtocolDetected(event) => {
                self.change(event.server, |server| {
                    server.protocol = Some(event.protocol);
                    server.record_owner(event.fencing_token);
                });
            }
            Event::ServerSessionOpened(event) => {
                self.change(event.server, |server| {
                    server.session = Some(event.value);
                    server.record_owner(event.fencing_token);
                });
            }
            Event::ServerSessionEnded(event) => self.change(event.server, |server| {
                server.session.take_if(|value| *value == event.value);
                server.record_owner(event.fencing_token);
            }),
            Event::GrantStored(event) => self.store_grant(event),
            Event::GrantRefreshStarted(event) => {
                self.change_grant(event.server, event.user.as_ref(), |grant| {
                    if grant.tokens.access == event.access {
                        grant.state = GrantState::Refreshing;
                    }
                });
            }
            Event::GrantRefreshed(event) => {
                self.change_grant(event.server, event.user.as_ref(), |grant| {
                    grant.tokens = event.tokens;
                    grant.state = GrantState::Good;
                });
            }
            Event::GrantRefreshFailed(event) => {
                self.change_grant(event.server, event.user.as_ref(), |grant| {
                    if grant.tokens.access == event.access {
                        grant.state = if event.refused {
                            GrantState::Refused
                        } else {
                            GrantState::Good
                        };
                    }
                });
            }
            Event::GrantRemoved(event) => self.remove_grant(event),
            Event::PackageInstalled(event) => self.change_package(event.server, |_| {
                Some(InstalledPackage {
                    package: event.package.clone(),
                    installed: event.at,
                    upgraded: None,
                    latest: None,
                })
            }),
            Event::PackageUpgraded(event) => self.change_package(event.server, |installed| {
                let installed = installed?.clone();
                Some(InstalledPackage {
                    package: event.package.clone(),
                    upgraded: Some(event.at),
                    ..installed
                })
            }),
            Event::PackageLatestFound(event) => self.change(event.server, |server| {
                if let Some(installed) = &mut server.package {
                    Arc::make_mut(installed).latest = Some(event.latest.clone());
                }
            }),
            Event::PackageRemoved(event) => self.change_package(event.server, |_| None),
            Event::SecretSet(event) => {
                let secret = SecretRef {
                    name: event.name.clone(),
                    value: event.value,
                };
                self.change_secret(event.server, event.user.as_ref(), &event.name, Some(secret));
            }
            Event::SecretDeleted(event) => {
                self.change_secret(event.server, event.user.as_ref(), &event.name, None);
            }
            Event::GoogleConnected(event) => self.change(event.server, |server| {
                server.google.insert(event.user.clone(), event.value);
            }),
            Event::GoogleDisconnected(event) => self.change(event.server, |server| {
                server.google.remove(event.user.as_str());
            }),
            Event::JobAccepted(event) => {
                let server = event.server.as_ref().map(|name| self.shared_name(name));
                self.jobs.accept(event, server);
            }
            Event::JobStarted(event) => self.jobs.start(event),
            Event::JobProgressed(event) => self.jobs.set_progress(event),
            Event::JobRequeued(event) => self.jobs.requeue(event),
            Event::JobCancelRequested(event) => self.jobs.request_cancellation(event),
            Event::JobFinished(event) => self.jobs.finish(event, self.position),
            Event::JobExpired(event) => self.jobs.expire(event),
            Event::DeadLetterStored(event) => self.dead_letters.store(event),
            Event::DeadLetterRemoved(event) => self.dead_letters.remove(event),
            Event::TokenCreated(event) => self.tokens.create(event),
            Event::TokenRevoked(event) => self.tokens.revoke(event),
            Event::TokensRemoved(event) => self.tokens.remove(event),
            Event::IdempotencyRecorded(event) => self.idempotency.insert(event.request),
            Event::IdempotencyExpired(event) => {
                for scope in &event.scopes {
                    self.idempotency.remove(*scope);
                }
            }
        }
    }

    fn register_server(&mut self, event: &ServerRegistered) {
        let server = Server {
            id: event.server,
            name: event.name.clone(),
            config: event.config.clone().into(),
            enabled: event.enabled,
            changed: self.position,
            tools: Tools::default(),
            description: None,
            protocol: None,
            session: None,
            fencing_token: 0,
            grant: None,
            user_grants: HashMap::new(),
            package: None,
            secrets: HashMap::new(),
            shared_secrets: Arc::default(),
            google: HashMap::new(),
        };
        self.names.insert(event.server, event.name.clone());
        self.servers.insert(event.name.clone(), Arc::new(server));
        self.tools_changed = self.position;
        self.servers_changed = self.position;
    }

    fn delete_server(&mut self, id: ServerId) {
        if let Some(name) = self.names.remove(&id) {
            self.servers.remove(name.as_str());
        }
        self.tools_changed = self.position;
        self.servers_changed = self.position;
    }

    fn store_grant(&mut self, event: &GrantStored) {
        let grant = Grant {
            tokens: event.tokens,
            since: self.position,
            state: GrantState::Good,
        };
        match &event.user {
            Some(user) => self.change(event.server, |server| {
                server.user_grants.insert(user.clone(), grant);
            }),
            // A session belongs to one grant, so a new grant ends the session.
            None => self.restart(event.server, |server| {
                server.grant = Some(grant);
                server.session = None;
            }),
        }
    }

    fn remove_grant(&mut self, event: &GrantRemoved) {
        match &event.user {
            Some(user) => self.change(event.server, |server| {
                server.user_grants.remove(user.as_str());
            }),
            None => self.restart(event.server, |server| {
                server.grant = None;
                server.session = None;
            }),
        }
    }

    /// Replaces or removes a secret. A shared value that belongs to a process or a connection restarts the server.
    fn change_secret(
        &mut self,
        server: ServerId,
        user: Option<&UserName>,
        name: &SecretName,
        secret: Option<SecretRef>,
    ) {
        match user {
            Some(user) => self.change(server, |server| {
                let mut secrets = server.secrets.remove(user.as_str()).unwrap_or_default();
                replace_secret(&mut secrets, name, secret);
                if !secrets.is_empty() {
                    server.secrets.insert(user.clone(), secrets);
                }
            }),
            None if self.starts_with(server, name) => self.restart(server, |server| {
                replace_secret(&mut server.shared_secrets, name, secret);
            }),
            None => self.change(server, |server| {
                replace_secret(&mut server.shared_secrets, name, secret);
            }),
        }
    }

    /// Returns whether a shared value belongs to the process or the connection of a server.
    fn starts_with(&self, server: ServerId, name: &SecretName) -> bool {
        let server = self.server_by_id(server);
        server
            .and_then(|server| server.config.credential(name, CredentialOwner::Shared))
            .is_some_and(|credential| credential.location.is_of_connection())
    }

    /// Returns the copy of the server's name that the catalog holds, so that all jobs of a server share one text.
    fn shared_name(&self, name: &ServerName) -> ServerName {
        self.servers
            .get_key_value(name)
            .map_or(name, |(shared, _)| shared)
            .clone()
    }

    /// Changes a server that continues to run.
    fn change(&mut self, id: ServerId, change: impl FnOnce(&mut Server)) {
        let server = self
            .names
            .get(&id)
            .and_then(|name| self.servers.get_mut(name.as_str()));
        if let Some(server) = server {
            change(Arc::make_mut(server));
        }
    }

    fn change_grant(
        &mut self,
        id: ServerId,
        user: Option<&UserName>,
        change: impl FnOnce(&mut Grant),
    ) {
        self.change(id, |server| {
            let grant = match user {
                Some(user) => server.user_grants.get_mut(user),
                None => server.grant.as_mut(),
            };
            if let Some(grant) = grant {
                change(grant);
            }
        });
    }

    /// Changes a server that a worker must restart afterwards.
    fn restart(&mut self, id: ServerId, change: impl FnOnce(&mut Server)) {
        let position = self.position;
        self.change(id, |server| {
            change(server);
            server.changed = position;
        });
        self.servers_changed = position;
    }

    /// Replaces the configuration of a server. The server restarts unless the new configuration suits its process and its
    /// connection. An update with the same configuration restarts the server for a new session.
    fn update_server(&mut self, id: ServerId, config: &ServerConfig) {
        let server = self.server_by_id(id);
        let goes_on = server.is_some_and(|server| server.config.runs_on_with(config));
        if goes_on {
            self.change(id, |server| replace_config(server, config));
            self.servers_changed = self.position;
        } else {
            self.restart(id, |server| replace_config(server, config));
        }
    }

    /// Changes the package of a server. Another version may speak another protocol.
    fn change_package(
        &mut self,
        id: ServerId,
        change: impl FnOnce(Option<&InstalledPackage>) -> Option<InstalledPackage>,
    ) {
        self.restart(id, |server| {
            server.package = change(server.package.as_deref()).map(Arc::new);
            server.protocol = None;
        });
    }
}

fn described(event: &ServerDescribed) -> ServerDescription {
    ServerDescription {
        digest: event.digest.clone(),
        capabilities: event.capabilities.clone(),
        server_info: event.server_info.clone(),
        instructions: event.instructions.clone(),
        protocol_version: event.protocol_version.clone(),
    }
}

/// Replaces the configuration. Another URL ends the session, because it belongs to the old URL. Another URL or another
/// command may speak another protocol. Another origin ends the grants, because tokens stay with their origin.
fn replace_config(server: &mut Server, config: &ServerConfig) {
    let previous_config = std::mem::replace(&mut server.config, config.clone().into());
    let previous = previous_config.remote();
    let current = server.config.remote();
    let has_new_url = current.map(|remote| &remote.url) != previous.map(|remote| &remote.url);
    let has_new_origin = current.map(Remote::origin) != previous.map(Remote::origin);
    if has_new_url {
        server.session = None;
    }
    if has_new_url || has_new_command(&previous_config, &server.config) {
        server.protocol = None;
    }
    if has_new_origin {
        server.grant = None;
        server.user_grants = HashMap::new();
    }
    forget_sent_values(server, &previous_config, has_new_origin);
}

/// Whether a child process starts in another way.
fn has_new_command(previous: &ServerConfig, current: &ServerConfig) -> bool {
    let is_child = current.remote().is_none();
    is_child && current.transport != previous.transport
}

/// Removes the values that requests carry in their headers and URLs, if they would reach another origin, or if no request
/// carries them there any more. Such values stay with their origin.
fn forget_sent_values(server: &mut Server, previous: &ServerConfig, has_new_origin: bool) {
    let current = server.config.clone();
    let is_forgotten = |secret: &SecretRef, owner| {
        let is_sent = |config: &ServerConfig| {
            let credential = config.credential(&secret.name, owner);
            credential.is_some_and(|credential| credential.location.is_sent())
        };
        let was_sent = is_sent(previous);
        (was_sent && !is_sent(&current)) || (has_new_origin && (was_sent || is_sent(&current)))
    };
    let users: Vec<UserName> = server.secrets.keys().cloned().collect();
    for user in users {
        let mut secrets = server.secrets.remove(user.as_str()).unwrap_or_default();
        Arc::make_mut(&mut secrets).retain(|secret| !is_forgotten(secret, CredentialOwner::User));
        if !secrets.is_empty() {
            server.secrets.insert(user, secrets);
        }
    }
    Arc::make_mut(&mut server.shared_secrets)
        .retain(|secret| !is_forgotten(secret, CredentialOwner::Shared));
}

fn replace_secret(secrets: &mut Arc<Vec<SecretRef>>, name: &SecretName, secret: Option<SecretRef>) {
    let secrets = Arc::make_mut(secrets);
    secrets.retain(|secret| secret.name != *name);
    secrets.extend(secret);
}
