//! The rules of the MCP endpoints: pure functions over names, versions, tool lists and results.

pub mod canonical;
pub mod capabilities;
pub mod client;
pub mod forwarded_meta;
pub mod input_required;
pub mod log_level;
pub mod names;
pub mod result;
pub mod tool_view;
pub mod uris;
pub mod version;
