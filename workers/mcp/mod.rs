//! MCP servers: how they are started, kept running, talked to and stopped.
//!
//! [`pool`] has a slot a server; a slot's [`supervisor`] starts it, starts it again and stops it.
//! A [`connection`] is a running server: [`stdio`], a child process, with rmcp for the protocol around and the
//! [`mux`] for the calls themselves; or [`remote`], a server behind a URL.

mod beside;
mod change;
mod connection;
mod endings;
mod frame;
mod lease;
mod listing;
mod mask;
mod mux;
pub mod pool;
mod record;
mod remote;
mod ring;
mod slot;
mod standby;
mod stdio;
mod supervisor;
mod tap;
mod trial;
mod users;
mod wire;

pub use connection::{CallError, Connection, ToolCall};
pub use frame::Secret;
pub use lease::Lease;
pub use mask::Masker;
pub use remote::Keep;
pub use ring::shorten;
pub use slot::Slot;
pub use trial::try_out;
pub use wire::RpcError;
