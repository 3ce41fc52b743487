//! Builds the answer of an installation or an upgrade: the package, and its server after the server
//! has been reconciled.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;

use super::STOP_TIMEOUT;
use crate::cluster::command_client::CommandRequest;
use crate::core::command::{Area, Command, ReconcileServer, ReconciledServer};
use crate::core::decide::package::find_installed;
use crate::core::failure::Failure;
use crate::core::model::server::{ConnectionStatus, ServerStatus};
use crate::core::names::ServerName;
use crate::telemetry::error::internal_error;
use crate::views::package::PackageView;
use crate::views::server::{LiveDetails, ServerView};
use crate::workers::context::Context;
use crate::workers::install::ProgressSink;

#[derive(Serialize)]
struct PackageJobBody {
    success: bool,
    package: PackageView,
    server: ServerView,
}

/// Returns the body of the answer for the server `name`.
///
/// # Errors
/// Fails if the server or its package was deleted during the job.
pub(super) async fn package_answer(
    context: &Context,
    progress: &Arc<dyn ProgressSink>,
    name: &ServerName,
) -> Result<Bytes, Failure> {
    progress.phase("connecting");
    let reconciled = match reconcile_server(context, name).await {
        Ok(reconciled) => reconciled,
        Err(failure) => not_reconciled(failure),
    };
    let catalog = Arc::clone(&context.projection.catalog());
    let server = find_installed(&catalog, name.as_str())?;
    let folders = context.installer.folders();
    let package = PackageView::new(server, folders).ok_or_else(Failure::internal)?;
    let details = LiveDetails {
        logs: reconciled.logs,
        session_id: None,
        tools: None,
    };
    let body = PackageJobBody {
        success: true,
        package,
        server: ServerView::new(server, reconciled.live, details, folders),
    };
    let json = serde_json::to_vec(&body).map_err(internal_error)?;
    Ok(json.into())
}

/// Asks the owner of the server to reconcile it. Without an owner, another worker becomes the owner.
async fn reconcile_server(
    context: &Context,
    name: &ServerName,
) -> Result<ReconciledServer, Failure> {
    let server = context
        .projection
        .catalog()
        .server(name.as_str())
        .cloned()
        .ok_or_else(|| Failure::server_not_found(name))?;
    let command = ReconcileServer { name: name.clone() };
    let body = serde_json::to_vec(&command).map_err(internal_error)?;
    let request = CommandRequest {
        area: Area::Servers,
        server: server.exclusive_id(),
        command: ReconcileServer::NAME,
        call: None,
        client: None,
        interim: None,
        body: body.into(),
        traceparent: None,
        meta: None,
        time: STOP_TIMEOUT + Duration::from_millis(server.config.startup_timeout_ms()),
    };
    let response = context.commands.send(&request).await?;
    // The answer also shows what that worker has written, above all the tools of the server.
    context
        .projection
        .wait_for(response.position, STOP_TIMEOUT)
        .await;
    serde_json::from_slice(&response.body).map_err(internal_error)
}

/// Returns the status of a server that no worker has reconciled. The package is installed in spite of
/// that.
fn not_reconciled(failure: Failure) -> ReconciledServer {
    ReconciledServer {
        live: ServerStatus {
            error: Some(failure.message),
            ..ServerStatus::without_error(ConnectionStatus::Connecting)
        },
        logs: vec![],
    }
}
