//! Refreshes tokens once for all connections that use them.
//!
//! A refresh token is often valid for one use. A worker therefore refreshes tokens under a lease, and
//! records the refresh in the log before and after the request. A worker that acquires the lease and
//! finds a started refresh without an end knows that the other worker is dead. This worker tries
//! the old refresh token once more, because that loses nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use uuid::Uuid;

use super::client;
use super::client::{Fetcher, TokenOutcome, TokenResponse};
use super::tokens::{load_json, server_url, store_token_values, upstream_failure};
use crate::core::catalog::Catalog;
use crate::core::catalog::server::Server;
use crate::core::command::RefreshTokens;
use crate::core::decide::grant as decide;
use crate::core::decide::grant::reauth_required;
use crate::core::event::{Actor, Event};
use crate::core::failure::{Code, Failure};
use crate::core::ids::{CommandId, LeaseId, ValueId, WorkerId};
use crate::core::model::grant::{Grant, GrantId, GrantState, RefreshCredentials, TokenEndpoint};
use crate::crypto::context::GrantValueKind;
use crate::eventlog::appender::Committed;
use crate::telemetry::error::{error_chain, internal_error};
use crate::time::clock::monotonic;
use crate::time::retry::{REFRESH_LEASE, TOKEN_REQUEST, retry_store_call};
use crate::workers::context::Context;
use crate::workers::runtime::lease::LocalLease;
use crate::workers::sealed_store::store_unavailable;
use crate::workers::secrets;

/// How long the projection may take to reach the head of the log.
const CATCH_UP: Duration = Duration::from_secs(5);
/// The seconds after which a caller may retry while the authorization server is unavailable.
const RETRY_AFTER_SECONDS: u16 = 5;

/// Replaces the access token `command.access`, unless another worker has done that. Afterwards the
/// catalog names the new tokens.
///
/// # Errors
/// Fails with `reauth_required` if the authorization server refuses the refresh token, and with
/// another code if the refresh can succeed later.
pub async fn refresh(context: Arc<Context>, command: RefreshTokens) -> Result<(), Failure> {
    let RefreshTokens { grant, access } = command;
    let _permit = context.oauth_limits.start(&grant)?;
    let lease = RefreshLease {
        context: &context,
        id: grant.lease(),
        // Two refreshes in one worker exclude each other too, because each has a holder of its own.
        holder: WorkerId(Uuid::now_v7()),
        local: LocalLease::default(),
        ttl: context.manager.limits.lease_ttl,
    };
    if !lease.acquire(&grant, access).await? {
        return Ok(());
    }
    let run = RefreshRun {
        context: &context,
        grant: &grant,
        access,
        lease: &lease.local,
    };
    let result = tokio::select! {
        result = run.run() => result,
        never = lease.keep_renewed() => never,
    };
    lease.release().await;
    result
}

/// The right to refresh the tokens of one grant.
struct RefreshLease<'a> {
    context: &'a Context,
    id: LeaseId,
    holder: WorkerId,
    local: LocalLease,
    ttl: Duration,
}

impl RefreshLease<'_> {
    /// Waits for the lease. Returns `false` if another worker has replaced the tokens.
    async fn acquire(&self, grant: &GrantId, access: ValueId) -> Result<bool, Failure> {
        let mut attempts = REFRESH_LEASE.start();
        loop {
            if current_grant(self.context, grant, access)?.is_none() {
                return Ok(false);
            }
            let asked = monotonic();
            let acquired = self
                .context
                .leases
                .acquire(self.id, self.holder, self.ttl)
                .await
                .map_err(store_unavailable)?;
            if let Some(token) = acquired {
                self.local.start(asked, self.ttl, token);
                return Ok(true);
            }
            if !attempts.wait().await {
                return Err(Failure::unavailable(
                    "Another worker is still refreshing the tokens; retry in a moment",
                ));
            }
        }
    }

    /// Renews the lease until it is dropped.
    async fn keep_renewed(&self) -> Result<(), Failure> {
        loop {
            sleep(self.ttl / 4).await;
            let asked = monotonic();
            let held = self.context.leases.renew(self.holder, self.ttl).await;
            if held.is_ok_and(|held| held.contains(&self.id)) {
                self.local.extend(asked, self.ttl);
            }
        }
    }

    async fn release(&self) {
        if let Err(error) = self.context.leases.release(self.id, self.holder).await {
            tracing::warn!(
                error = error_chain(&error),
                "cannot release the lease of a refresh; the lease expires"
            );
        }
    }
}

/// Returns the server and the grant, if `access` is still the access token of the grant.
fn current_grant(
    context: &Context,
    id: &GrantId,
    access: ValueId,
) -> Result<Option<(Arc<Server>, Grant)>, Failure> {
    let server = context
        .projection
        .catalog()
        .server_by_id(id.server)
        .cloned()
        .ok_or_else(|| Failure::server_not_found("of that id"))?;
    let denied = |reason| reauth_required(&server.name, id.user.as_ref(), reason);
    let grant = server
        .grant(id.user.as_ref())
        .ok_or_else(|| denied("no tokens are stored for it"))?;
    if grant.tokens.access != access {
        return Ok(None);
    }
    if grant.state == GrantState::Refused {
        return Err(denied("its access was withdrawn"));
    }
    if !grant.tokens.refreshable {
        return Err(denied("there is no refresh token"));
    }
    Ok(Some((server, grant)))
}

/// One refresh by the holder of the lease.
struct RefreshRun<'a> {
    context: &'a Context,
    grant: &'a GrantId,
    access: ValueId,
    lease: &'a LocalLease,
}

impl RefreshRun<'_> {
    async fn run(&self) -> Result<(), Failure> {
        self.catch_up().await?;
        let Some((server, grant)) = current_grant(self.context, self.grant, self.access)? else {
            return Ok(());
        };
        let mut credentials: RefreshCredentials = load_json(
            self.context,
            self.grant,
            GrantValueKind::Renewal,
            grant.tokens.renewal,
        )
        .await?;
        let fetcher = Fetcher::for_server(&server_url(&server)?).await;
        if credentials.endpoint.is_none() {
            let endpoint = find_endpoint(fetcher, &server, &credentials).await?;
            credentials.endpoint = Some(endpoint);
        }
        if !self.record_start().await? {
            return Ok(());
        }
        let tokens = self.request(fetcher, &server, &mut credentials).await?;
        self.store(&server, credentials, tokens).await
    }

    /// Waits until this worker knows what the last holder of the lease has written.
    async fn catch_up(&self) -> Result<(), Failure> {
        let projection = &self.context.projection;
        let head = projection.log().head().await.map_err(store_unavailable)?;
        if projection.wait_for(head, CATCH_UP).await {
            return Ok(());
        }
        Err(Failure::unavailable(
            "The worker has not yet read the newest entries of the log; retry in a moment",
        ))
    }

    /// Records that the request follows. Returns `false` if other tokens exist.
    async fn record_start(&self) -> Result<bool, Failure> {
        let grant = self.grant.clone();
        let access = self.access;
        let committed = self
            .commit(move |catalog| decide::start_refresh(catalog, &grant, access))
            .await?;
        Ok(!committed.events.is_empty())
    }

    /// Sends the request until the authorization server executes it.
    async fn request(
        &self,
        fetcher: Fetcher,
        server: &Server,
        credentials: &mut RefreshCredentials,
    ) -> Result<TokenResponse, Failure> {
        let mut endpoint = credentials
            .endpoint
            .clone()
            .ok_or_else(|| internal_error("a refresh has no token endpoint"))?;
        let mut attempts = TOKEN_REQUEST.start();
        loop {
            if !self.lease.is_held() {
                // The next holder finds the recorded start and tries the request itself.
                return Err(Failure::unavailable(
                    "Another worker is refreshing the tokens; retry in a moment",
                ));
            }
            match client::refresh(fetcher, &mut endpoint, credentials).await {
                TokenOutcome::Tokens(tokens) => {
                    credentials.endpoint = Some(endpoint);
                    return Ok(tokens);
                }
                TokenOutcome::Refused { reason, .. } => {
                    return Err(self.refused(server, &reason).await);
                }
                TokenOutcome::Indeterminate(reason) => {
                    return Err(indeterminate(server, &reason));
                }
                TokenOutcome::RetryLater { reason, pause } => {
                    if !attempts.wait_or(pause).await {
                        return Err(self.unavailable(server, &reason).await);
                    }
                }
            }
        }
    }

    async fn refused(&self, server: &Server, reason: &str) -> Failure {
        self.record_failure(true).await;
        let reason = format!("its authorization server {reason}");
        reauth_required(&server.name, self.grant.user.as_ref(), &reason)
    }

    async fn unavailable(&self, server: &Server, reason: &str) -> Failure {
        self.record_failure(false).await;
        let sentence = format!(
            "The tokens of server {} cannot be refreshed: its authorization server {reason}",
            server.name
        );
        Failure {
            retry_after: Some(RETRY_AFTER_SECONDS),
            ..Failure::unavailable(sentence)
        }
    }

    /// Stores new tokens: first the sealed values, then the event, then it removes the old values.
    /// No connection uses the tokens before the event.
    async fn store(
        &self,
        server: &Server,
        mut credentials: RefreshCredentials,
        tokens: TokenResponse,
    ) -> Result<(), Failure> {
        if let Some(refresh_token) = &tokens.refresh_token {
            credentials.refresh_token = Some(refresh_token.clone());
        }
        if let Some(scopes) = &tokens.scopes {
            credentials.scopes.clone_from(scopes);
        }
        let stored = store_token_values(self.context, self.grant, &credentials, &tokens).await?;
        let grant = self.grant.clone();
        let access = self.access;
        let committed = self
            .commit(move |catalog| Ok(decide::record_refresh(catalog, &grant, access, stored)))
            .await?;
        let unused = if committed.events.is_empty() {
            // A client has stored other tokens during the refresh.
            [stored.access, stored.renewal]
        } else {
            self.replaced_values(&committed)
        };
        secrets::drop_values(self.context, &unused).await;
        tracing::info!(server = %server.name, "tokens refreshed");
        Ok(())
    }

    fn replaced_values(&self, committed: &Committed) -> [ValueId; 2] {
        let grant = committed
            .before
            .as_ref()
            .and_then(|before| before.server_by_id(self.grant.server))
            .and_then(|server| server.grant(self.grant.user.as_ref()));
        grant.map_or([self.access; 2], |grant| {
            [grant.tokens.access, grant.tokens.renewal]
        })
    }

    async fn record_failure(&self, refused: bool) {
        let grant = self.grant.clone();
        let access = self.access;
        let recorded = self
            .commit(move |catalog| {
                Ok(decide::record_refresh_failure(
                    catalog, &grant, access, refused,
                ))
            })
            .await;
        if let Err(failure) = recorded {
            tracing::warn!(%failure, "cannot record the failure of a refresh");
        }
    }

    /// Commits a change, and retries while the store is unavailable. One id makes all attempts one
    /// change.
    async fn commit(
        &self,
        decide: impl Fn(&Catalog) -> Result<Vec<Event>, Failure> + Clone + Send + Sync + 'static,
    ) -> Result<Committed, Failure> {
        let id = CommandId(Uuid::now_v7());
        retry_store_call(|| {
            self.context
                .appender
                .commit(id, Actor::worker(), decide.clone())
        })
        .await
    }
}

fn indeterminate(server: &Server, reason: &str) -> Failure {
    Failure::new(
        Code::UpstreamError,
        format!(
            "The tokens of server {} were not refreshed: its authorization server {reason}",
            server.name
        ),
    )
}

/// Finds the token endpoint for tokens that a client has stored without one.
async fn find_endpoint(
    fetcher: Fetcher,
    server: &Server,
    credentials: &RefreshCredentials,
) -> Result<TokenEndpoint, Failure> {
    let site = client::discover(fetcher, &server_url(server)?)
        .await
        .map_err(|error| upstream_failure(&server.name, &error))?;
    Ok(TokenEndpoint {
        auth: site
            .metadata
            .client_auth(credentials.client_secret.is_some()),
        url: site.token_endpoint.into(),
        resource: site.resource,
        omit_resource: false,
    })
}
