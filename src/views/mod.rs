//! The JSON of servers, packages, failures and job answers. Both HTTP handlers and job workers write it.

pub mod failure;
pub mod job_answer;
pub mod package;
mod schema;
pub mod server;
