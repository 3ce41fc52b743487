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
    /// The server has ended the session with this id, and the connection has not opened another session.
    NoSession(ValueId),
}

/// Records a finding of a connection to `url`. Returns no event if the server is gone, has another URL or is recorded
/// with this finding already, or if a later owner of the server than the one with `fencing_token` has recorded a finding.
pub fn record_finding(
    catalog: &Catalog,
    server: ServerId,
    url: &str,
    finding: RemoteFinding,
    fencing_token: Option<u64>,
) -> Vec<Event> {
    let Some(server) = catalog.server_by_id(server) else {
        return vec![];
    };
    let is_other_url = server.remote().is_none_or(|remote| remote.url != url);
    if is_other_url || server.has_later_owner(fencing_token) {
        return vec![];
    }
    match finding {
        RemoteFinding::Protocol(protocol) if server.protocol != Some(protocol) => {
            let detected = ServerProtocolDetected {
                server: server.id,
                name: server.name.clone(),
                protocol,
                fencing_token,
            };
            vec![detected.into()]
        }
        RemoteFinding::Session(value) if server.session != Some(value) => {
            vec![session_opened(server, value, fencing_token)]
        }
        RemoteFinding::NoSession(value) if server.session == Some(value) => {
            vec![session_ended(server, value, fencing_token)]
        }
        _ => vec![],
    }
}

/// Returns the event of a new session.
pub fn session_opened(server: &Server, value: ValueId, fencing_token: Option<u64>) -> Event {
    ServerSessionOpened {
        server: server.id,
        name: server.name.clone(),
        value,
        fencing_token,
    }
    .into()
}

/// Returns the event of the end of a session.
pub fn session_ended(server: &Server, value: ValueId, fencing_token: Option<u64>) -> Event {
    ServerSessionEnded {
        server: server.id,
        name: server.name.clone(),
        value,
        fencing_token,
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::decide::testing::given;
    use crate::core::decide::testing::samples::*;

    fn detected(protocol: ProtocolMode) -> Event {
        ServerProtocolDetected {
            server: server_id("memory"),
            name: name("memory"),
            protocol,
            fencing_token: None,
        }
        .into()
    }

    fn opened(number: u128) -> Event {
        ServerSessionOpened {
            server: server_id("memory"),
            name: name("memory"),
            value: value(number),
            fencing_token: None,
        }
        .into()
    }

    fn ended(number: u128) -> Event {
        ServerSessionEnded {
            server: server_id("memory"),
            name: name("memory"),
            value: value(number),
            fencing_token: None,
        }
        .into()
    }

    fn record(catalog: &Catalog, finding: RemoteFinding) -> Vec<Event> {
        record_finding(catalog, server_id("memory"), URL, finding, None)
    }

    /// Records a finding of the owner with this fencing token.
    fn record_as(catalog: &Catalog, finding: RemoteFinding, token: u64) -> Vec<Event> {
        record_finding(catalog, server_id("memory"), URL, finding, Some(token))
    }

    #[test]
    fn a_detected_protocol_is_recorded_once() {
        let finding = RemoteFinding::Protocol(ProtocolMode::Session);
        let catalog = given([remote_registered("memory")])
            .when(|catalog| record(catalog, finding))
            .then([detected(ProtocolMode::Session)]);
        assert!(record(&catalog, finding).is_empty());
    }

    #[test]
    fn another_protocol_replaces_the_recorded_one() {
        given([remote_registered("memory"), detected(ProtocolMode::Session)])
            .when(|catalog| record(catalog, RemoteFinding::Protocol(ProtocolMode::Sse)))
            .then([detected(ProtocolMode::Sse)]);
    }

    #[test]
    fn a_new_session_is_recorded_once() {
        let catalog = given([remote_registered("memory"), opened(1)])
            .when(|catalog| record(catalog, RemoteFinding::Session(value(2))))
            .then([opened(2)]);
        assert!(record(&catalog, RemoteFinding::Session(value(2))).is_empty());
        assert!(!catalog.values().contains(&value(1)));
    }

    #[test]
    fn the_end_of_the_recorded_session_is_recorded() {
        given([remote_registered("memory"), opened(1)])
            .when(|catalog| record(catalog, RemoteFinding::NoSession(value(1))))
            .then([ended(1)]);
    }

    #[test]
    fn the_end_of_an_earlier_session_changes_nothing() {
        given([remote_registered("memory"), opened(1), opened(2)])
            .when(|catalog| record(catalog, RemoteFinding::NoSession(value(1))))
            .then_nothing();
    }

    #[test]
    fn a_finding_at_an_earlier_url_changes_nothing() {
        given([registered("memory", remote_config("https://h/other"))])
            .when(|catalog| record(catalog, RemoteFinding::Session(value(1))))
            .then_nothing();
    }

    #[test]
    fn a_finding_about_a_deleted_or_stdio_server_changes_nothing() {
        given([])
            .when(|catalog| record(catalog, RemoteFinding::Session(value(1))))
            .then_nothing();
        given([server_registered("memory")])
            .when(|catalog| record(catalog, RemoteFinding::Session(value(1))))
            .then_nothing();
    }

    #[test]
    fn a_former_owner_records_no_finding() {
        let session = RemoteFinding::Session;
        let catalog = given([remote_registered("memory")]).catalog;
        let events = record_as(&catalog, session(value(1)), 7);
        assert_eq!(events.len(), 1);
        let later = given([remote_registered("memory")].into_iter().chain(events)).catalog;
        for finding in [
            session(value(2)),
            RemoteFinding::NoSession(value(1)),
            RemoteFinding::Protocol(ProtocolMode::Sse),
        ] {
            assert!(record_as(&later, finding, 6).is_empty(), "{finding:?}");
            assert_eq!(record_as(&later, finding, 7).len(), 1, "{finding:?}");
            assert_eq!(record_as(&later, finding, 8).len(), 1, "{finding:?}");
            assert_eq!(record(&later, finding).len(), 1, "{finding:?}");
        }
    }
}
