//! The subjects of all messages. No subject contains a text of a user.
//!
//! The subject of an ask names its command, so the permissions of a NATS user decide which commands
//! that user can send.

use crate::core::command::{Area, Command};
use crate::core::model::tool_call::CallTool;
use crate::ports::bus::Target;

/// The part of a subject before the id of a server.
const OWNER: &str = "owner";

/// Builds the subjects under one prefix.
#[derive(Clone)]
pub(super) struct Subjects {
    prefix: String,
}

impl Subjects {
    pub(super) fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
        }
    }

    /// Returns the subject of an ask. A tool call to an owner has a subject without the command.
    pub(super) fn ask(&self, to: Target, command: &str) -> String {
        let prefix = &self.prefix;
        match to {
            Target::AnyWorker(area) => format!("{prefix}.ask.{}.{}", area.as_str(), verb(command)),
            Target::Owner(server) if command == CallTool::NAME => {
                format!("{prefix}.ask.{OWNER}.{server}")
            }
            Target::Owner(server) => format!("{prefix}.ask.{OWNER}.{server}.{command}"),
            Target::Worker(worker) => format!("{prefix}.ask.worker.{worker}.{command}"),
        }
    }

    /// Returns the subjects that a worker of this target subscribes to, and the queue group.
    pub(super) fn subscriptions(&self, target: Target) -> (Vec<String>, String) {
        match target {
            Target::AnyWorker(area) => (vec![self.ask(target, "*.*")], pool(area)),
            Target::Owner(_) => (
                vec![self.ask(target, CallTool::NAME), self.ask(target, "*.*")],
                OWNER.to_owned(),
            ),
            Target::Worker(_) => (vec![self.ask(target, "*.*")], "worker".to_owned()),
        }
    }

    pub(super) fn job(&self, command: &str, id: &str) -> String {
        format!("{}.job.{command}.{id}", self.prefix)
    }

    pub(super) fn all_jobs(&self) -> String {
        format!("{}.job.>", self.prefix)
    }

    /// Returns the subject of the note about a dead letter.
    pub(super) fn dead_letter(&self, id: &str) -> String {
        format!("{}.dead.{id}", self.prefix)
    }

    /// Returns the name of the stream of jobs: `MCP_JOBS` for the default prefix.
    pub(super) fn stream(&self) -> String {
        self.stream_name("JOBS")
    }

    /// Returns the name of the stream of notes about dead letters: `MCP_DEAD` for the default prefix.
    pub(super) fn dead_stream(&self) -> String {
        self.stream_name("DEAD")
    }

    fn stream_name(&self, suffix: &str) -> String {
        let name = self.prefix.strip_suffix(".v1").unwrap_or(&self.prefix);
        let safe: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
            .collect();
        format!("{}_{suffix}", safe.to_ascii_uppercase())
    }

    pub(super) fn cancel(&self) -> String {
        format!("{}.cancel", self.prefix)
    }

    pub(super) fn clock(&self) -> String {
        format!("{}.clock", self.prefix)
    }

    pub(super) fn log_moved(&self) -> String {
        format!("{}.log.moved", self.prefix)
    }

    pub(super) fn status(&self) -> String {
        format!("{}.status", self.prefix)
    }

    pub(super) fn mcp_hint(&self) -> String {
        format!("{}.mcp", self.prefix)
    }
}

/// Returns the queue group of the workers of an area.
pub(super) fn pool(area: Area) -> String {
    format!("pool-{}", area.as_str())
}

/// Returns the command that the subject of an ask names.
pub(super) fn command_of(subject: &str) -> &str {
    let verb = subject.rfind('.').unwrap_or(0);
    let area = subject[..verb].rfind('.').map_or(0, |dot| dot + 1);
    if &subject[area..verb] == OWNER {
        CallTool::NAME
    } else {
        &subject[area..]
    }
}

fn verb(command: &str) -> &str {
    command.split_once('.').map_or(command, |(_, verb)| verb)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subject_names_its_command() {
        let subjects = Subjects::new("mcp.v1");
        let id = uuid::Uuid::from_u128(7);
        for (command, target) in [
            ("tools.call", Target::AnyWorker(Area::Tools)),
            ("tools.call", Target::Owner(crate::core::ids::ServerId(id))),
            (
                "servers.delete",
                Target::Owner(crate::core::ids::ServerId(id)),
            ),
            (
                "servers.read_logs",
                Target::Worker(crate::core::ids::WorkerId(id)),
            ),
        ] {
            assert_eq!(command_of(&subjects.ask(target, command)), command);
        }
        assert_eq!(command_of("call"), "call");
    }

    #[test]
    fn the_name_of_a_stream_contains_the_prefix() {
        assert_eq!(Subjects::new("mcp.v1").stream(), "MCP_JOBS");
        assert_eq!(Subjects::new("test.a-b").stream(), "TEST_A_B_JOBS");
    }
}
