//! `/auth/google`: a user gives a server access to Google, in a browser.

pub(super) mod browser_flow;
pub(super) mod link;
