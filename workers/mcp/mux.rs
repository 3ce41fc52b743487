//! Matches replies to calls by id, so that any number of calls run at once through one child.
//!
//! A reply to a call that has ended finds nobody and is dropped. A call that is dropped cancels
//! itself: unwritten, it is never written; written, `notifications/cancelled` follows it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::frame::{Frame, cancelled};

/// Frames that may wait for the child to read; a call past that waits within its own time.
const OUTGOING: usize = 512;

/// What came back for a request.
pub enum RpcReply {
    /// The raw `result`.
    Result(Bytes),
    /// The raw `error`.
    Error(Bytes),
    /// A result above `RESULT_LIMIT`, which was not kept.
    TooLarge,
}

pub struct Mux {
    pending: Mutex<Pending>,
    next: AtomicU64,
    outgoing: mpsc::Sender<Frame>,
    closed: watch::Sender<bool>,
    /// Notified when the last pending call ends.
    idle: Notify,
}

#[derive(Default)]
struct Pending {
    closed: bool,
    calls: HashMap<u64, PendingCall>,
}

struct PendingCall {
    answer: oneshot::Sender<RpcReply>,
    progress: Option<Arc<Notify>>,
    written: bool,
}

/// The connection has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed;

impl Mux {
    /// The mux, and the frames that its writer is to write.
    pub fn new() -> (Arc<Self>, mpsc::Receiver<Frame>) {
        let (outgoing, frames) = mpsc::channel(OUTGOING);
        let mux = Self {
            pending: Mutex::default(),
            next: AtomicU64::new(1),
            outgoing,
            closed: watch::Sender::new(false),
            idle: Notify::new(),
        };
        (Arc::new(mux), frames)
    }

    /// Begins a request: reserves an id for it.
    pub fn register(
        self: &Arc<Self>,
        progress: Option<Arc<Notify>>,
    ) -> Result<PendingRequest, Closed> {
        let (answer, answered) = oneshot::channel();
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut pending = self.lock();
        if pending.closed {
            return Err(Closed);
        }
        pending.calls.insert(
            id,
            PendingCall {
                answer,
                progress,
                written: false,
            },
        );
        drop(pending);
        Ok(PendingRequest {
            mux: self.clone(),
            id,
            answered,
            over: false,
        })
    }

    /// Queues a frame that belongs to no call.
    pub async fn send(&self, frame: Frame) -> Result<(), Closed> {
        self.outgoing.send(frame).await.map_err(|_| Closed)
    }

    /// Hands an answer to whoever waits for it.
    pub fn complete(&self, id: u64, answer: RpcReply) {
        if let Some(waiting) = self.remove(id) {
            let _ = waiting.answer.send(answer);
        }
    }

    /// Whether the child reads fast enough for what the protocol itself has to say. GrantPart is for calls.
    pub fn has_room(&self) -> bool {
        self.outgoing.capacity() > OUTGOING / 2
    }

    pub fn is_waiting(&self, id: u64) -> bool {
        self.lock().calls.contains_key(&id)
    }

    pub fn progress(&self, id: u64) {
        if let Some(PendingCall {
            progress: Some(progress),
            ..
        }) = self.lock().calls.get(&id)
        {
            progress.notify_one();
        }
    }

    /// Takes the frames of calls that have ended meanwhile out of a batch; the others count as written.
    pub fn keep_wanted(&self, batch: &mut Vec<Frame>) {
        let mut pending = self.lock();
        batch.retain(|frame| match frame.call {
            Some(id) => pending.calls.get_mut(&id).is_some_and(|waiting| {
                waiting.written = true;
                true
            }),
            None => true,
        });
    }

    /// Ends every call: the connection is gone.
    pub fn close(&self) {
        let mut pending = self.lock();
        pending.closed = true;
        pending.calls.clear();
        drop(pending);
        self.idle.notify_waiters();
        self.closed.send_replace(true);
    }

    pub fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    pub async fn closed(&self) {
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    /// Calls that wait for an answer.
    pub fn calls(&self) -> usize {
        self.lock().calls.len()
    }

    /// Waits until no call waits for an answer.
    pub async fn idle(&self) {
        loop {
            let idle = self.idle.notified();
            if self.lock().calls.is_empty() {
                return;
            }
            idle.await;
        }
    }

    fn remove(&self, id: u64) -> Option<PendingCall> {
        let mut pending = self.lock();
        let removed = pending.calls.remove(&id);
        let is_idle = pending.calls.is_empty();
        drop(pending);
        if is_idle {
            self.idle.notify_waiters();
        }
        removed
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request under way. Dropped before its answer, it is cancelled.
pub struct PendingRequest {
    mux: Arc<Mux>,
    pub id: u64,
    answered: oneshot::Receiver<RpcReply>,
    over: bool,
}

impl PendingRequest {
    /// Sends the request's frame.
    pub async fn send(&self, frame: Frame) -> Result<(), Closed> {
        self.mux.send(frame).await
    }

    /// Waits for the answer; may be awaited again when it was interrupted.
    pub async fn answer(&mut self) -> Result<RpcReply, Closed> {
        let answer = (&mut self.answered).await;
        self.over = true;
        answer.map_err(|_| Closed)
    }
}

impl Drop for PendingRequest {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let waiting = self.mux.remove(self.id);
        if waiting.is_some_and(|waiting| waiting.written) {
            // Where the queue is full the child has stopped reading, and would not read this either.
            let _ = self
                .mux
                .outgoing
                .try_send(cancelled(self.id, "nobody waits for the answer any more"));
        }
    }
}
