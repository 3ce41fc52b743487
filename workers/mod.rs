//! The hands: everything that touches the outside world. The map is `workers/README.md`.
//!
//! Here is the only loop: a delivery comes, gets a permit, is decoded, handled and settled. Each
//! area's file says what happens in between.

mod context;
mod google;
pub mod guard;
pub mod http_client;
pub mod idempotency;
mod install;
mod jobs;
mod keys;
mod mcp;
mod oauth;
mod packages;
mod permits;
pub mod redact;
pub mod runtime;
pub mod sealed_store;
mod secrets;
mod servers;
mod tools;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use self::context::{Context, WorkerDeps};
use crate::config::Pools;
use crate::core::command::{
    Area, BeginAuthorization, CheckPackages, Command, CompleteAuthorization, CountKeys,
    DeleteSecret, DeleteServer, DeliveryMode, DisableServer, DiscardDeadLetter, EnableServer,
    ExchangeGoogleCode, NotifyProducer, ReadJobAnswer, ReadServerLogs, ReconcileServer,
    RefreshTokens, RegisterServer, RetryDeadLetter, SetSecret, StoreTokens, UpdateServer,
};
use crate::core::failure::Failure;
use crate::core::model::tool_call::CallTool;
use crate::ports::bus::{Ask, AskHandler, Busy, Reply, SubscriptionGuard, Target};
use crate::telemetry::error::internal_error;

/// How long a worker waits to see what its caller has already seen.
const CATCH_UP: Duration = Duration::from_secs(2);

/// The workers of this process.
pub struct Workers {
    context: Arc<Context>,
    serving: Vec<SubscriptionGuard>,
    loops: Vec<JoinHandle<()>>,
    draining: CancellationToken,
}

impl Workers {
    /// Starts the servers and takes the asks and jobs of its pools.
    pub fn start(parts: WorkerDeps) -> Self {
        if let Err(error) = guard::become_subreaper() {
            tracing::warn!(%error, "what a killed guard leaves behind will not be found");
        }
        let (bus, pools) = (parts.bus.clone(), parts.pools.clone());
        let context = Arc::new(Context::new(parts));
        let dispatcher = Arc::new(Dispatcher(context.clone()));
        // The area of servers comes last, because `GET /readyz` asks that area only.
        let mut places: Vec<_> = areas(&pools).rev().map(Target::AnyWorker).collect();
        let draining = CancellationToken::new();
        let mut loops = vec![tokio::spawn(packages::remove_unused_files(
            context.clone(),
            draining.clone(),
        ))];
        if pools.tools {
            places.push(Target::Worker(context.manager.worker));
            loops.push(tokio::spawn(self::jobs::ingest::ingest_messages(
                context.clone(),
                bus.consume_jobs(),
                draining.clone(),
            )));
            tokio::spawn(
                draining
                    .clone()
                    .run_until_cancelled_owned(secrets::schedule(context.clone())),
            );
        }
        if pools.packages {
            tokio::spawn(
                draining
                    .clone()
                    .run_until_cancelled_owned(packages::install_on_start(context.clone())),
            );
        }
        if pools.tools || pools.packages {
            context.manager.start(dispatcher.clone(), pools.tools);
            let runner = self::jobs::runner::JobRunner::new(
                context.clone(),
                areas(&pools).collect(),
                draining.clone(),
            );
            loops.push(tokio::spawn(runner.run()));
        }
        let serving = places
            .into_iter()
            .map(|place| bus.subscribe(place, dispatcher.clone()))
            .collect();
        Self {
            context,
            serving,
            loops,
            draining,
        }
    }

    /// Takes nothing new, lets what is running finish within `limit`, then stops all children.
    pub async fn drain(self, limit: Duration) {
        drop(self.serving);
        self.draining.cancel();
        let finished = async {
            self.context.manager.hand_over().await;
            self.context.permits.all_free().await;
            self.context.oauth_limits.wait_until_idle().await;
            futures::future::join_all(self.loops).await;
        };
        if tokio::time::timeout(limit, finished).await.is_err() {
            tracing::warn!("calls were still running at the end of DRAIN_TIMEOUT and are cut off");
        }
        self.context.manager.shut_down().await;
        // Nothing runs here any more: what it had to leave is taken over at once.
        self.context.manager.release_worker_lease().await;
    }
}

/// The areas that a worker of these pools serves.
fn areas(pools: &Pools) -> impl DoubleEndedIterator<Item = Area> {
    let Pools {
        tools,
        packages,
        tokens,
    } = *pools;
    Area::ALL.into_iter().filter(move |area| match area {
        Area::Servers | Area::Tools | Area::Google | Area::Secrets | Area::Jobs => tools,
        Area::Packages => packages,
        Area::Oauth => tokens,
    })
}

/// Takes asks.
struct Dispatcher(Arc<Context>);

#[async_trait]
impl AskHandler for Dispatcher {
    async fn handle(&self, ask: Ask) -> Result<Reply, Busy> {
        let context = &self.0;
        // What is answered from memory needs no place: a full worker still tells how its servers are.
        let _permit = match ask.command {
            ReadServerLogs::NAME | ReadJobAnswer::NAME => None,
            // These commands may wait for an authorization server. `oauth_limits` bounds them.
            BeginAuthorization::NAME | CompleteAuthorization::NAME | RefreshTokens::NAME => None,
            CallTool::NAME => Some(context.permits.call().ok_or(Busy)?),
            _ => Some(context.permits.change().ok_or(Busy)?),
        };
        let outcome = if context.projection.wait_for(ask.seen, CATCH_UP).await {
            match AssertUnwindSafe(dispatch(context, ask))
                .catch_unwind()
                .await
            {
                Ok(outcome) => outcome,
                Err(_) => Err(HandlerError::Failed(internal_error("a worker panicked"))),
            }
        } else {
            Err(
                Failure::unavailable("The worker has not yet seen what you have seen; ask again")
                    .into(),
            )
        };
        let outcome = match outcome {
            Ok(bytes) => Ok(bytes),
            Err(HandlerError::Busy) => return Err(Busy),
            Err(HandlerError::Failed(failure)) => Err(encode(&failure)),
        };
        Ok(Reply {
            position: context.projection.position(),
            outcome,
        })
    }
}

/// Why an ask has no answer.
enum HandlerError {
    /// A permit of its own was missing; nothing was begun.
    Busy,
    Failed(Failure),
}

impl From<Failure> for HandlerError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

async fn dispatch(context: &Arc<Context>, ask: Ask) -> Result<Bytes, HandlerError> {
    match ask.command {
        CallTool::NAME => tools::call(context, ask).await,
        ReadServerLogs::NAME => {
            handle(ask, |command: ReadServerLogs| {
                servers::logs(context.clone(), command)
            })
            .await
        }
        ReadJobAnswer::NAME => {
            handle(ask, |command| jobs::read_answer(context.clone(), command)).await
        }
        NotifyProducer::NAME => {
            handle(ask, |command| {
                self::jobs::notify::notify_end(context.clone(), command)
            })
            .await
        }
        RetryDeadLetter::NAME => {
            handle(ask, |command| {
                self::jobs::dead_letters::retry_dead_letter(context.clone(), command)
            })
            .await
        }
        DiscardDeadLetter::NAME => {
            handle(ask, |command| {
                self::jobs::dead_letters::discard_dead_letter(context.clone(), command)
            })
            .await
        }
        RegisterServer::NAME => {
            handle(ask, |command| servers::register(context.clone(), command)).await
        }
        UpdateServer::NAME => {
            handle(ask, |command| servers::update(context.clone(), command)).await
        }
        EnableServer::NAME => {
            handle(ask, |command| servers::enable(context.clone(), command)).await
        }
        DisableServer::NAME => {
            handle(ask, |command| servers::disable(context.clone(), command)).await
        }
        ReconcileServer::NAME => {
            handle(ask, |command| servers::settled(context.clone(), command)).await
        }
        CheckPackages::NAME => {
            handle(ask, |command| {
                packages::check_packages(context.clone(), command)
            })
            .await
        }
        DeleteServer::NAME => {
            handle(ask, |command| servers::delete(context.clone(), command)).await
        }
        ExchangeGoogleCode::NAME => {
            handle(ask, |command| {
                google::exchange_code(context.clone(), command)
            })
            .await
        }
        StoreTokens::NAME => {
            handle(ask, |command| {
                self::oauth::tokens::store_tokens(context.clone(), command)
            })
            .await
        }
        BeginAuthorization::NAME => {
            handle(ask, |command| {
                self::oauth::browser_flow::begin_authorization(context.clone(), command)
            })
            .await
        }
        CompleteAuthorization::NAME => {
            handle(ask, |command| {
                self::oauth::browser_flow::complete_authorization(context.clone(), command)
            })
            .await
        }
        RefreshTokens::NAME => {
            handle(ask, |command| {
                oauth::refresh::refresh(context.clone(), command)
            })
            .await
        }
        SetSecret::NAME => handle(ask, |command| secrets::set(context.clone(), command)).await,
        DeleteSecret::NAME => {
            handle(ask, |command| secrets::delete(context.clone(), command)).await
        }
        CountKeys::NAME => handle(ask, |_: CountKeys| keys::count_keys(context.clone())).await,
        unknown => Err(Failure::unavailable(format!(
            "This worker does not know the command {unknown}"
        ))
        .into()),
    }
}

/// Decodes a command, handles it and encodes what came of it. A change is carried through on a task of its
/// own: nobody can hang up in the middle of it.
async fn handle<C, F>(ask: Ask, with: impl FnOnce(C) -> F) -> Result<Bytes, HandlerError>
where
    C: Command,
    C::Answer: Send + 'static,
    F: Future<Output = Result<C::Answer, Failure>> + Send + 'static,
{
    let command = serde_json::from_slice(&ask.body).map_err(|error| {
        Failure::invalid(format!("The message is no {} command: {error}", C::NAME))
    })?;
    let answer = match C::DELIVERY {
        DeliveryMode::Change => tokio::spawn(with(command)).await.map_err(internal_error)?,
        DeliveryMode::Ask | DeliveryMode::Job => with(command).await,
    };
    Ok(serde_json::to_vec(&answer?).map_err(internal_error)?.into())
}

fn encode(failure: &Failure) -> Bytes {
    serde_json::to_vec(failure).unwrap_or_default().into()
}
