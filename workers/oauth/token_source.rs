//! Provides the access token for the requests of one connection, and refreshes the token once for all
//! connections before it expires.
//!
//! A request usually reads no store, because the sealed token stays in memory while the catalog names
//! it.

use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use quick_cache::sync::Cache;
use tokio::sync::Mutex;

use super::client::shorten;

use crate::cluster::command_client::{CommandClient, CommandRequest, CommandResponse};
use crate::core::command::{Command, RefreshTokens};
use crate::core::decide::grant::reauth_required;
use crate::core::failure::{Code, Failure};
use crate::core::ids::ValueId;
use crate::core::model::grant::{Grant, GrantId, GrantState};
use crate::core::names::ServerName;
use crate::crypto::context::{GrantContext, GrantValueKind};
use crate::crypto::seal::{Plaintext, SealError};
use crate::eventlog::projection::Projection;
use crate::ports::vault::Sealed;
use crate::telemetry::error::internal_error;
use crate::time::clock::{monotonic, now_ms};
use crate::time::retry::LOST_REFRESH;
use crate::workers::sealed_store::SealedStore;
use crate::workers::sealed_store::store_unavailable;

/// How long the failure of a refresh is the result of the next requests too.
const FAILURE_LIFETIME: Duration = Duration::from_secs(5);
/// How long the projection may take to read what another worker has just written.
const CATCH_UP: Duration = Duration::from_secs(2);
/// The rejected tokens that a worker remembers.
const MAX_REJECTED: usize = 10_000;
/// The longest scope in an error, in bytes.
const MAX_SCOPE: usize = 300;

/// The services that all token sources of a worker share.
pub struct TokenSourceDeps {
    projection: Arc<Projection>,
    commands: CommandClient,
    /// Tokens that the server rejected directly after their refresh.
    rejected: Cache<ValueId, ()>,
    /// The refusals of authorization servers, by the access token. The log does not keep their reasons.
    refusals: Cache<ValueId, Failure>,
}

impl TokenSourceDeps {
    pub fn new(projection: Arc<Projection>, commands: CommandClient) -> Self {
        Self {
            projection,
            commands,
            rejected: Cache::new(MAX_REJECTED),
            refusals: Cache::new(MAX_REJECTED),
        }
    }
}

/// The access token of one connection.
pub struct TokenSource {
    deps: Arc<TokenSourceDeps>,
    sealed_store: SealedStore,
    grant: GrantId,
    server: ServerName,
    cached: ArcSwapOption<SealedToken>,
    /// Locked while a request refreshes the token.
    last_failure: Mutex<Option<RefreshFailure>>,
}

/// The last failed refresh of a connection.
struct RefreshFailure {
    at: Instant,
    access: ValueId,
    failure: Failure,
}

/// A sealed access token.
pub struct SealedToken {
    pub value: ValueId,
    sealed: Sealed,
}

impl TokenSource {
    pub fn new(
        deps: Arc<TokenSourceDeps>,
        sealed_store: SealedStore,
        grant: GrantId,
        server: ServerName,
    ) -> Self {
        Self {
            deps,
            sealed_store,
            grant,
            server,
            cached: ArcSwapOption::empty(),
            last_failure: Mutex::default(),
        }
    }

    /// Returns the current token, or `None` if it must be loaded or refreshed first. Never waits.
    ///
    /// # Errors
    /// Fails with `reauth_required` if the grant has no usable token.
    pub fn current(&self) -> Result<Option<Arc<SealedToken>>, Failure> {
        let grant = self.grant()?;
        if is_due(&grant) {
            return Ok(None);
        }
        let cached = self.cached.load_full();
        Ok(cached.filter(|token| token.value == grant.tokens.access))
    }

    /// Returns the token for a request. Refreshes it first if it expires soon.
    ///
    /// # Errors
    /// Fails with `reauth_required` if the grant has no usable token, and with another code if the
    /// store or the authorization server is unavailable.
    pub async fn token(&self) -> Result<Arc<SealedToken>, Failure> {
        let mut grant = self.grant()?;
        if is_due(&grant) {
            match self.refresh(grant.tokens.access).await {
                Ok(()) => grant = self.grant()?,
                // The token is still valid for a short time.
                Err(failure)
                    if failure.code != Code::ReauthRequired
                        && grant.tokens.expires_at > Some(now_ms()) => {}
                Err(failure) => return Err(failure),
            }
        }
        if let Some(token) = self.load(grant.tokens.access).await? {
            return Ok(token);
        }
        // Another worker has replaced the token after this catalog was read.
        let projection = &self.deps.projection;
        let head = projection.log().head().await.map_err(store_unavailable)?;
        projection.wait_for(head, CATCH_UP).await;
        let access = self.grant()?.tokens.access;
        self.load(access).await?.ok_or_else(|| {
            Failure::unavailable("Other tokens are replacing these tokens; retry in a moment")
        })
    }

    /// Returns the sealed token with this id, from memory or from the store.
    async fn load(&self, access: ValueId) -> Result<Option<Arc<SealedToken>>, Failure> {
        let cached = self.cached.load_full();
        if let Some(token) = cached.filter(|token| token.value == access) {
            return Ok(Some(token));
        }
        let sealed = self
            .sealed_store
            .find(access)
            .await
            .map_err(store_unavailable)?;
        let token = sealed.map(|sealed| {
            Arc::new(SealedToken {
                value: access,
                sealed,
            })
        });
        if token.is_some() {
            self.cached.store(token.clone());
        }
        Ok(token)
    }

    /// Replaces a token that the server has refused.
    ///
    /// # Errors
    /// Fails with `reauth_required` if there is no other token.
    pub async fn refused(&self, token: ValueId) -> Result<(), Failure> {
        let Grant { tokens, .. } = self.grant()?;
        if tokens.access != token {
            return Ok(());
        }
        if !tokens.refreshable {
            return Err(
                self.reauth_required("it refuses the access token, and there is no refresh token")
            );
        }
        if self.deps.rejected.get(&token).is_some() {
            return Err(self.mark_rejected(token));
        }
        self.refresh(token).await
    }

    /// Records that the server has refused a new token, so another refresh would not help, and
    /// returns the failure.
    pub fn mark_rejected(&self, token: ValueId) -> Failure {
        self.deps.rejected.insert(token, ());
        self.reauth_required("it refuses the access token also after that was refreshed")
    }

    /// Returns the failure of a request that needs these scopes.
    pub fn insufficient_scope(&self, scope: Option<String>) -> Failure {
        let reason = match &scope {
            Some(scope) => format!("this needs {} to be allowed", shorten(scope, MAX_SCOPE)),
            None => "this needs more than was allowed".to_owned(),
        };
        Failure {
            scope: scope.map(String::into_boxed_str),
            ..self.reauth_required(&reason)
        }
    }

    /// Opens a token for one request.
    ///
    /// # Errors
    /// Fails if the token was sealed with an unknown key.
    pub fn open(&self, token: &SealedToken) -> Result<Plaintext, SealError> {
        let context = GrantContext {
            grant: &self.grant,
            part: GrantValueKind::Access,
            value: token.value,
        };
        self.sealed_store.opener.open(context, &token.sealed)
    }

    fn grant(&self) -> Result<Grant, Failure> {
        let catalog = self.deps.projection.catalog();
        let grant = catalog
            .server_by_id(self.grant.server)
            .and_then(|server| server.grant(self.grant.user.as_ref()))
            .ok_or_else(|| self.reauth_required("no tokens are stored for it"))?;
        if grant.state == GrantState::Refused {
            let refusal = self.deps.refusals.get(&grant.tokens.access);
            return Err(refusal.unwrap_or_else(|| self.reauth_required("its access was withdrawn")));
        }
        Ok(grant)
    }

    fn reauth_required(&self, reason: &str) -> Failure {
        reauth_required(&self.server, self.grant.user.as_ref(), reason)
    }

    /// Has a worker replace this token, unless that has happened.
    async fn refresh(&self, access: ValueId) -> Result<(), Failure> {
        let mut last_failure = self.last_failure.lock().await;
        if self.grant()?.tokens.access != access {
            return Ok(());
        }
        if let Some(last) = &*last_failure
            && last.access == access
            && last.at.elapsed() < FAILURE_LIFETIME
        {
            return Err(last.failure.clone());
        }
        let command = RefreshTokens {
            grant: self.grant.clone(),
            access,
        };
        let body = serde_json::to_vec(&command).map_err(internal_error)?;
        match self.send_refresh(Bytes::from(body)).await {
            Ok(response) => {
                self.deps
                    .projection
                    .wait_for(response.position, CATCH_UP)
                    .await;
                Ok(())
            }
            Err(failure) => {
                if failure.code == Code::ReauthRequired {
                    self.deps.refusals.insert(access, failure.clone());
                }
                *last_failure = Some(RefreshFailure {
                    at: monotonic(),
                    access,
                    failure: failure.clone(),
                });
                Err(failure)
            }
        }
    }

    /// Sends the command to a worker of the pool. If that worker is lost, another worker may get the
    /// command, because the log and the lease make sure that one refresh runs.
    async fn send_refresh(&self, body: Bytes) -> Result<CommandResponse, Failure> {
        let limit = LOST_REFRESH.limit().unwrap_or_default();
        let deadline = monotonic() + limit;
        let mut attempts = LOST_REFRESH.start();
        loop {
            let request = CommandRequest {
                area: RefreshTokens::AREA,
                server: None,
                command: RefreshTokens::NAME,
                call: None,
                client: None,
                interim: None,
                body: body.clone(),
                traceparent: None,
                meta: None,
                time: deadline.saturating_duration_since(monotonic()),
            };
            match self.deps.commands.send(&request).await {
                Err(failure) if failure.code == Code::OutcomeUnknown => {
                    if !attempts.wait().await {
                        return Err(failure);
                    }
                }
                result => return result,
            }
        }
    }
}

/// Returns whether the access token expires soon.
fn is_due(grant: &Grant) -> bool {
    grant.tokens.refresh_at.is_some_and(|due| due <= now_ms())
}
