//! The rules of the MCP endpoints: pure functions over names, versions, tool lists and results.

pub mod capabilities;
pub mod forwarded_meta;
pub mod names;
pub mod result;
pub mod tool_view;
pub mod uris;
pub mod version;
