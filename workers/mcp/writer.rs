//! Writes queued frames to a child.

use std::io;
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::AsyncWrite;

use super::mux::{Mux, QueuedFrame};

/// Why a write failed.
#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error("the pipe is closed")]
    Io(#[from] io::Error),
    #[error("the child has read nothing")]
    Stalled,
}

/// Writes frames until the connection ends. A child that reads nothing for `stall_limit` ends the connection, although
/// frames wait for it, because it will not read later calls either.
pub(super) async fn write_all(pipe: impl AsyncWrite + Unpin, mux: Arc<Mux>, stall_limit: Duration) {
    let mut closed = std::pin::pin!(mux.closed());
    tokio::select! {
        biased;
        () = &mut closed => {}
        reason = write_until_end(pipe, &mux, stall_limit) => mux.close(reason),
    }
}

async fn write_until_end(
    mut pipe: impl AsyncWrite + Unpin,
    mux: &Mux,
    stall_limit: Duration,
) -> String {
    let mut batch = Vec::new();
    loop {
        if mux.next_batch(&mut batch).await.is_err() {
            return "it was closed".into();
        }
        // Other calls that are ready join this write, which then wakes the child once. Without other calls the pause
        // would only wake a second thread.
        if mux.calls() > batch.len() {
            tokio::task::yield_now().await;
            let _ = mux.fill_batch(&mut batch);
        }
        match write_batch(&mut pipe, &batch, stall_limit).await {
            Ok(()) => batch.clear(),
            Err(WriteError::Io(_)) => return "it closed its input".into(),
            Err(WriteError::Stalled) => {
                return format!(
                    "it read nothing for {} ms (toolTimeout)",
                    stall_limit.as_millis()
                );
            }
        }
    }
}

async fn write_batch(
    pipe: &mut (impl AsyncWrite + Unpin),
    batch: &[QueuedFrame],
    stall_limit: Duration,
) -> Result<(), WriteError> {
    let mut slices: Vec<_> = batch
        .iter()
        .map(|queued| IoSlice::new(&queued.frame.bytes))
        .collect();
    let mut rest = &mut slices[..];
    while !rest.is_empty() {
        let mut write =
            |context: &mut Context<'_>| Pin::new(&mut *pipe).poll_write_vectored(context, rest);
        // The clock is read only if the pipe is full.
        let first = std::future::poll_fn(|context| Poll::Ready(write(context))).await;
        let written = match first {
            Poll::Ready(written) => written?,
            Poll::Pending => {
                let second = std::future::poll_fn(write);
                tokio::time::timeout(stall_limit, second)
                    .await
                    .map_err(|_| WriteError::Stalled)??
            }
        };
        if written == 0 {
            return Err(io::Error::from(io::ErrorKind::WriteZero).into());
        }
        IoSlice::advance_slices(&mut rest, written);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::super::frame::{plain, request};
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn frames_are_written_in_order() {
        let (client, mut server) = tokio::io::duplex(16);
        let mux = Mux::new();
        tokio::spawn(write_all(client, mux.clone(), LIMIT));
        for line in ["first\n", "second line that is longer than the pipe\n"] {
            mux.send(plain(line.into())).await.expect("open");
        }
        let mut text = vec![0; 47];
        server.read_exact(&mut text).await.expect("both lines");
        assert!(text.starts_with(b"first\nsecond"));
    }

    #[tokio::test]
    async fn a_child_that_reads_nothing_for_the_limit_ends_the_connection() {
        let (client, _server) = tokio::io::duplex(16);
        let mux = Mux::new();
        tokio::spawn(write_all(client, mux.clone(), Duration::from_millis(30)));
        mux.send(plain(vec![b'x'; 100])).await.expect("open");
        mux.closed().await;
        let reason = mux.close_reason().expect("a reason");
        assert!(reason.contains("30 ms"), "{reason}");
    }

    #[tokio::test]
    async fn a_closed_pipe_ends_the_connection() {
        let (client, server) = tokio::io::duplex(16);
        drop(server);
        let mux = Mux::new();
        tokio::spawn(write_all(client, mux.clone(), LIMIT));
        mux.send(plain(vec![b'x'; 100])).await.expect("open");
        mux.closed().await;
        assert_eq!(mux.close_reason().as_deref(), Some("it closed its input"));
    }

    #[tokio::test]
    async fn a_blocked_write_keeps_one_large_frame_and_no_frame_of_an_ended_call() {
        let (client, _server) = tokio::io::duplex(16);
        let mux = Mux::new();
        tokio::spawn(write_all(client, mux.clone(), LIMIT));
        let mut calls = Vec::new();
        for _ in 0..8 {
            let pending = mux.register(None).expect("open");
            let mut frame = request(pending.id, "tools/call", "{}");
            frame.bytes.resize(2 << 20, b' ');
            let space = pending.reserve(frame.bytes.len()).await.expect("open");
            pending.send(frame, space).expect("open");
            calls.push(pending);
        }
        assert!(!mux.has_space());
        drop(calls);
        assert!(mux.has_space());
    }
}
