//! How servers and packages are shown in answers, whoever gives them: a facade, or a worker that has done a job.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use crate::core::catalog::server::Server;
use crate::core::model::package::PackageDirs;
use crate::core::model::remote::{HIDDEN, HeaderValue, ReconnectionOptions, Remote};
use crate::core::model::server::{ConnectionStatus, LogLine, Replicas, ServerStatus, Transport};
use crate::core::model::tool::{Tool, Tools};
use crate::core::names::{SecretName, ServerName};

/// A server: its configuration and how it looks right now.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServerView {
    #[schema(value_type = String)]
    name: ServerName,
    #[schema(value_type = String, example = "stdio")]
    transport_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    args: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    env: Option<BTreeMap<String, String>>,
    /// The MCP endpoint of a streamable_http server; `***` stands for user info.
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    /// Sent with every request; `***` stands for what is sealed.
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<BTreeMap<String, String>>,
    /// The session that is resumed after a restart, while some worker holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reconnection_options: Option<ReconnectionOptions>,
    /// When not empty, only the secrets with these names are injected.
    #[schema(value_type = Vec<String>)]
    secret_names: Vec<SecretName>,
    /// Milliseconds.
    startup_timeout: u64,
    /// Milliseconds.
    tool_timeout: u64,
    reset_timeout_on_progress: bool,
    /// Of a stdio server.
    #[serde(skip_serializing_if = "Option::is_none")]
    replicas: Option<Replicas>,
    enabled: bool,
    /// Absent where the past is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<ConnectionStatus>,
    /// Why it is not connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// The last lines of its standard error when that happened.
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<String>,
    /// The tools as the server describes them.
    #[schema(value_type = Vec<Object>)]
    tools_list: Arc<Vec<Tool>>,
    /// Absent where the past is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    logs: Option<Vec<LogLine>>,
}

/// What the workers that run a server tell of it.
#[derive(Default)]
pub struct LiveDetails {
    pub logs: Vec<LogLine>,
    pub session_id: Option<String>,
    /// The live tool list, while the event log has an older one.
    pub tools: Option<Tools>,
}

impl ServerView {
    /// `folders` is where packages lie.
    pub fn new(
        server: &Server,
        live: ServerStatus,
        told: LiveDetails,
        folders: &PackageDirs,
    ) -> Self {
        let mut view = Self::from_catalog(server, folders);
        view.set_status(live);
        view.logs = Some(told.logs);
        if server.remote().is_some() {
            view.session_id = told.session_id;
        }
        if let Some(tools) = told.tools {
            view.tools_list = tools.tools;
        }
        view
    }

    /// What the log knows of it.
    pub fn from_catalog(server: &Server, folders: &PackageDirs) -> Self {
        let config = &server.config;
        let mut view = Self {
            name: server.name.clone(),
            transport_type: config.transport.as_str(),
            command: None,
            args: None,
            env: None,
            url: None,
            headers: None,
            session_id: None,
            reconnection_options: None,
            secret_names: config.secret_names.clone(),
            startup_timeout: config.startup_timeout_ms(),
            tool_timeout: config.tool_timeout_ms(),
            reset_timeout_on_progress: config.reset_timeout_on_progress,
            replicas: None,
            enabled: server.enabled,
            status: None,
            error: None,
            details: None,
            tools_list: server.tools.tools.clone(),
            logs: None,
        };
        let transport = match &server.package {
            Some(installed) => {
                let link = folders.link(&installed.package.source, &server.name);
                config.transport.clone().placed(&link.to_string_lossy())
            }
            None => config.transport.clone(),
        };
        match transport {
            Transport::Stdio { command, args, env } => {
                (view.command, view.args, view.env) = (Some(command), Some(args), Some(env));
                view.replicas = Some(config.replicas);
            }
            Transport::StreamableHttp(Remote {
                url,
                headers,
                reconnection_options,
                ..
            }) => {
                let shown = |value| match value {
                    HeaderValue::Plain(value) => value,
                    HeaderValue::Sealed { .. } => HIDDEN.to_owned(),
                };
                view.headers = Some(
                    headers
                        .into_iter()
                        .map(|(name, value)| (name, shown(value)))
                        .collect(),
                );
                (view.url, view.reconnection_options) = (Some(url), Some(reconnection_options));
            }
        }
        view
    }

    /// How it looks to whoever has just changed it.
    pub fn set_status(&mut self, live: ServerStatus) {
        (self.status, self.error, self.details) = (Some(live.status), live.error, live.details);
    }
}

pub fn time(ms: u64) -> String {
    crate::time::rfc3339::format_ms(ms)
}
