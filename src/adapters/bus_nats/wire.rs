//! The format of the messages: builds and parses their headers.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use async_nats::header::{HeaderMap, HeaderName};
use async_nats::message::OutboundMessage;
use async_nats::{HeaderValue, Message, StatusCode, Subject};
use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::chunked::ChunkedBody;
use super::interim_kinds;
use super::subjects::{Subjects, command_of};
use crate::core::command;
use crate::core::command::{Command, DeliveryMode};
use crate::core::failure::{Code, Failure};
use crate::core::ids::Position;
use crate::core::model::tool_call::{CallTool, RetryTool};
use crate::ports::bus::{
    Ask, BusError, Interim, InterimKind, InterimKinds, JobMessage, Reply, Target,
};

/// The time that the sender waits, in milliseconds.
static TIME_LEFT: HeaderName = HeaderName::from_static("Mcp-Time-Left");
/// The newest position that the sender has seen.
static SEEN: HeaderName = HeaderName::from_static("Mcp-Seen");
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The members of an MCP client's `_meta` that the server of a tool call receives, as JSON on one line of ASCII.
static META: HeaderName = HeaderName::from_static("Mcp-Meta");
/// The MCP client that waits for the result of an ask, as JSON on one line.
static CLIENT: HeaderName = HeaderName::from_static("Mcp-Client");
/// The id that a cancellation names. Without this header, the id is the reply subject.
static ASK: HeaderName = HeaderName::from_static("Mcp-Ask");
/// The fields of a tool call, as JSON on one line.
static CALL: HeaderName = HeaderName::from_static("Mcp-Call");
/// A sender may repeat the command here. The subject decides, so another command is refused.
static COMMAND: HeaderName = HeaderName::from_static("Mcp-Command");
/// The sender wants signs of life (`working`) and measures the time itself.
static WORKING: HeaderName = HeaderName::from_static("Mcp-Working");
/// The address of a body that is too large for a message.
static PARTS: HeaderName = HeaderName::from_static("Mcp-Parts");
/// The address for the outcome of a job.
static REPLY: HeaderName = HeaderName::from_static("Mcp-Reply");
/// The kinds of messages before the reply that the sender of an ask takes. Without this header it takes none.
static INTERIM: HeaderName = HeaderName::from_static("Mcp-Interim");
/// The kind of a message with the status `interim`.
static KIND: HeaderName = HeaderName::from_static("Mcp-Kind");
static STATUS: HeaderName = HeaderName::from_static("Mcp-Status");
static POSITION: HeaderName = HeaderName::from_static("Mcp-Position");
/// The process of the sender and its clock. In an ask of this program, the time left in milliseconds and the
/// position follow, and the sender wants signs of life. One header instead of four makes asks faster.
static SENT: HeaderName = HeaderName::from_static("Mcp-Sent");

/// The status of a message before the reply.
const INTERIM_STATUS: &str = "interim";

/// The bytes that the id of a job cannot contain in a subject.
const ID: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_');
/// The time left of an ask without a time.
const DEFAULT_TIME: Duration = Duration::from_secs(60);
/// The longest time left of an ask.
const MAX_TIME: Duration = Duration::from_secs(24 * 60 * 60);

/// Returns an ask as a message, without its body and its reply subject.
pub(super) fn ask(subjects: &Subjects, ask: &Ask, clock: String) -> OutboundMessage {
    let mut headers = HeaderMap::new();
    headers.insert(
        SENT.clone(),
        format!("{clock} {} {}", ask.time_left.as_millis(), ask.seen),
    );
    let traceparent = ask.traceparent.as_deref();
    if let Some(value) = traceparent.and_then(|text| text.parse::<HeaderValue>().ok()) {
        headers.insert(TRACEPARENT.clone(), value);
    }
    add_call(&mut headers, ask.call.as_ref());
    if let Some(meta) = ask.meta.as_deref() {
        headers.insert(META.clone(), meta);
    }
    if let Some(client) = ask
        .client
        .and_then(|client| serde_json::to_string(&client).ok())
    {
        headers.insert(CLIENT.clone(), client);
    }
    if let Some(interim) = &ask.interim {
        headers.insert(INTERIM.clone(), interim_kinds::encode(interim.kinds()));
    }
    let subject = subjects.ask(ask.to, ask.command).into();
    OutboundMessage {
        subject,
        reply: None,
        payload: Bytes::new(),
        headers: Some(headers),
    }
}

fn add_call(headers: &mut HeaderMap, call: Option<&CallTool>) {
    // A header has one line. The compact form of JSON has no line breaks.
    if let Some(call) = call.and_then(|call| serde_json::to_string(call).ok()) {
        headers.insert(CALL.clone(), call);
    }
}

/// An ask that arrived. The worker fetches a chunked body before it executes the ask.
pub(super) struct ReceivedAsk {
    pub(super) ask: Ask,
    pub(super) chunked: Option<ChunkedBody>,
}

/// The sender of an ask, known even if the ask itself is invalid.
pub(super) struct AskSender {
    /// The id that a cancellation names.
    pub(super) id: Option<Arc<str>>,
    /// The address for the reply, which must be an inbox.
    pub(super) reply: Option<Subject>,
    /// Whether the sender wants signs of life and measures the time itself.
    pub(super) wants_signs: bool,
    /// The kinds of messages before the reply that the sender takes.
    pub(super) interim: InterimKinds,
}

impl AskSender {
    pub(super) fn from_message(message: &Message) -> Self {
        let reply = message
            .reply
            .clone()
            .filter(|reply| reply.starts_with("_INBOX."));
        let named = text(message, &ASK).filter(|id| id.len() <= 256);
        let id = named.or(reply.as_deref()).map(Arc::from);
        Self {
            id,
            reply,
            wants_signs: fields_after_stamp(message).is_some()
                || text(message, &WORKING) == Some("1"),
            interim: text(message, &INTERIM)
                .map(interim_kinds::parse)
                .unwrap_or_default(),
        }
    }
}

pub(super) fn text<'a>(message: &'a Message, name: &HeaderName) -> Option<&'a str> {
    // A message has few headers, so reading them costs less than the hash of a name.
    let mut headers = message.headers.as_ref()?.iter();
    let (_, values) = headers.find(|(known, _)| *known == name)?;
    values.first().map(HeaderValue::as_str)
}

/// Returns the number in a header, or `None` without the header.
fn number(message: &Message, name: &HeaderName) -> Result<Option<u64>, Failure> {
    let wrong = || Failure::invalid(format!("The header {name} must be a whole number"));
    text(message, name)
        .map(|text| text.trim().parse().map_err(|_| wrong()))
        .transpose()
}

/// Returns the time left and the position of an ask of this program, which follow the clock in one header.
fn fields_after_stamp(message: &Message) -> Option<(Duration, Position)> {
    let mut numbers = stamp(message)?.split(' ').skip(2).map(str::parse);
    let time_left = Duration::from_millis(numbers.next()?.ok()?);
    let position = Position(numbers.next()?.ok()?);
    Some((time_left, position))
}

/// Returns the fields of a tool call. An ask of another command has none.
fn tool_call(message: &Message, command: &str) -> Result<Option<CallTool>, Failure> {
    if ![CallTool::NAME, RetryTool::NAME].contains(&command) {
        return Ok(None);
    }
    let missing = || Failure::invalid(format!("The header {CALL} is missing"));
    let wrong = |error| {
        Failure::invalid(format!(
            "The header {CALL} cannot be parsed as a tool call: {error}"
        ))
    };
    let text = text(message, &CALL).ok_or_else(missing)?;
    serde_json::from_str(text).map(Some).map_err(wrong)
}

/// Returns the failure of an ask whose header names another command than its subject.
pub(super) fn foreign_command(message: &Message) -> Option<Failure> {
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

fn chunked_body(message: &Message, max_body: usize) -> Result<Option<ChunkedBody>, Failure> {
    let invalid = |reason| Failure::invalid(format!("The header {PARTS} {reason}"));
    text(message, &PARTS)
        .map(|text| ChunkedBody::parse(text, max_body).map_err(invalid))
        .transpose()
}

/// Parses an ask. Unknown headers are ignored, so that two versions of the program can run together.
pub(super) fn parse_ask(
    message: &Message,
    to: Target,
    max_body: usize,
) -> Result<ReceivedAsk, Failure> {
    let name = command_of(&message.subject);
    let command = match command::lookup(name) {
        Some((command, _, DeliveryMode::Ask | DeliveryMode::Change)) => command,
        Some(_) => {
            return Err(Failure::invalid(format!(
                "The command {name} is a job; publish it to the job stream"
            )));
        }
        // The sender may have a newer version of the program. A wrong name is more likely, and a retry would
        // not help its sender.
        None => return Err(unknown(name)),
    };
    let (time_left, seen) = match fields_after_stamp(message) {
        Some(fields) => fields,
        None => (
            number(message, &TIME_LEFT)?.map_or(DEFAULT_TIME, Duration::from_millis),
            Position(number(message, &SEEN)?.unwrap_or(0)),
        ),
    };
    let time_left = time_left.min(MAX_TIME);
    let call = tool_call(message, command)?;
    let traceparent = text(message, &TRACEPARENT).map(Into::into);
    let meta = text(message, &META).map(Into::into);
    // An unknown form belongs to a later version, and a client of it asks for nothing here.
    let client = text(message, &CLIENT).and_then(|client| serde_json::from_str(client).ok());
    let chunked = chunked_body(message, max_body)?;
    let body = message.payload.clone();
    Ok(ReceivedAsk {
        ask: Ask {
            to,
            command,
            time_left,
            seen,
            traceparent,
            meta,
            call,
            client,
            interim: None,
            body,
        },
        chunked,
    })
}

fn unknown(name: &str) -> Failure {
    let name: String = name.chars().take(64).collect();
    Failure::invalid(format!("The command {name:?} does not exist"))
}

/// Returns a job as a message, without its body.
pub(super) fn job(subjects: &Subjects, job: &JobMessage) -> OutboundMessage {
    let mut headers = HeaderMap::new();
    if let Some(call) = job.call.as_deref() {
        headers.insert(CALL.clone(), call);
    }
    if let Some(reply) = job.reply.as_deref() {
        headers.insert(REPLY.clone(), reply);
    }
    OutboundMessage {
        subject: subjects.job(&job.command, &encode_id(&job.id)).into(),
        reply: None,
        payload: Bytes::new(),
        headers: Some(headers),
    }
}

/// Encodes the id of a job as one part of a subject. A byte that a subject cannot contain becomes `=XX`.
fn encode_id(id: &str) -> String {
    // `=XX` is percent-encoding with another escape character. `=` itself is always escaped.
    utf8_percent_encode(id, ID).to_string().replace('%', "=")
}

/// Decodes the id of a job. An id of a producer that is not encoded stays as it is.
fn decode_id(encoded: &str) -> String {
    if !has_valid_escapes(encoded) {
        return encoded.to_owned();
    }
    let text = encoded.replace('%', "%25").replace('=', "%");
    let decoded = percent_decode_str(&text).decode_utf8();
    decoded.map_or_else(|_| encoded.to_owned(), Cow::into_owned)
}

fn has_valid_escapes(encoded: &str) -> bool {
    let mut escapes = encoded.split('=').skip(1);
    escapes.all(|escape| {
        let digits = escape.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    })
}

/// Parses a job with the subject `<prefix>.job.<area>.<verb>.<id>`. A worker checks the content later.
pub(super) fn parse_job(message: &Message) -> JobMessage {
    let subject = message.subject.as_str();
    let (before, id) = subject.rsplit_once('.').unwrap_or(("", subject));
    let mut parts = before.rsplit('.');
    let verb = parts.next().unwrap_or_default();
    let area = parts.next().unwrap_or_default();
    let owned = |name| text(message, name).map(str::to_owned);
    JobMessage {
        id: decode_id(id),
        command: format!("{area}.{verb}"),
        call: owned(&CALL),
        reply: owned(&REPLY),
        body: message.payload.clone(),
    }
}

/// Returns the address for an outcome, if it is an inbox.
pub(super) fn inbox(reply: &str) -> Option<Subject> {
    reply.starts_with("_INBOX.").then(|| Subject::from(reply))
}

/// Returns a reply as a message, without its body. `seen` is the newest position that the receiver has seen.
pub(super) fn reply(to: Subject, reply: &Reply, seen: Position) -> OutboundMessage {
    let status = if reply.outcome.is_ok() {
        "ok"
    } else {
        "failed"
    };
    let mut message = status_message(to, status);
    if let Some(headers) = message.headers.as_mut().filter(|_| reply.position > seen) {
        headers.insert(POSITION.clone(), reply.position.to_string());
    }
    message
}

/// Returns a message with a status and no body.
fn status_message(to: Subject, status: &'static str) -> OutboundMessage {
    let mut headers = HeaderMap::new();
    headers.insert(STATUS.clone(), status);
    OutboundMessage {
        subject: to,
        reply: None,
        payload: Bytes::new(),
        headers: Some(headers),
    }
}

pub(super) fn busy(to: Subject) -> OutboundMessage {
    status_message(to, "busy")
}

/// Returns a sign of life. If the sender's inbox has no subscription, the NATS server sends the status 503 to `report`.
pub(super) fn working(to: Subject, report: Subject) -> OutboundMessage {
    OutboundMessage {
        reply: Some(report),
        ..status_message(to, "working")
    }
}

/// Returns a message before the reply.
pub(super) fn interim(to: Subject, interim: Interim) -> OutboundMessage {
    let mut message = status_message(to, INTERIM_STATUS);
    if let Some(headers) = message.headers.as_mut() {
        headers.insert(KIND.clone(), interim.kind().as_str());
    }
    message.payload = interim.params().clone();
    message
}

/// Returns whether the reply still follows this message.
pub(super) fn is_before_reply(message: &Message) -> bool {
    matches!(text(message, &STATUS), Some("working" | INTERIM_STATUS))
}

/// Parses a message before the reply. A sign of life has no content, and an unknown kind belongs to a later version.
pub(super) fn parse_interim(message: &Message) -> Option<Interim> {
    if text(message, &STATUS) != Some(INTERIM_STATUS) {
        return None;
    }
    let kind = text(message, &KIND)?;
    let kind = InterimKind::ALL
        .into_iter()
        .find(|known| known.as_str() == kind)?;
    let params = message.payload.clone();
    Some(match kind {
        InterimKind::Progress => Interim::Progress(params),
        InterimKind::Log => Interim::Log(params),
        InterimKind::Request => Interim::Request(params),
    })
}

/// Parses a reply. The sender of the ask fetches a chunked body afterwards.
pub(super) fn parse_reply(
    message: Message,
    max_body: usize,
) -> Result<(Reply, Option<ChunkedBody>), BusError> {
    if message.status == Some(StatusCode::NO_RESPONDERS) {
        return Err(BusError::NoResponders);
    }
    let position = Position(number(&message, &POSITION).ok().flatten().unwrap_or(0));
    // A reply that cannot be parsed counts as lost, because its outcome is unknown.
    let chunked = chunked_body(&message, max_body).map_err(|_| BusError::WorkerLost)?;
    let outcome = match text(&message, &STATUS) {
        Some("ok") => Ok(message.payload),
        Some("failed") => Err(message.payload),
        Some("busy") => return Err(BusError::Busy),
        _ => return Err(BusError::WorkerLost),
    };
    Ok((Reply { position, outcome }, chunked))
}

/// Adds the address of a chunked body to a message.
pub(super) fn add_chunked(message: &mut OutboundMessage, body: &ChunkedBody) {
    message
        .headers
        .get_or_insert_default()
        .insert(PARTS.clone(), body.to_string());
}

/// Returns the stamp of a message: the process of the sender and its clock.
pub(super) fn stamp(message: &Message) -> Option<&str> {
    text(message, &SENT)
}

/// Returns a message with the clock of this process.
pub(super) fn tick(subject: String, clock: String) -> OutboundMessage {
    let mut headers = HeaderMap::new();
    headers.insert(SENT.clone(), clock);
    OutboundMessage {
        subject: subject.into(),
        reply: None,
        payload: Bytes::new(),
        headers: Some(headers),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_encoded_as_one_part_of_a_subject() {
        for (id, expected) in [
            ("a", "a"),
            ("0f-_Z", "0f-_Z"),
            ("a.b", "a=2Eb"),
            ("*", "=2A"),
            (">", "=3E"),
            ("ä =41", "=C3=A4=20=3D41"),
            ("50%", "50=25"),
            ("a b\r\n", "a=20b=0D=0A"),
        ] {
            assert_eq!(encode_id(id), expected);
            assert_eq!(decode_id(expected), id);
        }
    }

    #[test]
    fn an_id_that_is_not_encoded_stays_as_it_is() {
        for id in ["=4", "a=", "=zz", "=C3", "50%", "%41"] {
            assert_eq!(decode_id(id), id);
        }
    }
}
