//!

use std::sync::Arc;

use crate::core::catalog::Catalog;
use crate::core::catalog::server::Server;
use crate::core::command::ExchangeGoogleCode;
use crate::core::event::{Event, GoogleConnected};
use crate::core::failure::{Code, Failure};
use crate::core::model::google::{MARK, is_marked};
use crate::core::names::ServerName;

/// The server that is named; where none is, the only one there is.
pub fn find_google_server(
    catalog: &Catalog,
    name: Option<&ServerName>,
) -> Result<Arc<Server>, Failure> {
    let marked = || format!("{}={} in its env", MARK.0, MARK.1);
    if let Some(name) = name {
        let server = catalog
            .server(name.as_str())
            .ok_or_else(|| Failure::server_not_found(name))?;
        if is_marked(&server.config) {
            return Ok(server.clone());
        }
        return Err(Failure::invalid(format!(
            "Server {name} does not sign in to Google: it has no {}",
            marked()
        )));
    }
    let mut all = catalog
        .servers()
        .into_iter()
        .filter(|server| is_marked(&server.config));
    match (all.next(), all.next()) {
        (Some(server), None) => Ok(server.clone()),
        (None, _) => Err(Failure::new(
            Code::ServerNotFound,
            format!("There is no server with {}", marked()),
        )),
        _ => Err(Failure::invalid(
            "Several servers sign in to Google; say which one",
        )),
    }
}

pub fn store_google_tokens(
    catalog: &Catalog,
    command: &ExchangeGoogleCode,
) -> Result<Vec<Event>, Failure> {
    let server = catalog
        .server_by_id(command.server)
        .ok_or_else(|| Failure::server_not_found(&command.server_name))?;
    let (server, server_name) = (server.id, server.name.clone());
    Ok(vec![
        GoogleConnected {
            server,
            server_name,
            user: command.user.clone(),
            value: command.value,
        }
        .into(),
    ])
}
