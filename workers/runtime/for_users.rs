//! A server whose processes or connections belong to single users: the worker owns it, and keeps no connection of its own.

use std::sync::Arc;

use super::description_sync::record_description;
use super::handle::RunState;
use super::reconcile::{catalog_differs, wait_for_change};
use super::supervisor::{State, Supervisor};
use super::tool_sync::{ListOrigin, record_tools};
use crate::core::catalog::server::Server;
use crate::core::decide::credential::starts_without_user;
use crate::core::model::server::{ConnectionStatus, ServerStatus};
use crate::core::model::tool::Tools;
use crate::workers::mcp::Connection;

/// The connection of a server that belongs to no user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MainConnection {
    /// All users share it.
    Kept,
    /// It reads the list of tools and ends. Each user has another connection.
    ListsTools,
    /// It cannot start: a value of a user, or a shared value that is not set, belongs to it.
    None,
}

impl MainConnection {
    pub(super) fn for_server(server: &Server) -> Self {
        if !starts_without_user(server) {
            Self::None
        } else if server.config.separates_users() {
            Self::ListsTools
        } else {
            Self::Kept
        }
    }
}

impl Supervisor {
    /// Records the tools and the description of a server, and ends the connection that listed them.
    pub(super) async fn record_and_stop(&self, connection: &Arc<Connection>, tools: Tools) {
        record_tools(&self.manager, &self.handle, ListOrigin::Start, tools).await;
        record_description(
            &self.manager,
            &self.handle,
            connection,
            &self.handle.redactor,
        )
        .await;
        connection.end().await;
        let line = "the tools are listed; each user gets a connection of their own";
        self.handle.log_buffer.push("transport", line);
    }

    /// Owns the server until its configuration changes, until the lease ends, or until the worker stops.
    pub(super) async fn on_for_users(&mut self, server: &Server) -> State {
        self.settle(
            RunState::ForUsers,
            ServerStatus::without_error(ConnectionStatus::Disconnected),
        );
        loop {
            tokio::select! {
                command = self.inbox.recv() => {
                    let Some(command) = command else {
                        self.manager.ending.cancel();
                        return State::Acquiring;
                    };
                    let must_leave = command.shut_down || catalog_differs(&self.manager, server);
                    self.waiting.push(command);
                    if must_leave {
                        return State::Acquiring;
                    }
                    self.reply_to_waiting();
                }
                () = wait_for_change(&self.handle, &self.manager, server) => return State::Acquiring,
                () = self.handle.lease.ended() => {
                    self.handle.users.stop_all(&self.manager, &self.handle).await;
                    return State::Acquiring;
                }
            }
        }
    }
}
