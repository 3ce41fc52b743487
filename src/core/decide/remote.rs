//!

use crate::core::catalog::Catalog;
use crate::core::catalog::server::Server;
use crate::core::event::{Event, ServerProtocolDetected, ServerSessionEnded, ServerSessionOpened};
use crate::core::ids::{ServerId, ValueId};
use crate::core::model::remote::ProtocolMode;

/// What a connection found out, decided where it was seen; it crosses no bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemoteFinding {
    Era(ProtocolMode),
    /// A session was opened, and lies there.
    Session(ValueId),
    /// The session that lay there is not known to the server any more, and no other was opened.
    NoSession(ValueId),
}

/// What was found is recorded only while that server is still there, and only when it is news.
pub fn record_finding(
    catalog: &Catalog,
    server: ServerId,
    url: &str,
    found: RemoteFinding,
) -> Vec<Event> {
    let Some(server) = catalog.server_by_id(server) else {
        return vec![];
    };
    // It was found at another place than the one that is asked for now.
    if server.remote().is_none_or(|remote| remote.url != url) {
        return vec![];
    }
    let (id, name) = (server.id, server.name.clone());
    match found {
        RemoteFinding::Era(era) if server.era != Some(era) => {
            vec![
                ServerProtocolDetected {
                    server: id,
                    name,
                    protocol: era,
                }
                .into(),
            ]
        }
        RemoteFinding::Session(value) if server.session != Some(value) => {
            vec![
                ServerSessionOpened {
                    server: id,
                    name,
                    value,
                }
                .into(),
            ]
        }
        RemoteFinding::NoSession(value) if server.session == Some(value) => {
            vec![session_ended(server, value)]
        }
        _ => vec![],
    }
}

pub fn session_ended(server: &Server, value: ValueId) -> Event {
    ServerSessionEnded {
        server: server.id,
        name: server.name.clone(),
        value,
    }
    .into()
}
