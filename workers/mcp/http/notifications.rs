//! The server's own stream: what it says without being asked, first of all that its tools have changed.

use std::sync::Arc;
use std::time::Duration;

use hyper::{Method, StatusCode};

use super::endpoint::RedactionGuard;
use super::protocol::{EVENT_STREAM, ProtocolContext};
use super::session::HttpSession;
use super::sse::SseReader;
use super::transport::{TransportError, content_type};

/// Listens until the connection is lost, or the server has no such stream.
pub async fn listen(session: Arc<HttpSession>) {
    let (mut last, mut retry, mut attempt) = (None::<String>, None, 0u32);
    loop {
        let talk = session.talk();
        let renewed = session.renewed.notified();
        let opened = match talk.stateless {
            true => subscribe(&session, &talk).await,
            false => session.wire.open_stream(&talk, last.as_deref()).await,
        };
        let why = match opened {
            Ok((mut events, _hidden)) => {
                let heard = tokio::select! {
                    heard = hear_all(&session, &talk, &mut events) => heard,
                    () = renewed => {
                        (last, attempt) = (None, 0);
                        continue;
                    }
                };
                last = events.last_id().map(str::to_owned).or(last);
                retry = events.retry().or(retry);
                if heard {
                    attempt = 0;
                }
                "it closed its stream".to_owned()
            }
            Err(TransportError::Wrong {
                status: Some(status),
                ..
            }) if status.is_client_error() => {
                // Either it has no such stream, or it does not know the session: then every request says so.
                if matches!(status, StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND)
                    && talk.has_session()
                {
                    let _ = session.request("ping", "").await;
                    if session.talk().number != talk.number {
                        last = None;
                        continue;
                    }
                }
                return;
            }
            Err(TransportError::Unreachable(reason)) => {
                if attempt >= session.wire.options.max_retries {
                    return session.mark_lost(&reason);
                }
                reason
            }
            Err(trouble) => trouble.reason(),
        };
        if attempt >= session.wire.options.max_retries {
            session
                .wire
                .hearing
                .note(&format!("it is not listened to any more: {why}"));
            return;
        }
        pause(&session, session.wire.pause(attempt, retry)).await;
        attempt += 1;
    }
}

/// Waits, but not for a session that is gone.
async fn pause(session: &HttpSession, pause: Duration) {
    tokio::select! {
        () = tokio::time::sleep(pause) => {}
        () = session.renewed.notified() => {}
    }
}

/// Whether anything was said before the stream ended.
async fn hear_all(session: &HttpSession, talk: &ProtocolContext, events: &mut SseReader) -> bool {
    let mut heard = false;
    while let Ok(Some(event)) = events.next().await {
        heard = true;
        if event.name == "message" {
            let _ = session.wire.on_message(talk, &event.data, None);
        }
    }
    heard
}

/// Without sessions the stream is the answer to a request (2026-07-28, subscriptions).
async fn subscribe(
    session: &HttpSession,
    talk: &ProtocolContext,
) -> Result<(SseReader, RedactionGuard), TransportError> {
    let message = session.message(
        talk,
        "subscriptions/listen",
        r#""notifications":{"toolsListChanged":true}"#,
    );
    let (wire, headers) = (&session.wire, talk.headers(message.method, None));
    let sent = wire
        .endpoint
        .send(Method::POST, &wire.endpoint.place, &headers, message.body)
        .await;
    let (response, hidden) = sent?;
    let status = response.status();
    if !status.is_success() || content_type(&response) != EVENT_STREAM {
        let reason = format!("HTTP {status}");
        // What is answered with something else has no such stream, as 405 says it for the other kind.
        let status = if status.is_success() {
            StatusCode::METHOD_NOT_ALLOWED
        } else {
            status
        };
        return Err(TransportError::Wrong {
            reason,
            begun: false,
            status: Some(status),
        });
    }
    Ok((SseReader::new(response, wire.result_limit), hidden))
}
