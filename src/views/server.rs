//! The JSON of a server: its configuration and its current status.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use crate::core::catalog::server::Server;
use crate::core::decide::credential::needed_credentials;
use crate::core::model::credential::Credential;
use crate::core::model::package::PackageDirs;
use crate::core::model::query::shown_url;
use crate::core::model::remote::{
    HIDDEN, HeaderValue, ReconnectionOptions, Remote, is_credential_header,
};
use crate::core::model::server::{
    ConnectionStatus, Interaction, LogLine, Replicas, ServerStatus, Transport, is_true,
};
use crate::core::model::tool::{Tool, Tools};
use crate::core::names::{SecretName, ServerName};

/// A server: its configuration and its current status.
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
    /// The MCP endpoint of a streamable_http server. `***` replaces the user info.
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    /// The headers of every request. `***` replaces sealed values.
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<BTreeMap<String, String>>,
    /// The session id, while a worker holds the session. A restarted server resumes the session.
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reconnection_options: Option<ReconnectionOptions>,
    /// The names of the secrets that the server gets. An empty list means all secrets of the user.
    #[schema(value_type = Vec<String>)]
    secret_names: Vec<SecretName>,
    /// The values that the server needs, and where its requests carry them. Absent if the server declares none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    credentials: Vec<Credential>,
    /// The names of the credentials without which the server does not start by itself: each user sets them, or an
    /// administrator has to set them. Absent if there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    needs_credentials: Vec<SecretName>,
    /// The time limit for the start, in milliseconds.
    startup_timeout: u64,
    /// The time limit for a tool call, in milliseconds.
    tool_timeout: u64,
    reset_timeout_on_progress: bool,
    /// Whether the tools of the MCP endpoints hide the properties that secrets fill. Absent if true.
    #[serde(skip_serializing_if = "is_true")]
    #[schema(default = true)]
    hide_secret_arguments: bool,
    /// Only a stdio server has this field.
    #[serde(skip_serializing_if = "Option::is_none")]
    replicas: Option<Replicas>,
    /// `exclusive`, if the server may ask the MCP client of the running call. Absent otherwise.
    #[serde(skip_serializing_if = "Interaction::is_none")]
    interaction: Interaction,
    enabled: bool,
    /// Absent in a view of the past.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<ConnectionStatus>,
    /// The reason why the server is not connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// The last lines that the server printed before that.
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<String>,
    /// The tools in the spelling of the server.
    #[schema(value_type = Vec<Object>)]
    tools_list: Arc<Vec<Tool>>,
    /// Absent in a view of the past.
    #[serde(skip_serializing_if = "Option::is_none")]
    logs: Option<Vec<LogLine>>,
}

/// A server as a caller without the scope `admin` sees it: without its configuration, its logs and its errors.
#[derive(Serialize, ToSchema)]
// The full form must not match the schema of the short form, so the schema allows no other fields.
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ShortServerView {
    #[schema(value_type = String)]
    name: ServerName,
    #[schema(value_type = String, example = "stdio")]
    transport_type: &'static str,
    enabled: bool,
    status: ConnectionStatus,
    /// The values that the server needs, and where its requests carry them. Absent if the server declares none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    credentials: Vec<Credential>,
    /// The names of the credentials without which the server does not start by itself. Absent if there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    needs_credentials: Vec<SecretName>,
    /// The tools in the spelling of the server.
    #[schema(value_type = Vec<Object>)]
    tools_list: Arc<Vec<Tool>>,
}

impl ShortServerView {
    pub fn new(server: &Server, status: ConnectionStatus) -> Self {
        Self {
            name: server.name.clone(),
            transport_type: server.config.transport.as_str(),
            enabled: server.enabled,
            status,
            credentials: server.config.credentials.clone(),
            needs_credentials: needed_credentials(server).into_iter().cloned().collect(),
            tools_list: server.tools.tools.clone(),
        }
    }
}

/// A server as one caller sees it.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum VisibleServer {
    Full(Box<ServerView>),
    Short(ShortServerView),
}

impl From<ServerView> for VisibleServer {
    fn from(view: ServerView) -> Self {
        Self::Full(Box::new(view))
    }
}

impl From<ShortServerView> for VisibleServer {
    fn from(view: ShortServerView) -> Self {
        Self::Short(view)
    }
}

/// The details that only the workers of a server know.
#[derive(Default)]
pub struct LiveDetails {
    pub logs: Vec<LogLine>,
    pub session_id: Option<String>,
    /// The live tool list, while the event log has an older list.
    pub tools: Option<Tools>,
}

impl ServerView {
    /// Returns the view of a server with its current status. `folders` are the package folders of this process.
    pub fn new(
        server: &Server,
        live: ServerStatus,
        details: LiveDetails,
        folders: &PackageDirs,
    ) -> Self {
        let mut view = Self::from_catalog(server, folders);
        view.set_status(live);
        view.logs = Some(details.logs);
        if server.remote().is_some() {
            view.session_id = details.session_id;
        }
        if let Some(tools) = details.tools {
            view.tools_list = tools.tools;
        }
        view
    }

    /// Returns the view of a server without its current status.
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
            credentials: config.credentials.clone(),
            needs_credentials: needed_credentials(server).into_iter().cloned().collect(),
            startup_timeout: config.startup_timeout_ms(),
            tool_timeout: config.tool_timeout_ms(),
            reset_timeout_on_progress: config.reset_timeout_on_progress,
            hide_secret_arguments: config.hide_secret_arguments,
            replicas: None,
            interaction: config.interaction,
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
                config
                    .transport
                    .clone()
                    .with_folder(&link.to_string_lossy())
            }
            None => config.transport.clone(),
        };
        match transport {
            Transport::Stdio { command, args, env } => {
                view.command = Some(command);
                view.args = Some(args);
                view.env = Some(env);
                view.replicas = Some(config.replicas);
            }
            Transport::StreamableHttp(Remote {
                url,
                headers,
                reconnection_options,
                ..
            }) => {
                view.headers = Some(shown_headers(headers));
                view.url = Some(shown_url(&url));
                view.reconnection_options = Some(reconnection_options);
            }
        }
        view
    }

    /// Sets the current status.
    pub fn set_status(&mut self, live: ServerStatus) {
        self.status = Some(live.status);
        self.error = live.error;
        self.details = live.details;
    }
}

pub fn time(ms: u64) -> String {
    crate::time::rfc3339::format_ms(ms)
}

/// Returns the headers that a response may show. Earlier versions stored some credentials in plain text; they are
/// hidden too.
fn shown_headers(headers: BTreeMap<String, HeaderValue>) -> BTreeMap<String, String> {
    headers
        .into_iter()
        .map(|(name, value)| match value {
            HeaderValue::Plain(value) if !is_credential_header(&name) => (name, value),
            HeaderValue::Plain(_) | HeaderValue::Sealed { .. } => (name, HIDDEN.to_owned()),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_hides_sealed_and_plain_credentials() {
        let sealed = crate::core::ids::ValueId(uuid::Uuid::nil());
        let headers = [
            ("Authorization", HeaderValue::Sealed { sealed }),
            ("X-Auth-Token", HeaderValue::Plain("s3cret".into())),
            ("User-Agent", HeaderValue::Plain("agent".into())),
        ];
        let shown = shown_headers(
            headers
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        );
        assert_eq!(shown["Authorization"], "***");
        assert_eq!(shown["X-Auth-Token"], "***");
        assert_eq!(shown["User-Agent"], "agent");
    }
}
