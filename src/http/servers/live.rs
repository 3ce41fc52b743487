//! The live status of servers: workers report it, and their logs are read from them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;

use super::OneServer;
use crate::core::catalog::server::Server;
use crate::core::command::ReadServerLogs;
use crate::core::failure::Failure;
use crate::core::ids::{ServerId, WorkerId};
use crate::core::model::caller::Caller;
use crate::core::model::server::ServerStatus;
use crate::core::names::ServerName;
use crate::http::respond::json::{ApiError, success};
use crate::http::state::ApiState;
use crate::ports::bus::Target;
use crate::views::server::{LiveDetails, ServerView, ShortServerView, VisibleServer};

/// The longest wait for the logs of one worker.
const LOGS_LIMIT: Duration = Duration::from_millis(500);

/// Responds with a changed server and the status that its worker returned.
pub(crate) async fn respond_with_server(
    state: &ApiState,
    name: &ServerName,
    status: ServerStatus,
) -> Result<Response, ApiError> {
    let server = changed_server(state, name, status).await?;
    success(OneServer { server })
}

/// Returns a changed server with the status that its worker returned.
///
/// # Errors
/// `server_not_found` if another request has deleted the server.
pub(crate) async fn changed_server(
    state: &ApiState,
    name: &ServerName,
    status: ServerStatus,
) -> Result<ServerView, Failure> {
    let server = state.find_server(name)?;
    let mut view = server_view(state, server).await?;
    view.set_status(status);
    Ok(view)
}

/// Returns one server with its status and logs.
pub(super) async fn server_view(
    state: &ApiState,
    server: Arc<Server>,
) -> Result<ServerView, Failure> {
    server_views(state, std::slice::from_ref(&server))
        .await
        .pop()
        .ok_or_else(|| Failure::server_not_found(&server.name))
}

/// Returns servers with their status, and with the logs of the workers that reply in time.
pub(super) async fn server_views(state: &ApiState, servers: &[Arc<Server>]) -> Vec<ServerView> {
    let ids: Vec<ServerId> = servers.iter().map(|server| server.id).collect();
    let statuses = state.registry().server_statuses(&ids);
    let mut servers_by_worker: HashMap<WorkerId, Vec<ServerId>> = HashMap::new();
    for (id, (_, workers)) in ids.iter().zip(&statuses) {
        for worker in workers {
            servers_by_worker.entry(*worker).or_default().push(*id);
        }
    }
    let mut details = read_details(state, servers_by_worker).await;
    servers
        .iter()
        .zip(statuses)
        .map(|(server, (status, _))| {
            let details = details.remove(&server.id).unwrap_or_default();
            ServerView::new(server, status, details, state.package_dirs())
        })
        .collect()
}

/// Returns servers as a caller may see them.
pub(super) async fn visible_servers(
    state: &ApiState,
    caller: &Caller,
    servers: &[Arc<Server>],
) -> Vec<VisibleServer> {
    if caller.is_admin() {
        let views = server_views(state, servers).await;
        return views.into_iter().map(VisibleServer::from).collect();
    }
    let ids: Vec<ServerId> = servers.iter().map(|server| server.id).collect();
    let statuses = state.registry().server_statuses(&ids);
    servers
        .iter()
        .zip(statuses)
        .map(|(server, (status, _))| ShortServerView::new(server, status.status).into())
        .collect()
}

/// Reads the logs and session ids from all workers at the same time.
async fn read_details(
    state: &ApiState,
    servers_by_worker: HashMap<WorkerId, Vec<ServerId>>,
) -> HashMap<ServerId, LiveDetails> {
    let requests = servers_by_worker
        .into_iter()
        .map(async |(worker, servers)| {
            let command = ReadServerLogs { servers };
            state
                .send_once(Target::Worker(worker), &command, LOGS_LIMIT)
                .await
                .unwrap_or_default()
        });
    let mut details: HashMap<ServerId, LiveDetails> = HashMap::new();
    for report in futures::future::join_all(requests)
        .await
        .into_iter()
        .flatten()
    {
        let of_server = details.entry(report.server).or_default();
        of_server.logs.extend(report.logs);
        of_server.logs.sort_by_key(|line| line.at);
        of_server.session_id = of_server.session_id.take().or(report.session_id);
        of_server.tools = of_server.tools.take().or(report.tools);
    }
    details
}
