//! A catalogue as it is stored, so that a start need not fold from the beginning.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Catalog, SecretRef, Server};
use crate::core::dead::DeadLetter;
use crate::core::event::DeadKept;
use crate::core::grant::Grant;
use crate::core::job::{Job, Jobs};
use crate::core::names::{Position, ServerId, ServerName, UserName, ValueId};
use crate::core::package::Installed;
use crate::core::remote::Era;
use crate::core::request::Request;
use crate::core::server::ServerConfig;
use crate::core::tool::Tools;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Snapshot<J> {
    position: Position,
    tools_changed: Position,
    servers_changed: Position,
    servers: Vec<ServerSnapshot>,
    jobs: Vec<J>,
    dead: Vec<DeadLetter>,
    requests: Vec<Request>,
}

#[derive(Serialize, Deserialize)]
struct ServerSnapshot {
    id: ServerId,
    name: ServerName,
    config: Arc<ServerConfig>,
    enabled: bool,
    changed: Position,
    tools: Tools,
    era: Option<Era>,
    session: Option<ValueId>,
    grant: Option<Grant>,
    user_grants: Vec<(UserName, Grant)>,
    package: Option<Arc<Installed>>,
    secrets: Vec<(UserName, Arc<Vec<SecretRef>>)>,
    google: Vec<(UserName, ValueId)>,
}

impl Catalog {
    pub fn to_snapshot(&self) -> Result<Vec<u8>, serde_json::Error> {
        let servers = self.servers().into_iter().map(|server| {
            let mut secrets: Vec<_> = server.secrets.iter().map(|(user, refs)| (user.clone(), refs.clone())).collect();
            secrets.sort_by(|a, b| a.0.cmp(&b.0));
            let mut google: Vec<_> = server.google.iter().map(|(user, value)| (user.clone(), *value)).collect();
            google.sort_by(|a, b| a.0.cmp(&b.0));
            let mut user_grants: Vec<_> =
                server.user_grants.iter().map(|(user, grant)| (user.clone(), *grant)).collect();
            user_grants.sort_by(|a, b| a.0.cmp(&b.0));
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
                user_grants,
                package: server.package.clone(),
                secrets,
                google,
            }
        });
        let Self { position, tools_changed, servers_changed, .. } = *self;
        let (servers, jobs) = (servers.collect(), self.jobs.to_snapshot());
        let (dead, requests) = (self.dead.all().cloned().collect(), self.requests.all().copied().collect());
        serde_json::to_vec(&Snapshot { position, tools_changed, servers_changed, servers, jobs, dead, requests })
    }

    pub fn from_snapshot(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        let snapshot: Snapshot<Job> = serde_json::from_slice(bytes)?;
        let Snapshot { position, tools_changed, servers_changed, servers, jobs, dead, requests } = snapshot;
        let mut catalog = Self { position, tools_changed, servers_changed, ..Self::default() };
        dead.into_iter().for_each(|letter| catalog.dead.kept(&DeadKept { letter }));
        requests.into_iter().for_each(|request| catalog.requests.insert(request));
        for server in servers {
            catalog.names.insert(server.id, server.name.clone());
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
            catalog.servers.insert(server.name, Arc::new(stored));
        }
        let known = &catalog.servers;
        let name = |name: ServerName| known.get_key_value(&name).map_or(name.clone(), |(known, _)| known.clone());
        catalog.jobs = Jobs::from_snapshot(jobs, name);
        Ok(catalog)
    }
}
