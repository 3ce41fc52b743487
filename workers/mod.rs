//! The workers: they run MCP servers and execute commands and jobs. `workers/README.md` lists the modules.
//!
//! This file starts and drains the workers of a process. `dispatcher` has the table of commands, and the file of each
//! area contains the handlers.

mod context;
pub mod credentials;
mod dispatcher;
mod google;
pub mod guard;
mod handler;
pub mod idempotency;
mod input_rounds;
pub mod install;
mod interim;
mod jobs;
mod keys;
mod log;
pub mod mcp;
pub mod oauth;
mod open_requests;
mod packages;
mod permits;
pub mod redact;
mod requests;
pub mod runtime;
pub mod sealed_store;
mod secrets;
mod servers;
mod tokens;
mod tools;
mod upstream_call;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use self::context::{Context, WorkerDeps};
use self::dispatcher::Dispatcher;
use crate::config::Pools;
use crate::core::command::Area;
use crate::ports::bus::{SubscriptionGuard, Target};

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
            tracing::warn!(%error, "cannot become a subreaper; the worker cannot find the processes that a killed guard leaves");
        }
        guard::remove_abandoned_groups();
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
            tracing::warn!("calls still run at the end of DRAIN_TIMEOUT; cancelling them");
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
        let compactions = log::schedule_compactions(context.clone());
        tokio::spawn(draining.clone().run_until_cancelled_owned(compactions));
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
        Area::Servers | Area::Tools | Area::Google | Area::Secrets | Area::Jobs | Area::Log => {
            tools
        }
        Area::Packages => packages,
        Area::Oauth | Area::Tokens => tokens,
    })
}
