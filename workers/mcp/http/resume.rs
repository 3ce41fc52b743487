//! Reads the stream that brings a reply, and resumes the stream after the server cut it off.

use std::sync::Arc;
use std::time::Duration;

use super::endpoint::RedactionGuards;
use super::protocol::ProtocolContext;
use super::sse::{SseError, SseReader};
use super::transport::{HttpTransport, OutgoingRequest, TransportError};
use crate::http_client::StreamedResponse;
use crate::workers::mcp::mux::RpcReply;

/// The shortest pause before a stream is opened again, even if the server asks for a shorter one.
const MIN_PAUSE: Duration = Duration::from_millis(20);

/// The position in a stream.
#[derive(Default)]
struct Position {
    last_event: Option<String>,
    /// The pause that the server asks for, in milliseconds.
    retry: Option<u64>,
    /// Attempts to resume since the last event.
    attempts: u32,
}

impl HttpTransport {
    /// Reads a stream until the reply arrives. A stream that was cut off is resumed; the request is never sent again.
    pub async fn read_stream(
        self: &Arc<Self>,
        context: &ProtocolContext,
        request: &OutgoingRequest<'_>,
        response: StreamedResponse,
    ) -> Result<RpcReply, TransportError> {
        let mut events = SseReader::new(response, self.message_limit());
        let mut position = Position::default();
        let mut _redaction = None;
        loop {
            let reason = match events.next().await {
                Ok(Some(event)) => {
                    position.attempts = 0;
                    if event.name == "message"
                        && let Some(reply) = self.on_event(context, &event.data, Some(request))?
                    {
                        return Ok(reply);
                    }
                    continue;
                }
                Ok(None) => "it ended its stream before the answer".to_owned(),
                Err(SseError::TooLong) => return Ok(RpcReply::TooLarge),
                Err(SseError::Cut(reason)) => reason,
            };
            if let Some(id) = events.last_id() {
                position.last_event = Some(id.to_owned());
            }
            position.retry = events.retry().or(position.retry);
            let (resumed, redaction) = self.resume(context, request, &mut position, reason).await?;
            events = resumed;
            _redaction = Some(redaction);
        }
    }

    /// Opens the stream again after the last event.
    async fn resume(
        &self,
        context: &ProtocolContext,
        request: &OutgoingRequest<'_>,
        position: &mut Position,
        mut reason: String,
    ) -> Result<(SseReader, RedactionGuards), TransportError> {
        loop {
            let may_resume = !context.stateless && position.attempts < self.options.max_retries;
            let Some(last_event) = position.last_event.as_deref().filter(|_| may_resume) else {
                return Err(TransportError::broken_reply(request.method, &reason));
            };
            tokio::time::sleep(self.pause(position.attempts, position.retry)).await;
            position.attempts += 1;
            match self.open_stream(context, Some(last_event)).await {
                Ok(resumed) => return Ok(resumed),
                Err(TransportError::Protocol {
                    reason: refusal,
                    status: Some(status),
                    ..
                }) if status.is_client_error() => {
                    return Err(TransportError::broken_reply(
                        request.method,
                        &format!("it cannot be resumed ({refusal})"),
                    ));
                }
                Err(error) => reason = error.to_string(),
            }
        }
    }

    /// Returns the pause before attempt number `attempt` to open a stream again. `retry` is the first pause that the
    /// server asks for, in milliseconds.
    pub fn pause(&self, attempt: u32, retry: Option<u64>) -> Duration {
        let first = retry.unwrap_or(self.options.initial_reconnection_delay) as f64;
        let growth = self
            .options
            .reconnection_delay_grow_factor
            .powi(attempt.min(1000) as i32);
        let pause = (first * growth).min(self.options.max_reconnection_delay as f64);
        Duration::from_millis(pause as u64).max(MIN_PAUSE)
    }
}
