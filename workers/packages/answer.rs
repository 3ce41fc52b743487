//! What an installation or an upgrade is answered with: the package, and its server once it runs as it is to.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;

use super::STOPS;
use crate::cluster::command_client::CommandRequest;
use crate::core::command::{Area, Command, ReconcileServer, ReconciledServer};
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

pub async fn answer(
    context: &Context,
    progress: &Arc<dyn ProgressSink>,
    name: &ServerName,
) -> Result<Bytes, Failure> {
    progress.phase("connecting");
    let settled = settle(context, name).await;
    let catalog = Arc::clone(&context.projection.catalog());
    let server = crate::core::decide::package::find_installed(&catalog, name.as_str())?;
    let folders = context.installer.folders();
    let told = LiveDetails {
        logs: settled.logs,
        session_id: None,
        tools: None,
    };
    let package = PackageView::new(server, folders).ok_or_else(Failure::internal)?;
    let answer = PackageJobBody {
        success: true,
        package,
        server: ServerView::new(server, settled.live, told, folders),
    };
    Ok(serde_json::to_vec(&answer).map_err(internal_error)?.into())
}

/// Asks the worker that runs the server, or is to run it. It is installed all the same where nobody answers.
async fn settle(context: &Context, name: &ServerName) -> ReconciledServer {
    let unknown = |why: Failure| ReconciledServer {
        live: ServerStatus {
            error: Some(why.message),
            ..ServerStatus::of(ConnectionStatus::Connecting)
        },
        logs: vec![],
    };
    let catalog = Arc::clone(&context.projection.catalog());
    let Some(server) = catalog.server(name.as_str()) else {
        return unknown(Failure::server_not_found(name));
    };
    let body = match serde_json::to_vec(&ReconcileServer { name: name.clone() }) {
        Ok(body) => body.into(),
        Err(error) => return unknown(internal_error(error)),
    };
    let time = STOPS + Duration::from_millis(server.config.startup_timeout_ms());
    let (area, held, command) = (Area::Servers, server.held(), ReconcileServer::NAME);
    let question = CommandRequest {
        area,
        server: held,
        command,
        call: None,
        body,
        traceparent: None,
        time,
    };
    match context.commands.send(question).await {
        Ok(answered) => {
            // What that worker has told the log, the server's tools above all, is shown too.
            context.projection.wait_for(answered.position, STOPS).await;
            serde_json::from_slice(&answered.body)
                .unwrap_or_else(|error| unknown(internal_error(error)))
        }
        Err(failure) => unknown(failure),
    }
}
