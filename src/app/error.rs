//! The reasons why the program cannot start or serve.

use std::io;
use std::time::Duration;

use crate::crypto::seal::SealError;
use crate::ports::error::StoreError;

/// The reason why the program cannot start. Each text is a sentence for the operator.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "another mcp-api uses DATA_DIR {path}; stop it, or give this one a DATA_DIR of its own"
    )]
    InUse { path: String },
    #[error("DATA_DIR {path} cannot be used")]
    DataDir {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("mcp-api cannot listen on HOST {host} and PORT {port}")]
    Listen {
        host: String,
        port: u16,
        #[source]
        source: io::Error,
    },
    #[error(
        "SECRETS_KEY is not the key that sealed the secrets of this deployment; set the right key, or list it in SECRETS_KEYS_OLD"
    )]
    WrongKey,
    #[error(
        "SECRETS_KEY is missing: a key has sealed the secrets of this deployment, and there is no {path}"
    )]
    NoKey { path: String },
    #[error(
        "SECRETS_KEY is too short for new data; create a key with openssl rand -hex 32, or use a passphrase of at least 12 characters"
    )]
    WeakKey,
    #[error("SECRETS_KEY cannot be used")]
    Seal(#[source] SealError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{service} cannot be reached within {} seconds: {reason}", limit.as_secs())]
    Unreachable {
        service: &'static str,
        limit: Duration,
        reason: String,
    },
    #[error("mcp-api cannot serve")]
    Serve(#[source] io::Error),
}
