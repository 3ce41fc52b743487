//! The answer to one call: JSON if the call ends soon, else an event stream that ends with the response.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::stream;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::announcer::Notice;
use super::answer::{Outcome, event, event_stream, message_response};
use super::call::{Progress, RunningCall};
use super::endpoint::Exchange;
use crate::ports::interim::Interim;

/// The time after which a call is answered with a stream, so that a client sees a first byte in time.
const UPGRADE_AFTER: Duration = Duration::from_secs(10);

/// Waits for the outcome of a call. Dropping the response cancels the call.
pub(super) async fn answer_call(
    exchange: &Arc<Exchange>,
    mut call: RunningCall,
    id: &str,
) -> Response {
    let accepted = exchange.accepted;
    let first = if accepted.events {
        first_part(&mut call).await
    } else {
        Some(Part::Outcome(call.outcome.as_mut().await))
    };
    let first_event = match first {
        Some(Part::Outcome(outcome)) => {
            return message_response(accepted, outcome.status(), outcome.message(Some(id)));
        }
        Some(Part::Progress(text)) => Some(text),
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
    /// A progress notification as an event.
    Progress(Bytes),
    Outcome(Outcome),
}

/// Waits for the first part of the answer. Returns `None` if the call takes so long that a stream must begin.
async fn first_part(call: &mut RunningCall) -> Option<Part> {
    tokio::time::timeout(UPGRADE_AFTER, next_part(call))
        .await
        .ok()
}

/// Waits for the next part of the answer. All progress comes before the outcome.
async fn next_part(call: &mut RunningCall) -> Part {
    let Some(progress) = &mut call.progress else {
        return Part::Outcome(call.outcome.as_mut().await);
    };
    if call.finished.is_none() {
        let message = tokio::select! {
            biased;
            message = progress.messages.recv() => message,
            outcome = call.outcome.as_mut() => {
                call.finished = Some(outcome);
                None
            }
        };
        if let Some(message) = message {
            return progress_part(progress, message);
        }
    }
    // The poll that ended the call may have brought progress too.
    if let Some(message) = progress.messages.try_recv() {
        return progress_part(progress, message);
    }
    match call.finished.take() {
        Some(outcome) => Part::Outcome(outcome),
        None => Part::Outcome(call.outcome.as_mut().await),
    }
}

fn progress_part(progress: &Progress, message: Interim) -> Part {
    let Interim::Progress(params) = message;
    Part::Progress(progress_event(&progress.token, &params))
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
                part = next_part(&mut self.call) => break part,
                notice = self.notices.recv() => notice,
            };
            match notice {
                Ok(Notice::KeepAlive) => return Some(Bytes::from_static(b":\n\n")),
                Ok(Notice::LogMoved { .. }) | Err(RecvError::Lagged(_)) => {
                    let state = &self.exchange.state;
                    state.check_still_valid(&self.exchange.caller).ok()?;
                }
                // The process drains, and the call still gets its answer.
                Err(RecvError::Closed) => break next_part(&mut self.call).await,
            }
        };
        Some(match part {
            Part::Progress(text) => text,
            Part::Outcome(outcome) => {
                self.has_ended = true;
                event(&outcome.message(Some(&self.id)))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::interim::interim_channel;

    #[tokio::test]
    async fn progress_that_comes_with_the_outcome_is_sent_before_it() {
        let (sender, messages) = interim_channel();
        let mut call = RunningCall {
            outcome: Box::pin(async move {
                for params in ["{\"progress\":1}", "{\"progress\":2}"] {
                    sender.send(Interim::Progress(Bytes::from_static(params.as_bytes())));
                }
                Outcome::Result(Bytes::from_static(b"{}"))
            }),
            progress: Some(Progress {
                messages,
                token: "1".to_owned(),
            }),
            finished: None,
        };
        for step in ["\"progress\":1", "\"progress\":2"] {
            let Part::Progress(text) = next_part(&mut call).await else {
                panic!("the outcome came before {step}");
            };
            assert!(std::str::from_utf8(&text).expect("UTF-8").contains(step));
        }
        assert!(matches!(next_part(&mut call).await, Part::Outcome(_)));
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
