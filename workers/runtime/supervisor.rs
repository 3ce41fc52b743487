//! The supervisor of one server: it starts, restarts and stops the server as the catalog says.
//!
//! Each server has one supervisor task, so a broken or slow server does not delay other servers. After a crash the supervisor
//! restarts the server at once, and calls wait for it. If a start fails, the status is `error`, calls fail at once, and
//! the supervisor retries with backoff and jitter.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};

use super::for_users::MainConnection;
use super::handle::{RunState, ServerHandle, SupervisorCommand};
use super::manager::ServerManager;
use super::reconcile::{catalog_differs, wait_for_change};
use super::running::RunningServer;
use crate::core::catalog::server::Server;
use crate::core::failure::Failure;
use crate::core::model::server::{ConnectionStatus, ServerStatus};
use crate::core::model::tool::Tools;
use crate::telemetry::error::error_chain;
use crate::time::clock::monotonic;
use crate::time::retry::{Pauses, SERVER_CRASH, SERVER_LEASE, SERVER_START};
use crate::workers::mcp::Connection;

pub(super) struct Supervisor {
    pub(super) handle: Arc<ServerHandle>,
    pub(super) manager: Arc<ServerManager>,
    /// Notified when the server says that its tools have changed.
    pub(super) tools_changed: Arc<Notify>,
    pub(super) inbox: mpsc::Receiver<SupervisorCommand>,
    /// Commands that get their reply at the next settled state.
    pub(super) waiting: Vec<SupervisorCommand>,
    /// The supervisor leaves the first attempt to other workers.
    stands_by: bool,
    /// Crashes in a row, each soon after its start.
    pub(super) crashes: u32,
    /// The last start failed.
    pub(super) is_broken: bool,
    start_pauses: Pauses,
    lease_pauses: Pauses,
}

/// The states of a supervisor.
pub(super) enum State {
    /// The supervisor reads the catalog and acquires the right to run the server.
    Acquiring,
    Starting(Arc<Server>),
    Running(Box<RunningServer>),
    /// This worker owns the server, and only users have processes or connections of it.
    ForUsers(Arc<Server>),
    /// The server must not run in this worker.
    Idle(IdleReason),
    /// The supervisor waits before the next attempt for this version of the server.
    Pausing(Arc<Server>, Duration),
    Ended,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum IdleReason {
    Disabled,
    OwnedElsewhere,
}

/// Whether this worker may run the server.
enum Ownership {
    Held,
    Elsewhere,
    /// The store does not answer.
    Unknown,
}

/// The reason why the supervisor leaves a starting or running server.
pub(super) enum StopCause {
    Command(SupervisorCommand),
    CatalogChanged,
    LeaseEnded,
    /// The connection has ended by itself, or the start has failed.
    Ended(String),
}

impl Supervisor {
    pub(super) fn new(
        handle: Arc<ServerHandle>,
        manager: Arc<ServerManager>,
        inbox: mpsc::Receiver<SupervisorCommand>,
        eager: bool,
    ) -> Self {
        Self {
            handle,
            manager,
            tools_changed: Arc::default(),
            inbox,
            waiting: Vec::new(),
            stands_by: !eager,
            crashes: 0,
            is_broken: false,
            start_pauses: SERVER_START.pauses(),
            lease_pauses: SERVER_LEASE.pauses(),
        }
    }

    /// Runs until the server is deleted or the worker stops.
    pub(super) async fn run(mut self) {
        let mut state = State::Acquiring;
        loop {
            state = match state {
                State::Acquiring => self.on_acquiring().await,
                State::Starting(server) => self.on_starting(server).await,
                State::Running(server) => self.on_running(*server).await,
                State::ForUsers(server) => self.on_for_users(&server).await,
                State::Idle(reason) => self.on_idle(reason).await,
                State::Pausing(server, pause) => self.on_pausing(&server, pause).await,
                State::Ended => break,
            };
        }
        let name = &self.handle.name;
        let catalog = self.manager.projection.catalog();
        let failure = match catalog.server_by_id(self.handle.id) {
            Some(_) => Failure::elsewhere(name),
            None => Failure::server_not_found(name),
        };
        let status = ServerStatus::without_error(ConnectionStatus::Disconnected);
        self.settle(RunState::Ended(Box::new(failure)), status);
        self.release_ownership().await;
        self.manager.remove_handle(&self.handle);
    }

    async fn on_acquiring(&mut self) -> State {
        while let Ok(command) = self.inbox.try_recv() {
            self.waiting.push(command);
        }
        let must_end = self.manager.ending.is_cancelled()
            || self.waiting.iter().any(|command| command.shut_down);
        let catalog = self.manager.projection.catalog();
        let Some(server) = catalog.server_by_id(self.handle.id).cloned() else {
            return State::Ended;
        };
        drop(catalog);
        if must_end {
            return State::Ended;
        }
        if !server.enabled {
            return State::Idle(IdleReason::Disabled);
        }
        match self.acquire_ownership(&server).await {
            Ownership::Held => {
                self.lease_pauses = SERVER_LEASE.pauses();
                match MainConnection::for_server(&server) {
                    MainConnection::None => State::ForUsers(server),
                    MainConnection::Kept | MainConnection::ListsTools => State::Starting(server),
                }
            }
            Ownership::Elsewhere => State::Idle(IdleReason::OwnedElsewhere),
            Ownership::Unknown => {
                let pause = self.lease_pauses.next_pause();
                State::Pausing(server, pause)
            }
        }
    }

    async fn on_starting(&mut self, server: Arc<Server>) -> State {
        match self.start(&server).await {
            Ok((connection, tools)) => {
                self.start_pauses = SERVER_START.pauses();
                self.is_broken = false;
                if MainConnection::for_server(&server) == MainConnection::ListsTools {
                    self.record_and_stop(&connection, tools).await;
                    return State::ForUsers(server);
                }
                let running = self.enter_running(server, connection, tools).await;
                State::Running(Box::new(running))
            }
            Err(StopCause::Command(command)) => {
                self.waiting.push(command);
                State::Acquiring
            }
            Err(StopCause::CatalogChanged | StopCause::LeaseEnded) => State::Acquiring,
            Err(StopCause::Ended(_)) => {
                self.is_broken = true;
                let pause = self.start_pauses.next_pause();
                State::Pausing(server, pause)
            }
        }
    }

    async fn on_running(&mut self, running: RunningServer) -> State {
        let server = running.server.clone();
        self.supervise_running(running).await;
        if self.crashes <= 1 {
            return State::Acquiring;
        }
        State::Pausing(server, SERVER_CRASH.pause_after(self.crashes - 1))
    }

    async fn on_idle(&mut self, reason: IdleReason) -> State {
        self.start_pauses = SERVER_START.pauses();
        self.crashes = 0;
        self.is_broken = false;
        self.wait_while_stopped(reason).await;
        State::Acquiring
    }

    /// Waits before the next attempt. A change of this server or a command ends the pause.
    async fn on_pausing(&mut self, server: &Server, pause: Duration) -> State {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            command = self.inbox.recv() => self.waiting.extend(command),
            () = wait_for_change(&self.handle, &self.manager, server) => {}
        }
        State::Acquiring
    }

    async fn acquire_ownership(&mut self, server: &Server) -> Ownership {
        let must_wait = std::mem::take(&mut self.stands_by) && self.waiting.is_empty();
        if self.manager.leaving.is_cancelled() || must_wait {
            return Ownership::Elsewhere;
        }
        let ttl = self.manager.limits.lease_ttl;
        if server.exclusive_id().is_none() {
            if self.handle.has_subscription() {
                self.release_ownership().await;
            }
            self.handle.lease.start_shared(ttl);
            return Ownership::Held;
        }
        let requested = monotonic();
        let lease = self.handle.id.into();
        let acquired = self.manager.leases.acquire(lease, self.manager.worker, ttl);
        match acquired.await {
            Ok(Some(token)) => {
                self.handle.lease.start(requested, ttl, token);
                if !self.handle.has_subscription() {
                    let subscription = self.manager.subscribe_owner(self.handle.id);
                    self.handle.set_subscription(Some(subscription));
                }
                Ownership::Held
            }
            Ok(None) => Ownership::Elsewhere,
            Err(error) => {
                tracing::warn!(server = %server.name, error = error_chain(&error), "cannot acquire the lease; retrying before the server starts");
                let failure = Failure::unavailable(
                    "The store is unavailable, and no server starts without its lease",
                );
                let status = ServerStatus {
                    error: Some(failure.message.clone()),
                    ..ServerStatus::without_error(ConnectionStatus::Error)
                };
                self.settle(RunState::Failed(Box::new(failure)), status);
                Ownership::Unknown
            }
        }
    }

    /// Waits while the server must not run in this worker.
    async fn wait_while_stopped(&mut self, reason: IdleReason) {
        let status = ServerStatus::without_error(ConnectionStatus::Disconnected);
        if self.handle.has_subscription() || self.handle.lease.is_held() {
            self.release_ownership().await;
        }
        if reason == IdleReason::Disabled {
            self.settle(RunState::Stopped, status);
        } else {
            if !self.handle.is_owned_elsewhere() {
                self.handle.start_takeover_wait();
                self.set_state(RunState::OwnedElsewhere, status);
            }
            for command in self.waiting.drain(..) {
                let _ = command.reply.send(None);
            }
        }
        tokio::select! {
            command = self.inbox.recv() => match command {
                Some(command) => self.waiting.push(command),
                None => self.manager.ending.cancel(),
            },
            // The worker that enabled the server starts it. Failover gives the other workers a chance later.
            () = self.handle.catalog_changed.notified() => {
                self.stands_by = reason == IdleReason::Disabled && !self.manager.alone;
            }
        }
    }

    async fn release_ownership(&mut self) {
        self.handle.set_subscription(None);
        self.handle
            .users
            .stop_all(&self.manager, &self.handle)
            .await;
        self.handle.lease.end();
        let lease = self.handle.id.into();
        let released = self.manager.leases.release(lease, self.manager.worker);
        if let Err(error) = released.await {
            tracing::warn!(server = %self.handle.name, error = error_chain(&error), "cannot release a lease; it will expire");
        }
    }

    /// Publishes a state, and replies to the waiting commands if the state is settled.
    pub(super) fn settle(&mut self, state: RunState, status: ServerStatus) {
        let is_settled = !matches!(state, RunState::Starting);
        self.set_state(state, status);
        if is_settled {
            self.reply_to_waiting();
        }
    }

    /// Publishes a state.
    pub(super) fn set_state(&self, state: RunState, status: ServerStatus) {
        self.handle.live.store(Arc::new(status));
        self.handle.state.send_replace(state);
        self.manager.publish_status(&self.handle);
    }

    pub(super) fn reply_to_waiting(&mut self) {
        for command in self.waiting.drain(..) {
            let _ = command.reply.send(Some(self.handle.live()));
        }
    }

    /// Returns the next command that the server does not obey already. Other commands wait for the settled state.
    pub(super) async fn next_relevant_command(&mut self, server: &Server) -> SupervisorCommand {
        while let Some(command) = self.inbox.recv().await {
            if command.shut_down || catalog_differs(&self.manager, server) {
                return command;
            }
            self.waiting.push(command);
        }
        std::future::pending().await
    }
}

/// The result of a start: the connection and its tools.
pub(super) type Started = (Arc<Connection>, Tools);
