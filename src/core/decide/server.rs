//!

use super::remote::session_ended;
use crate::core::catalog::Catalog;
use crate::core::catalog::server::Server;
use crate::core::command::{
    DeleteServer, DisableServer, EnableServer, RecordTools, RegisterServer, UpdateServer,
};
use crate::core::event::{
    Event, ServerDeleted, ServerDisabled, ServerEnabled, ServerRegistered, ServerSessionOpened,
    ServerToolsDiscovered, ServerUpdated,
};
use crate::core::failure::{Code, Failure};
use crate::core::ids::ValueId;
use crate::core::model::tool::Tools;

pub fn register_server(catalog: &Catalog, command: &RegisterServer) -> Result<Vec<Event>, Failure> {
    command.config.check()?;
    if catalog.server(command.name.as_str()).is_some() {
        let taken = format!("Server with name {} already exists", command.name);
        return Err(Failure::new(Code::ServerAlreadyExists, taken));
    }
    let (server, name) = (command.server, command.name.clone());
    let config = command.config.clone();
    let mut events = vec![
        ServerRegistered {
            server,
            name: name.clone(),
            config,
            enabled: command.enabled,
        }
        .into(),
    ];
    events.extend(command.session.map(|value| {
        ServerSessionOpened {
            server,
            name,
            value,
        }
        .into()
    }));
    Ok(events)
}

/// Nothing changed is no event: the same update twice is one.
pub fn update_server(catalog: &Catalog, command: &UpdateServer) -> Result<Vec<Event>, Failure> {
    let server = find_server(catalog, command.name.as_str())?;
    if command
        .server
        .is_some_and(|sealed_for| sealed_for != server.id)
    {
        return Err(Failure::new(
            Code::Conflict,
            format!("Server {} was registered anew; ask again", server.name),
        ));
    }
    let config = command.change.apply(server)?;
    config.check()?;
    let mut events = Vec::new();
    let session = command.change.remote.session;
    // Another session is another run.
    if config != *server.config || session.is_some_and(|session| session != server.session) {
        events.push(
            ServerUpdated {
                server: server.id,
                name: server.name.clone(),
                config,
            }
            .into(),
        );
    }
    events.extend(session.and_then(|session| change_session(server, session)));
    match command.change.enabled {
        Some(true) if !server.enabled => events.push(enabled_event(server)),
        Some(false) if server.enabled => events.push(disabled_event(server)),
        _ => {}
    }
    Ok(events)
}

pub fn enable_server(catalog: &Catalog, command: &EnableServer) -> Result<Vec<Event>, Failure> {
    let server = find_server(catalog, command.name.as_str())?;
    Ok(vec![enabled_event(server)])
}

pub fn disable_server(catalog: &Catalog, command: &DisableServer) -> Result<Vec<Event>, Failure> {
    let server = find_server(catalog, command.name.as_str())?;
    Ok(if server.enabled {
        vec![disabled_event(server)]
    } else {
        vec![]
    })
}

pub fn delete_server(catalog: &Catalog, command: &DeleteServer) -> Result<Vec<Event>, Failure> {
    let server = find_server(catalog, command.name.as_str())?;
    let deleted = ServerDeleted {
        server: server.id,
        name: server.name.clone(),
    }
    .into();
    Ok(super::package::package_removed(server)
        .into_iter()
        .chain([deleted])
        .collect())
}

/// What a holder saw is recorded only while that server is still there, and only when it is news.
pub fn record_tools(catalog: &Catalog, command: &RecordTools) -> Vec<Event> {
    match catalog.server_by_id(command.server) {
        Some(server) if server.tools.digest != command.tools.digest => {
            let Tools { digest, tools } = command.tools.clone();
            vec![
                ServerToolsDiscovered {
                    server: server.id,
                    name: server.name.clone(),
                    digest,
                    tools,
                }
                .into(),
            ]
        }
        _ => vec![],
    }
}

fn change_session(server: &Server, session: Option<ValueId>) -> Option<Event> {
    match session {
        Some(value) => Some(
            ServerSessionOpened {
                server: server.id,
                name: server.name.clone(),
                value,
            }
            .into(),
        ),
        None => server.session.map(|value| session_ended(server, value)),
    }
}

fn find_server<'a>(catalog: &'a Catalog, name: &str) -> Result<&'a Server, Failure> {
    catalog
        .server(name)
        .map(AsRef::as_ref)
        .ok_or_else(|| Failure::server_not_found(name))
}

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
