//! Unit tests of updates that restart a server, and of those that do not.

use super::*;
use crate::core::decide::testing::given;
use crate::core::decide::testing::samples::*;
use crate::core::ids::Position;
use crate::core::model::remote::{Remote, RemoteChange};
use crate::core::model::server::{ServerChange, ServerConfig, Transport};
use crate::core::model::update::Update;

fn command(change: ServerChange) -> UpdateServer {
    UpdateServer {
        origin: origin(1),
        name: name("memory"),
        change,
        server: None,
        sealed: vec![],
    }
}

/// Returns the position of the last restart after an update, and of the last change of a server.
fn positions(change: ServerChange) -> (Position, Position) {
    let config = ServerConfig::new(Transport::StreamableHttp(Remote::new("https://h/mcp")));
    let registered = given([registered("memory", config)]);
    let events = update_server(&registered.catalog, &command(change)).expect("events");
    let mut catalog = registered.catalog;
    catalog.position = Position(2);
    for event in &events {
        catalog.apply(event);
    }
    let server = catalog.server("memory").expect("a server");
    (server.changed, catalog.servers_changed)
}

#[test]
fn an_update_that_suits_the_running_server_does_not_restart_it() {
    let shown = ServerChange {
        hide_secret_arguments: Some(false),
        ..ServerChange::default()
    };
    assert_eq!(positions(shown.clone()), (Position(1), Position(2)));
    let slow = ServerChange {
        tool_timeout: Update::Set(1),
        ..ServerChange::default()
    };
    assert_eq!(positions(slow), (Position(2), Position(2)));
    let with_session = ServerChange {
        remote: RemoteChange {
            session: Update::Set(value(9)),
            ..RemoteChange::default()
        },
        ..shown
    };
    assert_eq!(positions(with_session), (Position(2), Position(2)));
}
