//! The answer to one call: JSON if the call ends soon, else an event stream that ends with the response.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;
use futures::stream;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::announcer::Notice;
use super::answer::{event, event_stream, message_response};
use super::call::RunningCall;
use super::endpoint::Exchange;

/// The time after which a call is answered with a stream, so that a client sees a first byte in time.
const UPGRADE_AFTER: Duration = Duration::from_secs(10);

/// Waits for the outcome of a call. Dropping the response cancels the call.
pub async fn answer_call(exchange: &Exchange, mut call: RunningCall, id: &str) -> Response {
    let accepted = exchange.accepted;
    if !accepted.events {
        let message = call.await.message(Some(id));
        return message_response(accepted, StatusCode::OK, message);
    }
    if let Ok(outcome) = tokio::time::timeout(UPGRADE_AFTER, &mut call).await {
        return message_response(accepted, StatusCode::OK, outcome.message(Some(id)));
    }
    let stream = Box::new(CallStream {
        call,
        id: id.to_owned(),
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

struct CallStream {
    call: RunningCall,
    /// The raw id of the request.
    id: String,
    notices: Receiver<Notice>,
    has_ended: bool,
    /// A drain waits for the call.
    _request: TaskTrackerToken,
}

impl CallStream {
    /// Returns the next text, or `None` after the response.
    async fn next_text(&mut self) -> Option<Bytes> {
        if self.has_ended {
            return None;
        }
        loop {
            tokio::select! {
                outcome = &mut self.call => {
                    self.has_ended = true;
                    return Some(event(&outcome.message(Some(&self.id))));
                }
                notice = self.notices.recv() => match notice {
                    Ok(Notice::KeepAlive) => return Some(Bytes::from_static(b":\n\n")),
                    Ok(Notice::LogMoved { .. }) | Err(RecvError::Lagged(_)) => {}
                    // The process drains: the call still gets its answer.
                    Err(RecvError::Closed) => {
                        self.has_ended = true;
                        let outcome = (&mut self.call).await;
                        return Some(event(&outcome.message(Some(&self.id))));
                    }
                },
            }
        }
    }
}
