//! The decisions about servers that act for a user at Google.

use std::sync::Arc;

use crate::core::catalog::Catalog;
use crate::core::catalog::server::Server;
use crate::core::command::ExchangeGoogleCode;
use crate::core::event::{Event, GoogleConnected};
use crate::core::failure::{Code, Failure};
use crate::core::model::google::{MARK, is_marked};
use crate::core::names::ServerName;

/// Returns the named Google server, or the only Google server if `name` is `None`. A server that the sender may not use
/// does not exist for the sender.
///
/// # Errors
/// Fails if the server does not exist or is no Google server, and if no name is given but there are several.
pub fn find_google_server(
    catalog: &Catalog,
    name: Option<&ServerName>,
    may_use: impl Fn(&Server) -> bool,
) -> Result<Arc<Server>, Failure> {
    let (variable, value) = MARK;
    if let Some(name) = name {
        let server = catalog
            .server(name.as_str())
            .filter(|server| may_use(server))
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
        .filter(|server| is_marked(&server.config) && may_use(server));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::decide::testing::given;
    use crate::core::decide::testing::samples::*;
    use crate::core::model::server::{ServerConfig, Transport};

    fn google_server(server: &str) -> Event {
        let (variable, mark) = MARK;
        let config = ServerConfig::new(Transport::Stdio {
            command: "npx".into(),
            args: vec![],
            env: [(variable.to_owned(), mark.to_owned())].into(),
        });
        registered(server, config)
    }

    fn find(events: impl IntoIterator<Item = Event>, server: Option<&str>) -> Result<String, Code> {
        let catalog = given(events).catalog;
        let server = server.map(name);
        find_google_server(&catalog, server.as_ref(), |_| true)
            .map(|server| server.name.to_string())
            .map_err(|failure| failure.code)
    }

    fn exchange() -> ExchangeGoogleCode {
        ExchangeGoogleCode {
            origin: origin(1),
            server: server_id("mail"),
            server_name: name("mail"),
            user: name("ana"),
            value: value(3),
            sealed: String::new(),
        }
    }

    #[test]
    fn the_only_google_server_needs_no_name() {
        let events = [server_registered("memory"), google_server("mail")];
        assert_eq!(find(events, None), Ok("mail".into()));
    }

    #[test]
    fn one_of_several_google_servers_needs_its_name() {
        let events = || [google_server("mail"), google_server("calendar")];
        assert_eq!(find(events(), None), Err(Code::InvalidRequest));
        assert_eq!(find(events(), Some("calendar")), Ok("calendar".into()));
    }

    #[test]
    fn a_server_without_the_mark_is_no_google_server() {
        let events = || [server_registered("memory")];
        assert_eq!(find(events(), Some("memory")), Err(Code::InvalidRequest));
        assert_eq!(find(events(), Some("mail")), Err(Code::ServerNotFound));
        assert_eq!(find(events(), None), Err(Code::ServerNotFound));
    }

    #[test]
    fn new_google_tokens_replace_the_old_ones() {
        let connected = |number| -> Event {
            GoogleConnected {
                server: server_id("mail"),
                server_name: name("mail"),
                user: name("ana"),
                value: value(number),
            }
            .into()
        };
        let catalog = given([google_server("mail"), connected(2)])
            .when(|catalog| store_google_tokens(catalog, &exchange()))
            .then([connected(3)]);
        let server = catalog.server("mail").expect("a server");
        assert_eq!(server.google_tokens_of("ana"), Some(value(3)));
        assert_eq!(catalog.values(), [value(3)].into());
    }

    #[test]
    fn google_tokens_of_an_unknown_server_are_refused() {
        given([])
            .when(|catalog| store_google_tokens(catalog, &exchange()))
            .then_fails_with(Code::ServerNotFound);
    }
}
