//! Events: every change of state, with its wire name and version.
//!
//! A stored event never changes. A new shape gets a new type or version, a step in [`upcast`] and a
//! sample in `schemas/history`. The decoder ignores unknown fields.

mod actor;
mod grant;
mod jobs;
pub mod public;
mod tokens;
pub mod upcast;

use std::borrow::Cow;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub use self::actor::{Actor, ActorKind};
pub use self::grant::{
    GrantRefreshFailed, GrantRefreshStarted, GrantRefreshed, GrantRemoved, GrantStored,
};
pub use self::jobs::{
    DeadLetterRemoved, DeadLetterStored, IdempotencyExpired, IdempotencyRecorded, JobAccepted,
    JobCancelRequested, JobExpired, JobFinished, JobProgressed, JobRequeued, JobStarted,
};
pub use self::tokens::{TokenCreated, TokenRevoked, TokensRemoved};
use super::ids::{CommandId, Position, ServerId, ValueId};
use super::model::description::RawObject;
use super::model::package::Package;
use super::model::remote::ProtocolMode;
use super::model::server::ServerConfig;
use super::model::token::Token;
use super::model::tool::Tool;
use super::names::{SecretName, ServerName, UserName};

/// The wire name and version of one event, written once.
pub trait EventType: Serialize + serde::de::DeserializeOwned + JsonSchema {
    const TYPE: &'static str;
    const VERSION: u16;
}

macro_rules! events {
    ($($name:ident = $wire:literal v $version:literal),+ $(,)?) => {
        /// One change of state.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Event { $($name($name)),+ }

        $(impl EventType for $name {
            const TYPE: &'static str = $wire;
            const VERSION: u16 = $version;
        }
        impl From<$name> for Event {
            fn from(event: $name) -> Self { Self::$name(event) }
        })+

        impl Event {
            pub fn type_name(&self) -> &'static str {
                match self { $(Self::$name(_) => $wire),+ }
            }

            /// Returns the stored form.
            ///
            /// # Errors
            /// The serializer of the type fails. No current type has such a serializer.
            pub fn encode(&self) -> Result<StoredEvent, serde_json::Error> {
                let (v, data) = match self {
                    $(Self::$name(event) => ($version, serde_json::value::to_raw_value(event)?)),+
                };
                Ok(StoredEvent { type_name: self.type_name().into(), v, subject: self.subject(), data })
            }

            /// Parses a stored event of a current or an earlier type and version.
            ///
            /// # Errors
            /// [`DecodeError::Unknown`] if no program up to this version wrote the type and version.
            /// A projection must not fold past such an event. [`DecodeError::Broken`] if the data
            /// do not match the type.
            pub fn decode(stored: &StoredEvent) -> Result<Self, DecodeError> {
                match (stored.type_name.as_str(), stored.v) {
                    $(($wire, $version) => serde_json::from_str(stored.data.get())
                        .map(Self::$name)
                        .map_err(|source| DecodeError::broken(stored, &source)),)+
                    _ => match upcast::current_form(stored)? {
                        Cow::Owned(current) => Self::decode(&current),
                        Cow::Borrowed(_) => Err(DecodeError::unknown(stored)),
                    },
                }
            }
        }

        /// Returns the wire name, the version and the JSON Schema of every event, for `schemas/events`.
        pub fn schemas() -> Vec<(&'static str, u16, schemars::Schema)> {
            vec![$(($wire, $version, schemars::schema_for!($name))),+]
        }
    };
}

events! {
    ServerRegistered = "server.registered" v 1,
    ServerUpdated = "server.updated" v 1,
    ServerEnabled = "server.enabled" v 1,
    ServerDisabled = "server.disabled" v 1,
    ServerDeleted = "server.deleted" v 1,
    ServerToolsDiscovered = "server.tools_discovered" v 1,
    ServerDescribed = "server.described" v 1,
    ServerProtocolDetected = "server.protocol_detected" v 1,
    ServerSessionOpened = "server.session_opened" v 1,
    ServerSessionEnded = "server.session_ended" v 1,
    GrantStored = "grant.stored" v 1,
    GrantRefreshStarted = "grant.refresh_started" v 1,
    GrantRefreshed = "grant.refreshed" v 1,
    GrantRefreshFailed = "grant.refresh_failed" v 1,
    GrantRemoved = "grant.removed" v 1,
    PackageInstalled = "package.installed" v 1,
    PackageUpgraded = "package.upgraded" v 1,
    PackageLatestFound = "package.latest_found" v 1,
    PackageRemoved = "package.removed" v 1,
    SecretSet = "secret.set" v 1,
    SecretDeleted = "secret.deleted" v 1,
    JobAccepted = "job.accepted" v 1,
    JobStarted = "job.started" v 1,
    JobProgressed = "job.progressed" v 1,
    JobRequeued = "job.requeued" v 1,
    JobCancelRequested = "job.cancel_requested" v 1,
    JobFinished = "job.finished" v 1,
    JobExpired = "job.expired" v 1,
    GoogleConnected = "google.connected" v 1,
    GoogleDisconnected = "google.disconnected" v 1,
    DeadLetterStored = "dead_letter.stored" v 1,
    DeadLetterRemoved = "dead_letter.removed" v 1,
    IdempotencyRecorded = "idempotency.recorded" v 1,
    IdempotencyExpired = "idempotency.expired" v 1,
    TokenCreated = "token.created" v 1,
    TokenRevoked = "token.revoked" v 1,
    TokensRemoved = "token.removed" v 1,
}

/// A server was registered with a name, a configuration and a new id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServerRegistered {
    pub server: ServerId,
    pub name: ServerName,
    pub config: ServerConfig,
    pub enabled: bool,
}

/// The whole configuration of a server was replaced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServerUpdated {
    pub server: ServerId,
    pub name: ServerName,
    pub config: ServerConfig,
}

/// A server was enabled, so that it may run and accept calls.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServerEnabled {
    pub server: ServerId,
    pub name: ServerName,
}

/// A server was disabled, so that it does not run and refuses calls. The data of the server stay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServerDisabled {
    pub server: ServerId,
    pub name: ServerName,
}

/// A server and all its secrets were deleted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServerDeleted {
    pub server: ServerId,
    pub name: ServerName,
}

/// The tool list of a server has changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServerToolsDiscovered {
    pub server: ServerId,
    pub name: ServerName,
    pub digest: String,
    pub tools: Arc<Vec<Tool>>,
    /// The fencing token of the lease under which the worker ran the server. It is absent if every worker may run it.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        rename = "fencingToken"
    )]
    pub fencing_token: Option<u64>,
}

/// The description that a server gives of itself has changed. A part that the server leaves out is absent. The texts are
/// masked and have 64 KiB at most.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServerDescribed {
    pub server: ServerId,
    pub name: ServerName,
    pub digest: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<RawObject>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_info: Option<RawObject>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol_version: Option<String>,
    /// The fencing token of the lease under which the worker ran the server. It is absent if every worker may run it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fencing_token: Option<u64>,
}

/// The protocol mode of a server was detected, or has changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServerProtocolDetected {
    pub server: ServerId,
    pub name: ServerName,
    pub protocol: ProtocolMode,
    /// The fencing token of the lease under which the worker ran the server. It is absent if every worker may run it.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        rename = "fencingToken"
    )]
    pub fencing_token: Option<u64>,
}

/// A session with a server was opened. The Vault holds its id, which is a credential, under `value`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServerSessionOpened {
    pub server: ServerId,
    pub name: ServerName,
    pub value: ValueId,
    /// The fencing token of the lease under which the worker ran the server. It is absent if every worker may run it.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        rename = "fencingToken"
    )]
    pub fencing_token: Option<u64>,
}

/// A session has ended. The server does not know it, or a user wants a new session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServerSessionEnded {
    pub server: ServerId,
    pub name: ServerName,
    pub value: ValueId,
    /// The fencing token of the lease under which the worker ran the server. It is absent if every worker may run it.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        rename = "fencingToken"
    )]
    pub fencing_token: Option<u64>,
}

/// The package of a server was installed from npm or PyPI.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PackageInstalled {
    pub server: ServerId,
    pub name: ServerName,
    pub package: Package,
    /// The time in milliseconds since 1970.
    pub at: u64,
}

/// The package of a server has another version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PackageUpgraded {
    pub server: ServerId,
    pub name: ServerName,
    pub package: Package,
    /// The time in milliseconds since 1970.
    pub at: u64,
}

/// The newest available version of a package has changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PackageLatestFound {
    pub server: ServerId,
    pub name: ServerName,
    pub latest: String,
}

/// A package and its server were removed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PackageRemoved {
    pub server: ServerId,
    pub name: ServerName,
}

/// A secret of a user, or of all users, has a new value. The Vault holds it under `value`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretSet {
    pub server: ServerId,
    pub server_name: ServerName,
    /// Absent for a value that all users share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserName>,
    pub name: SecretName,
    pub value: ValueId,
}

/// A secret of a user, or of all users, was deleted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretDeleted {
    pub server: ServerId,
    pub server_name: ServerName,
    /// Absent for a value that all users share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserName>,
    pub name: SecretName,
    pub value: ValueId,
}

/// A user gave a server access to Google. The Vault holds the tokens under `value`. Earlier tokens are void.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GoogleConnected {
    pub server: ServerId,
    pub server_name: ServerName,
    pub user: UserName,
    pub value: ValueId,
}

/// A user took the access to Google back. The tokens under `value` are void.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GoogleDisconnected {
    pub server: ServerId,
    pub server_name: ServerName,
    pub user: UserName,
    pub value: ValueId,
}

impl Event {
    /// Returns the subject of the event. The subject of a secret is its server, because no list shows the names of
    /// secrets.
    pub fn subject(&self) -> String {
        let name = match self {
            Self::ServerRegistered(e) => &e.name,
            Self::ServerUpdated(e) => &e.name,
            Self::ServerEnabled(e) => &e.name,
            Self::ServerDisabled(e) => &e.name,
            Self::ServerDeleted(e) => &e.name,
            Self::ServerToolsDiscovered(e) => &e.name,
            Self::ServerDescribed(e) => &e.name,
            Self::ServerProtocolDetected(e) => &e.name,
            Self::ServerSessionOpened(e) => &e.name,
            Self::ServerSessionEnded(e) => &e.name,
            Self::GrantStored(e) => &e.server_name,
            Self::GrantRefreshStarted(e) => &e.server_name,
            Self::GrantRefreshed(e) => &e.server_name,
            Self::GrantRefreshFailed(e) => &e.server_name,
            Self::GrantRemoved(e) => &e.server_name,
            Self::PackageInstalled(e) => &e.name,
            Self::PackageUpgraded(e) => &e.name,
            Self::PackageLatestFound(e) => &e.name,
            Self::PackageRemoved(e) => &e.name,
            Self::SecretSet(e) => &e.server_name,
            Self::SecretDeleted(e) => &e.server_name,
            Self::JobAccepted(JobAccepted { job, .. })
            | Self::JobStarted(JobStarted { job, .. })
            | Self::JobProgressed(JobProgressed { job, .. })
            | Self::JobRequeued(JobRequeued { job })
            | Self::JobCancelRequested(JobCancelRequested { job })
            | Self::JobFinished(JobFinished { job, .. }) => return format!("job/{job}"),
            Self::JobExpired(_) => return "jobs".to_owned(),
            Self::GoogleConnected(e) => &e.server_name,
            Self::GoogleDisconnected(e) => &e.server_name,
            Self::DeadLetterStored(_) | Self::DeadLetterRemoved(_) => {
                return "dead_letters".to_owned();
            }
            Self::TokenCreated(TokenCreated(Token { id: token, .. }))
            | Self::TokenRevoked(TokenRevoked { token, .. }) => return format!("token/{token}"),
            Self::TokensRemoved(_) => return "tokens".to_owned(),
            Self::IdempotencyRecorded(_) | Self::IdempotencyExpired(_) => {
                return "idempotency".to_owned();
            }
        };
        format!("server/{name}")
    }
}

/// The reason why a stored event cannot be folded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error(
        "the log holds an event {type_name} v{v}, which this version of mcp-api does not know; start a newer version"
    )]
    Unknown { type_name: String, v: u16 },
    #[error("the log holds an event {type_name} whose data cannot be parsed: {reason}")]
    Broken { type_name: String, reason: String },
}

impl DecodeError {
    fn unknown(stored: &StoredEvent) -> Self {
        Self::Unknown {
            type_name: stored.type_name.clone(),
            v: stored.v,
        }
    }

    fn broken(stored: &StoredEvent, error: &serde_json::Error) -> Self {
        Self::Broken {
            type_name: stored.type_name.clone(),
            reason: error.to_string(),
        }
    }
}

/// An event as the log holds it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoredEvent {
    #[serde(rename = "type")]
    pub type_name: String,
    pub v: u16,
    pub subject: String,
    pub data: Box<RawValue>,
}

/// The events of one command. The log stores all of them or none.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Commit {
    pub command_id: CommandId,
    pub actor: Actor,
    pub events: Vec<StoredEvent>,
}

/// The commits of one append, at one position.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry {
    pub position: Position,
    /// The time by the clock of the appender, in milliseconds since 1970. No decision uses it.
    pub at: u64,
    pub commits: Vec<Commit>,
}
