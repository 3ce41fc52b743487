//! Keeps one server as the catalogue wants it: started, started again after it ended, stopped.
//!
//! One task a server owns its connection, so a broken or slow server delays nobody else. After a
//! crash the server comes back at once and calls wait for it; a server that cannot even start is
//! `error`, calls fail fast, and it is tried again with backoff and jitter.

use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};
use futures::future::BoxFuture;
use tokio::sync::{Notify, mpsc};

use super::pool::Pool;
use super::slot::{Order, Slot, State};
use super::stdio::{Shared, Stdio};
use crate::core::catalog::Server;
use crate::core::command::RecordTools;
use crate::core::event::Actor;
use crate::core::failure::{Code, Failure};
use crate::core::names::CommandId;
use crate::core::server::{Live, Status, record_tools};
use crate::core::tool::Tools;
use crate::execute::now_ms;

/// How long a server must have run for its next end to count as its first.
const STEADY: Duration = Duration::from_secs(60);
/// How long calls under way may still take when their server is to stop.
const FINISH: Duration = Duration::from_secs(2);
/// Why a running or starting server is left.
enum Left {
    Ordered(Order),
    Ended(String),
}

pub(super) struct Supervisor {
    slot: Arc<Slot>,
    pool: Arc<Pool>,
    tools_changed: Arc<Notify>,
    inbox: mpsc::Receiver<Order>,
    /// Orders that are answered at the next settled state.
    waiting: Vec<Order>,
    /// Ends in a row, each soon after its start.
    crashes: u32,
    /// The last attempt to start it failed.
    broken: bool,
}

impl Supervisor {
    pub fn new(slot: Arc<Slot>, pool: Arc<Pool>, inbox: mpsc::Receiver<Order>) -> Self {
        Self { slot, pool, tools_changed: Arc::default(), inbox, waiting: Vec::new(), crashes: 0, broken: false }
    }

    pub async fn run(mut self) {
        let mut failures = backoff(Duration::from_secs(60));
        loop {
            if self.pool.ending.is_cancelled() || self.waiting.iter().any(|order| order.shut_down) {
                break;
            }
            let Some(server) = self.pool.follow.catalog().server_by_id(self.slot.id).cloned() else { break };
            if !server.enabled {
                self.show(State::Off, Live::of(Status::Disconnected));
                failures = backoff(Duration::from_secs(60));
                (self.crashes, self.broken) = (0, false);
                match self.inbox.recv().await {
                    Some(order) => self.waiting.push(order),
                    None => break,
                }
                continue;
            }
            match self.start(&server).await {
                Ok((connection, tools)) => {
                    failures = backoff(Duration::from_secs(60));
                    self.broken = false;
                    self.keep(&server, connection, tools).await;
                }
                Err(Left::Ordered(order)) => self.waiting.push(order),
                Err(Left::Ended(reason)) => {
                    self.broken = true;
                    let pause = failures.next().unwrap_or(Duration::from_secs(60));
                    self.pause(pause).await;
                    tracing::debug!(server = %server.name, reason, "trying again");
                }
            }
        }
        self.show(State::Off, Live::of(Status::Disconnected));
        self.pool.forget(&self.slot).await;
    }

    /// One attempt to connect. Its outcome is shown before this returns.
    async fn start(&mut self, server: &Server) -> Result<(Arc<Stdio>, Tools), Left> {
        let began = now_ms();
        // A broken server is tried again unseen, so that calls go on failing fast, unless somebody waits for it.
        if !self.waiting.is_empty() || (self.crashes == 0 && !self.broken) {
            self.show(State::Starting, Live::of(Status::Connecting));
        }
        let limit = Duration::from_millis(server.config.startup_timeout_ms());
        let shared = Shared {
            ring: self.slot.ring.clone(),
            masker: self.slot.masker.clone(),
            tools_changed: self.tools_changed.clone(),
            result_limit: self.pool.limits.result,
            child: self.slot.child.clone(),
            ttl: self.pool.limits.lease_ttl,
        };
        let pool = self.pool.clone();
        let connecting = async {
            pool.take_lease(self.slot.id).await?;
            match tokio::time::timeout(limit, Stdio::connect(&server.config, &shared)).await {
                Ok(connected) => connected,
                Err(_) => Err(format!("it was not ready within {} ms (startupTimeout)", limit.as_millis())),
            }
        };
        let connected = tokio::select! {
            connected = connecting => connected,
            // What is being started is not what is wanted any more, or perhaps it is: look again.
            order = next_that_matters(&mut self.inbox, &mut self.waiting, &self.pool, server) => return Err(Left::Ordered(order)),
        };
        match connected {
            Ok((connection, tools)) => Ok((Arc::new(connection), tools)),
            Err(reason) => {
                let reason = self.slot.masker.mask(&reason);
                let details = self.slot.ring.stderr_since(began);
                self.slot.ring.push("transport", &format!("could not be started: {reason}"));
                tracing::warn!(server = %server.name, reason, "a server could not be started");
                let message = format!("Server {} could not be started: {reason}", server.name);
                let failure = Failure::new(Code::UpstreamError, message).with_details(details.clone());
                let live = Live { status: Status::Error, error: Some(reason.clone()), details };
                self.show(State::Broken(Box::new(failure)), live);
                Err(Left::Ended(reason))
            }
        }
    }

    /// Shows a connected server until it ends or is not wanted any more.
    async fn keep(&mut self, server: &Server, connection: Arc<Stdio>, tools: Tools) {
        let since = Instant::now();
        self.slot.ring.push("transport", "connected");
        tracing::info!(server = %server.name, tools = tools.tools.len(), "a server is connected");
        record(&self.pool, &self.slot, tools).await;
        self.pool.metrics.children_alive.inc();
        self.slot.connection.store(Some(connection.clone()));
        self.show(State::Up(connection.clone()), Live::of(Status::Connected));
        // One at a time, so that an older list never replaces a newer one; never in an order's way.
        let mut refreshing: Option<BoxFuture<'static, ()>> = None;
        let left = loop {
            tokio::select! {
                () = connection.closed() => break Left::Ended(connection.why_it_ended().await),
                Some(order) = self.inbox.recv() => {
                    if matters(&order, &self.pool, server) {
                        break Left::Ordered(order);
                    }
                    self.waiting.push(order);
                }
                () = self.tools_changed.notified(), if refreshing.is_none() => {
                    let limit = Duration::from_millis(server.config.startup_timeout_ms());
                    refreshing = Some(Box::pin(refresh(self.pool.clone(), self.slot.clone(), connection.clone(), limit)));
                }
                () = async { if let Some(refresh) = &mut refreshing { refresh.await } }, if refreshing.is_some() => refreshing = None,
            }
            // Only orders that change nothing were put aside: they see the server as it is.
            self.answer_waiting();
        };
        self.slot.connection.store(None);
        match left {
            Left::Ordered(order) => {
                self.waiting.push(order);
                self.show_quietly(State::Starting, Live::of(Status::Connecting));
                finish_calls(&connection).await;
                connection.stop().await;
                self.slot.ring.push("transport", "stopped");
                self.crashes = 0;
            }
            Left::Ended(reason) => {
                let reason = self.slot.masker.mask(&reason);
                self.slot.ring.push("transport", &format!("ended: {reason}"));
                tracing::warn!(server = %server.name, reason, "a server ended and is being restarted");
                let details = self.slot.ring.stderr_since(connection.started_at);
                let live = Live { status: Status::Connecting, error: Some(reason), details };
                self.show(State::Starting, live);
                self.pool.metrics.restarted(&server.name);
                self.crashes = if since.elapsed() >= STEADY { 1 } else { self.crashes + 1 };
            }
        }
        self.pool.metrics.children_alive.dec();
        drop(connection);
        if self.crashes > 1 {
            let pause =
                backoff(Duration::from_secs(5)).nth(self.crashes as usize - 2).unwrap_or(Duration::from_secs(5));
            self.pause(pause).await;
        }
    }

    /// Waits before the next attempt, unless somebody wants it now.
    async fn pause(&mut self, pause: Duration) {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            order = self.inbox.recv() => self.waiting.extend(order),
        }
    }

    /// Shows a settled state and answers those who waited for one.
    fn show(&mut self, state: State, live: Live) {
        let settled = !matches!(state, State::Starting);
        self.show_quietly(state, live);
        if settled {
            self.answer_waiting();
        }
    }

    fn show_quietly(&self, state: State, live: Live) {
        self.slot.live.store(Arc::new(live));
        self.slot.state.send_replace(state);
        self.pool.tell(&self.slot);
    }

    fn answer_waiting(&mut self) {
        for order in self.waiting.drain(..) {
            let _ = order.done.send(self.slot.live());
        }
    }
}

/// Whether the order asks for anything but the server as it was started.
fn matters(order: &Order, pool: &Pool, started: &Server) -> bool {
    let wanted = pool.follow.catalog().server_by_id(started.id).cloned();
    let same = wanted.is_some_and(|server| server.enabled && *server.config == *started.config);
    order.restart || order.shut_down || !same
}

/// The next order that the starting server does not already obey; the others wait for its start.
async fn next_that_matters(
    inbox: &mut mpsc::Receiver<Order>,
    waiting: &mut Vec<Order>,
    pool: &Pool,
    starting: &Server,
) -> Order {
    while let Some(order) = inbox.recv().await {
        if matters(&order, pool, starting) {
            return order;
        }
        waiting.push(order);
    }
    std::future::pending().await
}

async fn refresh(pool: Arc<Pool>, slot: Arc<Slot>, connection: Arc<Stdio>, limit: Duration) {
    match tokio::time::timeout(limit, connection.list_tools()).await {
        Ok(Ok(tools)) => record(&pool, &slot, tools).await,
        Ok(Err(reason)) => {
            let reason = slot.masker.mask(&reason);
            slot.ring.push("transport", &format!("the new list of tools was not to be had: {reason}"));
        }
        Err(_) => slot.ring.push("transport", "the new list of tools did not come in time"),
    }
}

/// Tells the log what the server offers, where that is news. Without it the server works all the
/// same; the next start tries again.
async fn record(pool: &Pool, slot: &Slot, tools: Tools) {
    let command = RecordTools { server: slot.id, tools };
    if record_tools(&pool.follow.catalog(), &command).is_empty() {
        return;
    }
    let id = CommandId(uuid::Uuid::now_v7());
    let recorded = pool.execute.change(id, Actor::Worker, move |catalog| Ok(record_tools(catalog, &command)));
    if let Err(failure) = recorded.await {
        tracing::warn!(server = %slot.name, %failure, "the tools found could not be recorded");
    }
}

async fn finish_calls(connection: &Stdio) {
    let until = Instant::now() + FINISH;
    while connection.calls() > 0 && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn backoff(max: Duration) -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(500).min(max))
        .with_max_delay(max)
        .with_jitter()
        .without_max_times()
        .build()
}
