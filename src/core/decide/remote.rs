//! The decisions about findings of a connection to a server behind a URL.

use crate::core::catalog::Catalog;
use crate::core::catalog::server::Server;
use crate::core::event::{Event, ServerProtocolDetected, ServerSessionEnded, ServerSessionOpened};
use crate::core::ids::{ServerId, ValueId};
use crate::core::model::remote::ProtocolMode;

/// A finding of a connection. The worker that runs the connection decides it, so no bus carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemoteFinding {
    Protocol(ProtocolMode),
    /// The connection has opened a session. The Vault holds it under this id.
    Session(ValueId),
    /// The server has ended the session with this id, and the connection has not opened another one.
    NoSession(ValueId),
}

/// Records a finding of a connection to `url`. Returns no event if the server is gone, has another URL or is recorded
/// with this finding already.
pub fn record_finding(
    catalog: &Catalog,
    server: ServerId,
    url: &str,
    finding: RemoteFinding,
) -> Vec<Event> {
    let Some(server) = catalog.server_by_id(server) else {
        return vec![];
    };
    if server.remote().is_none_or(|remote| remote.url != url) {
        return vec![];
    }
    match finding {
        RemoteFinding::Protocol(protocol) if server.protocol != Some(protocol) => {
            let detected = ServerProtocolDetected {
                server: server.id,
                name: server.name.clone(),
                era: protocol,
            };
            vec![detected.into()]
        }
        RemoteFinding::Session(value) if server.session != Some(value) => {
            vec![session_opened(server, value)]
        }
        RemoteFinding::NoSession(value) if server.session == Some(value) => {
            vec![session_ended(server, value)]
        }
        _ => vec![],
    }
}

/// Returns the event of a new session.
pub fn session_opened(server: &Server, value: ValueId) -> Event {
    ServerSessionOpened {
        server: server.id,
        name: server.name.clone(),
        value,
    }
    .into()
}

/// Returns the event of the end of a session.
pub fn session_ended(server: &Server, value: ValueId) -> Event {
    ServerSessionEnded {
        server: server.id,
        name: server.name.clone(),
        value,
    }
    .into()
}
