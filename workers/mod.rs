//! The workers: they run MCP servers and execute commands and jobs. `workers/README.md` lists the modules.
//!
//! This file starts the background tasks and dispatches asks: an ask gets a permit, is parsed and handled, and its result
//! is encoded. The file of each area contains the handlers.

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
use self::permits::ChangePermit;
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

/// How long a worker waits for the position of the log that its caller has seen.
const POSITION_WAIT: Duration = Duration::from_secs(2);

/// The workers of this process.
pub struct Workers {
    context: Arc<Context>,
    subscriptions: Vec<SubscriptionGuard>,
    loops: Vec<JoinHandle<()>>,
    draining: CancellationToken,
}

impl Workers {
    /// Starts the servers, and subscribes to the asks and jobs of the pools of this process.
    pub fn start(deps: WorkerDeps) -> Self {
        if let Err(error) = guard::become_subreaper() {
            tracing::warn!(%error, "cannot become a subreaper; the worker will not find what a killed guard leaves");
        }
        let bus = deps.bus.clone();
        let pools = deps.pools.clone();
        let context = Arc::new(Context::new(deps));
        let dispatcher = Arc::new(Dispatcher(context.clone()));
        let draining = CancellationToken::new();
        // The area of servers comes last, because `GET /readyz` asks that area.
        let mut targets: Vec<_> = areas(&pools).rev().map(Target::AnyWorker).collect();
        if pools.tools {
            targets.push(Target::Worker(context.manager.worker));
        }
        let loops = start_loops(&context, &pools, &draining, &dispatcher);
        let subscriptions = targets
            .into_iter()
            .map(|target| bus.subscribe(target, dispatcher.clone()))
            .collect();
        Self {
            context,
            subscriptions,
            loops,
            draining,
        }
    }

    /// Accepts no new work, finishes the running work within `limit`, then stops all children.
    pub async fn drain(self, limit: Duration) {
        drop(self.subscriptions);
        self.draining.cancel();
        let finished = async {
            self.context.manager.hand_over().await;
            self.context.permits.all_free().await;
            self.context.oauth_limits.wait_until_idle().await;
            futures::future::join_all(self.loops).await;
        };
        if tokio::time::timeout(limit, finished).await.is_err() {
            tracing::warn!(
                "calls were still running at the end of DRAIN_TIMEOUT and are cancelled"
            );
        }
        self.context.manager.shut_down().await;
        // This worker runs nothing any more, so other workers may take its jobs over at once.
        self.context.manager.release_worker_lease().await;
    }
}

/// Starts the background tasks, and returns those that a drain waits for.
fn start_loops(
    context: &Arc<Context>,
    pools: &Pools,
    draining: &CancellationToken,
    dispatcher: &Arc<Dispatcher>,
) -> Vec<JoinHandle<()>> {
    let cleanup = packages::remove_unused_files(context.clone(), draining.clone());
    let mut loops = vec![tokio::spawn(cleanup)];
    if pools.tools {
        let messages = context.bus.consume_jobs();
        let ingest =
            self::jobs::ingest::ingest_messages(context.clone(), messages, draining.clone());
        loops.push(tokio::spawn(ingest));
        let sweeps = secrets::schedule_sweeps(context.clone());
        tokio::spawn(draining.clone().run_until_cancelled_owned(sweeps));
    }
    if pools.packages {
        let installs = packages::install_on_start(context.clone());
        tokio::spawn(draining.clone().run_until_cancelled_owned(installs));
    }
    if pools.tools || pools.packages {
        context.manager.start(dispatcher.clone(), pools.tools);
        let areas = areas(pools).collect();
        let runner = self::jobs::runner::JobRunner::new(context.clone(), areas, draining.clone());
        loops.push(tokio::spawn(runner.run()));
    }
    loops
}

/// Returns the areas that a worker of these pools serves.
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

/// Handles the asks of this worker.
struct Dispatcher(Arc<Context>);

#[async_trait]
impl AskHandler for Dispatcher {
    async fn handle(&self, ask: Ask) -> Result<Reply, Busy> {
        let context = &self.0;
        let outcome = if context.projection.wait_for(ask.seen, POSITION_WAIT).await {
            let dispatched = AssertUnwindSafe(dispatch(context, ask));
            match dispatched.catch_unwind().await {
                Ok(outcome) => outcome,
                Err(_) => Err(internal_error("a worker panicked").into()),
            }
        } else {
            let behind = "The worker has not read the event log that far yet; ask again";
            Err(Failure::unavailable(behind).into())
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

/// The reason why an ask has no result.
enum HandlerError {
    /// A permit is missing, and nothing has started.
    Busy,
    Failed(Failure),
}

impl From<Failure> for HandlerError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Handles one ask with the permit that its command needs.
async fn dispatch(context: &Arc<Context>, ask: Ask) -> Result<Bytes, HandlerError> {
    match ask.command {
        CallTool::NAME => {
            let _permit = context.permits.call().ok_or(HandlerError::Busy)?;
            tools::call(context, ask).await
        }
        // These asks are answered from memory or by one read, so they need no permit: a full worker still shows its
        // servers.
        ReadServerLogs::NAME => {
            handle(ask, |command| servers::logs(context.clone(), command)).await
        }
        ReadJobAnswer::NAME => {
            handle(ask, |command| jobs::read_answer(context.clone(), command)).await
        }
        CheckPackages::NAME => {
            let _permit = context.permits.call().ok_or(HandlerError::Busy)?;
            handle(ask, |command| {
                packages::check_packages(context.clone(), command)
            })
            .await
        }
        ExchangeGoogleCode::NAME => {
            let _permit = context.permits.call().ok_or(HandlerError::Busy)?;
            handle(ask, |command| {
                google::exchange_code(context.clone(), command)
            })
            .await
        }
        BeginAuthorization::NAME | CompleteAuthorization::NAME | RefreshTokens::NAME => {
            dispatch_grant(context, ask).await
        }
        _ => {
            let permit = context.permits.change().ok_or(HandlerError::Busy)?;
            dispatch_change(context, ask, permit).await
        }
    }
}

/// Handles a command that sends requests to an authorization server. Such a request may take minutes, so the command holds
/// no change permit. `oauth_limits` limits these commands.
async fn dispatch_grant(context: &Arc<Context>, ask: Ask) -> Result<Bytes, HandlerError> {
    use self::oauth::browser_flow::{begin_authorization, complete_authorization};
    let context = context.clone();
    match ask.command {
        BeginAuthorization::NAME => {
            handle(ask, |command| begin_authorization(context, command)).await
        }
        CompleteAuthorization::NAME => {
            handle(ask, |command| complete_authorization(context, command)).await
        }
        _ => {
            handle(ask, |command: RefreshTokens| {
                oauth::refresh::refresh(context, command)
            })
            .await
        }
    }
}

/// Handles a change. The handler of a server's change drops the permit before it waits for the server.
async fn dispatch_change(
    context: &Arc<Context>,
    ask: Ask,
    permit: ChangePermit,
) -> Result<Bytes, HandlerError> {
    use self::jobs::dead_letters::{discard_dead_letter, retry_dead_letter};
    let context = context.clone();
    match ask.command {
        RegisterServer::NAME => {
            handle(ask, |command| servers::register(context, command, permit)).await
        }
        UpdateServer::NAME => {
            handle(ask, |command| servers::update(context, command, permit)).await
        }
        EnableServer::NAME => {
            handle(ask, |command| servers::enable(context, command, permit)).await
        }
        DisableServer::NAME => {
            handle(ask, |command| servers::disable(context, command, permit)).await
        }
        DeleteServer::NAME => {
            handle(ask, |command| servers::delete(context, command, permit)).await
        }
        ReconcileServer::NAME => {
            handle(ask, |command| servers::reconcile(context, command, permit)).await
        }
        StoreTokens::NAME => {
            handle(ask, |command| {
                self::oauth::tokens::store_tokens(context, command, permit)
            })
            .await
        }
        NotifyProducer::NAME => {
            handle(ask, |command| {
                self::jobs::notify::notify_end(context, command)
            })
            .await
        }
        RetryDeadLetter::NAME => handle(ask, |command| retry_dead_letter(context, command)).await,
        DiscardDeadLetter::NAME => {
            handle(ask, |command| discard_dead_letter(context, command)).await
        }
        SetSecret::NAME => handle(ask, |command| secrets::set(context, command)).await,
        DeleteSecret::NAME => handle(ask, |command| secrets::delete(context, command)).await,
        CountKeys::NAME => handle(ask, |_: CountKeys| keys::count_keys(context)).await,
        unknown => {
            let sentence = format!("This worker does not know the command {unknown}");
            Err(Failure::unavailable(sentence).into())
        }
    }
}

/// Parses a command, handles it and encodes the result. A change runs on a task of its own, so it is completed even if
/// the caller disconnects.
async fn handle<C, F>(ask: Ask, handler: impl FnOnce(C) -> F) -> Result<Bytes, HandlerError>
where
    C: Command,
    C::Answer: Send + 'static,
    F: Future<Output = Result<C::Answer, Failure>> + Send + 'static,
{
    let command = serde_json::from_slice(&ask.body).map_err(|error| {
        Failure::invalid(format!("The message is no {} command: {error}", C::NAME))
    })?;
    let result = match C::DELIVERY {
        DeliveryMode::Change => tokio::spawn(handler(command))
            .await
            .map_err(internal_error)?,
        DeliveryMode::Ask | DeliveryMode::Job => handler(command).await,
    };
    Ok(serde_json::to_vec(&result?).map_err(internal_error)?.into())
}

fn encode(failure: &Failure) -> Bytes {
    serde_json::to_vec(failure).unwrap_or_default().into()
}
