//! Subjects, by what they are for. None holds a text of a user.

use crate::core::command::Area;
use crate::ports::bus::Target;

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

    /// Where an ask for a place goes.
    pub fn ask(&self, to: Target, command: &str) -> String {
        let prefix = &self.prefix;
        match to {
            Target::AnyWorker(area) => format!("{prefix}.ask.{}.{}", area.as_str(), verb(command)),
            Target::Owner(server) => format!("{prefix}.ask.owner.{server}"),
            Target::Worker(worker) => format!("{prefix}.ask.worker.{worker}"),
        }
    }

    /// What serves a place: a subject and a queue group.
    pub fn place(&self, place: Target) -> (String, String) {
        let group = match place {
            Target::AnyWorker(area) => pool(area),
            Target::Owner(_) => "owner".into(),
            Target::Worker(_) => "worker".into(),
        };
        (self.ask(place, "any.*"), group)
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

fn verb(command: &str) -> &str {
    command.split_once('.').map_or(command, |(_, verb)| verb)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_has_the_prefix_for_a_name() {
        assert_eq!(Subjects::new("mcp.v1").stream(), "MCP_JOBS");
        assert_eq!(Subjects::new("test.a-b").stream(), "TEST_A_B_JOBS");
    }
}
