//! Interim messages: what a command reports before its reply. A slow receiver delays no sender, because the channel is
//! bounded and keeps the newest progress.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Messages that wait for the receiver.
const MAX_WAITING: usize = 64;
/// Bytes of messages that wait for the receiver, without the newest message.
const MAX_WAITING_BYTES: usize = 1 << 20;
/// The largest message in bytes.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// The number of messages that all channels of this process have dropped.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// A message before the reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Interim {
    /// The masked JSON object `params` of `notifications/progress`, without its `progressToken`.
    Progress(Bytes),
    /// The JSON of a `ServerRequest`, masked. A full channel refuses it and never drops it.
    Request(Bytes),
}

impl Interim {
    /// Returns the length of the JSON in bytes.
    pub fn length(&self) -> usize {
        let (Self::Progress(bytes) | Self::Request(bytes)) = self;
        bytes.len()
    }
}

/// Returns both ends of a bounded channel.
pub fn interim_channel() -> (InterimSender, InterimReceiver) {
    let channel = Arc::new(Channel {
        state: Mutex::new(ChannelState {
            senders: 1,
            ..ChannelState::default()
        }),
        changed: Notify::new(),
    });
    let sender = InterimSender(channel.clone());
    (sender, InterimReceiver(channel))
}

/// Returns the number of messages that this process has dropped, because their receiver was slow or they were too large.
pub fn dropped_interim() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Sends interim messages of one command.
pub struct InterimSender(Arc<Channel>);

/// Receives the interim messages of one command.
pub struct InterimReceiver(Arc<Channel>);

struct Channel {
    state: Mutex<ChannelState>,
    /// Notified after a message has arrived or the last sender has left.
    changed: Notify,
}

#[derive(Default)]
struct ChannelState {
    waiting: VecDeque<Interim>,
    /// The length of all waiting messages.
    bytes: usize,
    senders: usize,
    has_no_receiver: bool,
    dropped: u64,
}

impl ChannelState {
    fn push(&mut self, message: Interim) {
        let is_full =
            self.waiting.len() >= MAX_WAITING || self.bytes + message.length() > MAX_WAITING_BYTES;
        if is_full {
            self.count_dropped();
            match self.waiting.pop_back() {
                Some(replaced @ Interim::Progress(_)) => self.bytes -= replaced.length(),
                // A request must reach the client, so the message is lost instead.
                Some(kept) => return self.waiting.push_back(kept),
                None => {}
            }
        }
        self.bytes += message.length();
        self.waiting.push_back(message);
    }

    fn pop(&mut self) -> Option<Interim> {
        let message = self.waiting.pop_front()?;
        self.bytes -= message.length();
        Some(message)
    }

    fn count_dropped(&mut self) {
        self.dropped += 1;
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
}

impl InterimSender {
    /// Sends a message and never waits. If the channel is full, the message replaces the newest waiting message. A
    /// message of more than [`MAX_MESSAGE`] bytes is dropped. Without a receiver the message is lost.
    pub fn send(&self, message: Interim) {
        let mut state = self.0.state.lock();
        if state.has_no_receiver {
            return;
        }
        if message.length() > MAX_MESSAGE {
            return state.count_dropped();
        }
        state.push(message);
        drop(state);
        self.0.changed.notify_one();
    }

    /// Sends a request of a server and never waits. Returns false if the channel is full, if the request has more than
    /// [`MAX_MESSAGE`] bytes, or if there is no receiver.
    pub fn send_request(&self, request: Bytes) -> bool {
        let mut state = self.0.state.lock();
        let has_room = state.waiting.len() < MAX_WAITING
            && state.bytes + request.len() <= MAX_WAITING_BYTES
            && request.len() <= MAX_MESSAGE;
        if state.has_no_receiver || !has_room {
            return false;
        }
        state.push(Interim::Request(request));
        drop(state);
        self.0.changed.notify_one();
        true
    }

    /// Counts a message that its producer could not send.
    pub fn count_dropped(&self) {
        self.0.state.lock().count_dropped();
    }
}

impl Clone for InterimSender {
    fn clone(&self) -> Self {
        self.0.state.lock().senders += 1;
        Self(self.0.clone())
    }
}

impl Drop for InterimSender {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.senders -= 1;
        let is_last = state.senders == 0;
        drop(state);
        if is_last {
            self.0.changed.notify_one();
        }
    }
}

impl InterimReceiver {
    /// Waits for the next message. Returns `None` after the last sender has left and all messages were received.
    /// Dropping the future loses no message.
    pub async fn recv(&mut self) -> Option<Interim> {
        loop {
            {
                let mut state = self.0.state.lock();
                if let Some(message) = state.pop() {
                    return Some(message);
                }
                if state.senders == 0 {
                    return None;
                }
            }
            // The only receiver finds a notification that was sent before it waits.
            self.0.changed.notified().await;
        }
    }

    /// Returns the next message that has arrived already.
    pub fn try_recv(&mut self) -> Option<Interim> {
        self.0.state.lock().pop()
    }

    /// Counts a message that its receiver could not pass on.
    pub fn count_dropped(&self) {
        self.0.state.lock().count_dropped();
    }

    /// Returns the number of messages that this channel has dropped.
    pub fn dropped(&self) -> u64 {
        self.0.state.lock().dropped
    }
}

impl Drop for InterimReceiver {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.has_no_receiver = true;
        state.bytes = 0;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        drop(waiting);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(text: impl Into<String>) -> Interim {
        Interim::Progress(Bytes::from(text.into()))
    }

    fn rest(receiver: &mut InterimReceiver) -> Vec<Interim> {
        std::iter::from_fn(|| receiver.try_recv()).collect()
    }

    #[tokio::test]
    async fn messages_keep_their_order_and_the_end_follows_them() {
        let (sender, mut receiver) = interim_channel();
        let other = sender.clone();
        sender.send(progress("1"));
        drop(sender);
        other.send(progress("2"));
        drop(other);
        assert_eq!(receiver.recv().await, Some(progress("1")));
        assert_eq!(receiver.recv().await, Some(progress("2")));
        assert_eq!(receiver.recv().await, None);
        assert_eq!(receiver.dropped(), 0);
    }

    #[tokio::test]
    async fn a_message_and_the_last_sender_wake_the_receiver() {
        let (sender, mut receiver) = interim_channel();
        let mut waiting = Box::pin(receiver.recv());
        assert!(futures::poll!(&mut waiting).is_pending());
        sender.send(progress("1"));
        assert_eq!(waiting.await, Some(progress("1")));
        let mut waiting = Box::pin(receiver.recv());
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(sender);
        assert_eq!(waiting.await, None);
    }

    #[test]
    fn a_full_channel_replaces_the_newest_message() {
        let (sender, mut receiver) = interim_channel();
        for number in 0..MAX_WAITING + 10 {
            sender.send(progress(number.to_string()));
        }
        assert_eq!(receiver.dropped(), 10);
        let mut expected: Vec<_> = (0..MAX_WAITING - 1)
            .map(|number| progress(number.to_string()))
            .collect();
        expected.push(progress((MAX_WAITING + 9).to_string()));
        assert_eq!(rest(&mut receiver), expected);
        sender.send(progress("room again"));
        assert_eq!(rest(&mut receiver), [progress("room again")]);
    }

    #[test]
    fn a_full_channel_keeps_requests_and_refuses_more() {
        let (sender, mut receiver) = interim_channel();
        let request = |number: usize| Bytes::from(number.to_string());
        for number in 0..MAX_WAITING {
            assert!(sender.send_request(request(number)));
        }
        assert!(!sender.send_request(request(MAX_WAITING)));
        sender.send(progress("lost"));
        let expected: Vec<_> = (0..MAX_WAITING)
            .map(|number| Interim::Request(request(number)))
            .collect();
        assert_eq!(rest(&mut receiver), expected);
        drop(receiver);
        assert!(!sender.send_request(request(0)));
    }

    #[test]
    fn the_waiting_bytes_are_bounded() {
        let (sender, mut receiver) = interim_channel();
        let large = || progress("x".repeat(MAX_MESSAGE));
        for _ in 0..MAX_WAITING {
            sender.send(large());
        }
        sender.send(progress("last"));
        let kept = rest(&mut receiver);
        assert_eq!(kept.len(), MAX_WAITING_BYTES / MAX_MESSAGE);
        assert_eq!(kept.last(), Some(&progress("last")));
        let dropped = MAX_WAITING + 1 - kept.len();
        assert_eq!(receiver.dropped(), dropped as u64);
    }

    #[test]
    fn a_message_that_is_too_large_is_dropped_and_counted() {
        let (sender, mut receiver) = interim_channel();
        let before = dropped_interim();
        sender.send(progress("x".repeat(MAX_MESSAGE + 1)));
        assert_eq!(rest(&mut receiver), []);
        assert_eq!(receiver.dropped(), 1);
        assert!(dropped_interim() > before);
    }

    #[test]
    fn messages_without_a_receiver_are_lost_and_not_counted() {
        let (sender, receiver) = interim_channel();
        drop(receiver);
        sender.send(progress("1"));
        let state = sender.0.state.lock();
        assert!(state.waiting.is_empty());
        assert_eq!(state.dropped, 0);
    }
}
