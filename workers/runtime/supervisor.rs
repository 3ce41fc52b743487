//! Keeps one server as the catalogue wants it: started, started again after it ended, stopped.
//!
//! One task a server owns its connection, so a broken or slow server delays nobody else. After a
//! crash the server comes back at once and calls wait for it; a server that cannot even start is
//! `error`, calls fail fast, and it is tried again with backoff and jitter.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use tokio::sync::{Notify, mpsc};

use super::connect::{ConnectionDeps, open_connection};
use super::handle::{RunState, ServerHandle, SupervisorCommand};
use super::manager::ServerManager;
use super::reconcile::{matters, news, next_that_matters, upgraded};
use super::shutdown::{backoff, finish_calls, retire};
use super::tool_sync::{record, refresh};
use super::upgrade::{PendingUpgrade, StartFailure, ready};
use crate::core::catalog::server::Server;
use crate::core::failure::{Code, Failure};
use crate::core::model::server::{ConnectionStatus, ServerStatus};
use crate::core::model::tool::Tools;
use crate::time::clock::now_ms;
use crate::workers::mcp::{ConnectError, Connection};

/// How long a server must have run for its next end to count as its first.
const STEADY: Duration = Duration::from_secs(60);
/// How long a store that does not answer is left alone.
const UNKNOWN: Duration = Duration::from_secs(2);

/// Why a running or starting server is left.
enum StopCause {
    Ordered(SupervisorCommand),
    /// The catalogue says something else.
    News,
    LeaseEnded,
    Ended(String),
}

/// Whether the server may run here.
enum Ownership {
    Held,
    Elsewhere,
    /// The store does not say.
    Unknown,
    /// It is disabled.
    NotWanted,
}

pub(super) struct Supervisor {
    handle: Arc<ServerHandle>,
    manager: Arc<ServerManager>,
    tools_changed: Arc<Notify>,
    inbox: mpsc::Receiver<SupervisorCommand>,
    /// Orders that are answered at the next settled state.
    waiting: Vec<SupervisorCommand>,
    /// The first attempt is left to others.
    standby: bool,
    /// Ends in a row, each soon after its start.
    crashes: u32,
    /// The last attempt to start it failed.
    broken: bool,
}

impl Supervisor {
    pub fn new(
        handle: Arc<ServerHandle>,
        manager: Arc<ServerManager>,
        inbox: mpsc::Receiver<SupervisorCommand>,
        eager: bool,
    ) -> Self {
        let (tools_changed, waiting) = (Arc::default(), Vec::new());
        Self {
            handle,
            manager,
            tools_changed,
            inbox,
            waiting,
            standby: !eager,
            crashes: 0,
            broken: false,
        }
    }

    pub async fn run(mut self) {
        let mut failures = backoff(Duration::from_secs(60));
        loop {
            while let Ok(order) = self.inbox.try_recv() {
                self.waiting.push(order);
            }
            if self.manager.ending.is_cancelled()
                || self.waiting.iter().any(|order| order.shut_down)
            {
                break;
            }
            let Some(server) = self
                .manager
                .projection
                .catalog()
                .server_by_id(self.handle.id)
                .cloned()
            else {
                break;
            };
            let obtained = if server.enabled {
                self.obtain(&server).await
            } else {
                Ownership::NotWanted
            };
            match obtained {
                Ownership::Held => {}
                Ownership::NotWanted | Ownership::Elsewhere => {
                    failures = backoff(Duration::from_secs(60));
                    (self.crashes, self.broken) = (0, false);
                    self.wait_while_stopped(obtained).await;
                    continue;
                }
                Ownership::Unknown => {
                    let pause = failures.next().unwrap_or_default().min(UNKNOWN);
                    self.pause(pause).await;
                    continue;
                }
            }
            match self.start(&server).await {
                Ok((connection, tools)) => {
                    failures = backoff(Duration::from_secs(60));
                    self.broken = false;
                    self.supervise_running(&server, connection, tools).await;
                }
                Err(StopCause::Ordered(order)) => self.waiting.push(order),
                Err(StopCause::News | StopCause::LeaseEnded) => {}
                Err(StopCause::Ended(reason)) => {
                    self.broken = true;
                    let pause = failures.next().unwrap_or(Duration::from_secs(60));
                    self.pause(pause).await;
                    tracing::debug!(server = %server.name, reason, "trying again");
                }
            }
        }
        self.show(
            RunState::Stopped,
            ServerStatus::of(ConnectionStatus::Disconnected),
        );
        self.release_ownership().await;
        self.manager.forget(&self.handle);
    }

    /// Takes the right to run the server.
    async fn obtain(&mut self, server: &Server) -> Ownership {
        if self.manager.leaving.is_cancelled()
            || (std::mem::take(&mut self.standby) && self.waiting.is_empty())
        {
            return Ownership::Elsewhere;
        }
        let (asked, ttl) = (tokio::time::Instant::now(), self.manager.limits.lease_ttl);
        if server.exclusive_id().is_none() {
            if self.handle.serves() {
                self.release_ownership().await;
            }
            self.handle.lease.granted(ttl);
            return Ownership::Held;
        }
        match self
            .manager
            .leases
            .acquire(self.handle.id.into(), self.manager.worker, ttl)
            .await
        {
            Ok(Some(_)) => {
                self.handle.lease.taken(asked, ttl);
                if !self.handle.serves() {
                    self.handle.serve(Some(self.manager.serve(self.handle.id)));
                }
                Ownership::Held
            }
            Ok(None) => Ownership::Elsewhere,
            Err(error) => {
                tracing::warn!(server = %server.name, %error, "whether a server may be started is not to be found out");
                let failure = Failure::unavailable(
                    "The store cannot be reached, and without it no server is started",
                );
                let live = ServerStatus {
                    error: Some(failure.message.clone()),
                    ..ServerStatus::of(ConnectionStatus::Error)
                };
                self.show(RunState::Failed(Box::new(failure)), live);
                Ownership::Unknown
            }
        }
    }

    /// Waits while the server is not to run here.
    async fn wait_while_stopped(&mut self, obtained: Ownership) {
        let (wanted, live) = (
            !matches!(obtained, Ownership::NotWanted),
            ServerStatus::of(ConnectionStatus::Disconnected),
        );
        if self.handle.serves() || self.handle.lease.is_held() {
            self.release_ownership().await;
        }
        if !wanted {
            self.show(RunState::Stopped, live);
        } else {
            if !self.handle.is_elsewhere() {
                self.handle.wait_from_now();
                self.show_quietly(RunState::OwnedElsewhere, live);
            }
            self.waiting
                .drain(..)
                .for_each(|order| drop(order.done.send(None)));
        }
        tokio::select! {
            order = self.inbox.recv() => match order {
                Some(order) => self.waiting.push(order),
                None => self.manager.ending.cancel(),
            },
            // Whoever has enabled it starts it, if somebody has; a moment later anybody may.
            () = self.handle.news.notified() => self.standby = !wanted && !self.manager.alone,
        }
    }

    /// Gives the server to whoever wants it.
    async fn release_ownership(&mut self) {
        self.handle.serve(None);
        self.handle.users.clear();
        self.handle.lease.end();
        if let Err(error) = self
            .manager
            .leases
            .release(self.handle.id.into(), self.manager.worker)
            .await
        {
            tracing::warn!(server = %self.handle.name, %error, "a lease was not given back; it will expire");
        }
    }

    /// One attempt to connect. Its outcome is shown before this returns.
    async fn start(&mut self, server: &Server) -> Result<(Arc<Connection>, Tools), StopCause> {
        let began = now_ms();
        // A broken server is tried again unseen, so that calls go on failing fast, unless somebody waits for it.
        if !self.waiting.is_empty() || (self.crashes == 0 && !self.broken) {
            self.show(
                RunState::Starting,
                ServerStatus::of(ConnectionStatus::Connecting),
            );
        }
        let opening = self.opening(server);
        let connected = tokio::select! {
            connected = opening => connected,
            // What is being started is not what is wanted any more, or perhaps it is: look again.
            order = next_that_matters(&mut self.inbox, &mut self.waiting, &self.manager, server) => return Err(StopCause::Ordered(order)),
            () = news(&self.handle, &self.manager, server) => return Err(StopCause::News),
            () = self.handle.lease.ended() => return Err(StopCause::LeaseEnded),
        };
        match connected {
            Ok((connection, tools)) => Ok((Arc::new(connection), tools)),
            Err(StartFailure {
                why: ConnectError { reason, denied },
                details,
            }) => {
                let reason = self.handle.redactor.mask(&reason);
                let details = details.or_else(|| self.handle.log_buffer.stderr_since(began));
                self.handle
                    .log_buffer
                    .push("transport", &format!("could not be started: {reason}"));
                tracing::warn!(server = %server.name, reason, "a server could not be started");
                let message = || format!("Server {} could not be started: {reason}", server.name);
                let failure = denied.map_or_else(
                    || Failure::new(Code::UpstreamError, message()),
                    |denied| *denied,
                );
                let failure = failure.with_details(details.clone());
                let live = ServerStatus {
                    status: ConnectionStatus::Error,
                    error: Some(reason.clone()),
                    details,
                };
                self.show(RunState::Failed(Box::new(failure)), live);
                Err(StopCause::Ended(reason))
            }
        }
    }

    /// Connects to what is installed, which it is first where this worker has not got it. That has its own limit.
    fn opening(
        &self,
        server: &Server,
    ) -> impl Future<Output = Result<(Connection, Tools), StartFailure>> + Send + use<> {
        let (handle, manager, server) = (self.handle.clone(), self.manager.clone(), server.clone());
        let (tools_changed, memory) = (
            self.tools_changed.clone(),
            self.manager.memory(&server, &self.handle, None),
        );
        async move {
            let package = match &server.package {
                Some(installed) => ready(&manager, &handle, &installed.package).await?,
                None => None,
            };
            let limit = Duration::from_millis(server.config.startup_timeout_ms());
            let shared = ConnectionDeps {
                log_buffer: handle.log_buffer.clone(),
                redactor: handle.redactor.clone(),
                tools_changed,
                result_limit: manager.limits.result,
                child: handle.child.clone(),
                ttl: handle.lease.left(),
                remote: memory,
            };
            match tokio::time::timeout(limit, open_connection(&server, package, &shared)).await {
                Ok(connected) => connected.map_err(StartFailure::from),
                Err(_) => Err(format!(
                    "it was not ready within {} ms (startupTimeout)",
                    limit.as_millis()
                )
                .into()),
            }
        }
    }

    /// Shows a connected server until it ends or is not wanted any more.
    async fn supervise_running(
        &mut self,
        server: &Server,
        mut connection: Arc<Connection>,
        tools: Tools,
    ) {
        let (mut server, mut since) = (Arc::new(server.clone()), Instant::now());
        self.handle.log_buffer.push("transport", "connected");
        tracing::info!(server = %server.name, tools = tools.tools.len(), "a server is connected");
        record(&self.manager, &self.handle, tools).await;
        self.manager
            .metrics
            .children_alive
            .inc_by(i64::from(connection.has_child()));
        self.handle.connection.store(Some(connection.clone()));
        self.show(
            RunState::Running(connection.clone()),
            ServerStatus::of(ConnectionStatus::Connected),
        );
        // One at a time, so that an older list never replaces a newer one; never in an order's way.
        let mut refreshing: Option<BoxFuture<'static, ()>> = None;
        // Another version on its way, beside the one that runs.
        let mut beside: Option<PendingUpgrade> = None;
        let left = loop {
            if beside.as_ref().map(|beside| beside.server.changed)
                != upgraded(&self.manager, &server).map(|s| s.changed)
            {
                beside = upgraded(&self.manager, &server)
                    .map(|newer| PendingUpgrade::new(self.opening(&newer), newer));
            }
            tokio::select! {
                () = connection.closed() => break StopCause::Ended(connection.why_it_ended().await),
                () = self.handle.lease.ended() => break StopCause::LeaseEnded,
                () = news(&self.handle, &self.manager, &server) => {
                    if upgraded(&self.manager, &server).is_none() {
                        break StopCause::News;
                    }
                }
                Some(order) = self.inbox.recv() => {
                    let upgrading = !order.shut_down && upgraded(&self.manager, &server).is_some();
                    if matters(&order, &self.manager, &server) && !upgrading {
                        break StopCause::Ordered(order);
                    }
                    self.waiting.push(order);
                }
                opened = PendingUpgrade::opened(&mut beside) => match opened {
                    Ok((newer, new, tools)) => {
                        self.handle.log_buffer.push("transport", "connected to the new version");
                        tracing::info!(server = %newer.name, "a server was upgraded while it runs");
                        record(&self.manager, &self.handle, tools).await;
                        self.manager.metrics.children_alive.inc_by(i64::from(new.has_child()));
                        self.handle.connection.store(Some(new.clone()));
                        self.show_quietly(RunState::Running(new.clone()), ServerStatus::of(ConnectionStatus::Connected));
                        let old = std::mem::replace(&mut connection, new);
                        self.manager.tasks.spawn(retire(self.manager.clone(), self.handle.clone(), old));
                        (server, since, beside) = (newer, Instant::now(), None);
                    }
                    Err(reason) => {
                        let reason = self.handle.redactor.mask(&reason);
                        tracing::warn!(server = %server.name, reason, "a new version could not be started; the old one goes on");
                        let live = ServerStatus { error: Some(format!("its new version cannot be started: {reason}")), ..ServerStatus::of(ConnectionStatus::Connected) };
                        self.handle.log_buffer.push("transport", &format!("the new version could not be started: {reason}"));
                        self.show_quietly(RunState::Running(connection.clone()), live);
                        if let Some(beside) = &mut beside {
                            beside.again(self.opening(&beside.server));
                        }
                    }
                },
                () = self.tools_changed.notified(), if refreshing.is_none() => {
                    let limit = Duration::from_millis(server.config.startup_timeout_ms());
                    refreshing = Some(Box::pin(refresh(self.manager.clone(), self.handle.clone(), connection.clone(), limit)));
                }
                () = async { if let Some(refresh) = &mut refreshing { refresh.await } }, if refreshing.is_some() => refreshing = None,
            }
            // Only orders that change nothing were put aside: they see the server as it is, or as it becomes.
            if beside.as_ref().is_none_or(PendingUpgrade::has_failed) {
                self.answer_waiting();
            }
        };
        self.handle.connection.store(None);
        match left {
            StopCause::LeaseEnded => {
                // Another may start it any moment: no time is left for a good end.
                self.show_quietly(
                    RunState::Starting,
                    ServerStatus::of(ConnectionStatus::Connecting),
                );
                connection.kill().await;
                self.handle
                    .log_buffer
                    .push("transport", "stopped: the lease could not be renewed");
                tracing::warn!(server = %server.name, "a server was stopped because its lease could not be renewed");
            }
            StopCause::Ordered(_) | StopCause::News => {
                if let StopCause::Ordered(order) = left {
                    self.waiting.push(order);
                }
                self.show_quietly(
                    RunState::Starting,
                    ServerStatus::of(ConnectionStatus::Connecting),
                );
                finish_calls(&connection).await;
                connection.stop().await;
                self.handle.log_buffer.push("transport", "stopped");
                self.crashes = 0;
            }
            StopCause::Ended(reason) => {
                let reason = self.handle.redactor.mask(&reason);
                self.handle
                    .log_buffer
                    .push("transport", &format!("ended: {reason}"));
                tracing::warn!(server = %server.name, reason, "a server ended and is being restarted");
                let details = self.handle.log_buffer.stderr_since(connection.started_at());
                let live = ServerStatus {
                    status: ConnectionStatus::Connecting,
                    error: Some(reason),
                    details,
                };
                self.show(RunState::Starting, live);
                self.manager.metrics.restarted(&server.name);
                self.crashes = if since.elapsed() >= STEADY {
                    1
                } else {
                    self.crashes + 1
                };
            }
        }
        self.manager
            .metrics
            .children_alive
            .dec_by(i64::from(connection.has_child()));
        drop(connection);
        if self.crashes > 1 {
            let pause = backoff(Duration::from_secs(5))
                .nth(self.crashes as usize - 2)
                .unwrap_or(Duration::from_secs(5));
            self.pause(pause).await;
        }
    }

    /// Waits before the next attempt, unless somebody wants it now.
    async fn pause(&mut self, pause: Duration) {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            order = self.inbox.recv() => self.waiting.extend(order),
            () = self.handle.news.notified() => {}
        }
    }

    /// Shows a settled state and answers those who waited for one.
    fn show(&mut self, state: RunState, live: ServerStatus) {
        let settled = !matches!(state, RunState::Starting);
        self.show_quietly(state, live);
        if settled {
            self.answer_waiting();
        }
    }

    fn show_quietly(&self, state: RunState, live: ServerStatus) {
        self.handle.live.store(Arc::new(live));
        self.handle.state.send_replace(state);
        self.manager.publish_status(&self.handle);
    }

    fn answer_waiting(&mut self) {
        for order in self.waiting.drain(..) {
            let _ = order.done.send(Some(self.handle.live()));
        }
    }
}
