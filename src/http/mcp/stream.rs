//! The answer to one call: JSON if the call ends soon, else an event stream that ends with the response.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::{FutureExt as _, stream};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::announcer::Notice;
use super::answer::{Outcome, event, event_stream, message_response};
use super::call::{CallMessages, RunningCall};
use super::endpoint::Exchange;
use super::server_request::request_event;
use crate::ports::interim::Interim;

/// The time after which a call is answered with a stream, so that a client sees a first byte in time.
const UPGRADE_AFTER: Duration = Duration::from_secs(10);

/// Texts that are ready are joined up to this number of bytes.
const MAX_WRITE: usize = 64 * 1024;

/// Waits for the outcome of a call. Dropping the response cancels the call.
pub(super) async fn answer_call(
    exchange: &Arc<Exchange>,
    mut call: RunningCall,
    id: &str,
) -> Response {
    let accepted = exchange.accepted;
    let first = if accepted.events {
        first_part(exchange, &mut call).await
    } else {
        Some(Part::Outcome(call.outcome.as_mut().await))
    };
    let first_event = match first {
        Some(Part::Outcome(outcome)) => {
            return message_response(accepted, outcome.status(), outcome.message(Some(id)));
        }
        Some(Part::Message(text)) => Some(text),
        None => None,
    };
    exchange.state.metrics().mcp_upgrades.inc();
    let stream = Box::new(CallStream {
        exchange: exchange.clone(),
        call,
        id: id.to_owned(),
        first_event,
        notices: exchange.state.mcp().announcer.subscribe(),
        has_ended: false,
        _request: exchange.state.track_request(),
    });
    let texts = stream::unfold(stream, async |mut stream| {
        let text = stream.next_text().await?;
        Some((Ok::<_, Infallible>(text), stream))
    });
    event_stream(Body::from_stream(texts))
}

/// A part of the answer to a call.
enum Part {
    /// A message before the outcome, as an event.
    Message(Bytes),
    Outcome(Outcome),
}

/// Waits for the first part of the answer. Returns `None` if the call takes so long that a stream must begin.
async fn first_part(exchange: &Exchange, call: &mut RunningCall) -> Option<Part> {
    let part = next_part(exchange, call);
    tokio::time::timeout(UPGRADE_AFTER, part).await.ok()
}

/// Waits for the next part of the answer. All messages come before the outcome.
async fn next_part(exchange: &Exchange, call: &mut RunningCall) -> Part {
    loop {
        let Some(message) = next_message(call).await else {
            return match call.finished.take() {
                Some(outcome) => Part::Outcome(outcome),
                None => Part::Outcome(call.outcome.as_mut().await),
            };
        };
        if let Some(text) = message_event(exchange, call.messages.as_ref(), &message) {
            return Part::Message(text);
        }
    }
}

/// Returns the next message, or `None` if the outcome follows.
async fn next_message(call: &mut RunningCall) -> Option<Interim> {
    let messages = &mut call.messages.as_mut()?.receiver;
    if call.finished.is_none() {
        let message = tokio::select! {
            biased;
            message = messages.recv() => message,
            outcome = call.outcome.as_mut() => {
                call.finished = Some(outcome);
                None
            }
        };
        if message.is_some() {
            return message;
        }
    }
    // The poll that ended the call may have brought messages too.
    messages.try_recv()
}

/// Returns a message as an event, or `None` if the client does not take it.
fn message_event(
    exchange: &Exchange,
    messages: Option<&CallMessages>,
    message: &Interim,
) -> Option<Bytes> {
    match message {
        Interim::Progress(params) => {
            let token = messages?.token.as_ref()?;
            Some(progress_event(token, params))
        }
        Interim::Log(params) => Some(log_event(params)),
        Interim::Request(request) => request_event(exchange, request),
    }
}

/// Returns a log line as an event.
fn log_event(params: &Bytes) -> Bytes {
    let head = br#"{"jsonrpc":"2.0","method":"notifications/message","params":"#;
    event(&[head, &params[..], b"}"].concat())
}

/// Returns a progress notification with the token of the client. Its other members keep their text.
fn progress_event(token: &str, params: &Bytes) -> Bytes {
    let members = params
        .trim_ascii()
        .strip_prefix(b"{")
        .unwrap_or(b"}")
        .trim_ascii_start();
    let separator: &[u8] = if members.starts_with(b"}") { b"" } else { b"," };
    let message = [
        br#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"#,
        token.as_bytes(),
        separator,
        members,
        b"}",
    ];
    event(&message.concat())
}

struct CallStream {
    exchange: Arc<Exchange>,
    call: RunningCall,
    /// The raw id of the request.
    id: String,
    first_event: Option<Bytes>,
    notices: Receiver<Notice>,
    has_ended: bool,
    /// A drain waits for the call.
    _request: TaskTrackerToken,
}

impl CallStream {
    /// Returns the next text, or `None` at the end: after the response, or after the end of the caller's token. When axum
    /// drops the stream, a running call is cancelled.
    async fn next_text(&mut self) -> Option<Bytes> {
        if self.has_ended {
            return None;
        }
        if let Some(text) = self.first_event.take() {
            return Some(text);
        }
        let text = self.wait_for_text().await?;
        let state = &self.exchange.state;
        state.check_still_valid(&self.exchange.caller).ok()?;
        Some(text)
    }

    async fn wait_for_text(&mut self) -> Option<Bytes> {
        let part = loop {
            let notice = tokio::select! {
                biased;
                part = next_part(&self.exchange, &mut self.call) => break part,
                notice = self.notices.recv() => notice,
            };
            match notice {
                Ok(Notice::KeepAlive) => return Some(Bytes::from_static(b":\n\n")),
                Ok(Notice::LogMoved { .. }) | Err(RecvError::Lagged(_)) => {
                    let state = &self.exchange.state;
                    state.check_still_valid(&self.exchange.caller).ok()?;
                }
                // The process drains, and the call still gets its answer.
                Err(RecvError::Closed) => break next_part(&self.exchange, &mut self.call).await,
            }
        };
        Some(self.with_ready_parts(part))
    }

    /// Returns a part as a text, together with the parts that are ready too, so that one write sends them all.
    fn with_ready_parts(&mut self, part: Part) -> Bytes {
        let mut text = self.text_of(part);
        while !self.has_ended && text.len() < MAX_WRITE {
            let Some(part) = next_part(&self.exchange, &mut self.call).now_or_never() else {
                break;
            };
            text = [text, self.text_of(part)].concat().into();
        }
        text
    }

    fn text_of(&mut self, part: Part) -> Bytes {
        match part {
            Part::Message(text) => text,
            Part::Outcome(outcome) => {
                self.has_ended = true;
                event(&outcome.message(Some(&self.id)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::interim::interim_channel;

    #[tokio::test]
    async fn a_message_that_comes_with_the_outcome_is_sent_before_it() {
        let (sender, receiver) = interim_channel();
        let outcome = Box::pin(async move {
            for params in ["1", "2"] {
                sender.send(Interim::Progress(Bytes::from_static(params.as_bytes())));
            }
            Outcome::Result(Bytes::from_static(b"{}"))
        });
        let messages = CallMessages {
            receiver,
            token: Some("1".to_owned()),
        };
        let mut call = RunningCall::new(outcome, Some(messages));
        for params in ["1", "2"] {
            let expected = Interim::Progress(Bytes::from_static(params.as_bytes()));
            assert_eq!(next_message(&mut call).await, Some(expected));
        }
        assert_eq!(next_message(&mut call).await, None);
        assert!(matches!(call.finished, Some(Outcome::Result(_))));
    }

    #[test]
    fn a_progress_notification_has_the_token_of_the_client() {
        for (params, expected) in [
            (
                r#"{"progress":1.50,"x":[]}"#,
                r#"{"progressToken":"t","progress":1.50,"x":[]}"#,
            ),
            ("{ }", r#"{"progressToken":"t"}"#),
        ] {
            let text = progress_event("\"t\"", &Bytes::copy_from_slice(params.as_bytes()));
            let text = String::from_utf8(text.to_vec()).expect("UTF-8");
            assert!(text.contains(&format!("\"params\":{expected}}}")), "{text}");
        }
    }
}
