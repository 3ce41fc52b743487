//! The fields of a server as users give them: parsed, told apart by transport, credentials sealed at the door.

use std::collections::BTreeMap;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde::Deserialize;
use serde::de::IgnoredAny;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::core::catalog::server::Server;
use crate::core::failure::Failure;
use crate::core::ids::{ServerId, ValueId};
use crate::core::model::remote::{
    HIDDEN, HeaderValue, ReconnectionOptions, Remote, RemoteChange, SealedValue, StoredSession,
    check_header_value, check_session_id, is_credential_header, split_user_info,
};
use crate::core::model::server::{Replicas, ServerChange, ServerConfig, Transport, refuse_fields};
use crate::core::model::update::Update;
use crate::core::names::{SecretName, ServerName};
use crate::crypto::context::{ServerValueContext, ServerValueKind};
use crate::crypto::seal::Sealer;
use crate::telemetry::error::internal_error;

/// A server to be registered.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"name": "everything", "command": "npx", "args": ["-y", "@modelcontextprotocol/server-everything"]}))]
pub struct RegisterBody {
    #[schema(value_type = String, example = "everything")]
    pub name: ServerName,
    /// `stdio`, also where absent, or `streamable_http`.
    #[serde(default)]
    #[schema(example = "stdio")]
    pub transport_type: Option<String>,
    /// The program to start. For stdio, as are `args`, `env` and `replicas`.
    #[schema(example = "npx")]
    pub command: Option<String>,
    #[serde(default)]
    #[schema(example = json!(["-y", "@modelcontextprotocol/server-everything"]))]
    pub args: Option<Vec<String>>,
    /// Variables of the server's environment; of the host's it sees few. Shown as they are: put no secrets here.
    #[serde(default)]
    pub env: Option<BTreeMap<String, String>>,
    /// When not empty, only the secrets with these names are injected.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    pub secret_names: Option<Vec<SecretName>>,
    /// Milliseconds for connecting and the first list of tools; 60,000 where absent.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 86_400_000)]
    pub startup_timeout: Option<u64>,
    /// Milliseconds for a tool call; 60,000 where absent.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 86_400_000)]
    pub tool_timeout: Option<u64>,
    #[serde(default)]
    pub reset_timeout_on_progress: Option<bool>,
    #[serde(default)]
    pub replicas: Option<Replicas>,
    /// True where absent.
    #[serde(default)]
    pub enabled: Option<bool>,
    /// The MCP endpoint. For streamable_http, as are the fields that follow. User info is sealed and shown as `***`.
    #[schema(example = "https://mcp.example.com/mcp")]
    pub url: Option<String>,
    /// The headers of every request. The program seals all values except those of a few harmless headers, such as
    /// User-Agent and Accept-Language, and shows them as `***`.
    pub headers: Option<BTreeMap<String, String>>,
    /// A session to be resumed.
    pub session_id: Option<String>,
    /// How an interrupted stream is taken up again.
    pub reconnection_options: Option<ReconnectionOptions>,
}

/// What may be changed. The read-only fields of our own answers are taken and ignored, so that a
/// server can be read, edited and put back.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"args": ["-y", "@modelcontextprotocol/server-everything"], "toolTimeout": 30000}))]
pub struct UpdateBody {
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    name: Option<ServerName>,
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
    #[serde(default)]
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 86_400_000)]
    startup_timeout: Update<u64>,
    #[serde(default)]
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 86_400_000)]
    tool_timeout: Update<u64>,
    #[serde(default)]
    reset_timeout_on_progress: Option<bool>,
    #[serde(default)]
    replicas: Option<Replicas>,
    #[serde(default)]
    enabled: Option<bool>,
    /// The MCP endpoint. For streamable_http, as are the fields that follow. User info is sealed and shown as `***`.
    #[schema(example = "https://mcp.example.com/mcp")]
    url: Option<String>,
    /// The headers of every request. The program seals all values except those of a few harmless headers, such as
    /// User-Agent and Accept-Language, and shows them as `***`. If `url` has another origin than before, send the
    /// values again, because the program never sends a stored credential to another origin.
    headers: Option<BTreeMap<String, String>>,
    /// A session to be resumed.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    session_id: Update<String>,
    /// How an interrupted stream is taken up again.
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
}

/// A configuration, where its session lies, and what is sealed of both.
type Registered = (ServerConfig, Option<ValueId>, Vec<SealedValue>);

impl RegisterBody {
    /// The configuration that these fields mean, credentials sealed for that server.
    pub fn config(self, sealer: &Sealer, server: ServerId) -> Result<Registered, Failure> {
        let mut seal = CredentialSealer::new(sealer, server);
        let (transport, session) = match self.transport_type.as_deref() {
            None | Some("stdio") => {
                let given = [
                    ("url", self.url.is_some()),
                    ("headers", self.headers.is_some()),
                    ("sessionId", self.session_id.is_some()),
                    ("reconnectionOptions", self.reconnection_options.is_some()),
                ];
                refuse_fields("stdio", given)?;
                let command = self
                    .command
                    .ok_or_else(|| Failure::invalid("command is missing: the program to start"))?;
                let (args, env) = (self.args.unwrap_or_default(), self.env.unwrap_or_default());
                (Transport::Stdio { command, args, env }, None)
            }
            Some("streamable_http") => {
                let given = [
                    ("command", self.command.is_some()),
                    ("args", self.args.is_some()),
                    ("env", self.env.is_some()),
                    ("replicas", self.replicas.is_some()),
                ];
                refuse_fields("streamable_http", given)?;
                let missing =
                    || Failure::invalid("url is missing: the MCP endpoint, http:// or https://");
                let (url, user_info) = seal.url(&self.url.ok_or_else(missing)?)?;
                let mut headers = BTreeMap::new();
                for (name, value) in self.headers.unwrap_or_default() {
                    let value = seal.header(&name, value)?.ok_or_else(|| {
                        Failure::invalid(format!(
                            "headers.{name} is ***; replace *** with the value"
                        ))
                    })?;
                    headers.insert(name, value);
                }
                let user_info = match user_info {
                    Update::Keep => {
                        return Err(Failure::invalid(
                            "url has *** as its user info; replace *** with the user info",
                        ));
                    }
                    Update::Clear => None,
                    Update::Set(value) => Some(value),
                };
                let reconnection_options = self.reconnection_options.unwrap_or_default();
                let session = self.session_id.map(|id| seal.session(id)).transpose()?;
                (
                    Transport::StreamableHttp(Remote {
                        url,
                        user_info,
                        headers,
                        reconnection_options,
                    }),
                    session,
                )
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
            startup_timeout: self.startup_timeout,
            tool_timeout: self.tool_timeout,
            reset_timeout_on_progress: self.reset_timeout_on_progress.unwrap_or_default(),
            replicas: self.replicas.unwrap_or_default(),
        };
        config.check()?;
        Ok((config, session, seal.sealed))
    }
}

impl UpdateBody {
    /// The change that these fields mean, credentials sealed for that server.
    pub fn change(
        self,
        sealer: &Sealer,
        server: &Server,
    ) -> Result<(ServerChange, Vec<SealedValue>), Failure> {
        let transport = server.config.transport.as_str();
        if self.transport_type.is_some_and(|given| given != transport) {
            return Err(Failure::invalid(format!(
                "transportType is {transport} and cannot be changed; register the server anew under another name"
            )));
        }
        if self.name.is_some_and(|given| given != server.name) {
            return Err(Failure::invalid(
                "name cannot be changed; register the server anew under the other name",
            ));
        }
        let mut seal = CredentialSealer::new(sealer, server.id);
        let mut remote = RemoteChange {
            reconnection_options: self.reconnection_options,
            ..RemoteChange::default()
        };
        if let Some(url) = &self.url {
            let (url, user_info) = seal.url(url)?;
            remote.url = Some(url);
            remote.user_info = user_info;
        }
        if let Some(headers) = self.headers {
            let sealed = headers
                .into_iter()
                .map(|(name, value)| Ok((name.clone(), seal.header(&name, value)?)));
            remote.headers = Some(sealed.collect::<Result<_, Failure>>()?);
        }
        remote.session = self.session_id.try_map(|id| seal.session(id))?;
        let change = ServerChange {
            command: self.command,
            args: self.args,
            env: self.env,
            secret_names: self.secret_names,
            startup_timeout: self.startup_timeout,
            tool_timeout: self.tool_timeout,
            reset_timeout_on_progress: self.reset_timeout_on_progress,
            replicas: self.replicas,
            enabled: self.enabled,
            remote,
        };
        Ok((change, seal.sealed))
    }
}

/// Seals what only workers may open, and keeps it for its command.
pub struct CredentialSealer<'a> {
    sealer: &'a Sealer,
    server: ServerId,
    pub sealed: Vec<SealedValue>,
}

impl<'a> CredentialSealer<'a> {
    pub fn new(sealer: &'a Sealer, server: ServerId) -> Self {
        Self {
            sealer,
            server,
            sealed: vec![],
        }
    }

    /// Returns the URL that a response may show, and the update of its user info. `***` keeps the user info.
    fn url(&mut self, url: &str) -> Result<(String, Update<ValueId>), Failure> {
        let (shown, user_info) = split_user_info(url)?;
        let user_info = match user_info.as_deref() {
            None => Update::Clear,
            Some(HIDDEN) => Update::Keep,
            Some(user_info) => Update::Set(self.seal(ServerValueKind::UserInfo, "", user_info)?),
        };
        Ok((shown, user_info))
    }

    /// Returns `None` if the value is `***`, which keeps the stored value.
    fn header(&mut self, name: &str, value: String) -> Result<Option<HeaderValue>, Failure> {
        if !is_credential_header(name) {
            return Ok(Some(HeaderValue::Plain(value)));
        }
        if value == HIDDEN {
            return Ok(None);
        }
        check_header_value(name, &value)?;
        let sealed = self.seal(ServerValueKind::Header, &name.to_ascii_lowercase(), &value)?;
        Ok(Some(HeaderValue::Sealed { sealed }))
    }

    fn session(&mut self, id: String) -> Result<ValueId, Failure> {
        check_session_id(&id)?;
        let session = serde_json::to_string(&StoredSession {
            id,
            initialize: None,
        })
        .map_err(internal_error)?;
        self.seal(ServerValueKind::Session, "", &session)
    }

    pub fn seal(
        &mut self,
        kind: ServerValueKind,
        name: &str,
        plain: &str,
    ) -> Result<ValueId, Failure> {
        let value = ValueId(Uuid::now_v7());
        let place = ServerValueContext {
            server: self.server,
            kind,
            name,
            value,
        };
        let sealed = self.sealer.seal(place, plain).map_err(internal_error)?;
        self.sealed.push(SealedValue {
            value,
            sealed: BASE64_STANDARD.encode(&sealed.0),
        });
        Ok(value)
    }
}
