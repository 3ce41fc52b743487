//! Commands: every operation, with its name, version, area and delivery mode.

pub mod maintenance;
mod origin;
pub mod package;
mod tokens;
pub mod watch;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::maintenance::{
    CompactLog, CompactionReport, CountKeys, DiscardDeadLetter, KeyUsage, NotifyProducer,
    ReadJobAnswer, RetryDeadLetter, RotateKeys, RotationReport, SweepVault,
};
pub use self::origin::ChangeOrigin;
pub use self::package::{CheckPackages, InstallPackage, PackageCheck, UpgradePackage};
pub use self::tokens::{CreateToken, RevokeToken};
pub use self::watch::WatchResources;
use super::ids::{ServerId, ValueId};
use super::model::description::ServerDescription;
use super::model::grant::{GrantId, GrantTokens};
use super::model::job::StoredJobAnswer;
use super::model::remote::SealedValue;
use super::model::server::{LogLine, ServerChange, ServerConfig, ServerStatus};
use super::model::server_request::{AnswerDelivery, AnswerRequest};
use super::model::tool::Tools;
use super::model::tool_call::{CallTool, RetryTool};
use super::model::upstream_request::SendRequest;
use super::names::{SecretName, ServerName, UserName};

/// The area of a command. A worker serves the areas of its `POOLS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Area {
    Servers,
    Tools,
    Secrets,
    Packages,
    Oauth,
    Google,
    Jobs,
    Tokens,
    Log,
}

impl Area {
    pub const ALL: [Self; 9] = [
        Self::Servers,
        Self::Tools,
        Self::Secrets,
        Self::Packages,
        Self::Oauth,
        Self::Google,
        Self::Jobs,
        Self::Tokens,
        Self::Log,
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
            Self::Tokens => "tokens",
            Self::Log => "log",
        }
    }
}

/// The promise to the sender of a command. The type of the command fixes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryMode {
    /// Runs at most once, with a reply. The worker cancels the work if the sender leaves.
    Ask,
    /// Runs at most once, with a reply. A worker completes the work that it has started, even if the sender leaves.
    Change,
    /// Runs at least once, until a worker has acknowledged it.
    Job,
}

/// A command. Its name is `<area>.<verb>`. Its NATS subject is `mcp.v1.ask.<area>.<verb>`, or `job` instead of `ask`.
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

        /// Returns the name, the area and the delivery mode of the command with this name.
        pub fn lookup(name: &str) -> Option<(&'static str, Area, DeliveryMode)> {
            match name {
                $($wire => Some(($wire, Area::$area, DeliveryMode::$delivery)),)+
                _ => None,
            }
        }

        /// The names of all commands.
        pub const NAMES: &[&str] = &[$($wire),+];

        /// Returns the name, the version and the JSON Schema of every command, for `schemas/commands`.
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
    RetryTool = Tools "tools.retry" v 1 Ask -> ToolResult,
    SendRequest = Tools "tools.request" v 1 Ask -> RequestResult,
    AnswerRequest = Tools "tools.answer" v 1 Ask -> AnswerDelivery,
    WatchResources = Tools "tools.watch" v 1 Ask -> (),
    ExchangeGoogleCode = Google "google.exchange_code" v 1 Change -> (),
    RefreshTokens = Oauth "oauth.refresh_tokens" v 1 Change -> (),
    BeginAuthorization = Oauth "oauth.begin_authorization" v 1 Change -> AuthorizationStarted,
    UseLink = Oauth "oauth.use_link" v 1 Change -> (),
    CompleteAuthorization = Oauth "oauth.complete_authorization" v 1 Change -> (),
    SetSecret = Secrets "secrets.set" v 1 Change -> (),
    DeleteSecret = Secrets "secrets.delete" v 1 Change -> (),
    Disconnect = Secrets "secrets.disconnect" v 1 Change -> (),
    InstallPackage = Packages "packages.install" v 1 Job -> (),
    UpgradePackage = Packages "packages.upgrade" v 1 Job -> (),
    CheckPackages = Packages "packages.check" v 1 Change -> Vec<PackageCheck>,
    SweepVault = Secrets "secrets.sweep" v 1 Job -> (),
    CountKeys = Secrets "secrets.count_keys" v 1 Ask -> KeyUsage,
    RotateKeys = Secrets "secrets.rotate_keys" v 1 Job -> RotationReport,
    ReadJobAnswer = Jobs "jobs.read_answer" v 1 Ask -> StoredJobAnswer,
    NotifyProducer = Jobs "jobs.notify_producer" v 1 Change -> (),
    RetryDeadLetter = Jobs "jobs.retry_dead_letter" v 1 Change -> (),
    CreateToken = Tokens "tokens.create" v 1 Change -> (),
    RevokeToken = Tokens "tokens.revoke" v 1 Change -> (),
    DiscardDeadLetter = Jobs "jobs.discard_dead_letter" v 1 Change -> (),
    CompactLog = Log "log.compact" v 1 Job -> CompactionReport,
}

/// Registers a server under a free name, and starts it if it is enabled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegisterServer {
    #[serde(flatten)]
    pub origin: ChangeOrigin,
    /// The id of the new server.
    pub server: ServerId,
    pub name: ServerName,
    pub config: ServerConfig,
    pub enabled: bool,
    /// The id of the sealed session that the worker resumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<ValueId>,
    /// The sealed values that the configuration names. The worker stores them in the Vault.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sealed: Vec<SealedValue>,
}

/// Changes the configuration of a server, and restarts the server if its process or its connection changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UpdateServer {
    #[serde(flatten)]
    pub origin: ChangeOrigin,
    pub name: ServerName,
    pub change: ServerChange,
    /// The id of the server that the values were sealed for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerId>,
    /// The sealed values that the change names. The worker stores them in the Vault.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sealed: Vec<SealedValue>,
}

/// Enables a server. An enabled server is restarted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EnableServer {
    #[serde(flatten)]
    pub origin: ChangeOrigin,
    pub name: ServerName,
}

/// Disables a server: it stops and stays registered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DisableServer {
    #[serde(flatten)]
    pub origin: ChangeOrigin,
    pub name: ServerName,
}

/// Deletes a server and all its secrets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeleteServer {
    #[serde(flatten)]
    pub origin: ChangeOrigin,
    pub name: ServerName,
}

/// The processes that remain after a server was deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DeletedServer {
    /// The processes of ended servers that the worker could not kill yet. The worker continues to kill them.
    pub processes_left: usize,
}

/// Stores tokens for a server behind a URL. Tokens for all users restart the server. The facade has sealed the
/// tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoreTokens {
    #[serde(flatten)]
    pub origin: ChangeOrigin,
    pub grant: GrantId,
    pub server_name: ServerName,
    pub tokens: GrantTokens,
    /// The sealed tokens. The worker stores them in the Vault.
    pub sealed: Vec<SealedValue>,
    /// Whether existing tokens stay.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub if_absent: bool,
}

/// Makes one running server match the catalog, and returns its state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReconcileServer {
    pub name: ServerName,
}

/// The state of a server, as its worker sees it.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct ReconciledServer {
    pub live: ServerStatus,
    pub logs: Vec<LogLine>,
}

/// Replaces the tokens with this access token by new tokens. All senders share one refresh. The command succeeds
/// without a refresh if the grant has newer tokens already.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RefreshTokens {
    pub grant: GrantId,
    pub access: ValueId,
}

/// Uses a link to an authorization. The first use of a link succeeds, and every later use is refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UseLink {
    pub grant: GrantId,
    /// The id of the link. The Vault keeps it until the link has expired.
    pub link: ValueId,
}

/// Starts an authorization: finds the authorization server, obtains a client, and returns the URL for the browser.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BeginAuthorization {
    pub grant: GrantId,
    /// The URL to which the authorization server sends the browser back.
    pub redirect_uri: String,
    /// The requested scopes. Without them, the worker requests the scopes that the server wants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<String>>,
    /// The OAuth client, sealed by the facade. Without it, the worker registers a client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<SealedValue>,
    /// The URL of the metadata document of this deployment (OAuth Client ID Metadata Document).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_document: Option<String>,
}

/// A started authorization, which a browser continues.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationStarted {
    /// The id of the pending authorization in the Vault. No event names it, so the sweep removes it when it is old.
    pub value: ValueId,
    /// The page of the authorization server.
    pub url: String,
    /// The state with which the authorization server sends the browser back.
    pub state: String,
}

/// Exchanges the code that a browser brought back, and stores the tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CompleteAuthorization {
    #[serde(flatten)]
    pub origin: ChangeOrigin,
    pub grant: GrantId,
    /// The id of the pending authorization in the Vault.
    pub authorization: ValueId,
    /// The code, sealed by the facade.
    pub code: SealedValue,
    /// The issuer of the code, as the browser brought it (RFC 9207).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
}

/// Reads the last log lines of servers from the worker that runs them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReadServerLogs {
    pub servers: Vec<ServerId>,
}

/// The last log lines of one server.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerLogs {
    pub server: ServerId,
    pub logs: Vec<LogLine>,
    /// The id of the session, if the worker holds the server and the server has a session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// The tool list of the running server, if the event log has an older list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Tools>,
}

/// The unchanged CallToolResult (Model Context Protocol), as raw JSON.
pub type ToolResult = Box<serde_json::value::RawValue>;
/// The unchanged result of a request that is no tool call, as raw JSON.
pub type RequestResult = Box<serde_json::value::RawValue>;

/// Exchanges the code that Google gave to the browser of a user, and stores the tokens. The worker that runs the
/// server executes the command, so that the tokens leave this worker only sealed.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExchangeGoogleCode {
    #[serde(flatten)]
    pub origin: ChangeOrigin,
    pub server: ServerId,
    pub server_name: ServerName,
    pub user: UserName,
    /// The id under which the Vault stores the tokens.
    pub value: ValueId,
    /// Base64 of the sealed arguments of the exchange. The Vault never stores them.
    pub sealed: String,
}

/// Sets the value of a secret of a user, or of all users. The facade has sealed the value, and only a worker can open it.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SetSecret {
    #[serde(flatten)]
    pub origin: ChangeOrigin,
    pub server: ServerId,
    pub server_name: ServerName,
    /// Absent for a value that all users share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserName>,
    pub name: SecretName,
    pub value: ValueId,
    /// Base64 of the sealed value. The worker stores it in the Vault.
    pub sealed: String,
    /// Whether an existing value stays.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub if_absent: bool,
}

/// Deletes a secret of a user, or of all users.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeleteSecret {
    #[serde(flatten)]
    pub origin: ChangeOrigin,
    pub server_name: ServerName,
    /// Absent for a value that all users share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserName>,
    pub name: SecretName,
}

/// Removes all that a user has stored for a server: secrets, OAuth tokens and Google tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Disconnect {
    #[serde(flatten)]
    pub origin: ChangeOrigin,
    pub server: ServerId,
    pub server_name: ServerName,
    pub user: UserName,
    /// Absent for all parts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<ConnectionPart>,
}

/// A part of the connection of a user that can be removed alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionPart {
    /// The OAuth tokens.
    Oauth,
    /// The Google tokens.
    Google,
}

/// Records the description that a worker received from its server. The same worker decides it, so the command is never
/// sent over the bus.
#[derive(Debug, Clone)]
pub struct RecordDescription {
    pub server: ServerId,
    pub description: ServerDescription,
    /// The fencing token of the worker's lease. It is absent if every worker may run the server.
    pub fencing_token: Option<u64>,
}

/// Records the tool list that a worker received from its server. The same worker decides it, so the command is
/// never sent over the bus.
#[derive(Debug, Clone)]
pub struct RecordTools {
    pub server: ServerId,
    pub tools: Tools,
    /// The fencing token of the worker's lease. It is absent if every worker may run the server.
    pub fencing_token: Option<u64>,
}
