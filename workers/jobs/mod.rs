//! Executes jobs: ingests, claims, executes, ends and cleans them up.

pub mod answer;
pub mod cleanup;
pub mod dead_letters;
pub mod execute;
pub mod ingest;
pub mod notify;
pub mod progress;
pub mod runner;
pub mod takeover;
pub mod tool_call;

pub use self::answer::read_answer;
