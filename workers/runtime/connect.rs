//! Connects the MCP client to this worker: sessions, access tokens, credentials, notifications and log lines.

use std::sync::Arc;
use std::time::Duration;

use hyper::header::{AUTHORIZATION, HeaderMap};
use tokio::sync::Notify;
use url::Url;

use super::lease::LocalLease;
use super::log_buffer::{LogBuffer, shorten};
use super::stored_state::StoredState;
use super::token_header::TokenHeader;
use crate::core::catalog::server::Server;
use crate::core::decide::connection::ConnectionFinding;
use crate::core::ids::ValueId;
use crate::core::mcp::input_required::ClientMethod;
use crate::core::model::grant::GrantId;
use crate::core::model::remote::{ProtocolMode, Remote, plain_url};
use crate::core::model::server::{Interaction, Transport};
use crate::core::model::tool::Tools;
use crate::core::model::upstream_change::{ChangedPart, UpstreamChange};
use crate::ports::change_queue::ChangeQueue;
use crate::telemetry::metrics::Metrics;
use crate::workers::credentials::environment::open_environment;
use crate::workers::credentials::remote::SealedCredentials;
use crate::workers::guard;
use crate::workers::install::PackageHandle;
use crate::workers::mcp::{
    AccessTokens, ChildLifetime, ClientOptions, ConnectError, Connection, HttpTarget, LogSource,
    LogText, NotificationSink, ResourceWatch, StdioTarget,
};
use crate::workers::oauth::token_source::TokenSource;
use crate::workers::redact::Redactor;

/// Bytes of a text that are redacted for an excerpt, so that no value is cut before it is found.
const EXCERPT_INPUT: usize = 64 * 1024;

/// The parts that all connections of one server share.
#[derive(Clone)]
pub struct ConnectionDeps {
    pub log_buffer: Arc<LogBuffer>,
    /// The lines of this connection alone, if it belongs to one user.
    pub own_lines: Option<OwnLines>,
    pub redactor: Arc<Redactor>,
    /// Notified when the server says that its tools have changed.
    pub tools_changed: Arc<Notify>,
    /// Receives the other changes that the server reports.
    pub changes: Arc<ChangeQueue>,
    /// The resources that clients watch through the connection.
    pub watch: Arc<ResourceWatch>,
    /// The largest result in bytes.
    pub result_limit: usize,
    /// The set that renews the child's life while the worker holds the lease.
    pub child: Arc<guard::ChildSet>,
    pub lifetime: Lifetime,
    pub stored: StoredState,
    pub metrics: Arc<Metrics>,
}

/// The time that a child may live without a renewal.
#[derive(Clone)]
pub enum Lifetime {
    /// Until the lease of the server ends.
    Lease(Arc<LocalLease>),
    Fixed(Duration),
}

impl ChildLifetime for Lifetime {
    fn left(&self) -> Duration {
        match self {
            Self::Lease(lease) => lease.left(),
            Self::Fixed(time) => *time,
        }
    }
}

/// The lines of the connection of one user, as this user may see them.
#[derive(Clone)]
pub struct OwnLines {
    pub buffer: Arc<LogBuffer>,
    /// The values of the user that belong to the connection.
    pub values: Arc<[ValueId]>,
}

/// Connects to a server and lists its tools. The caller limits the time and may drop the future.
pub async fn open_connection(
    server: &Server,
    package: Option<PackageHandle>,
    deps: &ConnectionDeps,
) -> Result<(Connection, Tools), ConnectError> {
    let options = ClientOptions {
        sink: Arc::new(ServerSink {
            log_buffer: deps.log_buffer.clone(),
            own_lines: deps.own_lines.clone(),
            redactor: deps.redactor.clone(),
            tools_changed: deps.tools_changed.clone(),
            changes: deps.changes.clone(),
            watch: deps.watch.clone(),
            stored: deps.stored.clone(),
            metrics: deps.metrics.clone(),
        }),
        watch: deps.watch.clone(),
        result_limit: deps.result_limit,
    };
    let transport = server.config.transport.clone();
    let transport = match &package {
        Some(package) => transport.with_folder(&package.folder.to_string_lossy()),
        None => transport,
    };
    match &transport {
        Transport::Stdio { command, args, env } => {
            let state = &deps.stored;
            let user = state.user.as_ref();
            let secrets =
                open_environment(&state.sealed_store, server, user, &deps.redactor).await?;
            let target = StdioTarget {
                command,
                args,
                env,
                secret_env: &secrets.variables,
                children: &deps.child,
                lifetime: Arc::new(deps.lifetime.clone()),
                stall_limit: Duration::from_millis(server.config.tool_timeout_ms()),
                protocol: server.protocol,
                may_ask: server.config.interaction == Interaction::Exclusive,
                resources: Some(Box::new((package, secrets.redaction))),
            };
            Connection::connect_stdio(target, options).await
        }
        Transport::StreamableHttp(remote) => {
            let target = http_target(server, remote, deps).await?;
            Connection::connect_http(target, options).await
        }
    }
}

async fn http_target(
    server: &Server,
    remote: &Remote,
    deps: &ConnectionDeps,
) -> Result<HttpTarget, ConnectError> {
    let state = &deps.stored;
    let url = Url::parse(&plain_url(&remote.url))
        .map_err(|error| format!("its URL cannot be used: {error}"))?;
    let tokens = access_tokens(server, deps);
    let mut headers = HeaderMap::new();
    let credentials = SealedCredentials::load(
        server,
        state.user.as_ref(),
        &state.sealed_store,
        deps.redactor.clone(),
        tokens.is_some(),
        &mut headers,
    )
    .await?;
    state.begin(server.session);
    Ok(HttpTarget {
        name: server.name.clone(),
        url,
        headers,
        credentials: Arc::new(credentials),
        tokens,
        sessions: Arc::new(state.clone()),
        listen: true,
        protocol: server.protocol,
        reconnection_options: remote.reconnection_options,
    })
}

/// Returns the access token of the user, or of the server for all users, if tokens are stored. A credential that is the
/// `Authorization` header leaves no place for a token.
fn access_tokens(server: &Server, deps: &ConnectionDeps) -> Option<Arc<dyn AccessTokens>> {
    let state = &deps.stored;
    if server.config.declares_header(AUTHORIZATION.as_str()) {
        return None;
    }
    let user = state.user.clone();
    let user = user.filter(|user| server.grant(Some(user)).is_some());
    server.grant(user.as_ref())?;
    let grant = GrantId {
        server: server.id,
        user,
    };
    let source = TokenSource::new(
        state.grants.clone(),
        state.sealed_store.clone(),
        grant,
        server.name.clone(),
    );
    Some(Arc::new(TokenHeader {
        source,
        redactor: deps.redactor.clone(),
    }))
}

/// Stores what one server sends without being asked.
struct ServerSink {
    log_buffer: Arc<LogBuffer>,
    own_lines: Option<OwnLines>,
    redactor: Arc<Redactor>,
    tools_changed: Arc<Notify>,
    changes: Arc<ChangeQueue>,
    watch: Arc<ResourceWatch>,
    stored: StoredState,
    metrics: Arc<Metrics>,
}

fn masked(redactor: &Redactor, text: LogText<'_>) -> String {
    match text {
        LogText::Plain(text) => redactor.mask(text),
        LogText::Json(text) => redactor.mask_json(text),
        LogText::Cut(bytes) => redactor.mask_cut(bytes),
    }
}

#[async_trait::async_trait]
impl NotificationSink for ServerSink {
    fn tools_changed(&self) {
        self.tools_changed.notify_one();
    }

    fn started_again(&self) {
        // The lines of a user's process explain nothing about the process of all users.
        match &self.own_lines {
            Some(own) => own.buffer.begin_run(),
            None => self.log_buffer.begin_run(),
        }
    }

    fn changed(&self, part: ChangedPart) {
        if let ChangedPart::Resource(uri) = &part
            && !self.watch.contains(uri)
        {
            return;
        }
        self.changes.add(UpstreamChange {
            server: self.stored.server,
            user: self.stored.user.clone(),
            part,
        });
    }

    fn client_not_found(&self, method: ClientMethod) {
        let method = method.as_str();
        self.metrics.count_server_request(method, "unattributable");
        let line = format!("the server sent {method}, and no client can be asked for it");
        self.log(LogSource::Transport, LogText::Plain(&line));
    }

    fn log(&self, source: LogSource, text: LogText<'_>) {
        self.log_buffer
            .push(source.as_str(), &masked(&self.redactor, text));
        if let Some(own) = &self.own_lines {
            let redactor = self.redactor.for_user(&own.values);
            own.buffer.push(source.as_str(), &masked(&redactor, text));
        }
    }

    fn excerpt(&self, text: &[u8], limit: usize) -> String {
        let of_user = self.own_lines.as_ref();
        let of_user = of_user.map(|own| self.redactor.for_user(&own.values));
        let redactor = of_user.as_ref().unwrap_or(&self.redactor);
        let redacted = if text.len() > EXCERPT_INPUT {
            redactor.mask_cut(&text[..EXCERPT_INPUT])
        } else {
            redactor.mask(&String::from_utf8_lossy(text))
        };
        shorten(&redacted, limit).to_owned()
    }

    async fn protocol_detected(&self, mode: ProtocolMode) {
        self.stored.found(ConnectionFinding::Protocol(mode)).await;
    }
}
