//! A running server: the supervisor dispatches each event to one function, which decides whether the server stays.

use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use futures::future::BoxFuture;

use super::description_sync::record_description;
use super::handle::{RunState, SupervisorCommand};
use super::reconcile::{catalog_differs, newer_version, wait_for_change};
use super::shutdown::{finish_calls, retire};
use super::supervisor::{StopCause, Supervisor};
use super::tool_sync::{ListOrigin, record_tools, refresh_tools};
use super::upgrade::{PendingUpgrade, Upgraded};
use crate::core::catalog::server::Server;
use crate::core::model::server::{ConnectionStatus, ServerStatus};
use crate::core::model::tool::Tools;
use crate::time::clock::monotonic;
use crate::workers::mcp::Connection;

/// A server that ran for so long was healthy: its next crash counts as the first.
const HEALTHY: Duration = Duration::from_secs(60);

/// A connected server, as its supervisor sees it.
pub(super) struct RunningServer {
    pub(super) server: Arc<Server>,
    connection: Arc<Connection>,
    connected: Instant,
    /// The refresh of the tool list. Only one refresh runs, so an older list never replaces a newer list.
    refresh: Option<BoxFuture<'static, ()>>,
    /// A new version of the package that starts beside the running version.
    upgrade: Option<PendingUpgrade>,
}

/// A server that its supervisor leaves.
struct LeavingServer {
    server: Arc<Server>,
    connection: Arc<Connection>,
    connected: Instant,
}

/// Something that happens while a server runs.
enum Event {
    ConnectionClosed,
    LeaseEnded,
    CatalogChanged,
    Command(SupervisorCommand),
    UpgradeStarted(Result<Upgraded, String>),
    ToolsChanged,
    ToolsRefreshed,
}

impl Supervisor {
    /// Publishes a new connection.
    pub(super) async fn enter_running(
        &mut self,
        server: Arc<Server>,
        connection: Arc<Connection>,
        tools: Tools,
    ) -> RunningServer {
        self.handle.log_buffer.push("transport", "connected");
        tracing::info!(server = %server.name, tools = tools.tools.len(), "a server is connected");
        record_tools(&self.manager, &self.handle, ListOrigin::Start, tools).await;
        record_description(
            &self.manager,
            &self.handle,
            &connection,
            &self.handle.redactor,
        )
        .await;
        self.publish_connection(&connection);
        self.settle(
            RunState::Running(connection.clone()),
            ServerStatus::without_error(ConnectionStatus::Connected),
        );
        RunningServer {
            server,
            connection,
            connected: monotonic(),
            refresh: None,
            upgrade: None,
        }
    }

    /// Keeps a connected server until it ends or must stop.
    pub(super) async fn supervise_running(&mut self, mut running: RunningServer) {
        let cause = loop {
            self.follow_upgrade(&mut running);
            let event = self.next_event(&mut running).await;
            if let Some(cause) = self.on_event(event, &mut running).await {
                break cause;
            }
            // The waiting commands want the server as it is, or the new version as soon as its first start has ended.
            let upgrade = running.upgrade.as_ref();
            if upgrade.is_none_or(PendingUpgrade::has_failed) {
                self.reply_to_waiting();
            }
        };
        self.handle.connection.store(None);
        let leaving = LeavingServer {
            server: running.server,
            connection: running.connection,
            connected: running.connected,
        };
        self.leave_running(&leaving, cause).await;
        self.count_child(&leaving.connection, -1);
    }

    async fn next_event(&mut self, running: &mut RunningServer) -> Event {
        let RunningServer {
            server,
            connection,
            refresh,
            upgrade,
            ..
        } = running;
        let refreshing = refresh.is_some();
        let refreshed = async {
            if let Some(refresh) = refresh {
                refresh.await;
            }
        };
        tokio::select! {
            () = connection.closed() => Event::ConnectionClosed,
            () = self.handle.lease.ended() => Event::LeaseEnded,
            () = wait_for_change(&self.handle, &self.manager, server) => Event::CatalogChanged,
            Some(command) = self.inbox.recv() => Event::Command(command),
            started = PendingUpgrade::started(upgrade) => Event::UpgradeStarted(started),
            () = self.tools_changed.notified(), if !refreshing => Event::ToolsChanged,
            () = refreshed, if refreshing => Event::ToolsRefreshed,
        }
    }

    async fn on_event(&mut self, event: Event, running: &mut RunningServer) -> Option<StopCause> {
        match event {
            Event::ConnectionClosed => {
                let reason = running.connection.why_it_ended().await;
                return Some(StopCause::Ended(reason));
            }
            Event::LeaseEnded => return Some(StopCause::LeaseEnded),
            Event::CatalogChanged => return self.on_catalog_changed(running),
            Event::Command(command) => return self.on_command(command, running),
            Event::UpgradeStarted(Ok(upgraded)) => self.on_upgraded(upgraded, running).await,
            Event::UpgradeStarted(Err(reason)) => self.on_upgrade_failed(&reason, running),
            Event::ToolsChanged => self.on_tools_changed(running),
            Event::ToolsRefreshed => running.refresh = None,
        }
        None
    }

    /// Starts the new version beside the old version if only the version has changed.
    fn follow_upgrade(&self, running: &mut RunningServer) {
        let newer = newer_version(&self.manager, &running.server);
        let wanted = newer.as_ref().map(|server| server.changed);
        let pending = running.upgrade.as_ref();
        if pending.map(|upgrade| upgrade.server.changed) != wanted {
            running.upgrade =
                newer.map(|server| PendingUpgrade::new(self.open_connection(&server), server));
        }
    }

    fn on_catalog_changed(&self, running: &RunningServer) -> Option<StopCause> {
        let is_upgrade = newer_version(&self.manager, &running.server).is_some();
        (!is_upgrade).then_some(StopCause::CatalogChanged)
    }

    fn on_command(
        &mut self,
        command: SupervisorCommand,
        running: &RunningServer,
    ) -> Option<StopCause> {
        let is_upgrade = newer_version(&self.manager, &running.server).is_some();
        let differs = catalog_differs(&self.manager, &running.server);
        if command.shut_down || (differs && !is_upgrade) {
            return Some(StopCause::Command(command));
        }
        self.waiting.push(command);
        None
    }

    async fn on_upgraded(&mut self, upgraded: Upgraded, running: &mut RunningServer) {
        let Upgraded {
            server,
            connection,
            tools,
        } = upgraded;
        let log_buffer = &self.handle.log_buffer;
        log_buffer.push("transport", "connected to the new version");
        tracing::info!(server = %server.name, "a server was upgraded while it runs");
        record_tools(&self.manager, &self.handle, ListOrigin::Start, tools).await;
        record_description(
            &self.manager,
            &self.handle,
            &connection,
            &self.handle.redactor,
        )
        .await;
        self.publish_connection(&connection);
        self.set_state(
            RunState::Running(connection.clone()),
            ServerStatus::without_error(ConnectionStatus::Connected),
        );
        let old = std::mem::replace(&mut running.connection, connection);
        let retiring = retire(self.manager.clone(), self.handle.clone(), old);
        self.manager.tasks.spawn(retiring);
        running.server = server;
        running.connected = monotonic();
        running.upgrade = None;
    }

    fn on_upgrade_failed(&self, reason: &str, running: &mut RunningServer) {
        let reason = self.handle.redactor.mask(reason);
        tracing::warn!(server = %running.server.name, reason, "a new version could not be started; the old version stays");
        let line = format!("the new version could not be started: {reason}");
        self.handle.log_buffer.push("transport", &line);
        let status = ServerStatus {
            error: Some(format!("its new version cannot be started: {reason}")),
            ..ServerStatus::without_error(ConnectionStatus::Connected)
        };
        self.set_state(RunState::Running(running.connection.clone()), status);
        if let Some(upgrade) = &mut running.upgrade {
            upgrade.retry(self.open_connection(&upgrade.server));
        }
    }

    fn on_tools_changed(&self, running: &mut RunningServer) {
        let limit = Duration::from_millis(running.server.config.startup_timeout_ms());
        running.refresh = Some(Box::pin(refresh_tools(
            self.manager.clone(),
            self.handle.clone(),
            running.connection.clone(),
            limit,
        )));
    }

    async fn leave_running(&mut self, leaving: &LeavingServer, cause: StopCause) {
        match cause {
            StopCause::LeaseEnded => self.on_lease_ended(leaving).await,
            StopCause::Command(command) => {
                self.waiting.push(command);
                self.stop_running(leaving).await;
            }
            StopCause::CatalogChanged => self.stop_running(leaving).await,
            StopCause::Ended(reason) => self.on_ended(leaving, &reason),
        }
    }

    async fn on_lease_ended(&self, leaving: &LeavingServer) {
        self.publish_restart();
        // Another worker may start the server at any moment, so the connection gets no time for its end.
        leaving.connection.kill().await;
        let log_buffer = &self.handle.log_buffer;
        log_buffer.push("transport", "stopped: the lease could not be renewed");
        tracing::warn!(server = %leaving.server.name, "a server was stopped because its lease could not be renewed");
    }

    async fn stop_running(&mut self, leaving: &LeavingServer) {
        self.publish_restart();
        finish_calls(&leaving.connection).await;
        leaving.connection.stop().await;
        self.handle.log_buffer.push("transport", "stopped");
        self.crashes = 0;
    }

    fn on_ended(&mut self, leaving: &LeavingServer, reason: &str) {
        let reason = self.handle.redactor.mask(reason);
        let log_buffer = &self.handle.log_buffer;
        log_buffer.push("transport", &format!("ended: {reason}"));
        tracing::warn!(server = %leaving.server.name, reason, "a server ended and is being restarted");
        let status = ServerStatus {
            status: ConnectionStatus::Connecting,
            error: Some(reason),
            details: log_buffer.output_since(leaving.connection.started_at()),
        };
        self.settle(RunState::Starting, status);
        self.manager.metrics.restarted(&leaving.server.name);
        let was_healthy = leaving.connected.elapsed() >= HEALTHY;
        self.crashes = if leaving.connection.is_replaced() {
            0
        } else if was_healthy {
            1
        } else {
            self.crashes + 1
        };
    }

    /// Publishes that calls must wait for the next connection.
    fn publish_restart(&self) {
        self.set_state(
            RunState::Starting,
            ServerStatus::without_error(ConnectionStatus::Connecting),
        );
    }

    fn publish_connection(&self, connection: &Arc<Connection>) {
        self.count_child(connection, 1);
        self.handle.connection.store(Some(connection.clone()));
    }

    fn count_child(&self, connection: &Connection, change: i64) {
        let children = i64::from(connection.has_child()) * change;
        self.manager.metrics.children_alive.inc_by(children);
    }
}
