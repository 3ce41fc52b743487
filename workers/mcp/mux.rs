//! Matches replies to requests by id, so that any number of calls share one channel to a server.
//!
//! The write queue holds at most [`QUEUE_LIMIT`] bytes. A frame leaves the queue when its request ends. A request that
//! is dropped before its reply is cancelled: an unwritten frame is never written, and `notifications/cancelled` follows
//! a written one. A reply to a request that has ended is dropped.

mod owed_answers;
mod queue;
mod reply;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use serde_json::value::RawValue;
use tokio::sync::{Notify, Semaphore, oneshot, watch};
use tokio::time::Instant;

use self::owed_answers::OwedAnswers;
use self::queue::{PERMIT_BYTES, QueueEntry, permits_for};
pub use self::queue::{QUEUE_LIMIT, QueueSpace, QueuedFrame};
pub use self::reply::RpcReply;
use super::call::ProgressEffects;
use super::frame::{Frame, cancelled, request};

/// Frames that are written at once.
const BATCH_FRAMES: usize = 64;
/// Bytes that are written at once, so that a blocked write holds few frames of ended calls.
const BATCH_BYTES: usize = 256 * 1024;
/// rmcp numbers its own requests from 0 and sends fewer than this, so no id belongs to both.
pub const FIRST_REQUEST_ID: u64 = 1000;
/// Entries of ended requests that may stay in the queue before they are removed.
const ENDED_ENTRIES: usize = 1024;

pub struct Mux {
    state: Mutex<State>,
    next_id: AtomicU64,
    /// Free space of the queue, in units of [`PERMIT_BYTES`].
    space: Arc<Semaphore>,
    queued: Notify,
    closed: watch::Sender<bool>,
    /// Notified when the last pending request ends.
    idle: Notify,
    /// Notified when the server answers a request that has ended.
    answered: Notify,
}

#[derive(Default)]
struct State {
    closed: bool,
    close_reason: Option<String>,
    /// The client has closed the connection, because it needs a new one.
    is_replaced: bool,
    calls: HashMap<u64, PendingCall>,
    /// The number of `calls` that are streams.
    streams: usize,
    queue: VecDeque<QueueEntry>,
    /// The answers that the server owes.
    owed: OwedAnswers,
}

impl State {
    fn remove(&mut self, id: u64) -> Option<PendingCall> {
        let removed = self.calls.remove(&id);
        self.streams -= usize::from(removed.as_ref().is_some_and(|call| call.is_stream));
        removed
    }

    fn is_idle(&self) -> bool {
        self.calls.len() == self.streams
    }
}

struct PendingCall {
    reply: oneshot::Sender<RpcReply>,
    progress: Option<ProgressEffects>,
    frame: Option<QueuedFrame>,
    written: bool,
    /// The request stays open for notifications, and is no call.
    is_stream: bool,
}

/// The connection has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the connection has ended")]
pub struct Closed;

impl Mux {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            next_id: AtomicU64::new(FIRST_REQUEST_ID),
            space: Arc::new(Semaphore::new(QUEUE_LIMIT / PERMIT_BYTES)),
            queued: Notify::new(),
            closed: watch::Sender::new(false),
            idle: Notify::new(),
            answered: Notify::new(),
        })
    }

    /// Reserves an id for a request.
    ///
    /// # Errors
    /// Fails if the connection has ended.
    pub fn register(
        self: &Arc<Self>,
        progress: Option<ProgressEffects>,
    ) -> Result<PendingRequest, Closed> {
        self.add(progress, false)
    }

    /// Reserves an id for a request that stays open for notifications. It does not count as a call.
    ///
    /// # Errors
    /// Fails if the connection has ended.
    pub fn register_stream(
        self: &Arc<Self>,
        progress: ProgressEffects,
    ) -> Result<PendingRequest, Closed> {
        self.add(Some(progress), true)
    }

    fn add(
        self: &Arc<Self>,
        progress: Option<ProgressEffects>,
        is_stream: bool,
    ) -> Result<PendingRequest, Closed> {
        let (reply, receiver) = oneshot::channel();
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state.lock();
        if state.closed {
            return Err(Closed);
        }
        let call = PendingCall {
            reply,
            progress,
            frame: None,
            written: false,
            is_stream,
        };
        state.calls.insert(id, call);
        state.streams += usize::from(is_stream);
        drop(state);
        Ok(PendingRequest {
            mux: self.clone(),
            id,
            reply: receiver,
            ended: false,
        })
    }

    /// Sends a request without secrets, and waits for its reply.
    ///
    /// # Errors
    /// Fails if the connection ends.
    pub async fn request(self: &Arc<Self>, method: &str, params: &str) -> Result<RpcReply, Closed> {
        let mut pending = self.register(None)?;
        let frame = request(pending.id, method, params);
        let space = pending.reserve(frame.bytes.len()).await?;
        pending.send(frame, space)?;
        pending.reply().await
    }

    /// Waits for space in the queue.
    pub async fn reserve(&self, bytes: usize) -> Result<QueueSpace, Closed> {
        let permits = self.space.clone().acquire_many_owned(permits_for(bytes));
        permits.await.map(QueueSpace).map_err(|_| Closed)
    }

    /// Queues a frame that belongs to no request.
    pub async fn send(&self, frame: Frame) -> Result<(), Closed> {
        let space = self.reserve(frame.bytes.len()).await?;
        self.enqueue(frame, space)
    }

    /// Queues a frame that belongs to no request, if the queue has space. A server that does not read fills the queue, and
    /// does not read this frame either.
    pub fn try_send(&self, frame: Frame) {
        let space = self.space.clone();
        if let Ok(space) = space.try_acquire_many_owned(permits_for(frame.bytes.len())) {
            // If the connection has ended, the server reads no frame.
            let _ = self.enqueue(frame, QueueSpace(space));
        }
    }

    /// Queues a frame at once, in the space that was reserved for it.
    pub fn enqueue(&self, frame: Frame, space: QueueSpace) -> Result<(), Closed> {
        let request = frame.request;
        let queued = QueuedFrame {
            frame,
            _space: space.0,
        };
        let mut state = self.state.lock();
        if state.closed {
            return Err(Closed);
        }
        match request {
            None => state.queue.push_back(QueueEntry::Message(queued)),
            Some(id) => {
                // A server may reply to an id that it guessed, before the request was sent.
                let Some(call) = state.calls.get_mut(&id) else {
                    return Ok(());
                };
                call.frame = Some(queued);
                state.queue.push_back(QueueEntry::Request(id));
            }
        }
        drop(state);
        self.queued.notify_one();
        Ok(())
    }

    /// Waits for frames, moves them into `batch`, and counts them as written.
    ///
    /// # Errors
    /// Fails if the connection has ended.
    pub async fn next_batch(&self, batch: &mut Vec<QueuedFrame>) -> Result<(), Closed> {
        loop {
            self.fill_batch(batch)?;
            if !batch.is_empty() {
                return Ok(());
            }
            self.queued.notified().await;
        }
    }

    /// Moves waiting frames into `batch`, as far as there is space in it.
    pub fn fill_batch(&self, batch: &mut Vec<QueuedFrame>) -> Result<(), Closed> {
        let mut bytes: usize = batch.iter().map(|queued| queued.frame.bytes.len()).sum();
        let mut state = self.state.lock();
        if state.closed {
            return Err(Closed);
        }
        while batch.len() < BATCH_FRAMES && bytes < BATCH_BYTES {
            let queued = match state.queue.pop_front() {
                None => break,
                Some(QueueEntry::Message(queued)) => queued,
                Some(QueueEntry::Request(id)) => {
                    let Some(call) = state.calls.get_mut(&id) else {
                        continue;
                    };
                    call.written = true;
                    match call.frame.take() {
                        Some(queued) => queued,
                        None => continue,
                    }
                }
            };
            bytes += queued.frame.bytes.len();
            batch.push(queued);
        }
        Ok(())
    }

    /// Returns the end of the first request whose answer the server still owes.
    pub fn owes_answers_since(&self) -> Option<Instant> {
        self.state.lock().owed.since()
    }

    /// Whether the server owes the answer to this request, which has ended.
    pub fn owes_answer_to(&self, id: u64) -> bool {
        self.state.lock().owed.contains(id)
    }

    /// Waits until the server owes no answer, or the connection has ended.
    pub async fn owed_answers(&self) {
        loop {
            let answered = self.answered.notified();
            if self.is_closed() || self.owes_answers_since().is_none() {
                return;
            }
            answered.await;
        }
    }

    /// Whether the server has got this request, has not answered it, and owes no other answer.
    pub fn runs_alone(&self, id: u64) -> bool {
        let state = self.state.lock();
        let is_running = state.calls.get(&id).is_some_and(|call| call.written);
        is_running && state.owed.since().is_none()
    }

    /// Passes a reply to the request that waits for it.
    pub fn complete(&self, id: u64, reply: RpcReply) {
        self.end(id, reply, true);
    }

    /// Ends a request with a reply that may be meant for it. The server may still execute the request, so it owes the answer
    /// until a reply names the request.
    pub fn complete_unnamed(&self, id: u64, reply: RpcReply) {
        self.end(id, reply, false);
    }

    fn end(&self, id: u64, reply: RpcReply, is_named: bool) {
        let mut state = self.state.lock();
        let ended = state.remove(id);
        let is_late = ended.is_none() && is_named;
        if is_late {
            state.owed.remove(id);
        } else if ended.is_some() && !is_named {
            state.owed.add(id);
        }
        let is_idle = state.is_idle();
        drop(state);
        if is_late {
            self.answered.notify_waiters();
        }
        if is_idle {
            self.idle.notify_waiters();
        }
        if let Some(call) = ended {
            // The request may have been dropped at the same moment.
            let _ = call.reply.send(reply);
        }
    }

    /// Waits until no call waits for a reply.
    pub async fn idle(&self) {
        loop {
            let idle = self.idle.notified();
            if self.state.lock().is_idle() {
                return;
            }
            idle.await;
        }
    }

    /// Returns the only call that waits for a reply, if exactly one waits.
    pub fn only_waiting(&self) -> Option<u64> {
        let state = self.state.lock();
        let mut waiting = state
            .calls
            .iter()
            .filter(|(_, call)| call.written && !call.is_stream);
        let first = waiting.next().map(|(id, _)| *id);
        first.filter(|_| waiting.next().is_none())
    }

    /// Whether an error without an id may concern a request whose caller has left.
    pub fn was_left_lately(&self) -> bool {
        self.state.lock().owed.was_left_lately()
    }

    /// Whether half of the queue is free. The other half is reserved for calls.
    pub fn has_space(&self) -> bool {
        self.space.available_permits() > QUEUE_LIMIT / PERMIT_BYTES / 2
    }

    pub fn is_waiting(&self, id: u64) -> bool {
        self.state.lock().calls.contains_key(&id)
    }

    /// Handles the `params` of a progress notification, if the call still waits and wants progress.
    pub fn progress(&self, id: u64, params: &RawValue) {
        self.apply(id, false, params);
    }

    /// Handles the `params` of the notification that the server has accepted a stream.
    pub fn acknowledge(&self, id: u64, params: &RawValue) {
        self.apply(id, true, params);
    }

    fn apply(&self, id: u64, is_stream: bool, params: &RawValue) {
        let state = self.state.lock();
        let call = state.calls.get(&id);
        let effects = call
            .filter(|call| call.is_stream == is_stream)
            .and_then(|call| call.progress.clone());
        // The listener works on the text, and other calls must not wait for that.
        drop(state);
        if let Some(effects) = effects {
            effects.apply(params);
        }
    }

    /// Ends the connection and all its requests. The first reason counts.
    pub fn close(&self, reason: impl Into<String>) {
        let mut state = self.state.lock();
        state.closed = true;
        state.close_reason.get_or_insert_with(|| reason.into());
        let calls = std::mem::take(&mut state.calls);
        state.streams = 0;
        let queue = std::mem::take(&mut state.queue);
        drop(state);
        drop(calls);
        drop(queue);
        self.space.close();
        self.queued.notify_one();
        self.idle.notify_waiters();
        self.closed.send_replace(true);
        self.answered.notify_waiters();
    }

    /// Ends the connection, because the client needs a new one. The server has not failed.
    pub fn replace(&self, reason: impl Into<String>) {
        let mut state = self.state.lock();
        state.is_replaced = !state.closed;
        drop(state);
        self.close(reason);
    }

    /// Whether the client has ended the connection in order to open another one.
    pub fn is_replaced(&self) -> bool {
        self.state.lock().is_replaced
    }

    /// Returns the reason for the end of the connection.
    pub fn close_reason(&self) -> Option<String> {
        self.state.lock().close_reason.clone()
    }

    pub fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Waits until the connection has ended.
    pub async fn closed(&self) {
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    /// Returns the number of calls that wait for a reply.
    pub fn calls(&self) -> usize {
        let state = self.state.lock();
        state.calls.len() - state.streams
    }

    /// Removes a request that is dropped before its reply.
    fn abandon(&self, id: u64) {
        let mut state = self.state.lock();
        let call = state.remove(id);
        let is_written = call.as_ref().is_some_and(|call| call.written);
        // A stream has no answer that another request could get.
        if is_written && call.is_some_and(|call| !call.is_stream) {
            state.owed.add_left(id);
        }
        if state.queue.len() > state.calls.len() + ENDED_ENTRIES {
            let State { calls, queue, .. } = &mut *state;
            queue.retain(|entry| match entry {
                QueueEntry::Request(id) => calls.contains_key(id),
                QueueEntry::Message(_) => true,
            });
        }
        let is_idle = state.is_idle();
        drop(state);
        if is_idle {
            self.idle.notify_waiters();
        }
        if is_written {
            self.try_send(cancelled(id, "the caller no longer waits for the result"));
        }
    }
}

/// A request that waits for its reply. Dropping it earlier cancels the request.
pub struct PendingRequest {
    mux: Arc<Mux>,
    pub id: u64,
    reply: oneshot::Receiver<RpcReply>,
    ended: bool,
}

impl PendingRequest {
    /// Waits for space for a frame of that many bytes. The caller builds the frame afterwards, so that a waiting call
    /// holds no frame.
    pub async fn reserve(&self, bytes: usize) -> Result<QueueSpace, Closed> {
        self.mux.reserve(bytes).await
    }

    /// Queues the frame of the request.
    pub fn send(&self, frame: Frame, space: QueueSpace) -> Result<(), Closed> {
        self.mux.enqueue(frame, space)
    }

    /// Waits for the reply. The caller may interrupt the wait and repeat it.
    pub async fn reply(&mut self) -> Result<RpcReply, Closed> {
        let reply = (&mut self.reply).await;
        self.ended = true;
        reply.map_err(|_| Closed)
    }
}

impl Drop for PendingRequest {
    fn drop(&mut self) {
        if !self.ended {
            self.mux.abandon(self.id);
        }
    }
}

#[cfg(test)]
mod tests;
