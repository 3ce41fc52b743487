//! The decisions about servers that act for a user at Google.

use std::sync::Arc;

use crate::core::catalog::Catalog;
use crate::core::catalog::server::Server;
use crate::core::command::ExchangeGoogleCode;
use crate::core::event::{Event, GoogleConnected};
use crate::core::failure::{Code, Failure};
use crate::core::model::google::{MARK, is_marked};
use crate::core::names::ServerName;

/// Returns the named Google server, or the only Google server if `name` is `None`.
///
/// # Errors
/// Fails if the server does not exist or is no Google server, and if no name is given but there are several.
pub fn find_google_server(
    catalog: &Catalog,
    name: Option<&ServerName>,
) -> Result<Arc<Server>, Failure> {
    let (variable, value) = MARK;
    if let Some(name) = name {
        let server = catalog
            .server(name.as_str())
            .ok_or_else(|| Failure::server_not_found(name))?;
        if is_marked(&server.config) {
            return Ok(server.clone());
        }
        return Err(Failure::invalid(format!(
            "Server {name} does not sign in to Google; a server that does has {variable}={value} in its env"
        )));
    }
    let mut marked = catalog
        .servers()
        .into_iter()
        .filter(|server| is_marked(&server.config));
    match (marked.next(), marked.next()) {
        (Some(server), None) => Ok(server.clone()),
        (None, _) => Err(Failure::new(
            Code::ServerNotFound,
            format!("No server has {variable}={value} in its env; register one"),
        )),
        _ => Err(Failure::invalid(
            "Several servers sign in to Google; name one of them",
        )),
    }
}

/// Stores the Google tokens of a user.
///
/// # Errors
/// Fails if the server does not exist.
pub fn store_google_tokens(
    catalog: &Catalog,
    command: &ExchangeGoogleCode,
) -> Result<Vec<Event>, Failure> {
    let server = catalog
        .server_by_id(command.server)
        .ok_or_else(|| Failure::server_not_found(&command.server_name))?;
    let connected = GoogleConnected {
        server: server.id,
        server_name: server.name.clone(),
        user: command.user.clone(),
        value: command.value,
    };
    Ok(vec![connected.into()])
}
