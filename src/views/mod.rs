//!

pub mod failure;
pub mod job_answer;
pub mod package;
pub mod server;
