//! `GET /mcp/tools` and `POST /mcp/tool/call`.

mod body;
pub(super) mod cache;
pub(super) mod call;
pub(super) mod list;
mod meter;
