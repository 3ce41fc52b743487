//! OAuth for servers behind a URL: tokens from a client, and the flow in a user's browser.

pub(super) mod browser_flow;
pub(super) mod link;
pub(super) mod tokens;
