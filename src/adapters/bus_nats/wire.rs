//! The messages as they are on the wire: headers, and what is made of them.

use std::sync::Arc;
use std::time::Duration;

use async_nats::header::{HeaderMap, HeaderName};
use async_nats::message::OutboundMessage;
use async_nats::{Message, StatusCode, Subject};
use bytes::Bytes;

use super::chunked::ChunkedBody;
use super::subjects::{Subjects, command_of};
use crate::core::command;
use crate::core::command::{Command, DeliveryMode};
use crate::core::failure::{Code, Failure};
use crate::core::ids::Position;
use crate::core::model::tool_call::CallTool;
use crate::ports::bus::{Ask, BusError, JobMessage, Reply, Target};

/// Milliseconds the sender waits.
static TIME_LEFT: HeaderName = HeaderName::from_static("Mcp-Time-Left");
/// The newest position the sender has seen.
static SEEN: HeaderName = HeaderName::from_static("Mcp-Seen");
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What a cancel names; the reply subject where it is absent.
static ASK: HeaderName = HeaderName::from_static("Mcp-Ask");
/// The fields of a tool call, as JSON on one line.
static CALL: HeaderName = HeaderName::from_static("Mcp-Call");
/// A sender may repeat the command here. The subject decides, so another command is refused.
static COMMAND: HeaderName = HeaderName::from_static("Mcp-Command");
/// The sender wants to hear that its ask is worked on, and keeps the time itself.
static WORKING: HeaderName = HeaderName::from_static("Mcp-Working");
/// Where the body is, when it is too large for a message.
static PARTS: HeaderName = HeaderName::from_static("Mcp-Parts");
/// Where the outcome of a job goes.
static REPLY: HeaderName = HeaderName::from_static("Mcp-Reply");
static STATUS: HeaderName = HeaderName::from_static("Mcp-Status");
static POSITION: HeaderName = HeaderName::from_static("Mcp-Position");
/// What the sender's clock shows. In an ask of ours the milliseconds it waits and the position it has seen follow,
/// and it knows `working`: each header costs both sides more than its words.
static SENT: HeaderName = HeaderName::from_static("Mcp-Sent");
/// The process that sent a hint, which has heard it already.
static FROM: HeaderName = HeaderName::from_static("Mcp-From");

/// How long a sender waits that does not say how long.
const DEFAULT_TIME: Duration = Duration::from_secs(60);
const LONGEST_TIME: Duration = Duration::from_secs(24 * 60 * 60);

/// An ask as a message, without its body and its reply subject.
pub fn ask(subjects: &Subjects, ask: &Ask, clock: String) -> OutboundMessage {
    let mut headers = HeaderMap::new();
    headers.insert(
        SENT.clone(),
        format!("{clock} {} {}", ask.time_left.as_millis(), ask.seen),
    );
    if let Some(traceparent) = ask
        .traceparent
        .as_deref()
        .and_then(|text| text.parse::<HeaderValue>().ok())
    {
        headers.insert(TRACEPARENT.clone(), traceparent);
    }
    put_call(&mut headers, ask.call.as_ref());
    let subject = subjects.ask(ask.to, ask.command).into();
    OutboundMessage {
        subject,
        reply: None,
        payload: Bytes::new(),
        headers: Some(headers),
    }
}

type HeaderValue = async_nats::HeaderValue;

fn put_call(headers: &mut HeaderMap, call: Option<&CallTool>) {
    // JSON has no line break outside strings, and escapes it within.
    if let Some(call) = call.and_then(|call| serde_json::to_string(call).ok()) {
        headers.insert(CALL.clone(), call);
    }
}

/// A message as an ask, its body still to be fetched where it has parts.
pub struct ReceivedAsk {
    pub ask: Ask,
    pub parts: Option<ChunkedBody>,
}

/// What an asker is told in any case, however wrong the rest of its message is.
pub struct AskSender {
    /// What a cancel names.
    pub id: Option<Arc<str>>,
    /// Where the answer goes: nowhere but into an inbox.
    pub reply: Option<Subject>,
    /// It knows `working`, and takes time for itself.
    pub patient: bool,
}

impl AskSender {
    pub fn of(message: &Message) -> Self {
        let reply = message
            .reply
            .clone()
            .filter(|reply| reply.starts_with("_INBOX."));
        let named = text(message, &ASK).filter(|id| id.len() <= 256);
        let id = named.or(reply.as_deref()).map(Arc::from);
        Self {
            id,
            reply,
            patient: of_ours(message).is_some() || text(message, &WORKING) == Some("1"),
        }
    }
}

fn text<'a>(message: &'a Message, name: &HeaderName) -> Option<&'a str> {
    message
        .headers
        .as_ref()?
        .get(name.clone())
        .map(async_nats::HeaderValue::as_str)
}

/// A number in a header; its absence is no fault.
fn number(message: &Message, name: &HeaderName) -> Result<Option<u64>, Failure> {
    let wrong = || Failure::invalid(format!("The header {name} must be a whole number"));
    text(message, name)
        .map(|text| text.trim().parse().map_err(|_| wrong()))
        .transpose()
}

/// What an ask of ours says beside its clock.
fn of_ours(message: &Message) -> Option<(Duration, Position)> {
    let mut words = sent(message)?.split(' ').skip(2).map(str::parse);
    Some((
        Duration::from_millis(words.next()?.ok()?),
        Position(words.next()?.ok()?),
    ))
}

/// Returns the fields of a tool call. An ask of another command has none.
fn tool_call(message: &Message, command: &str) -> Result<Option<CallTool>, Failure> {
    if command != CallTool::NAME {
        return Ok(None);
    }
    let missing = || Failure::invalid(format!("The header {CALL} is missing"));
    let wrong = |error| Failure::invalid(format!("The header {CALL} is no tool call: {error}"));
    let text = text(message, &CALL).ok_or_else(missing)?;
    serde_json::from_str(text).map(Some).map_err(wrong)
}

/// Returns the failure of an ask whose header names another command than its subject.
pub fn foreign_command(message: &Message) -> Option<Failure> {
    let named = text(message, &COMMAND)?;
    let allowed = command_of(&message.subject);
    (named != allowed).then(|| {
        Failure::new(
            Code::Forbidden,
            format!(
                "The subject carries the command {allowed} only; remove the header {COMMAND}, or send the command to its own subject"
            ),
        )
    })
}

fn parts(message: &Message, max_body: usize) -> Result<Option<ChunkedBody>, Failure> {
    let wrong = |why| Failure::invalid(format!("The header {PARTS} {why}"));
    text(message, &PARTS)
        .map(|text| ChunkedBody::parse(text, max_body).map_err(wrong))
        .transpose()
}

/// Reads an ask. Unknown headers are ignored, so that versions can run side by side.
pub fn read_ask(message: &Message, to: Target, max_body: usize) -> Result<ReceivedAsk, Failure> {
    let name = command_of(&message.subject);
    let command = match command::known(name) {
        Some((command, _, DeliveryMode::Ask | DeliveryMode::Change)) => command,
        Some(_) => {
            return Err(Failure::invalid(format!(
                "The command {name} is taken as a job only"
            )));
        }
        // During a rolling upgrade a new command may meet an old worker. That is rare; a misspelt one is
        // not, and its sender must not be told to ask again.
        None => return Err(unknown(name)),
    };
    let (time_left, seen) = match of_ours(message) {
        Some(said) => said,
        None => (
            number(message, &TIME_LEFT)?.map_or(DEFAULT_TIME, Duration::from_millis),
            Position(number(message, &SEEN)?.unwrap_or(0)),
        ),
    };
    let time_left = time_left.min(LONGEST_TIME);
    let call = tool_call(message, command)?;
    let traceparent = text(message, &TRACEPARENT).map(Into::into);
    let parts = parts(message, max_body)?;
    let body = message.payload.clone();
    Ok(ReceivedAsk {
        ask: Ask {
            to,
            command,
            time_left,
            seen,
            traceparent,
            call,
            body,
        },
        parts,
    })
}

fn unknown(name: &str) -> Failure {
    let name: String = name.chars().take(64).collect();
    Failure::invalid(format!("There is no command {name:?}"))
}

/// A job as a message, without its body.
pub fn job(subjects: &Subjects, job: &JobMessage) -> OutboundMessage {
    let mut headers = HeaderMap::new();
    job.call
        .as_deref()
        .inspect(|call| headers.insert(CALL.clone(), *call));
    job.reply
        .as_deref()
        .inspect(|reply| headers.insert(REPLY.clone(), *reply));
    let subject = subjects.job(&job.command, &token(&job.id)).into();
    OutboundMessage {
        subject,
        reply: None,
        payload: Bytes::new(),
        headers: Some(headers),
    }
}

/// A job's id as a part of its subject: what has no place in one is written `=XX`.
fn token(id: &str) -> String {
    let mut token = String::with_capacity(id.len());
    for byte in id.bytes() {
        match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'_' => token.push(char::from(byte)),
            other => token.push_str(&format!("={other:02X}")),
        }
    }
    token
}

fn untoken(token: &str) -> Option<String> {
    let mut rest = token.as_bytes();
    let mut id = Vec::with_capacity(rest.len());
    while let Some((&first, more)) = rest.split_first() {
        rest = more;
        if first == b'=' {
            let hex = std::str::from_utf8(rest.get(..2)?).ok()?;
            id.push(u8::from_str_radix(hex, 16).ok()?);
            rest = &rest[2..];
        } else {
            id.push(first);
        }
    }
    String::from_utf8(id).ok()
}

/// Reads a job of `<prefix>.job.<area>.<verb>.<id>`, whatever else it says.
pub fn read_job(message: &Message) -> JobMessage {
    let subject = message.subject.as_str();
    let (rest, id) = subject.rsplit_once('.').unwrap_or(("", subject));
    let mut words = rest.rsplit('.');
    let (verb, area) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    // An id of somebody else's making may hold what is no escape of ours.
    let id = untoken(id).unwrap_or_else(|| id.to_owned());
    let owned = |name| text(message, name).map(str::to_owned);
    JobMessage {
        id,
        command: format!("{area}.{verb}"),
        call: owned(&CALL),
        reply: owned(&REPLY),
        body: message.payload.clone(),
    }
}

/// Where an outcome may go: nowhere but into an inbox.
pub fn inbox(reply: &str) -> Option<Subject> {
    reply.starts_with("_INBOX.").then(|| Subject::from(reply))
}

/// An answer as a message, without its body, to somebody who has seen so much of the log.
pub fn reply(to: Subject, reply: &Reply, seen: Position) -> OutboundMessage {
    let mut message = state(
        to,
        if reply.outcome.is_ok() {
            "ok"
        } else {
            "failed"
        },
    );
    if let Some(headers) = message.headers.as_mut().filter(|_| reply.position > seen) {
        headers.insert(POSITION.clone(), reply.position.to_string());
    }
    message
}

/// A message that says no more than a status.
fn state(to: Subject, status: &'static str) -> OutboundMessage {
    let mut headers = HeaderMap::new();
    headers.insert(STATUS.clone(), status);
    OutboundMessage {
        subject: to,
        reply: None,
        payload: Bytes::new(),
        headers: Some(headers),
    }
}

pub fn busy(to: Subject) -> OutboundMessage {
    state(to, "busy")
}

pub fn working(to: Subject) -> OutboundMessage {
    state(to, "working")
}

pub fn is_working(message: &Message) -> bool {
    text(message, &STATUS) == Some("working")
}

/// Reads an answer, its body still to be fetched where it has parts.
pub fn read_reply(
    message: Message,
    max_body: usize,
) -> Result<(Reply, Option<ChunkedBody>), BusError> {
    if message.status == Some(StatusCode::NO_RESPONDERS) {
        return Err(BusError::NoResponders);
    }
    let position = Position(number(&message, &POSITION).ok().flatten().unwrap_or(0));
    // An answer nobody can read is as good as none: what was done is unknown.
    let parts = parts(&message, max_body).map_err(|_| BusError::WorkerLost)?;
    let outcome = match text(&message, &STATUS) {
        Some("ok") => Ok(message.payload),
        Some("failed") => Err(message.payload),
        Some("busy") => return Err(BusError::Busy),
        _ => return Err(BusError::WorkerLost),
    };
    Ok((Reply { position, outcome }, parts))
}

/// Says where the body is.
pub fn put_parts(message: &mut OutboundMessage, parts: &ChunkedBody) {
    message
        .headers
        .get_or_insert_default()
        .insert(PARTS.clone(), parts.to_string());
}

/// What a message says of its sender's clock.
pub fn sent(message: &Message) -> Option<&str> {
    text(message, &SENT)
}

/// Lets the others hear what the clock shows.
pub fn tick(subject: String, clock: String) -> OutboundMessage {
    let mut headers = HeaderMap::new();
    headers.insert(SENT.clone(), clock);
    OutboundMessage {
        subject: subject.into(),
        reply: None,
        payload: Bytes::new(),
        headers: Some(headers),
    }
}

/// A hint of this process.
pub fn hint(subject: String, from: &str, payload: Bytes) -> OutboundMessage {
    let mut headers = HeaderMap::new();
    headers.insert(FROM.clone(), from);
    OutboundMessage {
        subject: subject.into(),
        reply: None,
        payload,
        headers: Some(headers),
    }
}

pub fn is_from(message: &Message, process: &str) -> bool {
    text(message, &FROM) == Some(process)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_one_word_of_a_subject_and_comes_back() {
        for id in ["a", "0f-_Z", "a.b", "*", ">", "ä =41", "a b\r\n"] {
            let token = token(id);
            assert!(
                token
                    .bytes()
                    .all(|b| b.is_ascii_graphic() && !b".*>".contains(&b)),
                "{token}"
            );
            assert_eq!(untoken(&token).as_deref(), Some(id));
        }
        assert_eq!(untoken("=4"), None);
    }
}
