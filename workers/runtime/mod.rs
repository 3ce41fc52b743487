//! Runs the MCP servers of this worker: ownership, supervision, failover, logs and tool lists.

mod changes;
pub mod connect;
mod description_sync;
pub mod failover;
mod for_users;
pub mod handle;
pub mod lease;
pub mod log_buffer;
pub mod manager;
pub mod probe;
pub mod reconcile;
mod running;
pub mod shutdown;
mod start;
pub mod stored_state;
pub mod supervisor;
mod token_header;
pub mod tool_sync;
pub mod upgrade;
pub mod user_connections;
pub mod user_pool;
mod user_start;
mod watches;
