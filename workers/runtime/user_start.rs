//! The start of a process or a connection of one user, and what it says of its server.

use std::sync::Arc;
use std::time::Duration;

use super::connect::{ConnectionDeps, Lifetime, OwnLines, open_connection};
use super::description_sync::record_description;
use super::handle::ServerHandle;
use super::manager::ServerManager;
use super::tool_sync::{ListOrigin, record_tools};
use super::upgrade::build_package;
use super::user_connections::{UserConnection, UserConnections};
use super::user_pool::UserPool;
use crate::core::catalog::server::Server;
use crate::core::decide::credential::starts_without_user;
use crate::core::failure::{Code, Failure};
use crate::core::ids::ValueId;
use crate::core::model::tool::Tools;
use crate::core::names::UserName;
use crate::workers::mcp::{ConnectError, Connection};
use crate::workers::redact::Redactor;

/// Starts a process or opens a connection for a user.
///
/// # Errors
/// The failure for the user, with the lines of this process alone.
pub(super) async fn connect(
    manager: &Arc<ServerManager>,
    handle: &Arc<ServerHandle>,
    server: &Arc<Server>,
    user: &UserName,
    entry: &UserConnection,
) -> Result<Arc<Connection>, Failure> {
    if entry.permit.lock().is_none() {
        let permit = UserPool::acquire(manager, entry.kind).await?;
        *entry.permit.lock() = Some(permit);
    }
    let package = match &server.package {
        Some(installed) => build_package(manager, handle, &installed.package)
            .await
            .map_err(|failure| {
                connect_failure(handle, user, entry, failure.cause)
                    .with_details_for_admins(failure.details)
            })?,
        None => None,
    };
    let deps = ConnectionDeps {
        log_buffer: handle.log_buffer.clone(),
        own_lines: Some(OwnLines {
            buffer: entry.own_lines.clone(),
            values: entry.version.values.as_slice().into(),
        }),
        redactor: handle.redactor.clone(),
        tools_changed: Arc::default(),
        changes: manager.changes.clone(),
        watch: entry.watch.clone(),
        result_limit: manager.limits.result,
        child: handle.child.clone(),
        lifetime: Lifetime::Lease(handle.lease.clone()),
        stored: manager.stored_state(server, handle, Some(user.clone())),
        metrics: manager.metrics.clone(),
    };
    entry.own_lines.begin_run();
    let limit = Duration::from_millis(server.config.startup_timeout_ms());
    let opening = open_connection(server, package, &deps);
    match tokio::time::timeout(limit, opening).await {
        Ok(Ok((connection, tools))) => {
            record_findings(
                manager,
                handle,
                server,
                &connection,
                tools,
                &entry.version.values,
            )
            .await;
            Ok(Arc::new(connection))
        }
        Ok(Err(error)) => {
            let output = entry.own_lines.output_of_run(0);
            Err(connect_failure(handle, user, entry, error).with_details(output))
        }
        Err(_) => {
            let limit = limit.as_millis();
            let late = format!(
                "Server {} was not ready within {limit} ms (startupTimeout)",
                server.name
            );
            let output = entry.own_lines.output_of_run(0);
            Err(Failure::new(Code::UpstreamError, late).with_details(output))
        }
    }
}

/// Records what the connection of a user says of the server, if no other connection can: the tools and the description, once
/// for each version of the server. All users see them, so they must not repeat a value of this user.
async fn record_findings(
    manager: &Arc<ServerManager>,
    handle: &Arc<ServerHandle>,
    server: &Server,
    connection: &Connection,
    tools: Tools,
    values: &[ValueId],
) {
    let own = handle.redactor.only(values);
    if !server.config.separates_users() {
        // The users have grants. If no connection lists the tools for all users, the list of one user is recorded.
        if server.tools.tools.is_empty() {
            record_tools(manager, handle, ListOrigin::Start, tools).await;
        }
        if server.description.is_none() {
            record_description(manager, handle, connection, &own).await;
        }
        return;
    }
    if starts_without_user(server) || handle.users.has_listed(server) {
        return;
    }
    if repeats_a_value(&own, &tools) {
        let line = "the tools of a user are not recorded, because they repeat a credential";
        handle.log_buffer.push("transport", line);
        return;
    }
    *handle.users.listed.lock() = Some(server.changed);
    record_tools(manager, handle, ListOrigin::Start, tools).await;
    record_description(manager, handle, connection, &own).await;
}

impl UserConnections {
    /// Returns whether a user has listed the tools of this version of the server.
    fn has_listed(&self, server: &Server) -> bool {
        *self.listed.lock() == Some(server.changed)
    }
}

/// Returns whether a tool repeats a value of the user who listed it.
fn repeats_a_value(own: &Redactor, tools: &Tools) -> bool {
    let mut texts = tools.tools.iter().map(|tool| tool.raw().get());
    texts.any(|text| text != own.mask_json(text))
}

fn connect_failure(
    handle: &ServerHandle,
    user: &UserName,
    entry: &UserConnection,
    error: ConnectError,
) -> Failure {
    if let Some(denied) = error.denied {
        return *denied;
    }
    let line = handle.redactor.mask(&error.reason);
    let line = format!("a user could not be connected: {line}");
    handle.log_buffer.push("transport", &line);
    let of_user = handle.redactor.for_user(&entry.version.values);
    let reason = of_user.mask(&error.reason);
    let sentence = format!(
        "Server {} could not be connected for user {user}: {reason}",
        handle.name
    );
    Failure::new(Code::UpstreamError, sentence)
}
