//!

pub mod connect;
pub mod failover;
pub mod handle;
pub mod lease;
pub mod log_buffer;
pub mod manager;
pub mod probe;
pub mod reconcile;
pub mod remote_state;
mod sealed_headers;
pub mod shutdown;
pub mod supervisor;
mod token_header;
pub mod tool_sync;
pub mod upgrade;
pub mod user_connections;
