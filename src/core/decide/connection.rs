//! The decisions about findings of a connection to a server.

use std::sync::Arc;

use crate::core::catalog::Catalog;
use crate::core::catalog::server::Server;
use crate::core::event::{Event, ServerProtocolDetected, ServerSessionEnded, ServerSessionOpened};
use crate::core::ids::{Position, ServerId, ValueId};
use crate::core::model::remote::ProtocolMode;

/// The server to which a connection was made. A finding about it does not hold for a changed server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectionTarget {
    Url(Arc<str>),
    /// A child process, and the position of the last change of the server that its start knew.
    Child(Position),
}

impl ConnectionTarget {
    /// Returns the target of a connection that starts now.
    pub fn current(server: &Server) -> Self {
        match server.remote() {
            Some(remote) => Self::Url(remote.url.as_str().into()),
            None => Self::Child(server.changed),
        }
    }
}

/// A finding of a connection. The worker that runs the connection decides it, so no bus carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionFinding {
    Protocol(ProtocolMode),
    /// The connection has opened a session. The Vault holds it under this id.
    Session(ValueId),
    /// The server has ended the session with this id, and the connection has not opened another session.
    NoSession(ValueId),
}

/// Records a finding of a connection. Returns no event if the server is gone, has changed or is recorded with this finding
/// already, or if a later owner of the server than the one with `fencing_token` has recorded a finding.
pub fn record_finding(
    catalog: &Catalog,
    server: ServerId,
    target: &ConnectionTarget,
    finding: ConnectionFinding,
    fencing_token: Option<u64>,
) -> Vec<Event> {
    let Some(server) = catalog.server_by_id(server) else {
        return vec![];
    };
    if ConnectionTarget::current(server) != *target || server.has_later_owner(fencing_token) {
        return vec![];
    }
    match finding {
        ConnectionFinding::Protocol(protocol) if server.protocol != Some(protocol) => {
            let detected = ServerProtocolDetected {
                server: server.id,
                name: server.name.clone(),
                protocol,
                fencing_token,
            };
            vec![detected.into()]
        }
        ConnectionFinding::Session(value) if server.session != Some(value) => {
            vec![session_opened(server, value, fencing_token)]
        }
        ConnectionFinding::NoSession(value) if server.session == Some(value) => {
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
    use crate::core::event::{PackageInstalled, ServerDisabled, ServerUpdated};
    use crate::core::model::server::ServerConfig;

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

    fn at_url() -> ConnectionTarget {
        ConnectionTarget::Url(URL.into())
    }

    fn record(catalog: &Catalog, finding: ConnectionFinding) -> Vec<Event> {
        record_finding(catalog, server_id("memory"), &at_url(), finding, None)
    }

    /// Records a finding of the owner with this fencing token.
    fn record_as(catalog: &Catalog, finding: ConnectionFinding, token: u64) -> Vec<Event> {
        record_finding(
            catalog,
            server_id("memory"),
            &at_url(),
            finding,
            Some(token),
        )
    }

    #[test]
    fn a_detected_protocol_is_recorded_once() {
        let finding = ConnectionFinding::Protocol(ProtocolMode::Session);
        let catalog = given([remote_registered("memory")])
            .when(|catalog| record(catalog, finding))
            .then([detected(ProtocolMode::Session)]);
        assert!(record(&catalog, finding).is_empty());
    }

    #[test]
    fn another_protocol_replaces_the_recorded_one() {
        given([remote_registered("memory"), detected(ProtocolMode::Session)])
            .when(|catalog| record(catalog, ConnectionFinding::Protocol(ProtocolMode::Sse)))
            .then([detected(ProtocolMode::Sse)]);
    }

    #[test]
    fn a_new_session_is_recorded_once() {
        let catalog = given([remote_registered("memory"), opened(1)])
            .when(|catalog| record(catalog, ConnectionFinding::Session(value(2))))
            .then([opened(2)]);
        assert!(record(&catalog, ConnectionFinding::Session(value(2))).is_empty());
        assert!(!catalog.values().contains(&value(1)));
    }

    #[test]
    fn the_end_of_the_recorded_session_is_recorded() {
        given([remote_registered("memory"), opened(1)])
            .when(|catalog| record(catalog, ConnectionFinding::NoSession(value(1))))
            .then([ended(1)]);
    }

    #[test]
    fn the_end_of_an_earlier_session_changes_nothing() {
        given([remote_registered("memory"), opened(1), opened(2)])
            .when(|catalog| record(catalog, ConnectionFinding::NoSession(value(1))))
            .then_nothing();
    }

    #[test]
    fn a_finding_at_an_earlier_url_changes_nothing() {
        given([registered("memory", remote_config("https://h/other"))])
            .when(|catalog| record(catalog, ConnectionFinding::Session(value(1))))
            .then_nothing();
    }

    #[test]
    fn a_finding_about_a_deleted_or_stdio_server_changes_nothing() {
        given([])
            .when(|catalog| record(catalog, ConnectionFinding::Session(value(1))))
            .then_nothing();
        given([server_registered("memory")])
            .when(|catalog| record(catalog, ConnectionFinding::Session(value(1))))
            .then_nothing();
    }

    #[test]
    fn a_finding_about_a_child_holds_until_the_server_changes() {
        let finding = ConnectionFinding::Protocol(ProtocolMode::Stateless);
        let catalog = given([server_registered("memory")]).catalog;
        let server = catalog
            .server_by_id(server_id("memory"))
            .expect("registered");
        let target = ConnectionTarget::current(server);
        let record = |catalog: &Catalog| {
            record_finding(catalog, server_id("memory"), &target, finding, None)
        };
        assert_eq!(record(&catalog), [detected(ProtocolMode::Stateless)]);
        let disabled = ServerDisabled {
            server: server_id("memory"),
            name: name("memory"),
        };
        let changed = given([server_registered("memory"), disabled.into()]).catalog;
        assert!(record(&changed).is_empty());
    }

    #[test]
    fn another_command_or_package_version_forgets_the_protocol() {
        let updated = |config| {
            let event = ServerUpdated {
                server: server_id("memory"),
                name: name("memory"),
                config,
            };
            Event::from(event)
        };
        let with_timeout = ServerConfig {
            tool_timeout: Some(1000),
            ..stdio_config("npx")
        };
        let installed = PackageInstalled {
            server: server_id("memory"),
            name: name("memory"),
            package: package("1.0.0"),
            at: 5,
        };
        for (change, is_known) in [
            (updated(with_timeout), true),
            (updated(stdio_config("node")), false),
            (installed.into(), false),
        ] {
            let shown = format!("{change:?}");
            let known = [server_registered("memory"), detected(ProtocolMode::Session)];
            let catalog = given(known.into_iter().chain([change])).catalog;
            let server = catalog.server_by_id(server_id("memory"));
            let protocol = server.expect("registered").protocol;
            assert_eq!(protocol.is_some(), is_known, "{shown}");
        }
    }

    #[test]
    fn a_former_owner_records_no_finding() {
        let session = ConnectionFinding::Session;
        let catalog = given([remote_registered("memory")]).catalog;
        let events = record_as(&catalog, session(value(1)), 7);
        assert_eq!(events.len(), 1);
        let later = given([remote_registered("memory")].into_iter().chain(events)).catalog;
        for finding in [
            session(value(2)),
            ConnectionFinding::NoSession(value(1)),
            ConnectionFinding::Protocol(ProtocolMode::Sse),
        ] {
            assert!(record_as(&later, finding, 6).is_empty(), "{finding:?}");
            assert_eq!(record_as(&later, finding, 7).len(), 1, "{finding:?}");
            assert_eq!(record_as(&later, finding, 8).len(), 1, "{finding:?}");
            assert_eq!(record(&later, finding).len(), 1, "{finding:?}");
        }
    }
}
