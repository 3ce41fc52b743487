//! The token that goes with every request to a server: the grant's newest, refreshed in time, once for all who need it.
//!
//! A warm request touches no store: the token lies here sealed, as long as the catalogue names it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use quick_cache::sync::Cache;
use tokio::sync::Mutex;

use crate::cluster::command_client::{CommandClient, CommandRequest, CommandResponse};
use crate::core::command::{Command, RefreshTokens};
use crate::core::decide::grant::reauth_required;
use crate::core::failure::{Code, Failure};
use crate::core::ids::ValueId;
use crate::core::model::grant::{Grant, GrantId, GrantState};
use crate::core::names::ServerName;
use crate::crypto::context::{GrantContext, GrantValueKind};
use crate::crypto::seal::Plaintext;
use crate::eventlog::projection::Projection;
use crate::ports::vault::Sealed;
use crate::telemetry::error::internal_error;
use crate::time::clock::now_ms;
use crate::workers::runtime::log_buffer::shorten;
use crate::workers::sealed_store::SealedStore;

/// How long new tokens are waited for.
const RENEWAL: Duration = Duration::from_secs(60);
/// After an attempt without an outcome the next one waits.
const PAUSE: Duration = Duration::from_secs(5);
/// How long this worker may take to read what another has just written.
const CATCH_UP: Duration = Duration::from_secs(2);
/// New tokens that were refused are remembered; so many of them.
const DOUBTED: usize = 10_000;

/// What the bearers of a worker have in common.
pub struct TokenSourceDeps {
    projection: Arc<Projection>,
    commands: CommandClient,
    /// Tokens that had just been refreshed when the server refused them.
    doubted: Cache<ValueId, ()>,
}

impl TokenSourceDeps {
    pub fn new(projection: Arc<Projection>, commands: CommandClient) -> Self {
        Self {
            projection,
            commands,
            doubted: Cache::new(DOUBTED),
        }
    }
}

/// One connection's token.
pub struct TokenSource {
    grants: Arc<TokenSourceDeps>,
    sealed_store: SealedStore,
    id: GrantId,
    server: ServerName,
    held: ArcSwapOption<SealedToken>,
    /// Held by the one who has it refreshed; how the last attempt failed.
    renewing: Mutex<Option<(Instant, ValueId, Failure)>>,
}

/// A token, sealed.
pub struct SealedToken {
    pub value: ValueId,
    sealed: Sealed,
}

impl TokenSource {
    pub fn new(
        grants: Arc<TokenSourceDeps>,
        sealed_store: SealedStore,
        id: GrantId,
        server: ServerName,
    ) -> Self {
        Self {
            grants,
            sealed_store,
            id,
            server,
            held: ArcSwapOption::empty(),
            renewing: Mutex::default(),
        }
    }

    /// Returns the current token, or `None` if it must be loaded or refreshed first. Never waits.
    pub fn current(&self) -> Result<Option<Arc<SealedToken>>, Failure> {
        let Grant { tokens, .. } = self.grant()?;
        if tokens.refresh_at.is_some_and(|due| due <= now_ms()) {
            return Ok(None);
        }
        let held = self.held.load_full();
        Ok(held.filter(|held| held.value == tokens.access))
    }

    /// The token for a request, which is not at its end.
    pub async fn token(&self) -> Result<Arc<SealedToken>, Failure> {
        let mut renewed = false;
        let mut behind = false;
        loop {
            let Grant { tokens, .. } = self.grant()?;
            if tokens.refresh_at.is_some_and(|due| due <= now_ms()) && !renewed {
                match self.renew(tokens.access).await {
                    Ok(()) => {
                        renewed = true;
                        continue;
                    }
                    // It is of use for a little while yet.
                    Err(failure)
                        if failure.code != Code::ReauthRequired
                            && tokens.expires_at > Some(now_ms()) => {}
                    Err(failure) => return Err(failure),
                }
            }
            if let Some(held) = self
                .held
                .load_full()
                .filter(|held| held.value == tokens.access)
            {
                return Ok(held);
            }
            match self.sealed_store.find(tokens.access).await.map_err(away)? {
                Some(sealed) => {
                    let held = Arc::new(SealedToken {
                        value: tokens.access,
                        sealed,
                    });
                    self.held.store(Some(held.clone()));
                    return Ok(held);
                }
                // It was replaced after this catalogue was read.
                None if !behind => {
                    behind = true;
                    let head = self.grants.projection.log().head().await.map_err(away)?;
                    self.grants.projection.wait_for(head, CATCH_UP).await;
                }
                None => {
                    return Err(Failure::unavailable(
                        "The tokens were being changed; ask again",
                    ));
                }
            }
        }
    }

    /// The server has refused a token: from now on there is another one, or the reason why not.
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
        if self.grants.doubted.get(&token).is_some() {
            return Err(self.mark_rejected(token));
        }
        self.renew(token).await
    }

    /// The server refuses a token that has just been refreshed: another one would be of no more use.
    pub fn mark_rejected(&self, token: ValueId) -> Failure {
        self.grants.doubted.insert(token, ());
        self.reauth_required("it refuses the access token also after that was refreshed")
    }

    /// What was asked needs these scopes too.
    pub fn insufficient_scope(&self, scope: Option<String>) -> Failure {
        let why = match &scope {
            Some(scope) => format!("this needs {} to be allowed", shorten(scope, 300)),
            None => "this needs more than was allowed".to_owned(),
        };
        Failure {
            scope: scope.map(String::into_boxed_str),
            ..self.reauth_required(&why)
        }
    }

    /// Opens a token for one request.
    pub fn open(&self, token: &SealedToken) -> Result<Plaintext, String> {
        let place = GrantContext {
            grant: &self.id,
            part: GrantValueKind::Access,
            value: token.value,
        };
        self.sealed_store
            .opener
            .open(place, &token.sealed)
            .map_err(|_| "its access token cannot be opened".into())
    }

    fn grant(&self) -> Result<Grant, Failure> {
        let catalog = self.grants.projection.catalog();
        let grant = catalog
            .server_by_id(self.id.server)
            .and_then(|server| server.grant(self.id.user.as_ref()));
        match grant {
            None => Err(self.reauth_required("no tokens are stored for it")),
            Some(Grant {
                state: GrantState::Refused,
                ..
            }) => Err(self.reauth_required("its access was withdrawn")),
            Some(grant) => Ok(grant),
        }
    }

    fn reauth_required(&self, why: &str) -> Failure {
        reauth_required(&self.server, self.id.user.as_ref(), why)
    }

    /// Has new tokens got in the place of these, unless that has happened.
    async fn renew(&self, access: ValueId) -> Result<(), Failure> {
        let mut failed = self.renewing.lock().await;
        if self.grant()?.tokens.access != access {
            return Ok(());
        }
        if let Some((at, of, failure)) = &*failed
            && *of == access
            && at.elapsed() < PAUSE
        {
            return Err(failure.clone());
        }
        let body = serde_json::to_vec(&RefreshTokens {
            grant: self.id.clone(),
            access,
        })
        .map_err(internal_error)?;
        match self.ask(Bytes::from(body)).await {
            Ok(answered) => {
                self.grants
                    .projection
                    .wait_for(answered.position, CATCH_UP)
                    .await;
                Ok(())
            }
            Err(failure) => {
                *failed = Some((Instant::now(), access, failure.clone()));
                Err(failure)
            }
        }
    }

    /// Asks the pool. A worker that fell silent is no reason not to ask another one: what was begun is done once.
    async fn ask(&self, body: Bytes) -> Result<CommandResponse, Failure> {
        let until = Instant::now() + RENEWAL;
        loop {
            let question = CommandRequest {
                area: RefreshTokens::AREA,
                server: None,
                command: RefreshTokens::NAME,
                call: None,
                body: body.clone(),
                traceparent: None,
                time: until.saturating_duration_since(Instant::now()),
            };
            match self.grants.commands.send(question).await {
                Err(failure) if failure.code == Code::OutcomeUnknown && Instant::now() < until => {}
                answered => return answered,
            }
        }
    }
}

fn away(error: impl std::fmt::Display) -> Failure {
    tracing::warn!(%error, "a token could not be looked up");
    Failure::unavailable("The store cannot be reached")
}
