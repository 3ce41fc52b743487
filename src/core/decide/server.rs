//! The decisions about servers: registering, updating, enabling, disabling and deleting them, and recording their
//! tools and descriptions.

use super::connection::{session_ended, session_opened};
use crate::core::catalog::Catalog;
use crate::core::catalog::server::Server;
use crate::core::command::{
    DeleteServer, DisableServer, EnableServer, RecordDescription, RecordTools, RegisterServer,
    UpdateServer,
};
use crate::core::event::{
    Event, ServerDeleted, ServerDescribed, ServerDisabled, ServerEnabled, ServerRegistered,
    ServerSessionOpened, ServerToolsDiscovered, ServerUpdated,
};
use crate::core::failure::{Code, Failure};
use crate::core::ids::ValueId;
use crate::core::model::update::Update;

/// Registers a server.
///
/// # Errors
/// Fails if the configuration breaks a rule or if a server with this name exists.
pub fn register_server(catalog: &Catalog, command: &RegisterServer) -> Result<Vec<Event>, Failure> {
    command.config.check()?;
    if catalog.server(command.name.as_str()).is_some() {
        return Err(Failure::new(
            Code::ServerAlreadyExists,
            format!("Server with name {} already exists", command.name),
        ));
    }
    let registered = ServerRegistered {
        server: command.server,
        name: command.name.clone(),
        config: command.config.clone(),
        enabled: command.enabled,
    };
    let mut events = vec![registered.into()];
    if let Some(value) = command.session {
        let opened = ServerSessionOpened {
            server: command.server,
            name: command.name.clone(),
            value,
            fencing_token: None,
        };
        events.push(opened.into());
    }
    Ok(events)
}

/// Updates a server. Returns no event if nothing changes, so a repeated update is one change.
///
/// # Errors
/// Fails if the server does not exist, if its credentials were sealed for an earlier registration, or if the new
/// configuration breaks a rule.
pub fn update_server(catalog: &Catalog, command: &UpdateServer) -> Result<Vec<Event>, Failure> {
    let server = find_server(catalog, command.name.as_str())?;
    if command
        .server
        .is_some_and(|sealed_for| sealed_for != server.id)
    {
        return Err(Failure::new(
            Code::Conflict,
            format!(
                "Server {} was registered again during the request; retry",
                server.name
            ),
        ));
    }
    let config = command.change.apply_to(&server.config)?;
    config.check()?;
    let mut events = Vec::new();
    let session = command.change.remote.session;
    let changes_session = session.apply_to(server.session) != server.session;
    let updated = Event::from(ServerUpdated {
        server: server.id,
        name: server.name.clone(),
        config: config.clone(),
    });
    if config != *server.config {
        events.push(updated.clone());
    }
    // A new session needs a restart, and only an update of the server causes one.
    let restarts = config != *server.config && !server.config.runs_on_with(&config);
    if changes_session && !restarts {
        events.push(updated);
    }
    events.extend(session_event(server, session));
    match command.change.enabled {
        Some(true) if !server.enabled => events.push(enabled_event(server)),
        Some(false) if server.enabled => events.push(disabled_event(server)),
        _ => {}
    }
    Ok(events)
}

/// Enables a server. An enabled server restarts.
///
/// # Errors
/// Fails if the server does not exist.
pub fn enable_server(catalog: &Catalog, command: &EnableServer) -> Result<Vec<Event>, Failure> {
    let server = find_server(catalog, command.name.as_str())?;
    Ok(vec![enabled_event(server)])
}

/// Disables a server. Returns no event if the server is disabled.
///
/// # Errors
/// Fails if the server does not exist.
pub fn disable_server(catalog: &Catalog, command: &DisableServer) -> Result<Vec<Event>, Failure> {
    let server = find_server(catalog, command.name.as_str())?;
    if server.enabled {
        Ok(vec![disabled_event(server)])
    } else {
        Ok(vec![])
    }
}

/// Deletes a server, its package and its secrets.
///
/// # Errors
/// Fails if the server does not exist.
pub fn delete_server(catalog: &Catalog, command: &DeleteServer) -> Result<Vec<Event>, Failure> {
    let server = find_server(catalog, command.name.as_str())?;
    let deleted = ServerDeleted {
        server: server.id,
        name: server.name.clone(),
    };
    let mut events = Vec::from_iter(super::package::package_removed(server));
    events.push(deleted.into());
    Ok(events)
}

/// Records the tools of a server. Returns no event if the server is gone, if its tools are recorded already or if a later
/// owner of the server has recorded a finding.
pub fn record_tools(catalog: &Catalog, command: &RecordTools) -> Vec<Event> {
    match catalog.server_by_id(command.server) {
        Some(server)
            if server.tools.digest != command.tools.digest
                && !server.has_later_owner(command.fencing_token) =>
        {
            let discovered = ServerToolsDiscovered {
                server: server.id,
                name: server.name.clone(),
                digest: command.tools.digest.clone(),
                tools: command.tools.tools.clone(),
                fencing_token: command.fencing_token,
            };
            vec![discovered.into()]
        }
        _ => vec![],
    }
}

/// Records the description of a server. Returns no event if the server is gone, if its description is recorded already or
/// if a later owner of the server has recorded a finding.
pub fn record_description(catalog: &Catalog, command: &RecordDescription) -> Vec<Event> {
    let Some(server) = catalog.server_by_id(command.server) else {
        return vec![];
    };
    let description = &command.description;
    let recorded = server.description.as_ref();
    let is_recorded = recorded.is_some_and(|recorded| recorded.digest == description.digest);
    if is_recorded || server.has_later_owner(command.fencing_token) {
        return vec![];
    }
    let described = ServerDescribed {
        server: server.id,
        name: server.name.clone(),
        digest: description.digest.clone(),
        capabilities: description.capabilities.clone(),
        server_info: description.server_info.clone(),
        instructions: description.instructions.clone(),
        protocol_version: description.protocol_version.clone(),
        fencing_token: command.fencing_token,
    };
    vec![described.into()]
}

fn session_event(server: &Server, session: Update<ValueId>) -> Option<Event> {
    match session {
        Update::Keep => None,
        Update::Set(value) => Some(session_opened(server, value, None)),
        Update::Clear => server
            .session
            .map(|value| session_ended(server, value, None)),
    }
}

fn find_server<'a>(catalog: &'a Catalog, name: &str) -> Result<&'a Server, Failure> {
    catalog
        .server(name)
        .map(AsRef::as_ref)
        .ok_or_else(|| Failure::server_not_found(name))
}

/// Returns the event of an enabled server.
pub fn enabled_event(server: &Server) -> Event {
    ServerEnabled {
        server: server.id,
        name: server.name.clone(),
    }
    .into()
}

fn disabled_event(server: &Server) -> Event {
    ServerDisabled {
        server: server.id,
        name: server.name.clone(),
    }
    .into()
}

#[cfg(test)]
mod restart_tests;
#[cfg(test)]
mod tests;
