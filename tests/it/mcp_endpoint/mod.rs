//! The MCP endpoints: `/mcp` with all servers, and `/mcp/servers/{name}/mcp` with one server.

mod client;
mod isolation;
mod legacy;
mod modern;
mod streams;
