//! `/auth/google`: a user gives a server access to Google, in a browser.

pub mod browser_flow;
pub mod link;
