//! Servers: their configuration, the decisions that change it, and how a running one looks.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::remote::{Remote, RemoteChange};
use crate::core::catalog::server::Server;
use crate::core::failure::Failure;
use crate::core::ids::{ServerId, WorkerId};
use crate::core::names::SecretName;

/// Everything a user can say about a server, but its name and whether it is enabled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServerConfig {
    #[serde(flatten)]
    pub transport: Transport,
    /// When not empty, only the secrets with these names are injected.
    #[serde(default)]
    pub secret_names: Vec<SecretName>,
    /// Milliseconds for connecting and the first list of tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup_timeout: Option<u64>,
    /// Milliseconds for a tool call that names no limit itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_timeout: Option<u64>,
    /// A progress notification starts a call's time anew.
    #[serde(default)]
    pub reset_timeout_on_progress: bool,
    #[serde(default)]
    pub replicas: Replicas,
}

/// How a server is reached.
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
    /// A server that is there already, behind a URL.
    StreamableHttp(Remote),
}

impl Transport {
    /// As users spell it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Stdio { .. } => "stdio",
            Self::StreamableHttp(_) => "streamable_http",
        }
    }
}

/// How many processes of a stdio server there are.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Replicas {
    /// One in the whole cluster: a server with state is one truth.
    #[default]
    One,
    /// One in each worker, for stateless servers under load.
    Each,
}

/// Whether a server can be called right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionStatus {
    Connected,
    /// It is being started, or started again; calls wait for it.
    Connecting,
    /// Nobody runs it: it is disabled, or has not been tried yet.
    Disconnected,
    /// The last attempt failed; calls fail at once until the next one works.
    Error,
}

/// How a running server looks at this moment. Not state: nothing of it is in the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServerStatus {
    pub status: ConnectionStatus,
    /// Why the status is `error`, or why it is being restarted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The last lines of its standard error when that happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<String>,
}

impl ServerStatus {
    pub fn of(status: ConnectionStatus) -> Self {
        Self {
            status,
            error: None,
            details: None,
        }
    }
}

/// What a worker tells facades about the servers it runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    pub worker: WorkerId,
    pub servers: Vec<(ServerId, ServerStatus)>,
    /// It drains and is not to be asked any more.
    #[serde(default)]
    pub leaving: bool,
    /// The id of the key it seals with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// One line of a server's log ring.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    /// Milliseconds since 1970.
    pub at: u64,
    /// `stderr`, `server` (an MCP logging message) or `transport` (what happened to the connection).
    pub source: String,
    pub text: String,
}

/// The default of `toolTimeout` and `startupTimeout`, in milliseconds.
pub const DEFAULT_TIMEOUT_MS: u64 = 60_000;
/// The longest limit that may be asked for: a day, in milliseconds.
pub const MAX_TIMEOUT_MS: u64 = 86_400_000;

impl ServerConfig {
    /// With the defaults of all that is not said.
    pub fn new(transport: Transport) -> Self {
        Self {
            transport,
            secret_names: vec![],
            startup_timeout: None,
            tool_timeout: None,
            reset_timeout_on_progress: false,
            replicas: Replicas::One,
        }
    }

    pub fn startup_timeout_ms(&self) -> u64 {
        self.startup_timeout.unwrap_or(DEFAULT_TIMEOUT_MS)
    }

    pub fn tool_timeout_ms(&self) -> u64 {
        self.tool_timeout.unwrap_or(DEFAULT_TIMEOUT_MS)
    }

    /// Where it is, if it is behind a URL.
    pub fn remote(&self) -> Option<&Remote> {
        match &self.transport {
            Transport::Stdio { .. } => None,
            Transport::StreamableHttp(remote) => Some(remote),
        }
    }

    /// Whether the secret may be given to this server.
    pub fn takes(&self, secret: &SecretName) -> bool {
        self.secret_names.is_empty() || self.secret_names.contains(secret)
    }

    /// Checks what the types do not: texts that no process could be given, limits out of range.
    pub fn check(&self) -> Result<(), Failure> {
        match &self.transport {
            Transport::Stdio { command, args, env } => check_stdio(command, args, env)?,
            Transport::StreamableHttp(remote) => {
                remote.check()?;
                if self.replicas != Replicas::One {
                    return Err(Failure::invalid(
                        "A streamable_http server has no replicas; leave that out",
                    ));
                }
            }
        }
        for (field, value) in [
            ("startupTimeout", self.startup_timeout),
            ("toolTimeout", self.tool_timeout),
        ] {
            check_timeout(field, value)?;
        }
        Ok(())
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

/// A limit in milliseconds that a user asked for.
pub fn check_timeout(field: &str, value: Option<u64>) -> Result<(), Failure> {
    match value {
        Some(ms) if !(1..=MAX_TIMEOUT_MS).contains(&ms) => Err(Failure::invalid(format!(
            "{field} must be 1 to {MAX_TIMEOUT_MS} milliseconds"
        ))),
        _ => Ok(()),
    }
}

/// What an update says: a field that is given replaces the whole value, `null` sets the default.
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
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub startup_timeout: Option<Option<u64>>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub tool_timeout: Option<Option<u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reset_timeout_on_progress: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<Replicas>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    #[serde(flatten)]
    pub remote: RemoteChange,
}

/// Tells `null` from absent, for a field that has `#[serde(default)]`.
pub fn given<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(
    from: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(from).map(Some)
}

impl ServerChange {
    pub fn apply(&self, server: &Server) -> Result<ServerConfig, Failure> {
        let mut config = (*server.config).clone();
        match &mut config.transport {
            Transport::Stdio { command, args, env } => {
                refuse("stdio", self.remote.given())?;
                replace(command, &self.command);
                replace(args, &self.args);
                replace(env, &self.env);
            }
            Transport::StreamableHttp(remote) => {
                refuse("streamable_http", self.of_stdio())?;
                remote.change(&self.remote)?;
            }
        }
        replace(&mut config.secret_names, &self.secret_names);
        replace_timeout(&mut config.startup_timeout, self.startup_timeout);
        replace_timeout(&mut config.tool_timeout, self.tool_timeout);
        replace(
            &mut config.reset_timeout_on_progress,
            &self.reset_timeout_on_progress,
        );
        replace(&mut config.replicas, &self.replicas);
        Ok(config)
    }

    fn of_stdio(&self) -> [(&'static str, bool); 4] {
        [
            ("command", self.command.is_some()),
            ("args", self.args.is_some()),
            ("env", self.env.is_some()),
            ("replicas", self.replicas.is_some()),
        ]
    }
}

/// Refuses those of the other transport's fields that are given.
pub fn refuse(transport: &str, fields: [(&str, bool); 4]) -> Result<(), Failure> {
    let given: Vec<_> = fields
        .into_iter()
        .filter_map(|(name, given)| given.then_some(name))
        .collect();
    if given.is_empty() {
        return Ok(());
    }
    Err(Failure::invalid(format!(
        "A {transport} server has no {}; leave that out",
        given.join(", ")
    )))
}

/// Answers show the default as a number: put back, it is still the default and no change.
fn replace_timeout(old: &mut Option<u64>, new: Option<Option<u64>>) {
    if let Some(new) = new
        && new.unwrap_or(DEFAULT_TIMEOUT_MS) != old.unwrap_or(DEFAULT_TIMEOUT_MS)
    {
        *old = new;
    }
}

fn replace<T: Clone>(old: &mut T, new: &Option<T>) {
    if let Some(new) = new {
        *old = new.clone();
    }
}
