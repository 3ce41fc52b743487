//! One connection: its first head, its requests, its timers and its end.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Interval, MissedTickBehavior, interval_at, timeout};

use super::ConnectionContext;
use super::endless_body::{EndlessBody, Handover};
use super::head::read_head;
use super::io::ClientStream;
use super::rejection::Rejection;
use super::service::ConnectionService;
use super::slots::{ConnectionSlot, ConnectionState};
use crate::time::clock;

/// The first head must be complete this long after the connection was accepted.
const FIRST_HEAD_LIMIT: Duration = Duration::from_secs(15);
/// The first head must be complete this long after the process has begun to drain.
const DRAINING_HEAD_LIMIT: Duration = Duration::from_millis(200);
/// A connection checks its timers this often. Requests read no clock.
const TICK: Duration = Duration::from_secs(10);
/// A later head must be complete 20 to 30 seconds after its first byte.
const HEAD_TICKS: u32 = 2;
/// A connection without a request is closed after twelve ticks (two minutes). Proxies close their
/// idle connections earlier, so they do not send a request into a closed one.
const IDLE_TICKS: u32 = 12;
/// The client may read a rejection for this long while the rest of its bytes is discarded.
const REJECTION_LINGER: Duration = Duration::from_millis(500);

/// Serves one connection until the client or a timer ends it.
pub(super) async fn serve_connection(
    context: Arc<ConnectionContext>,
    slot: ConnectionSlot,
    mut stream: TcpStream,
) {
    let connection = slot.connection.clone();
    let mut head = Vec::new();
    let first_head = tokio::select! {
        biased;
        read = timeout(FIRST_HEAD_LIMIT, read_head(&mut stream, &mut head)) => read,
        () = closing_without_request(&connection) => {
            if connection.is_evicted() {
                return;
            }
            // The client may have sent its request before the process began to drain.
            timeout(DRAINING_HEAD_LIMIT, read_head(&mut stream, &mut head)).await
        }
    };
    match first_head {
        Ok(Ok(Some(()))) => {
            // The box frees the parser and its buffers before an endless body begins.
            let requests = Box::pin(serve_requests(&context, connection, stream, head)).await;
            if let Some((stream, body)) = requests {
                body.send(stream).await;
            }
        }
        Ok(Ok(None)) => {}
        Ok(Err(rejection)) => Box::pin(reject(stream, rejection)).await,
        Err(_) if head.is_empty() => {}
        Err(_) => Box::pin(reject(stream, Rejection::HeadTimeout)).await,
    }
}

/// Waits until a connection without a request must close.
async fn closing_without_request(connection: &ConnectionState) {
    while !connection.is_evicted() && !connection.is_draining() {
        connection.signalled().await;
    }
}

/// Serves requests until the connection ends. Returns its stream if an endless body follows the head of a response.
async fn serve_requests(
    context: &ConnectionContext,
    connection: Arc<ConnectionState>,
    stream: TcpStream,
    head: Vec<u8>,
) -> Option<(TcpStream, EndlessBody)> {
    let handover = Arc::new(Handover::default());
    let service = ConnectionService {
        api: context.api.clone(),
        bodies: context.bodies.clone(),
        connection: connection.clone(),
        handover: handover.clone(),
    };
    let client = ClientStream::new(stream, connection.clone(), handover.clone(), head);
    let io = TokioIo::new(client);
    let mut http = context.http.serve_connection(io, service);
    let mut timers = ConnectionTimers::new(&connection);
    loop {
        tokio::select! {
            biased;
            body = until_endless(&mut http, &handover) => {
                let stream = http.into_parts().io.into_inner().into_inner();
                return body.map(|body| (stream, body));
            }
            () = connection.signalled() => {
                if connection.is_evicted() && !connection.has_request() {
                    return None;
                }
                // A running request finishes first.
                Pin::new(&mut http).graceful_shutdown();
            }
            expired = timers.expired() => match expired {
                Expired::Head => {
                    let stream = http.into_parts().io.into_inner().into_inner();
                    Box::pin(reject(stream, Rejection::HeadTimeout)).await;
                    return None;
                }
                Expired::Idle => return None,
            },
        }
    }
}

/// The HTTP parser of one connection.
type HttpConnection = http1::Connection<TokioIo<ClientStream>, ConnectionService>;

/// Serves requests until the connection ends, or until the head of an endless body has been sent.
async fn until_endless(http: &mut HttpConnection, handover: &Handover) -> Option<EndlessBody> {
    poll_fn(|cx| match Pin::new(&mut *http).poll(cx) {
        // An error means that the client has disconnected or sent no valid request.
        Poll::Ready(_) => Poll::Ready(None),
        Poll::Pending => handover
            .take()
            .map_or(Poll::Pending, |body| Poll::Ready(Some(body))),
    })
    .await
}

/// The timer of a connection that has ended.
enum Expired {
    Head,
    Idle,
}

/// Measures quiet time in ticks.
struct ConnectionTimers<'a> {
    connection: &'a ConnectionState,
    ticks: Interval,
    last_activity: usize,
    had_partial_head: bool,
    quiet_ticks: u32,
}

impl<'a> ConnectionTimers<'a> {
    fn new(connection: &'a ConnectionState) -> Self {
        let mut ticks = interval_at(clock::monotonic() + TICK, TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            connection,
            ticks,
            last_activity: connection.activity(),
            had_partial_head: false,
            quiet_ticks: 0,
        }
    }

    /// Waits until a timer ends. The call may be dropped and repeated.
    async fn expired(&mut self) -> Expired {
        loop {
            self.ticks.tick().await;
            if let Some(expired) = self.count_tick() {
                return expired;
            }
        }
    }

    fn count_tick(&mut self) -> Option<Expired> {
        let activity = self.connection.activity();
        let has_partial_head = self.connection.has_partial_head();
        if self.connection.has_request()
            || activity != self.last_activity
            || has_partial_head != self.had_partial_head
        {
            self.last_activity = activity;
            self.had_partial_head = has_partial_head;
            self.quiet_ticks = 0;
            return None;
        }
        self.quiet_ticks += 1;
        if has_partial_head && self.quiet_ticks >= HEAD_TICKS {
            return Some(Expired::Head);
        }
        (self.quiet_ticks >= IDLE_TICKS).then_some(Expired::Idle)
    }
}

/// Sends a rejection and closes the connection. Unread bytes would make the kernel discard the
/// answer, so they are read and discarded for a moment.
///
/// Callers box the future, so that other connections do not hold its buffer.
async fn reject(mut stream: TcpStream, rejection: Rejection) {
    let answer = async {
        stream.write_all(&rejection.to_bytes()).await?;
        stream.shutdown().await?;
        let mut discarded = [0; 1024];
        while stream.read(&mut discarded).await? > 0 {}
        Ok::<_, std::io::Error>(())
    };
    // A client that disconnects or keeps sending gets no more time.
    let _ = timeout(REJECTION_LINGER, answer).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tick(timers: &mut ConnectionTimers<'_>, times: u32) -> Option<Expired> {
        (0..times).find_map(|_| timers.count_tick())
    }

    #[tokio::test]
    async fn an_idle_connection_expires_after_two_minutes() {
        let connection = Arc::new(ConnectionState::default());
        let mut timers = ConnectionTimers::new(&connection);
        assert!(tick(&mut timers, IDLE_TICKS - 1).is_none());
        assert!(matches!(tick(&mut timers, 1), Some(Expired::Idle)));
    }

    #[tokio::test]
    async fn a_partial_head_expires_earlier() {
        let connection = Arc::new(ConnectionState::default());
        let mut timers = ConnectionTimers::new(&connection);
        assert!(tick(&mut timers, IDLE_TICKS - 1).is_none());
        connection.record_bytes();
        assert!(
            tick(&mut timers, HEAD_TICKS).is_none(),
            "the first byte starts the timer"
        );
        assert!(matches!(tick(&mut timers, 1), Some(Expired::Head)));
    }

    #[tokio::test]
    async fn a_running_request_never_expires() {
        let connection = Arc::new(ConnectionState::default());
        let mut timers = ConnectionTimers::new(&connection);
        let request = connection.start_request();
        assert!(tick(&mut timers, 10 * IDLE_TICKS).is_none());
        drop(request);
        assert!(
            tick(&mut timers, IDLE_TICKS).is_none(),
            "the end of a request starts the timer"
        );
        assert!(matches!(tick(&mut timers, 1), Some(Expired::Idle)));
    }
}
