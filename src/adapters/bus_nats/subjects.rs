//! The subjects of all messages. No subject contains a text of a user.
//!
//! The subject of an ask names its command, so the permissions of a NATS user decide which commands
//! that user can send.

use crate::core::command::{Area, Command};
use crate::core::model::tool_call::CallTool;
use crate::ports::bus::Target;

/// The word that stands before the id of a server in a subject.
const OWNER: &str = "owner";

#[derive(Clone)]
pub struct Subjects {
    prefix: String,
}

impl Subjects {
    pub fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
        }
    }

    /// Returns the subject of an ask. A tool call to an owner has a subject without the command.
    pub fn ask(&self, to: Target, command: &str) -> String {
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
    pub fn subscriptions(&self, target: Target) -> (Vec<String>, String) {
        match target {
            Target::AnyWorker(area) => (vec![self.ask(target, "*.*")], pool(area)),
            Target::Owner(_) => (
                vec![self.ask(target, CallTool::NAME), self.ask(target, "*.*")],
                OWNER.to_owned(),
            ),
            Target::Worker(_) => (vec![self.ask(target, "*.*")], "worker".to_owned()),
        }
    }

    pub fn job(&self, command: &str, id: &str) -> String {
        format!("{}.job.{command}.{id}", self.prefix)
    }

    pub fn all_jobs(&self) -> String {
        format!("{}.job.>", self.prefix)
    }

    pub fn dead(&self, letter: &str) -> String {
        format!("{}.dead.{letter}", self.prefix)
    }

    /// The stream of jobs, `MCP_JOBS` where the prefix is the usual one.
    pub fn stream(&self) -> String {
        self.stream_of("JOBS")
    }

    /// The stream that tells what was set aside, `MCP_DEAD`.
    pub fn dead_stream(&self) -> String {
        self.stream_of("DEAD")
    }

    fn stream_of(&self, what: &str) -> String {
        let name = self.prefix.strip_suffix(".v1").unwrap_or(&self.prefix);
        let safe: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
            .collect();
        format!("{}_{what}", safe.to_ascii_uppercase())
    }

    pub fn cancel(&self) -> String {
        format!("{}.cancel", self.prefix)
    }

    pub fn clock(&self) -> String {
        format!("{}.clock", self.prefix)
    }

    pub fn log_moved(&self) -> String {
        format!("{}.log.moved", self.prefix)
    }

    pub fn status(&self) -> String {
        format!("{}.status", self.prefix)
    }
}

/// The queue group of an area's workers.
pub fn pool(area: Area) -> String {
    format!("pool-{}", area.as_str())
}

/// Returns the command that the subject of an ask names.
pub fn command_of(subject: &str) -> &str {
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
    fn the_stream_has_the_prefix_for_a_name() {
        assert_eq!(Subjects::new("mcp.v1").stream(), "MCP_JOBS");
        assert_eq!(Subjects::new("test.a-b").stream(), "TEST_A_B_JOBS");
    }
}
