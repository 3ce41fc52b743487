//! The JSON of servers, connections, packages, failures and job answers. HTTP handlers, pages and job workers use it.

pub mod connection;
pub mod failure;
pub mod job_answer;
pub mod package;
mod schema;
pub mod server;
