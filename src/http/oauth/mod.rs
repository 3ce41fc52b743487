//! OAuth for servers behind a URL: tokens from a client, and the flow in a user's browser.

pub mod browser_flow;
pub mod link;
pub mod tokens;
