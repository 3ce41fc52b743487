//! The services that handlers share: they read the catalog, send commands and seal values.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::Guard;
use axum::http::HeaderMap;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use uuid::Uuid;

use super::auth::oidc::{Jwt, SigninClient};
use super::auth::{Authentication, Authenticator, check_still_valid};
use super::events::broadcaster::EventBroadcaster;
use super::mcp::state::McpState;
use super::page_limit::{PageLimit, PagePermit};
use super::tools::cache::ToolListCache;
use crate::cluster::command_client::{CommandClient, CommandRequest, CommandResponse};
use crate::cluster::membership::WorkerRegistry;
use crate::config::{Access, Limits, McpEndpoints};
use crate::core::catalog::Catalog;
use crate::core::catalog::server::Server;
use crate::core::command::{ChangeOrigin, Command, DeliveryMode};
use crate::core::decide::access::{Action, Denial, may, missing_scope};
use crate::core::event::Actor;
use crate::core::failure::Failure;
use crate::core::ids::{CommandId, Digest, ServerId, TokenId};
use crate::core::model::caller::Caller;
use crate::core::model::grant::GrantId;
use crate::core::model::idempotency::IdempotencyKey;
use crate::core::model::package::PackageDirs;
use crate::core::model::remote::SealedValue;
use crate::core::names::{ServerName, UserName};
use crate::crypto::context::SealContext;
use crate::crypto::seal::Sealer;
use crate::eventlog::history::CatalogHistory;
use crate::eventlog::projection::Projection;
use crate::jobs::client::JobClient;
use crate::ports::bus::{Bus, Hint, Target};
use crate::telemetry::error::internal_error;
use crate::telemetry::metrics::Metrics;

/// The longest time that the projection gets to read a change that a worker has just committed.
const PROJECTION_LIMIT: Duration = Duration::from_secs(2);

/// The shared state of all handlers.
pub struct ApiState {
    projection: Arc<Projection>,
    bus: Arc<dyn Bus>,
    commands: CommandClient,
    sealer: Sealer,
    job_client: JobClient,
    access: Access,
    authenticator: Authenticator,
    limits: Limits,
    package_dirs: PackageDirs,
    metrics: Arc<Metrics>,
    registry: Arc<WorkerRegistry>,
    tool_list: ToolListCache,
    mcp: Arc<McpState>,
    events: EventBroadcaster,
    history: CatalogHistory,
    page_limit: PageLimit,
    /// The permits of event streams. The other connections stay free for requests.
    stream_permits: Arc<Semaphore>,
    shutdown: CancellationToken,
    draining: AtomicBool,
    requests: TaskTracker,
}

/// The services that the composition root passes to the facade.
pub struct ApiDeps {
    pub projection: Arc<Projection>,
    pub bus: Arc<dyn Bus>,
    pub registry: Arc<WorkerRegistry>,
    pub sealer: Sealer,
    pub job_client: JobClient,
    pub access: Access,
    pub limits: Limits,
    pub mcp_endpoints: McpEndpoints,
    /// The most open connections.
    pub connections: usize,
    pub folders: PackageDirs,
    pub metrics: Arc<Metrics>,
    pub ending: CancellationToken,
    pub requests: TaskTracker,
}

impl ApiState {
    /// Creates the state and starts the task that broadcasts new events.
    pub fn new(deps: ApiDeps) -> Arc<Self> {
        let commands = CommandClient::new(
            deps.bus.clone(),
            deps.projection.clone(),
            deps.registry.clone(),
        );
        let events = EventBroadcaster::start(
            deps.projection.clone(),
            deps.metrics.clone(),
            deps.ending.clone(),
        );
        let mcp = McpState::start(
            &deps.mcp_endpoints,
            deps.projection.clone(),
            CommandClient::new(
                deps.bus.clone(),
                deps.projection.clone(),
                deps.registry.clone(),
            ),
            &*deps.bus,
            deps.ending.clone(),
        );
        Arc::new(Self {
            projection: deps.projection,
            bus: deps.bus,
            commands,
            sealer: deps.sealer,
            job_client: deps.job_client,
            authenticator: Authenticator::new(&deps.access),
            access: deps.access,
            limits: deps.limits,
            package_dirs: deps.folders,
            metrics: deps.metrics,
            registry: deps.registry,
            tool_list: ToolListCache::default(),
            mcp,
            events,
            history: CatalogHistory::default(),
            page_limit: PageLimit::default(),
            stream_permits: Arc::new(Semaphore::new((deps.connections / 2).max(1))),
            shutdown: deps.ending,
            draining: AtomicBool::new(false),
            requests: deps.requests,
        })
    }

    pub fn projection(&self) -> &Arc<Projection> {
        &self.projection
    }

    /// Returns the current catalog. Do not hold the guard across an await.
    pub fn catalog(&self) -> Guard<Arc<Catalog>> {
        self.projection.catalog()
    }

    pub fn history(&self) -> &CatalogHistory {
        &self.history
    }

    pub fn events(&self) -> &EventBroadcaster {
        &self.events
    }

    /// Returns a permit for an event stream. At most half of the connections are event streams.
    ///
    /// # Errors
    /// `unavailable` if all permits are taken.
    pub fn acquire_stream_permit(&self) -> Result<OwnedSemaphorePermit, Failure> {
        let permit = self.stream_permits.clone().try_acquire_owned();
        permit.map_err(|_| {
            Failure::unavailable(
                "Too many event streams are open (half of MAX_CONNECTIONS); close some of them, or read the events in pages",
            )
        })
    }

    pub fn registry(&self) -> &WorkerRegistry {
        &self.registry
    }

    pub fn job_client(&self) -> &JobClient {
        &self.job_client
    }

    pub fn sealer(&self) -> &Sealer {
        &self.sealer
    }

    pub fn access(&self) -> &Access {
        &self.access
    }

    /// Returns the caller of a request with these headers, or the JWT that must be verified first.
    ///
    /// # Errors
    /// `unauthenticated`.
    pub fn authenticate(&self, headers: &HeaderMap) -> Result<Authentication, Failure> {
        self.authenticator.authenticate(headers, &self.catalog())
    }

    /// Returns the caller of a text that a person typed: `ADMIN_TOKEN` or a token of a user.
    pub fn caller_of_text(&self, text: &str) -> Option<Arc<Caller>> {
        self.authenticator.caller_of_text(text, &self.catalog())
    }

    /// Returns the client of the sign-in page at the issuer, if people can sign in there (`OIDC_CLIENT_ID`).
    pub fn signin_client(&self) -> Option<&SigninClient> {
        self.authenticator.signin_client()
    }

    /// Verifies a JWT and returns its caller.
    ///
    /// # Errors
    /// `unauthenticated`, or `unavailable` if the issuer cannot be asked for its key.
    pub async fn verify_jwt(&self, jwt: &Jwt) -> Result<Arc<Caller>, Failure> {
        self.authenticator.verify(jwt).await
    }

    /// Checks that the authentication of a caller has not ended since the beginning of the request.
    ///
    /// # Errors
    /// `unauthenticated` if the token was revoked or has expired.
    pub fn check_still_valid(&self, caller: &Caller) -> Result<(), Failure> {
        check_still_valid(caller, &self.catalog())
    }

    /// Returns the time at which this process last saw a token, in milliseconds since 1970.
    pub fn token_last_used(&self, token: TokenId) -> Option<u64> {
        self.authenticator.last_used(token)
    }

    pub fn package_dirs(&self) -> &PackageDirs {
        &self.package_dirs
    }

    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    pub fn tool_list(&self) -> &ToolListCache {
        &self.tool_list
    }

    /// Returns the services of the MCP endpoints.
    pub fn mcp(&self) -> &McpState {
        &self.mcp
    }

    /// Publishes a hint to all processes.
    pub fn publish(&self, hint: Hint) {
        self.bus.publish(hint);
    }

    /// Returns the largest request body in bytes (`PAYLOAD_LIMIT`).
    pub fn payload_limit(&self) -> usize {
        self.limits.payload
    }

    /// Returns the token that is cancelled when the process stops. Open streams then end.
    pub fn shutdown(&self) -> &CancellationToken {
        &self.shutdown
    }

    /// Makes `/readyz` report that this process is draining.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Counts a request until the returned token is dropped. A drain waits for these requests.
    pub fn track_request(&self) -> TaskTrackerToken {
        self.requests.token()
    }

    /// Returns a permit for the command of a browser page.
    ///
    /// # Errors
    /// `unavailable` if too many pages of this grant, or of all grants, wait for workers.
    pub fn page_permit(&self, grant: &GrantId) -> Result<PagePermit<'_>, Failure> {
        self.page_limit.acquire(grant)
    }

    /// Returns the number of jobs that producers published and the log does not hold yet.
    pub async fn pending_jobs(&self) -> usize {
        self.bus.pending_jobs().await
    }

    /// Returns the number of asks that this process has refused on the bus.
    pub fn refused_asks(&self) -> u64 {
        self.bus.refused_asks()
    }

    /// Returns a registered server.
    ///
    /// # Errors
    /// `server_not_found`.
    pub fn find_server(&self, name: &ServerName) -> Result<Arc<Server>, Failure> {
        self.catalog()
            .server(name.as_str())
            .cloned()
            .ok_or_else(|| Failure::server_not_found(name))
    }

    /// Returns a registered server that the caller may use for this action.
    ///
    /// # Errors
    /// `server_not_found`, also if the caller may not use the server. `forbidden` if a scope is missing.
    pub fn find_server_for(
        &self,
        caller: &Caller,
        action: Action,
        name: &ServerName,
    ) -> Result<Arc<Server>, Failure> {
        let server = self.find_server(name)?;
        match may(caller, action, Some(server.id)) {
            Ok(()) => Ok(server),
            Err(Denial::UnknownServer) => Err(Failure::server_not_found(name)),
            Err(Denial::MissingScope(scope)) => Err(missing_scope(scope)),
        }
    }

    /// Seals a value for a command. Only a worker can open it.
    ///
    /// # Errors
    /// `internal` if the key cannot be used.
    pub fn seal(&self, context: impl SealContext, plain: &str) -> Result<SealedValue, Failure> {
        seal_value(&self.sealer, context, plain)
    }

    /// Returns a keyed digest of these parts.
    ///
    /// # Errors
    /// `internal` if the key cannot be used.
    pub fn digest(&self, purpose: &str, parts: &[&[u8]]) -> Result<Digest, Failure> {
        self.sealer.digest(purpose, parts).map_err(internal_error)
    }

    /// Sends a command to any worker.
    pub async fn send_command<C: Command>(
        &self,
        command: &C,
        limit: Duration,
    ) -> Result<C::Answer, Failure> {
        self.send_to_server(None, command, limit).await
    }

    /// Sends a command to the owner of a server. A server without an owner gets any worker.
    pub async fn send_to_owner<C: Command>(
        &self,
        server: &ServerName,
        command: &C,
        limit: Duration,
    ) -> Result<C::Answer, Failure> {
        let owned = self
            .catalog()
            .server(server.as_str())
            .and_then(|server| server.exclusive_id());
        self.send_to_server(owned, command, limit).await
    }

    /// Sends a command to exactly this target, without a retry.
    pub async fn send_once<C: Command>(
        &self,
        target: Target,
        command: &C,
        limit: Duration,
    ) -> Result<C::Answer, Failure> {
        self.commands.send_to(target, command, limit).await
    }

    /// Sends a request whose body is encoded already.
    pub fn send_request(
        &self,
        request: &CommandRequest,
    ) -> impl Future<Output = Result<CommandResponse, Failure>> {
        self.commands.send(request)
    }

    async fn send_to_server<C: Command>(
        &self,
        server: Option<ServerId>,
        command: &C,
        limit: Duration,
    ) -> Result<C::Answer, Failure> {
        let body = serde_json::to_vec(command).map_err(internal_error)?;
        let request = CommandRequest {
            area: C::AREA,
            server,
            command: C::NAME,
            call: None,
            client: None,
            interim: None,
            body: Bytes::from(body),
            traceparent: None,
            meta: None,
            time: limit,
        };
        let response = self.commands.send(&request).await?;
        if C::DELIVERY == DeliveryMode::Change {
            // The caller must see the change in the next request to this process.
            let position = response.position;
            if !self.projection.wait_for(position, PROJECTION_LIMIT).await {
                return Err(Failure::unavailable(
                    "The change was made, but this process cannot read it yet; \
                     read it again in a moment",
                )
                .maybe_run());
            }
        }
        serde_json::from_slice(&response.body).map_err(internal_error)
    }
}

/// Seals a value and encodes it for a command.
///
/// # Errors
/// `internal` if the key cannot be used.
pub(super) fn seal_value(
    sealer: &Sealer,
    context: impl SealContext,
    plain: &str,
) -> Result<SealedValue, Failure> {
    let value = context.value();
    let sealed = sealer.seal(context, plain).map_err(internal_error)?;
    Ok(SealedValue {
        value,
        sealed: BASE64_STANDARD.encode(&sealed.0),
    })
}

/// Returns the origin of a change that a user's browser ends.
pub(super) fn browser_origin(user: Option<UserName>) -> ChangeOrigin {
    ChangeOrigin::new(CommandId(Uuid::now_v7()), Actor::browser(user))
}

/// Returns the origin of a change that a caller makes. Command ids grow with time, so that the indexes of the stores stay
/// small.
pub(super) fn change_origin(caller: &Caller, key: Option<IdempotencyKey>) -> ChangeOrigin {
    ChangeOrigin {
        id: CommandId(Uuid::now_v7()),
        key,
        actor: Actor::from(caller),
    }
}
