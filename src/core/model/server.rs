//! Servers: their configuration, updates of it, and the status of a running server.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::credential::Credential;
use super::credential_check::check_credentials;
use super::remote::{Remote, RemoteChange};
use super::timeout::{DEFAULT_TIMEOUT_MS, check_timeout};
use super::update::Update;
use crate::core::failure::Failure;
use crate::core::ids::{ServerId, WorkerId};
use crate::core::names::SecretName;

/// The configuration of a server: all fields that a user sets, except `name` and `enabled`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServerConfig {
    #[serde(flatten)]
    pub transport: Transport,
    /// The names of the secrets that the server gets. An empty list means all secrets of the user.
    #[serde(default)]
    pub secret_names: Vec<SecretName>,
    /// The values that the server gets, and where. If the list is not empty, the server gets exactly these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub credentials: Vec<Credential>,
    /// The time limit for the start and the first tool list, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup_timeout: Option<u64>,
    /// The time limit for a tool call that names no limit, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_timeout: Option<u64>,
    /// A progress notification restarts the time limit of its call.
    #[serde(default)]
    pub reset_timeout_on_progress: bool,
    #[serde(default)]
    pub replicas: Replicas,
    #[serde(default, skip_serializing_if = "Interaction::is_none")]
    pub interaction: Interaction,
    /// The MCP endpoints show no property that a secret fills.
    #[serde(default = "default_true", skip_serializing_if = "is_true")]
    pub hide_secret_arguments: bool,
}

fn default_true() -> bool {
    true
}

/// Returns whether a field has its default, so that it is not written.
pub fn is_true(value: &bool) -> bool {
    *value
}

/// The transport between a worker and a server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "transportType", rename_all = "snake_case")]
pub enum Transport {
    /// A child process that speaks JSON-RPC on its standard input and output.
    Stdio {
        command: String,
        #[serde(default)]
        args: Vec<String>,
        #[serde(default)]
        env: BTreeMap<String, String>,
    },
    /// A running server behind a URL.
    StreamableHttp(Remote),
}

impl Transport {
    /// Returns the value of `transportType` in requests and responses.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Stdio { .. } => "stdio",
            Self::StreamableHttp(_) => "streamable_http",
        }
    }
}

/// The number of processes of a stdio server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Replicas {
    /// One process in the whole cluster, because the server has state.
    #[default]
    One,
    /// One process in each worker, for a stateless server under load.
    Each,
}

/// Whether a child process with sessions may ask MCP clients. Its requests name no call, so the worker knows the client only if
/// one call runs at a time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Interaction {
    /// The child asks no client. Its calls run at the same time.
    #[default]
    None,
    /// The child may ask the client of the running call. Its calls run one at a time.
    Exclusive,
}

impl Interaction {
    pub fn is_none(&self) -> bool {
        *self == Self::None
    }
}

/// The state of the connection to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionStatus {
    Connected,
    /// A worker starts or restarts the server, and calls wait.
    Connecting,
    /// No worker runs the server, because it is disabled or no worker has started it yet.
    Disconnected,
    /// The last start failed. Calls fail at once until a start succeeds.
    Error,
}

/// The status of a server at this moment. The log does not store it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServerStatus {
    pub status: ConnectionStatus,
    /// The reason for the status `error` or for a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The last lines that the server printed before that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<String>,
}

impl ServerStatus {
    /// Returns a status without an error.
    pub fn without_error(status: ConnectionStatus) -> Self {
        Self {
            status,
            error: None,
            details: None,
        }
    }
}

/// The report of a worker about its servers. Workers publish it to all processes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    pub worker: WorkerId,
    pub servers: Vec<(ServerId, ServerStatus)>,
    /// The worker drains and accepts no more commands.
    #[serde(default)]
    pub leaving: bool,
    /// The id of the deployment key that the worker seals with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// One line of the log of a server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LogLine {
    /// The time in milliseconds since 1970.
    pub at: u64,
    /// `stderr`, `server` (an MCP logging message) or `transport` (an event of the connection).
    pub source: String,
    pub text: String,
}

impl ServerConfig {
    /// Returns a configuration with the defaults of all optional fields.
    pub fn new(transport: Transport) -> Self {
        Self {
            transport,
            secret_names: vec![],
            credentials: vec![],
            startup_timeout: None,
            tool_timeout: None,
            reset_timeout_on_progress: false,
            hide_secret_arguments: true,
            replicas: Replicas::One,
            interaction: Interaction::None,
        }
    }

    /// Returns the time limit for the start, in milliseconds.
    pub fn startup_timeout_ms(&self) -> u64 {
        self.startup_timeout.unwrap_or(DEFAULT_TIMEOUT_MS)
    }

    /// Returns the time limit for a tool call, in milliseconds.
    pub fn tool_timeout_ms(&self) -> u64 {
        self.tool_timeout.unwrap_or(DEFAULT_TIMEOUT_MS)
    }

    /// Returns the configuration of the remote endpoint, if the server is behind a URL.
    pub fn remote(&self) -> Option<&Remote> {
        match &self.transport {
            Transport::Stdio { .. } => None,
            Transport::StreamableHttp(remote) => Some(remote),
        }
    }

    /// Whether the log lines of the server may belong to a call. A child process names no call in its log lines, so they belong
    /// to a call only if it runs alone.
    pub fn logs_for_calls(&self) -> bool {
        self.remote().is_some() || self.interaction == Interaction::Exclusive
    }

    /// Whether the other configuration differs, and a running server with this configuration suits it too.
    pub fn runs_on_with(&self, other: &Self) -> bool {
        let same_process = Self {
            startup_timeout: self.startup_timeout,
            reset_timeout_on_progress: self.reset_timeout_on_progress,
            hide_secret_arguments: self.hide_secret_arguments,
            ..other.clone()
        };
        self != other && *self == same_process
    }

    /// Returns true if the server may get the secret.
    pub fn takes(&self, secret: &SecretName) -> bool {
        self.secret_names.is_empty() || self.secret_names.contains(secret)
    }

    /// Checks the rules that the types do not express: texts that no process can get, and limits out of range.
    ///
    /// # Errors
    /// The failure names the field and the rule.
    pub fn check(&self) -> Result<(), Failure> {
        match &self.transport {
            Transport::Stdio { command, args, env } => check_stdio(command, args, env)?,
            Transport::StreamableHttp(remote) => {
                remote.check()?;
                let fields_of_stdio = [
                    ("replicas", self.replicas != Replicas::One),
                    ("interaction", !self.interaction.is_none()),
                ];
                refuse_fields("streamable_http", fields_of_stdio)?;
            }
        }
        for (field, value) in [
            ("startupTimeout", self.startup_timeout),
            ("toolTimeout", self.tool_timeout),
        ] {
            check_timeout(field, value)?;
        }
        check_credentials(self)
    }
}

fn check_stdio(
    command: &str,
    args: &[String],
    env: &BTreeMap<String, String>,
) -> Result<(), Failure> {
    if command.trim().is_empty() || command.contains('\0') {
        return Err(Failure::invalid(
            "command must be the program to start, not empty and without NUL",
        ));
    }
    if args.iter().any(|arg| arg.contains('\0')) {
        return Err(Failure::invalid("args must not contain NUL"));
    }
    for (key, value) in env {
        if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
            return Err(Failure::invalid(
                "env must map names without '=' and NUL to values without NUL",
            ));
        }
    }
    Ok(())
}

/// An update of a server. A present field replaces the whole value, and `null` restores the default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ServerChange {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_names: Option<Vec<SecretName>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Vec<Credential>>,
    #[serde(skip_serializing_if = "Update::is_keep")]
    pub startup_timeout: Update<u64>,
    #[serde(skip_serializing_if = "Update::is_keep")]
    pub tool_timeout: Update<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reset_timeout_on_progress: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hide_secret_arguments: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<Replicas>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interaction: Option<Interaction>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    #[serde(flatten)]
    pub remote: RemoteChange,
}

impl ServerChange {
    /// Returns the configuration that results from this update of `config`.
    ///
    /// # Errors
    /// Fails if the update has a field of the other transport, keeps a value that does not exist, or sends a sealed
    /// credential to another origin.
    pub fn apply_to(&self, config: &ServerConfig) -> Result<ServerConfig, Failure> {
        let mut config = config.clone();
        match &mut config.transport {
            Transport::Stdio { command, args, env } => {
                refuse_fields("stdio", self.remote.present_fields())?;
                replace_if_present(command, &self.command);
                replace_if_present(args, &self.args);
                replace_if_present(env, &self.env);
            }
            Transport::StreamableHttp(remote) => {
                refuse_fields("streamable_http", self.present_stdio_fields())?;
                remote.apply(&self.remote)?;
            }
        }
        replace_if_present(&mut config.secret_names, &self.secret_names);
        replace_if_present(&mut config.credentials, &self.credentials);
        update_timeout(&mut config.startup_timeout, self.startup_timeout);
        update_timeout(&mut config.tool_timeout, self.tool_timeout);
        replace_if_present(
            &mut config.reset_timeout_on_progress,
            &self.reset_timeout_on_progress,
        );
        replace_if_present(
            &mut config.hide_secret_arguments,
            &self.hide_secret_arguments,
        );
        replace_if_present(&mut config.replicas, &self.replicas);
        replace_if_present(&mut config.interaction, &self.interaction);
        Ok(config)
    }

    fn present_stdio_fields(&self) -> [(&'static str, bool); 5] {
        [
            ("command", self.command.is_some()),
            ("args", self.args.is_some()),
            ("env", self.env.is_some()),
            ("replicas", self.replicas.is_some()),
            ("interaction", self.interaction.is_some()),
        ]
    }
}

/// Refuses fields that do not belong to the transport. Each pair holds a field name and whether the field is present.
///
/// # Errors
/// The failure names all fields that are present.
pub fn refuse_fields<const N: usize>(
    transport: &str,
    fields: [(&str, bool); N],
) -> Result<(), Failure> {
    let present: Vec<_> = fields
        .into_iter()
        .filter_map(|(name, is_present)| is_present.then_some(name))
        .collect();
    if present.is_empty() {
        return Ok(());
    }
    let names = present.join(", ");
    Err(Failure::invalid(format!(
        "A {transport} server has no {names}; remove the field"
    )))
}

/// Updates a time limit. A response shows the default as a number, so that number is no change of the default.
fn update_timeout(current: &mut Option<u64>, update: Update<u64>) {
    let new = update.apply_to(*current);
    if new.unwrap_or(DEFAULT_TIMEOUT_MS) != current.unwrap_or(DEFAULT_TIMEOUT_MS) {
        *current = new;
    }
}

fn replace_if_present<T: Clone>(current: &mut T, new: &Option<T>) {
    if let Some(new) = new {
        *current = new.clone();
    }
}

#[cfg(test)]
mod tests;
