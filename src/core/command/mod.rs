//! What can be asked for: every command with its place on the bus, written once.

pub mod maintenance;
pub mod package;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::maintenance::{
    CountKeys, DiscardDeadLetter, KeyUsage, NotifyProducer, ReadJobAnswer, RetryDeadLetter,
    RotateKeys, RotationReport, SweepVault,
};
pub use self::package::{CheckPackages, InstallPackage, PackageCheck, UpgradePackage};
use super::ids::{CommandId, ServerId, ValueId};
use super::model::grant::{GrantId, GrantTokens};
use super::model::idempotency::IdempotencyKey;
use super::model::job::StoredJobAnswer;
use super::model::remote::SealedValue;
use super::model::server::{LogLine, ServerChange, ServerConfig, ServerStatus};
use super::model::tool::Tools;
use super::model::tool_call::CallTool;
use super::names::{SecretName, ServerName, UserName};

/// The group of workers that takes a command. A process serves the areas of the `POOLS` it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Area {
    Servers,
    Tools,
    Secrets,
    Packages,
    Oauth,
    Google,
    Jobs,
}

impl Area {
    pub const ALL: [Self; 7] = [
        Self::Servers,
        Self::Tools,
        Self::Secrets,
        Self::Packages,
        Self::Oauth,
        Self::Google,
        Self::Jobs,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Servers => "servers",
            Self::Tools => "tools",
            Self::Secrets => "secrets",
            Self::Packages => "packages",
            Self::Oauth => "oauth",
            Self::Google => "google",
            Self::Jobs => "jobs",
        }
    }
}

/// What a sender is promised. It belongs to the command's type: nobody chooses it per message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryMode {
    /// At most once, with an answer; dropping the question cancels the work.
    Ask,
    /// At most once, with an answer; once begun it is carried through, whether or not somebody still listens.
    Change,
    /// At least once, until somebody has settled it.
    Job,
}

/// A command: its name is `<area>.<verb>`, its subject `mcp.v1.ask.<area>.<verb>` (or `job`).
pub trait Command: Serialize + serde::de::DeserializeOwned + JsonSchema {
    const AREA: Area;
    const NAME: &'static str;
    const VERSION: u16;
    const DELIVERY: DeliveryMode;
    type Answer: Serialize + serde::de::DeserializeOwned;
}

macro_rules! commands {
    ($($name:ident = $area:ident $wire:literal v $version:literal $delivery:ident -> $answer:ty),+ $(,)?) => {
        $(impl Command for $name {
            const AREA: Area = Area::$area;
            const NAME: &'static str = $wire;
            const VERSION: u16 = $version;
            const DELIVERY: DeliveryMode = DeliveryMode::$delivery;
            type Answer = $answer;
        })+

        /// What is known of a command by the name a message gives.
        pub fn known(name: &str) -> Option<(&'static str, Area, DeliveryMode)> {
            match name {
                $($wire => Some(($wire, Area::$area, DeliveryMode::$delivery)),)+
                _ => None,
            }
        }

        /// The names of all commands.
        pub const NAMES: &[&str] = &[$($wire),+];

        /// Every command's name, version and JSON Schema, for `schemas/commands`.
        pub fn schemas() -> Vec<(&'static str, u16, schemars::Schema)> {
            vec![$(($wire, $version, schemars::schema_for!($name))),+]
        }
    };
}

commands! {
    RegisterServer = Servers "servers.register" v 1 Change -> ServerStatus,
    UpdateServer = Servers "servers.update" v 1 Change -> ServerStatus,
    EnableServer = Servers "servers.enable" v 1 Change -> ServerStatus,
    DisableServer = Servers "servers.disable" v 1 Change -> ServerStatus,
    DeleteServer = Servers "servers.delete" v 1 Change -> DeletedServer,
    StoreTokens = Servers "servers.store_tokens" v 1 Change -> ServerStatus,
    ReconcileServer = Servers "servers.reconcile" v 1 Change -> ReconciledServer,
    ReadServerLogs = Servers "servers.read_logs" v 1 Ask -> Vec<ServerLogs>,
    CallTool = Tools "tools.call" v 1 Ask -> ToolResult,
    ExchangeGoogleCode = Google "google.exchange_code" v 1 Change -> (),
    RefreshTokens = Oauth "oauth.refresh_tokens" v 1 Change -> (),
    BeginAuthorization = Oauth "oauth.begin_authorization" v 1 Change -> AuthorizationStarted,
    CompleteAuthorization = Oauth "oauth.complete_authorization" v 1 Change -> (),
    SetSecret = Secrets "secrets.set" v 1 Change -> (),
    DeleteSecret = Secrets "secrets.delete" v 1 Change -> (),
    InstallPackage = Packages "packages.install" v 1 Job -> (),
    UpgradePackage = Packages "packages.upgrade" v 1 Job -> (),
    CheckPackages = Packages "packages.check" v 1 Change -> Vec<PackageCheck>,
    SweepVault = Secrets "secrets.sweep" v 1 Job -> (),
    CountKeys = Secrets "secrets.count_keys" v 1 Ask -> KeyUsage,
    RotateKeys = Secrets "secrets.rotate_keys" v 1 Job -> RotationReport,
    ReadJobAnswer = Jobs "jobs.read_answer" v 1 Ask -> StoredJobAnswer,
    NotifyProducer = Jobs "jobs.notify_producer" v 1 Change -> (),
    RetryDeadLetter = Jobs "jobs.retry_dead_letter" v 1 Change -> (),
    DiscardDeadLetter = Jobs "jobs.discard_dead_letter" v 1 Change -> (),
}

/// Register a server under a name that is free, and connect it when enabled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegisterServer {
    pub id: CommandId,
    /// What the request is to be known by, where its sender may send it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<IdempotencyKey>,
    /// The id the server will have.
    pub server: ServerId,
    pub name: ServerName,
    pub config: ServerConfig,
    pub enabled: bool,
    /// Where the session lies that is to be resumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<ValueId>,
    /// What the configuration names in the Vault, to be put there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sealed: Vec<SealedValue>,
}

/// Change a server's configuration and restart it where that changed anything.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UpdateServer {
    pub id: CommandId,
    /// What the request is to be known by, where its sender may send it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<IdempotencyKey>,
    pub name: ServerName,
    pub change: ServerChange,
    /// Whom the values were sealed for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerId>,
    /// What the change names in the Vault, to be put there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sealed: Vec<SealedValue>,
}

/// Enable a server; one that is enabled is restarted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EnableServer {
    pub id: CommandId,
    /// What the request is to be known by, where its sender may send it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<IdempotencyKey>,
    pub name: ServerName,
}

/// Stop a server and keep it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DisableServer {
    pub id: CommandId,
    /// What the request is to be known by, where its sender may send it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<IdempotencyKey>,
    pub name: ServerName,
}

/// Remove a server and all its secrets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeleteServer {
    pub id: CommandId,
    /// What the request is to be known by, where its sender may send it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<IdempotencyKey>,
    pub name: ServerName,
}

/// What is left of a deleted server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DeletedServer {
    /// The processes of ended servers that the worker could not kill yet. The worker goes on to kill them.
    pub processes_left: usize,
}

/// Keep tokens for a server behind a URL; those for all its users start it anew. They were sealed at the door.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoreTokens {
    pub id: CommandId,
    /// What the request is to be known by, where its sender may send it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<IdempotencyKey>,
    pub grant: GrantId,
    pub server_name: ServerName,
    pub tokens: GrantTokens,
    /// What the tokens name in the Vault, to be put there.
    pub sealed: Vec<SealedValue>,
    /// Tokens that are there already stay.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub if_absent: bool,
}

/// Make the world follow the catalogue for one server, and tell how it then looks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReconcileServer {
    pub name: ServerName,
}

/// How a server looks to the worker that runs it.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct ReconciledServer {
    pub live: ServerStatus,
    pub logs: Vec<LogLine>,
}

/// Get new tokens in the place of those with this access token, once for all who ask. Done as well where there are
/// newer ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RefreshTokens {
    pub grant: GrantId,
    pub access: ValueId,
}

/// Begin an authorization: find the authorization server, be its client, and say where the browser has to go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BeginAuthorization {
    pub grant: GrantId,
    /// Where the browser comes back to.
    pub redirect_uri: String,
    /// Those that the server asks for, where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<String>>,
    /// The client to be, sealed at the door; where absent, one is registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<SealedValue>,
    /// Where a document of ours says who we are (OAuth Client ID Metadata Document).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_document: Option<String>,
}

/// An authorization that a browser can take up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationStarted {
    /// Where in the Vault the rest of it lies until then; no event names it, so it is swept when it is old.
    pub value: ValueId,
    /// The authorization server's page.
    pub url: String,
    /// What it sends the browser back with.
    pub state: String,
}

/// Exchange the code that a browser came back with, and keep the tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CompleteAuthorization {
    pub id: CommandId,
    pub grant: GrantId,
    /// Where the rest of what was begun lies.
    pub authorization: ValueId,
    /// The code, sealed at the door.
    pub code: SealedValue,
    /// Whose code the browser says it is (RFC 9207).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
}

/// The log rings of servers, asked of the worker that runs them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReadServerLogs {
    pub servers: Vec<ServerId>,
}

/// One server's ring.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerLogs {
    pub server: ServerId,
    pub logs: Vec<LogLine>,
    /// The id of its session, where it has one and is held there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// The live tool list, while the event log has an older one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Tools>,
}

/// The untouched CallToolResult (Model Context Protocol), as raw JSON.
pub type ToolResult = Box<serde_json::value::RawValue>;

/// Exchange the code that Google gave a user's browser for tokens, and keep those. It is done by the worker that runs
/// the server: the tokens leave it sealed only.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExchangeGoogleCode {
    pub id: CommandId,
    pub server: ServerId,
    pub server_name: ServerName,
    pub user: UserName,
    /// Where the tokens will lie.
    pub value: ValueId,
    /// Base64 of the sealed arguments of the exchange, which never lie in the Vault.
    pub sealed: String,
}

/// Give a user's secret a value. The value itself was sealed at the door: only a worker can open it.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SetSecret {
    pub id: CommandId,
    /// What the request is to be known by, where its sender may send it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<IdempotencyKey>,
    pub server: ServerId,
    pub server_name: ServerName,
    pub user: UserName,
    pub name: SecretName,
    pub value: ValueId,
    /// Bound for the Vault: base64 of the sealed value.
    pub sealed: String,
    /// A value that is there already stays.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub if_absent: bool,
}

/// Remove a user's secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeleteSecret {
    pub id: CommandId,
    /// What the request is to be known by, where its sender may send it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<IdempotencyKey>,
    pub server_name: ServerName,
    pub user: UserName,
    pub name: SecretName,
}

/// What a holder saw when it asked its server for tools. Decided where it was seen; it crosses no bus.
#[derive(Debug, Clone)]
pub struct RecordTools {
    pub server: ServerId,
    pub tools: Tools,
    /// The fencing token of the worker's lease. It is absent if every worker may run the server.
    pub fencing_token: Option<u64>,
}
