//! Tokens refreshed once for all who use them.
//!
//! A refresh token is often good for one use, so a refresh is done under a lease, and told to the log before and
//! after. Whoever gets the lease and finds an intent without an outcome knows that its worker is dead: it tries the
//! old token once more, as nothing is lost by that.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::time::Instant;
use uuid::Uuid;

use super::client;
use super::client::{TokenOutcome, TokenResponse};
use super::tokens::{away, open_json, put, retry_store, url_of};
use crate::core::catalog::Catalog;
use crate::core::catalog::server::Server;
use crate::core::command::RefreshTokens;
use crate::core::decide::grant::reauth_required;
use crate::core::event::{Actor, Event};
use crate::core::failure::{Code, Failure};
use crate::core::ids::{CommandId, ValueId, WorkerId};
use crate::core::model::grant::{Grant, GrantId, GrantState, RefreshCredentials, TokenEndpoint};
use crate::crypto::context::GrantValueKind;
use crate::eventlog::appender::Committed;
use crate::workers::context::Context;
use crate::workers::runtime::lease::LocalLease;
use crate::workers::secrets;

/// How long another worker's refresh is waited for.
const PATIENCE: Duration = Duration::from_secs(55);
/// How often the lease is tried meanwhile.
const AGAIN: Duration = Duration::from_millis(100);
/// How long this worker may take to read what the last one has written.
const CATCH_UP: Duration = Duration::from_secs(5);
/// Requests of one refresh, all but the last not looked at by the authorization server.
const TRIES: usize = 4;

/// Gets new tokens, unless others have. Done is done: whoever asks reads the catalogue then.
pub async fn refresh(context: Arc<Context>, command: RefreshTokens) -> Result<(), Failure> {
    let RefreshTokens { grant, access } = command;
    let (began, ttl) = (Instant::now(), context.manager.limits.lease_ttl);
    // A holder of its own: two refreshes of one worker exclude each other, too.
    let (what, holder, lease) = (
        grant.lease(),
        WorkerId(Uuid::now_v7()),
        LocalLease::default(),
    );
    loop {
        if current(&context, &grant, access)?.is_none() {
            return Ok(());
        }
        let asked = Instant::now();
        if context
            .leases
            .acquire(what, holder, ttl)
            .await
            .map_err(away)?
            .is_some()
        {
            lease.start(asked, ttl);
            break;
        }
        if began.elapsed() > PATIENCE {
            return Err(Failure::unavailable(
                "The tokens are still being refreshed by another worker; ask again",
            ));
        }
        tokio::time::sleep(AGAIN).await;
    }
    let renewing = async {
        loop {
            tokio::time::sleep(ttl / 4).await;
            let asked = Instant::now();
            if context
                .leases
                .renew(holder, ttl)
                .await
                .is_ok_and(|held| held.contains(&what))
            {
                lease.extend(asked, ttl);
            }
        }
    };
    let refreshing = RefreshRun {
        context: &context,
        id: &grant,
        access,
        lease: &lease,
    };
    let outcome = tokio::select! {
        outcome = refreshing.run() => outcome,
        () = renewing => Ok(()),
    };
    if let Err(error) = context.leases.release(what, holder).await {
        tracing::warn!(%error, "a lease was not given back; it will expire");
    }
    outcome
}

/// The grant, if its tokens are still these.
fn current(
    context: &Context,
    id: &GrantId,
    access: ValueId,
) -> Result<Option<(Arc<Server>, Grant)>, Failure> {
    let server = context
        .projection
        .catalog()
        .server_by_id(id.server)
        .cloned();
    let server = server.ok_or_else(|| Failure::server_not_found("of that id"))?;
    let denied = |why| reauth_required(&server.name, id.user.as_ref(), why);
    let grant = server
        .grant(id.user.as_ref())
        .ok_or_else(|| denied("no tokens are stored for it"))?;
    if grant.tokens.access != access {
        return Ok(None);
    }
    match grant.state {
        GrantState::Refused => Err(denied("its access was withdrawn")),
        _ if !grant.tokens.refreshable => Err(denied("there is no refresh token")),
        _ => Ok(Some((server, grant))),
    }
}

/// A refresh by the one who holds the lease.
struct RefreshRun<'a> {
    context: &'a Context,
    id: &'a GrantId,
    access: ValueId,
    lease: &'a LocalLease,
}

impl RefreshRun<'_> {
    async fn run(&self) -> Result<(), Failure> {
        let head = self.context.projection.log().head().await.map_err(away)?;
        if !self.context.projection.wait_for(head, CATCH_UP).await {
            return Err(Failure::unavailable(
                "The worker has not yet read what others have written; ask again",
            ));
        }
        let Some((server, Grant { tokens, .. })) = current(self.context, self.id, self.access)?
        else {
            return Ok(());
        };
        let mut renewal = open_json::<RefreshCredentials>(
            self.context,
            self.id,
            GrantValueKind::Renewal,
            tokens.renewal,
        )
        .await?;
        let endpoint = match renewal.endpoint.clone() {
            Some(endpoint) => endpoint,
            None => find(&server, &renewal).await?,
        };
        renewal.endpoint = Some(endpoint.clone());

        let (id, access) = (self.id.clone(), self.access);
        let intent = self
            .change(move |catalog| crate::core::decide::grant::start_refresh(catalog, &id, access))
            .await?;
        if intent.events.is_empty() {
            return Ok(());
        }
        let mut pauses = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(500))
            .with_jitter()
            .build();
        let mut last = String::new();
        for left in (0..TRIES).rev() {
            if !self.lease.is_held() {
                // Whoever has it now has found the intent, and tries for itself.
                return Err(Failure::unavailable(
                    "The tokens are being refreshed by another worker; ask again",
                ));
            }
            match client::refresh(&endpoint, &renewal).await {
                TokenOutcome::Tokens(new) => return self.keep(&server, renewal, new).await,
                TokenOutcome::Refused(why) => {
                    self.tell(true).await;
                    let why = format!("its authorization server {why}");
                    return Err(reauth_required(&server.name, self.id.user.as_ref(), &why));
                }
                TokenOutcome::Unknown(why) => {
                    let unknown = format!(
                        "The tokens of server {} were not refreshed: its authorization server {why}",
                        server.name
                    );
                    return Err(Failure::new(Code::UpstreamError, unknown));
                }
                TokenOutcome::Away { why, pause } => {
                    last = why;
                    if left > 0 {
                        tokio::time::sleep(
                            pause.or(pauses.next()).unwrap_or(Duration::from_secs(2)),
                        )
                        .await;
                    }
                }
            }
        }
        self.tell(false).await;
        let away = format!(
            "The tokens of server {} cannot be refreshed: its authorization server {last}",
            server.name
        );
        Err(Failure {
            retry_after: Some(5),
            ..Failure::unavailable(away)
        })
    }

    /// New tokens: put, append, drop the old. They are of use to nobody before that.
    async fn keep(
        &self,
        server: &Server,
        mut renewal: RefreshCredentials,
        new: TokenResponse,
    ) -> Result<(), Failure> {
        if let Some(token) = &new.refresh_token {
            renewal.refresh_token = Some(token.clone());
        }
        if let Some(scope) = &new.scope {
            renewal.scopes = scope.split_ascii_whitespace().map(str::to_owned).collect();
        }
        let tokens = put(self.context, self.id, &renewal, &new).await?;
        let (id, access) = (self.id.clone(), self.access);
        let done = self
            .change(move |catalog| {
                Ok(crate::core::decide::grant::record_refresh(
                    catalog, &id, access, tokens,
                ))
            })
            .await?;
        let unused = match done.events.is_empty() {
            // Others were given meanwhile.
            true => [tokens.access, tokens.renewal],
            false => self.replaced(&done),
        };
        secrets::drop_values(self.context, &unused).await;
        tracing::info!(server = %server.name, "tokens were refreshed");
        Ok(())
    }

    fn replaced(&self, done: &Committed) -> [ValueId; 2] {
        let before = done
            .before
            .as_ref()
            .and_then(|before| before.server_by_id(self.id.server));
        let grant = before.and_then(|server| server.grant(self.id.user.as_ref()));
        grant.map_or([self.access; 2], |grant| {
            [grant.tokens.access, grant.tokens.renewal]
        })
    }

    /// Tells the log that no new tokens came.
    async fn tell(&self, refused: bool) {
        let (id, access) = (self.id.clone(), self.access);
        let told = self
            .change(move |catalog| {
                Ok(crate::core::decide::grant::record_refresh_failure(
                    catalog, &id, access, refused,
                ))
            })
            .await;
        if let Err(failure) = told {
            tracing::warn!(%failure, "how a refresh ended could not be recorded");
        }
    }

    /// Makes a change, for as long as it takes: the same id again is the same change.
    async fn change(
        &self,
        decide: impl Fn(&Catalog) -> Result<Vec<Event>, Failure> + Clone + Send + Sync + 'static,
    ) -> Result<Committed, Failure> {
        let id = CommandId(Uuid::now_v7());
        retry_store(|| {
            self.context
                .appender
                .commit(id, Actor::Worker, decide.clone())
        })
        .await
    }
}

/// Where tokens for a server are got.
async fn find(server: &Server, renewal: &RefreshCredentials) -> Result<TokenEndpoint, Failure> {
    let site = client::discover(&url_of(server)?).await;
    let site = site.map_err(|why| {
        Failure::new(Code::UpstreamError, format!("Server {} {why}", server.name))
    })?;
    let auth = site.metadata.auth(renewal.client_secret.is_some());
    Ok(TokenEndpoint {
        url: site.token_endpoint.into(),
        auth,
        resource: site.resource,
    })
}
