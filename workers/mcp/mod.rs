//! The MCP client: connects to one server, lists its tools, calls them and closes the connection.
//!
//! [`Connection`] reaches a child process over standard input and output ([`stdio`]), or a URL over Streamable HTTP
//! or HTTP+SSE ([`http`]). The client stores nothing and knows no other part of the program except `core`, `time`,
//! `guard` and the HTTP client. The traits of [`host`] give it sessions, access tokens and credentials, and receive
//! notifications and log lines.

pub mod call;
pub mod connection;
pub mod frame;
pub mod handshake;
pub mod host;
pub mod http;
pub mod jsonrpc;
pub mod line_reader;
pub mod mux;
pub mod pause;
pub mod request_meta;
pub mod resource_watch;
pub mod rmcp_bridge;
mod stderr;
pub mod stdio;
pub mod tool_list;
mod writer;

pub use self::call::{CallError, ClientOptions, ConnectError, UserRequest};
pub use self::connection::Connection;
pub use self::frame::RequestParams;
pub use self::handshake::Handshake;
pub use self::host::{
    AccessTokens, AppliedToken, ChildLifetime, ClientAsker, Credentials, LogListener, LogSource,
    LogText, NotificationSink, ProgressListener, RedactionGuard, SessionStore,
};
pub use self::http::HttpTarget;
pub use self::jsonrpc::RpcError;
pub use self::resource_watch::ResourceWatch;
pub use self::stdio::StdioTarget;
