//! The values that the rules work on: servers, packages, secrets, grants, jobs and dead letters.

pub mod caller;
pub mod client_session;
pub mod credential;
pub mod credential_check;
pub mod dead_letter;
pub mod description;
pub mod google;
pub mod grant;
pub mod idempotency;
pub mod job;
pub mod package;
pub mod query;
pub mod remote;
pub mod secret;
pub mod server;
pub mod server_json;
pub mod server_request;
pub mod timeout;
pub mod token;
pub mod tool;
pub mod tool_call;
pub mod update;
pub mod upstream_change;
pub mod upstream_request;
