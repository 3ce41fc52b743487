//! Accepts HTTP connections and bounds the memory and the descriptors that they use.
//!
//! A connection costs a small buffer until its first request head is complete. A head must arrive
//! in time, and an idle connection is closed. If too many connections are open, a new connection
//! replaces the oldest one that has no request.

mod body_memory;
mod connection;
mod endless_body;
mod head;
mod io;
mod rejection;
mod service;
mod slots;

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::body_memory::BodyMemory;
use self::connection::serve_connection;
use self::head::MAX_HEAD;
use self::rejection::Rejection;
use self::slots::ConnectionSlots;
use super::middleware::Api;

/// The kernel closes a connection whose client takes none of the sent bytes for this long.
const UNREAD_LIMIT: Duration = Duration::from_secs(20);
/// The pause after a failed accept, for example because no descriptor is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The limits of all connections together.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// The most open connections.
    pub connections: usize,
    /// The largest request body in bytes.
    pub payload: usize,
}

/// The parts that all connections share.
struct ConnectionContext {
    api: Api,
    http: http1::Builder,
    slots: ConnectionSlots,
    bodies: Arc<BodyMemory>,
}

/// Serves the API on all connections of the listener. When `ending` is cancelled, the listener
/// closes, running requests finish, and the call returns after the last connection has ended.
pub async fn serve_connections(
    listener: TcpListener,
    api: Api,
    limits: ConnectionLimits,
    ending: CancellationToken,
) {
    let mut http = http1::Builder::new();
    // `serve_connection` has the timers, because hyper's timer does not tell an idle connection
    // from an unfinished head.
    http.header_read_timeout(None).max_header_size(MAX_HEAD);
    let context = Arc::new(ConnectionContext {
        api,
        http,
        slots: ConnectionSlots::new(limits.connections),
        bodies: Arc::new(BodyMemory::new(limits.payload)),
    });
    let connections = TaskTracker::new();
    while let Some(stream) = ending
        .run_until_cancelled(accept(&listener, &context))
        .await
    {
        set_socket_options(&stream);
        match context.slots.admit() {
            Some(slot) => {
                connections.spawn(serve_connection(context.clone(), slot, stream));
            }
            None => refuse(&stream),
        }
    }
    drop(listener);
    context.slots.start_draining();
    connections.close();
    connections.wait().await;
}

/// Accepts the next connection. Retries after an error, because every error is temporary.
async fn accept(listener: &TcpListener, context: &ConnectionContext) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) if is_client_error(error.kind()) => {}
            Err(error) => {
                tracing::warn!(%error, "the listener cannot accept a connection; retrying");
                // A closed connection gives its descriptor back.
                context.slots.evict_one();
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The client has disconnected before the connection was accepted.
fn is_client_error(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset
    )
}

fn set_socket_options(stream: &TcpStream) {
    // Answers are small, and a client waits for each answer. Both options fail only if the client has
    // disconnected already.
    let _ = stream.set_nodelay(true);
    let unread_ms = UNREAD_LIMIT.as_millis() as u32;
    let _ = rustix::net::sockopt::set_tcp_user_timeout(stream, unread_ms);
}

/// Refuses a connection while every other connection has a running request.
fn refuse(stream: &TcpStream) {
    // The answer fits into the empty send buffer of a new connection.
    let _ = stream.try_write(&Rejection::TooManyConnections.to_bytes());
}
