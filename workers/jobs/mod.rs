//! Executes jobs: ingests, claims, executes, ends and cleans them up.

pub(super) mod answer;
pub(super) mod cleanup;
pub(super) mod dead_letters;
pub(super) mod execute;
pub(super) mod fresh_answers;
pub(super) mod ingest;
pub(super) mod notify;
pub(super) mod progress;
pub(super) mod runner;
pub(super) mod takeover;
pub(super) mod tool_call;

pub(super) use self::answer::read_answer;
