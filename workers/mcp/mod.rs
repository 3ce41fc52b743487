//! MCP servers: how they are started, kept running, talked to and stopped.
//!
//! [`pool`] has a slot a server; a slot's [`supervisor`] starts it, starts it again and stops it.
//! [`stdio`] is a running server: a child process, rmcp for the protocol around, and the [`mux`] for
//! the calls themselves.

mod frame;
mod lease;
mod mask;
mod mux;
pub mod pool;
mod record;
mod ring;
mod slot;
mod standby;
mod stdio;
mod supervisor;
mod tap;

pub use frame::Secret;
pub use mask::Masker;
pub use stdio::{CallError, RpcError, ToolCall};
