//! Changes of servers: decided and appended, then made true in the world.

use std::sync::Arc;

use super::context::Context;
use crate::core::catalog::Server;
use crate::core::command::{
    DeleteServer, DisableServer, EnableServer, ReadLogs, RegisterServer, ServerLogs, UpdateServer,
};
use crate::core::event::Actor;
use crate::core::failure::Failure;
use crate::core::names::ServerName;
use crate::core::server::{self, Live};

/// Registers a server and answers after its first attempt to connect, whatever came of that.
pub async fn register(context: Arc<Context>, command: RegisterServer) -> Result<Live, Failure> {
    let name = command.name.clone();
    context.execute.change(command.id, Actor::Api, move |catalog| server::register(catalog, &command)).await?;
    settle(&context, &name).await
}

pub async fn update(context: Arc<Context>, command: UpdateServer) -> Result<Live, Failure> {
    let name = command.name.clone();
    context.execute.change(command.id, Actor::Api, move |catalog| server::update(catalog, &command)).await?;
    settle(&context, &name).await
}

/// Enabling a server that is enabled restarts it.
pub async fn enable(context: Arc<Context>, command: EnableServer) -> Result<Live, Failure> {
    let name = command.name.clone();
    context.execute.change(command.id, Actor::Api, move |catalog| server::enable(catalog, &command)).await?;
    settle(&context, &name).await
}

pub async fn disable(context: Arc<Context>, command: DisableServer) -> Result<Live, Failure> {
    let name = command.name.clone();
    context.execute.change(command.id, Actor::Api, move |catalog| server::disable(catalog, &command)).await?;
    settle(&context, &name).await
}

/// Deletes a server: stops it, and drops its secrets from the Vault.
pub async fn delete(context: Arc<Context>, command: DeleteServer) -> Result<(), Failure> {
    let name = command.name.clone();
    let done = context.execute.change(command.id, Actor::Api, move |catalog| server::delete(catalog, &command)).await?;
    // The same command a second time finds its commit, and nothing is left to be done.
    let Some(gone) = done.before.and_then(|before| before.server(name.as_str()).cloned()) else { return Ok(()) };
    context.pool.settle(&gone).await;
    context.metrics.forget(&gone.name);
    let values: Vec<_> = gone.values().collect();
    if let Err(error) = context.vault.remove(&values).await {
        tracing::warn!(%error, "the values of a deleted server are left to the sweep");
    }
    Ok(())
}

pub async fn logs(context: Arc<Context>, command: ReadLogs) -> Result<Vec<ServerLogs>, Failure> {
    Ok(context.pool.logs(&command.servers))
}

/// Makes the world follow the catalogue for one server.
async fn settle(context: &Context, name: &ServerName) -> Result<Live, Failure> {
    let server: Arc<Server> =
        context.follow.catalog().server(name.as_str()).cloned().ok_or_else(|| Failure::server_not_found(name))?;
    // The same command again, where the server runs, finds itself done and sees what came of it.
    context.pool.settle(&server).await.ok_or_else(|| Failure::elsewhere(name))
}
