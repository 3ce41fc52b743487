//! `GET /mcp/tools` and `POST /mcp/tool/call`.

mod body;
pub mod call;
pub mod list;
mod meter;

pub use self::list::ToolListCache;
