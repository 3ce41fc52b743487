//! Tells the log which tools a server has.

use std::sync::Arc;
use std::time::Duration;

use super::handle::ServerHandle;
use super::manager::ServerManager;
use crate::core::command::RecordTools;
use crate::core::decide::server::record_tools;
use crate::core::event::Actor;
use crate::core::ids::CommandId;
use crate::core::model::tool::Tools;
use crate::workers::mcp::Connection;

pub async fn refresh(
    manager: Arc<ServerManager>,
    handle: Arc<ServerHandle>,
    connection: Arc<Connection>,
    limit: Duration,
) {
    match tokio::time::timeout(limit, connection.list_tools()).await {
        Ok(Ok(tools)) => record(&manager, &handle, tools).await,
        Ok(Err(reason)) => {
            let reason = handle.redactor.mask(&reason.to_string());
            handle.log_buffer.push(
                "transport",
                &format!("the new list of tools was not to be had: {reason}"),
            );
        }
        Err(_) => handle
            .log_buffer
            .push("transport", "the new list of tools did not come in time"),
    }
}

/// Tells the log what the server offers, where that is news. Without it the server works all the
/// same; the next start tries again.
pub async fn record(manager: &ServerManager, handle: &ServerHandle, tools: Tools) {
    let command = RecordTools {
        server: handle.id,
        tools,
    };
    if record_tools(&manager.projection.catalog(), &command).is_empty() {
        return;
    }
    let id = CommandId(uuid::Uuid::now_v7());
    let recorded = manager.appender.commit(id, Actor::Worker, move |catalog| {
        Ok(record_tools(catalog, &command))
    });
    if let Err(failure) = recorded.await {
        tracing::warn!(server = %handle.name, %failure, "the tools found could not be recorded");
    }
}
