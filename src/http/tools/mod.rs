//! `GET /mcp/tools` and `POST /mcp/tool/call`.

mod body;
pub mod cache;
pub mod call;
pub mod list;
mod meter;
