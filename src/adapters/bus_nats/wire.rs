//! How asks, answers and jobs look on the wire. `schemas/README.md` says it for users.

use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;

use crate::core::command::{self, CallTool, Delivery};
use crate::core::failure::Failure;
use crate::core::names::Position;
use crate::ports::Place;

/// Milliseconds the asker waits.
pub const TIME_LEFT: &str = "Mcp-Time-Left";
/// The newest position the asker has seen.
pub const SEEN: &str = "Mcp-Seen";
/// The asker wants to hear `working` while it waits.
pub const WORKING: &str = "Mcp-Working";
/// The fields of a tool call; its body is the arguments alone.
pub const CALL: &str = "Mcp-Call";
/// The command, where the subject does not say it.
pub const COMMAND: &str = "Mcp-Command";
/// A large body is fetched from its sender.
pub const PARTS: &str = "Mcp-Parts";
/// The newest position the worker has seen.
pub const POSITION: &str = "Mcp-Position";
pub const STATUS: &str = "Mcp-Status";
/// A job's id, where it is not its subject's last part.
pub const JOB: &str = "Mcp-Job";
/// Where a job's outcome is to be told.
pub const REPLY: &str = "Mcp-Reply";
pub const TRACEPARENT: &str = "traceparent";

/// How long an asker waits that does not say it.
const DEFAULT_TIME: Duration = Duration::from_secs(60);
/// The longest anybody waits, as for tool calls: a day, and a little more.
const MAX_TIME: Duration = Duration::from_secs(90_000);

/// What an answer is: the values of `Mcp-Status`.
pub mod status {
    pub const OK: &str = "ok";
    /// The body is a `Failure`.
    pub const FAILED: &str = "failed";
    /// Nothing was begun: there is no permit for it.
    pub const BUSY: &str = "busy";
    /// Nothing was begun: the worker is leaving.
    pub const GONE: &str = "gone";
    /// No answer yet, but it was begun.
    pub const WORKING: &str = "working";
}

/// The subject a place is asked at, and the header that names the command where that does not.
pub fn subject(prefix: &str, to: Place, command: &str) -> (String, bool) {
    match to {
        // A command's name is its area and its verb; another pool may be asked for it too.
        Place::Pool(area) => {
            let (own, verb) = command.split_once('.').unwrap_or(("", command));
            (format!("{prefix}.ask.{}.{verb}", area.as_str()), own != area.as_str())
        }
        Place::Holder(server) => (format!("{prefix}.ask.run.{server}"), true),
        Place::Worker(worker) => (format!("{prefix}.ask.worker.{worker}"), true),
    }
}

/// What is subscribed to, and in which queue group.
pub fn subscription(prefix: &str, place: Place) -> (String, String) {
    match place {
        Place::Pool(area) => (format!("{prefix}.ask.{}.*", area.as_str()), format!("pool-{}", area.as_str())),
        Place::Holder(server) => (format!("{prefix}.ask.run.{server}"), format!("run-{server}")),
        Place::Worker(worker) => (format!("{prefix}.ask.worker.{worker}"), format!("worker-{worker}")),
    }
}

/// An ask's headers.
#[derive(Debug)]
pub struct Head {
    pub command: &'static str,
    pub delivery: Delivery,
    pub time_left: Duration,
    pub seen: Position,
    pub working: bool,
    pub call: Option<CallTool>,
    pub traceparent: Option<String>,
}

impl Head {
    /// Reads the headers of a message at a subject; what is wrong with them is said by their names.
    pub fn read(subject: &str, prefix: &str, headers: Option<&HeaderMap>) -> Result<Self, Failure> {
        let text = |name: &str| headers.and_then(|headers| headers.get(name)).map(|value| value.as_str());
        let number = |name: &str| match text(name).map(str::parse::<u64>) {
            None => Ok(None),
            Some(Ok(number)) => Ok(Some(number)),
            Some(Err(_)) => Err(Failure::invalid(format!("The header {name} must be a whole number"))),
        };
        let in_subject = subject.strip_prefix(prefix).and_then(|rest| rest.splitn(3, '.').nth(2)).unwrap_or_default();
        let name = text(COMMAND).unwrap_or(in_subject);
        let known = command::known(name);
        let (command, delivery) =
            known.ok_or_else(|| Failure::invalid(format!("There is no command {}", printable(name))))?;
        let call = match text(CALL) {
            None => None,
            Some(json) => Some(serde_json::from_str(json).map_err(|error| {
                Failure::invalid(format!("The header {CALL} must be the JSON of a tool call: {error}"))
            })?),
        };
        Ok(Self {
            command,
            delivery,
            time_left: number(TIME_LEFT)?.map_or(DEFAULT_TIME, Duration::from_millis).min(MAX_TIME),
            seen: Position(number(SEEN)?.unwrap_or_default()),
            working: text(WORKING).is_some(),
            call,
            traceparent: text(TRACEPARENT).filter(|text| text.len() <= 64).map(str::to_owned),
        })
    }
}

fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(100).collect()
}

/// The headers of an answer, and its body.
pub fn answer(position: Position, outcome: Result<Bytes, Bytes>) -> (HeaderMap, Bytes) {
    let (status, body) = match outcome {
        Ok(body) => (status::OK, body),
        Err(failure) => (status::FAILED, failure),
    };
    let mut headers = only(status);
    headers.insert(POSITION, position.0.to_string());
    (headers, body)
}

pub fn only(status: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(STATUS, status);
    headers
}

pub fn failed(failure: &Failure) -> Bytes {
    serde_json::to_vec(failure).unwrap_or_default().into()
}

/// JSON as a header: one line of ASCII, whatever the names in it are.
pub fn ascii_json(value: &impl serde::Serialize) -> Result<String, serde_json::Error> {
    let json = serde_json::to_string(value)?;
    if json.is_ascii() {
        return Ok(json);
    }
    let mut text = String::with_capacity(json.len() * 2);
    for c in json.chars() {
        match c.is_ascii() {
            true => text.push(c),
            // Outside of strings JSON has nothing but ASCII.
            false => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| text.push_str(&format!("\\u{unit:04x}"))),
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_in_a_header_is_ascii_and_the_same() {
        for text in ["", "plain", "Ünal \"1\" \\ ü😀\u{2028}"] {
            let header = ascii_json(&text).expect("JSON");
            assert!(header.is_ascii() && !header.contains('\n'), "{header}");
            assert_eq!(serde_json::from_str::<String>(&header).expect("JSON"), text);
        }
    }

    #[test]
    fn wrong_headers_are_named() {
        let read = |subject: &str, pairs: &[(&str, &str)]| {
            let headers: HeaderMap =
                pairs.iter().map(|(k, v)| (k.parse().expect("a name"), v.parse().expect("a value"))).collect();
            Head::read(subject, "mcp.v1", Some(&headers)).map(|head| head.command).map_err(|failure| failure.message)
        };
        assert_eq!(read("mcp.v1.ask.tools.call", &[]), Ok("tools.call"));
        assert_eq!(read("mcp.v1.ask.run.x", &[(COMMAND, "servers.logs")]), Ok("servers.logs"));
        for (name, value) in [(TIME_LEFT, "-1"), (SEEN, "x"), (CALL, "{}"), (COMMAND, "no.such")] {
            let refused = read("mcp.v1.ask.tools.call", &[(name, value)]).expect_err("refused");
            assert!(refused.contains(name) || refused.contains(value), "{refused}");
        }
    }
}
