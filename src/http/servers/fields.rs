//! The fields of a server in requests: parsed, checked for their transport, credentials sealed.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use utoipa::ToSchema;

use super::credentials::{CredentialSealer, HeaderField, SealedUrl};
use crate::core::catalog::server::Server;
use crate::core::failure::Failure;
use crate::core::ids::{ServerId, ValueId};
use crate::core::model::credential::Credential;
use crate::core::model::remote::{ReconnectionOptions, Remote, RemoteChange, SealedValue};
use crate::core::model::server::{
    Interaction, Replicas, ServerChange, ServerConfig, Transport, refuse_fields,
};
use crate::core::model::update::Update;
use crate::core::names::{SecretName, ServerName};
use crate::crypto::seal::Sealer;

/// A new server.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({
    "name": "everything", "command": "npx",
    "args": ["-y", "@modelcontextprotocol/server-everything"],
}))]
pub(crate) struct RegisterBody {
    #[schema(value_type = String, example = "everything")]
    pub name: ServerName,
    /// `stdio` (also if absent) or `streamable_http`.
    #[serde(default)]
    #[schema(example = "stdio")]
    pub transport_type: Option<String>,
    /// The program to start. Only for stdio, like `args`, `env` and `replicas`.
    #[schema(example = "npx")]
    pub command: Option<String>,
    #[serde(default)]
    #[schema(example = json!(["-y", "@modelcontextprotocol/server-everything"]))]
    pub args: Option<Vec<String>>,
    /// Environment variables of the server. The answers show them, so put no secrets here.
    #[serde(default)]
    pub env: Option<BTreeMap<String, String>>,
    /// If not empty, the worker adds only the secrets with these names to calls.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    pub secret_names: Option<Vec<SecretName>>,
    /// The values that the server needs, and where its requests carry them. If the list is not empty, the server gets
    /// exactly these; then `secretNames` must be empty.
    #[serde(default)]
    pub credentials: Option<Vec<Credential>>,
    /// The longest time in milliseconds for the connection and the first tool list; 60,000 if
    /// absent.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 86_400_000)]
    pub startup_timeout: Option<u64>,
    /// The timeout of a tool call in milliseconds; 60,000 if absent.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 86_400_000)]
    pub tool_timeout: Option<u64>,
    /// If true, a progress message of the server restarts the timeout of its call.
    #[serde(default)]
    pub reset_timeout_on_progress: Option<bool>,
    /// If true, tools of the MCP endpoints do not show the properties that secrets fill. True if absent.
    #[serde(default)]
    pub hide_secret_arguments: Option<bool>,
    #[serde(default)]
    pub replicas: Option<Replicas>,
    /// `exclusive`: a child process may ask the MCP client of the running call, so calls run one at a time. `none` if
    /// absent. Only for stdio.
    #[serde(default)]
    pub interaction: Option<Interaction>,
    /// True if absent.
    #[serde(default)]
    pub enabled: Option<bool>,
    /// The MCP endpoint. Only for streamable_http, like the fields below. The program seals user
    /// info and the values of the query, except those of a few harmless parameters such as
    /// `version`, and shows `***`.
    #[schema(example = "https://mcp.example.com/mcp")]
    pub url: Option<String>,
    /// Headers of every request to the server. The program seals all values except those of a few
    /// harmless headers, such as User-Agent and Accept-Language, and shows `***`.
    pub headers: Option<BTreeMap<String, String>>,
    /// The id of an MCP session to resume.
    pub session_id: Option<String>,
    /// The retries after an interrupted event stream.
    pub reconnection_options: Option<ReconnectionOptions>,
}

/// The fields of a server to change. The program ignores the read-only fields of its own answers,
/// so that a client can read a server, edit it and send it back.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({
    "args": ["-y", "@modelcontextprotocol/server-everything"], "toolTimeout": 30000,
}))]
pub(crate) struct UpdateBody {
    /// The name cannot change.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    name: Option<ServerName>,
    /// The transport cannot change.
    #[serde(default)]
    transport_type: Option<String>,
    #[serde(default)]
    command: Option<String>,
    #[serde(default)]
    args: Option<Vec<String>>,
    #[serde(default)]
    env: Option<BTreeMap<String, String>>,
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    secret_names: Option<Vec<SecretName>>,
    /// The values that the server needs. The list replaces the whole list.
    #[serde(default)]
    credentials: Option<Vec<Credential>>,
    /// `null` sets the default.
    #[serde(default)]
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 86_400_000)]
    startup_timeout: Update<u64>,
    /// `null` sets the default.
    #[serde(default)]
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 86_400_000)]
    tool_timeout: Update<u64>,
    #[serde(default)]
    reset_timeout_on_progress: Option<bool>,
    #[serde(default)]
    hide_secret_arguments: Option<bool>,
    #[serde(default)]
    replicas: Option<Replicas>,
    /// `none` or `exclusive`. Only for stdio.
    #[serde(default)]
    interaction: Option<Interaction>,
    #[serde(default)]
    enabled: Option<bool>,
    /// The MCP endpoint. Only for streamable_http, like the fields below. The program seals user
    /// info and the values of the query, except those of a few harmless parameters such as
    /// `version`, and shows `***`.
    #[schema(example = "https://mcp.example.com/mcp")]
    url: Option<String>,
    /// All headers of requests to the server. `***` keeps the sealed value. If `url` has another
    /// origin than before, send the values again, because the program never sends a stored
    /// credential to another origin.
    headers: Option<BTreeMap<String, String>>,
    /// The id of an MCP session to resume; `null` begins a new session.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    session_id: Update<String>,
    /// The retries after an interrupted event stream; `null` sets the default.
    #[serde(default)]
    #[schema(value_type = Option<ReconnectionOptions>)]
    reconnection_options: Update<ReconnectionOptions>,
    #[serde(rename = "status")]
    #[schema(ignore)]
    _status: Option<IgnoredAny>,
    #[serde(rename = "error")]
    #[schema(ignore)]
    _error: Option<IgnoredAny>,
    #[serde(rename = "details")]
    #[schema(ignore)]
    _details: Option<IgnoredAny>,
    #[serde(rename = "toolsList")]
    #[schema(ignore)]
    _tools_list: Option<IgnoredAny>,
    #[serde(rename = "logs")]
    #[schema(ignore)]
    _logs: Option<IgnoredAny>,
    #[serde(rename = "needsCredentials")]
    #[schema(ignore)]
    _needs_credentials: Option<IgnoredAny>,
}

/// The configuration of a new server, and its sealed values.
pub(crate) struct SealedConfig {
    pub config: ServerConfig,
    /// The id of the sealed session.
    pub session: Option<ValueId>,
    pub values: Vec<SealedValue>,
}

impl RegisterBody {
    /// Returns the configuration, with the credentials sealed for this server.
    ///
    /// # Errors
    /// `invalid_request`.
    pub(crate) fn into_config(
        mut self,
        sealer: &Sealer,
        server: ServerId,
    ) -> Result<SealedConfig, Failure> {
        let mut seal = CredentialSealer::new(sealer, server);
        let mut session = None;
        let transport = match self.transport_type.as_deref() {
            None | Some("stdio") => self.take_stdio()?,
            Some("streamable_http") => {
                let remote = self.take_remote(&mut seal)?;
                session = self.session_id.map(|id| seal.session(id)).transpose()?;
                Transport::StreamableHttp(remote)
            }
            Some(_) => {
                return Err(Failure::invalid(
                    "transportType must be stdio or streamable_http",
                ));
            }
        };
        let config = ServerConfig {
            transport,
            secret_names: self.secret_names.unwrap_or_default(),
            credentials: self.credentials.unwrap_or_default(),
            startup_timeout: self.startup_timeout,
            tool_timeout: self.tool_timeout,
            reset_timeout_on_progress: self.reset_timeout_on_progress.unwrap_or_default(),
            hide_secret_arguments: self.hide_secret_arguments.unwrap_or(true),
            replicas: self.replicas.unwrap_or_default(),
            interaction: self.interaction.unwrap_or_default(),
        };
        config.check()?;
        Ok(SealedConfig {
            config,
            session,
            values: seal.into_values(),
        })
    }

    fn take_stdio(&mut self) -> Result<Transport, Failure> {
        let fields_of_http = [
            ("url", self.url.is_some()),
            ("headers", self.headers.is_some()),
            ("sessionId", self.session_id.is_some()),
            ("reconnectionOptions", self.reconnection_options.is_some()),
        ];
        refuse_fields("stdio", fields_of_http)?;
        let command = self
            .command
            .take()
            .ok_or_else(|| Failure::invalid("command is missing: the program to start"))?;
        Ok(Transport::Stdio {
            command,
            args: self.args.take().unwrap_or_default(),
            env: self.env.take().unwrap_or_default(),
        })
    }

    fn take_remote(&mut self, seal: &mut CredentialSealer<'_>) -> Result<Remote, Failure> {
        let fields_of_stdio = [
            ("command", self.command.is_some()),
            ("args", self.args.is_some()),
            ("env", self.env.is_some()),
            ("replicas", self.replicas.is_some()),
            ("interaction", self.interaction.is_some()),
        ];
        refuse_fields("streamable_http", fields_of_stdio)?;
        let url = self.url.take().ok_or_else(|| {
            Failure::invalid("url is missing: the MCP endpoint, http:// or https://")
        })?;
        let SealedUrl {
            url,
            user_info,
            query,
        } = seal.url(&url)?;
        let query: Option<Vec<_>> = query.into_iter().collect();
        let query = query.ok_or_else(|| {
            Failure::invalid("url has *** in its query; replace *** with the value")
        })?;
        let mut headers = BTreeMap::new();
        for (name, value) in self.headers.take().unwrap_or_default() {
            let HeaderField::Value(value) = seal.header(&name, value)? else {
                return Err(Failure::invalid(format!(
                    "headers.{name} is ***; replace *** with the value"
                )));
            };
            headers.insert(name, value);
        }
        let user_info = match user_info {
            Update::Clear => None,
            Update::Set(value) => Some(value),
            Update::Keep => {
                return Err(Failure::invalid(
                    "url has *** as its user info; replace *** with the user info",
                ));
            }
        };
        Ok(Remote {
            url,
            user_info,
            query,
            headers,
            reconnection_options: self.reconnection_options.unwrap_or_default(),
        })
    }
}

impl UpdateBody {
    /// Returns the change and its sealed values, with the credentials sealed for this server.
    ///
    /// # Errors
    /// `invalid_request`.
    pub(crate) fn into_change(
        mut self,
        sealer: &Sealer,
        server: &Server,
    ) -> Result<(ServerChange, Vec<SealedValue>), Failure> {
        self.check_constant_fields(server)?;
        let mut seal = CredentialSealer::new(sealer, server.id);
        let remote = self.take_remote_change(&mut seal)?;
        let change = ServerChange {
            command: self.command,
            args: self.args,
            env: self.env,
            secret_names: self.secret_names,
            credentials: self.credentials,
            startup_timeout: self.startup_timeout,
            tool_timeout: self.tool_timeout,
            reset_timeout_on_progress: self.reset_timeout_on_progress,
            hide_secret_arguments: self.hide_secret_arguments,
            replicas: self.replicas,
            interaction: self.interaction,
            enabled: self.enabled,
            remote,
        };
        Ok((change, seal.into_values()))
    }

    fn check_constant_fields(&self, server: &Server) -> Result<(), Failure> {
        let transport = server.config.transport.as_str();
        if self
            .transport_type
            .as_ref()
            .is_some_and(|given| given != transport)
        {
            return Err(Failure::invalid(format!(
                "transportType is {transport} and cannot be changed; \
                 register the server again under another name"
            )));
        }
        if self
            .name
            .as_ref()
            .is_some_and(|given| *given != server.name)
        {
            return Err(Failure::invalid(
                "name cannot be changed; register the server again under the other name",
            ));
        }
        Ok(())
    }

    fn take_remote_change(
        &mut self,
        seal: &mut CredentialSealer<'_>,
    ) -> Result<RemoteChange, Failure> {
        let mut change = RemoteChange {
            reconnection_options: self.reconnection_options,
            ..RemoteChange::default()
        };
        if let Some(url) = &self.url {
            let sealed = seal.url(url)?;
            change.url = Some(sealed.url);
            change.user_info = sealed.user_info;
            change.query = sealed.query;
        }
        if let Some(fields) = self.headers.take() {
            let mut headers = BTreeMap::new();
            for (name, value) in fields {
                let value = match seal.header(&name, value)? {
                    HeaderField::Hidden => None,
                    HeaderField::Value(value) => Some(value),
                };
                headers.insert(name, value);
            }
            change.headers = Some(headers);
        }
        let session_id = std::mem::take(&mut self.session_id);
        change.session = session_id.try_map(|id| seal.session(id))?;
        Ok(change)
    }
}
