//! How servers and packages are shown in answers, whoever gives them: a facade, or a worker that has done a job.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use utoipa::ToSchema;

use crate::core::catalog::Server;
use crate::core::names::{PackageName, SecretName, ServerName};
use crate::core::package::{Folders, Index, Source};
use crate::core::remote::{HIDDEN, HeaderValue, ReconnectionOptions, Remote};
use crate::core::server::{Live, LogLine, Replicas, Status, Transport};
use crate::core::tool::Tool;

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
    status: Option<Status>,
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
pub struct Told {
    pub logs: Vec<LogLine>,
    pub session_id: Option<String>,
}

impl ServerView {
    /// `folders` is where packages lie.
    pub fn new(server: &Server, live: Live, told: Told, folders: &Folders) -> Self {
        let mut view = Self::known(server, folders);
        view.look(live);
        view.logs = Some(told.logs);
        if server.remote().is_some() {
            view.session_id = told.session_id;
        }
        view
    }

    /// What the log knows of it.
    pub fn known(server: &Server, folders: &Folders) -> Self {
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
            Transport::StreamableHttp(Remote { url, headers, reconnection_options, .. }) => {
                let shown = |value| match value {
                    HeaderValue::Plain(value) => value,
                    HeaderValue::Sealed { .. } => HIDDEN.to_owned(),
                };
                view.headers = Some(headers.into_iter().map(|(name, value)| (name, shown(value))).collect());
                (view.url, view.reconnection_options) = (Some(url), Some(reconnection_options));
            }
        }
        view
    }

    /// How it looks to whoever has just changed it.
    pub fn look(&mut self, live: Live) {
        (self.status, self.error, self.details) = (Some(live.status), live.error, live.details);
    }
}

/// A package: what is installed, for which server, and whether there is something newer.
#[derive(Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PackageView {
    #[schema(value_type = String)]
    name: PackageName,
    /// The version that is really installed.
    version: String,
    /// The newest version, as last looked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    latest_version: Option<String>,
    update_available: bool,
    /// The link to the files of the current version, on a worker with the same PACKAGES_DIR as here.
    #[serde(skip_serializing_if = "Option::is_none")]
    install_path: Option<String>,
    #[schema(value_type = String, example = "installed")]
    status: &'static str,
    /// When, in RFC 3339.
    installed: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_upgraded: Option<String>,
    /// The name of its server.
    #[schema(value_type = String)]
    mcp_server_id: ServerName,
    enabled: bool,
    #[schema(value_type = String, example = "node")]
    runtime: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    python_module: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    python_args: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pip_dependencies: Option<Vec<String>>,
    /// `***` stands for user info.
    #[serde(skip_serializing_if = "Option::is_none")]
    pip_index_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pip_extra_index_url: Option<String>,
    /// The same as installPath, of a Python package.
    #[serde(skip_serializing_if = "Option::is_none")]
    venv_path: Option<String>,
}

impl PackageView {
    /// `None`: the server has no package.
    pub fn new(server: &Server, folders: &Folders) -> Option<Self> {
        let installed = server.package.as_ref()?;
        let package = &installed.package;
        let link = folders.link(&package.source, &server.name).to_string_lossy().into_owned();
        let install_path = package.recipe.as_ref().map(|_| link);
        let mut view = Self {
            name: package.name.clone(),
            version: package.version.clone(),
            latest_version: installed.latest.clone(),
            update_available: installed.update_available(),
            install_path,
            status: "installed",
            installed: time(installed.installed),
            last_upgraded: installed.upgraded.map(time),
            mcp_server_id: server.name.clone(),
            enabled: server.enabled,
            runtime: package.source.runtime(),
            python_module: None,
            python_args: None,
            pip_dependencies: None,
            pip_index_url: None,
            pip_extra_index_url: None,
            venv_path: None,
        };
        if let Source::Python(python) = package.source.clone() {
            let shown = |index: Index| index.url;
            (view.python_module, view.python_args) = (python.module, Some(python.args));
            view.pip_dependencies = Some(python.dependencies);
            (view.pip_index_url, view.pip_extra_index_url) =
                (python.index_url.map(shown), python.extra_index_url.map(shown));
            view.venv_path.clone_from(&view.install_path);
        }
        Some(view)
    }
}

fn time(ms: u64) -> String {
    humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + Duration::from_millis(ms)).to_string()
}
