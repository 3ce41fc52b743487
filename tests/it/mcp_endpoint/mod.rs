//! The MCP endpoints: `/mcp` with all servers, and `/mcp/servers/{name}/mcp` with one server.

mod asking;
mod changes;
pub mod client;
mod exclusive;
mod features;
mod input;
mod introduction;
mod isolation;
mod legacy;
mod logging;
mod meta;
mod modern;
mod neighbors;
mod question_failures;
mod question_secrets;
mod questions;
mod rounds;
mod sign_in;
mod streams;
mod subscriptions;
mod wire;
