//! The reasons why the bus cannot connect to NATS. No reason repeats a secret of an address.

use std::path::PathBuf;

use async_nats::client::SubscribeError;
use async_nats::{ConnectError, ConnectErrorKind};

/// The reason why the bus cannot connect to NATS.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    #[error("NATS_URL is empty; set an address such as nats://host:4222")]
    NoAddress,
    /// The text of the address is not repeated, because it may hold a password.
    #[error("address {0} of NATS is invalid; write nats://host:4222 or tls://host:4222")]
    Address(usize),
    #[error("the addresses of NATS name different users; use one user for all addresses")]
    DifferentUsers,
    #[error("cannot use the NATS credentials file {path}")]
    Credentials {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("NATS at {servers} refuses the user, password, token or credentials")]
    Refused {
        servers: String,
        #[source]
        source: ConnectError,
    },
    #[error("NATS at {servers} does not reply; check the address and the firewall")]
    NoReply { servers: String },
    #[error("NATS at {servers} has no IP address; check the host name")]
    UnknownHost {
        servers: String,
        #[source]
        source: ConnectError,
    },
    #[error("NATS at {servers} cannot be reached")]
    Unreachable {
        servers: String,
        #[source]
        source: ConnectError,
    },
    #[error("NATS refuses a subscription")]
    Subscribe(#[source] SubscribeError),
}

impl NatsError {
    /// Returns the error for servers that did not accept a connection.
    pub(super) fn from_connect(servers: String, source: ConnectError) -> Self {
        match source.kind() {
            ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
                Self::Refused { servers, source }
            }
            ConnectErrorKind::TimedOut => Self::NoReply { servers },
            ConnectErrorKind::Dns => Self::UnknownHost { servers, source },
            _ => Self::Unreachable { servers, source },
        }
    }
}
