//! MCP servers: how they are started, kept running, talked to and stopped.
//!
//! [`pool`] has a slot a server; a slot's [`supervisor`] starts it, starts it again and stops it.
//! A [`connection`] is a running server: [`stdio`], a child process, with rmcp for the protocol around and the
//! [`mux`] for the calls themselves; or [`remote`], a server behind a URL.

pub mod connection;
mod frame;
pub mod http;
pub mod jsonrpc;
mod mux;
pub mod rmcp_bridge;
mod stdio;
pub mod tool_list;

pub use self::connection::{CallError, Connection, ToolCall};
pub use self::frame::OpenedSecret;
pub use self::jsonrpc::RpcError;
