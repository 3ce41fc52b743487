//! Interim messages: what a command reports before its reply. A slow receiver delays no sender, because the channel is
//! bounded and keeps the newest progress.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::core::mcp::log_level::WantedLog;

/// Messages that wait for the receiver.
const MAX_WAITING: usize = 64;
/// Bytes of messages that wait for the receiver, without the newest message.
const MAX_WAITING_BYTES: usize = 1 << 20;
/// The largest message in bytes.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// The numbers of messages that all channels of this process have dropped, in the order of [`InterimKind::ALL`].
static DROPPED: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];

/// A message before the reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Interim {
    /// The masked JSON object `params` of `notifications/progress`, without its `progressToken`.
    Progress(Bytes),
    /// The masked JSON object `params` of `notifications/message`.
    Log(Bytes),
    /// The JSON of a `ServerRequest`, masked. A full channel refuses it and never drops it.
    Request(Bytes),
}

/// The kind of a message before the reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InterimKind {
    Progress,
    Log,
    Request,
}

impl InterimKind {
    pub const ALL: [Self; 3] = [Self::Progress, Self::Log, Self::Request];

    /// Returns the name of the kind on the bus and in the metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Progress => "progress",
            Self::Log => "log",
            Self::Request => "request",
        }
    }
}

impl Interim {
    pub fn kind(&self) -> InterimKind {
        match self {
            Self::Progress(_) => InterimKind::Progress,
            Self::Log(_) => InterimKind::Log,
            Self::Request(_) => InterimKind::Request,
        }
    }

    /// Returns the JSON of the message.
    pub fn params(&self) -> &Bytes {
        match self {
            Self::Progress(params) | Self::Log(params) | Self::Request(params) => params,
        }
    }

    fn length(&self) -> usize {
        self.params().len()
    }
}

/// The kinds of messages that a receiver takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InterimKinds {
    pub progress: bool,
    pub log: Option<WantedLog>,
}

impl InterimKinds {
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// Returns both ends of a bounded channel for progress.
pub fn interim_channel() -> (InterimSender, InterimReceiver) {
    interim_channel_for(InterimKinds {
        progress: true,
        log: None,
    })
}

/// Returns both ends of a bounded channel.
pub fn interim_channel_for(kinds: InterimKinds) -> (InterimSender, InterimReceiver) {
    let channel = Arc::new(Channel {
        state: Mutex::new(ChannelState {
            senders: 1,
            ..ChannelState::default()
        }),
        changed: Notify::new(),
    });
    let sender = InterimSender {
        channel: channel.clone(),
        kinds,
    };
    (sender, InterimReceiver(channel))
}

/// Returns the number of messages of a kind that this process has dropped, because their receiver was slow or they were too
/// large.
pub fn dropped_interim(kind: InterimKind) -> u64 {
    DROPPED[kind as usize].load(Ordering::Relaxed)
}

/// Sends interim messages of one command.
pub struct InterimSender {
    channel: Arc<Channel>,
    kinds: InterimKinds,
}

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
    /// Adds a message. If there is no space, progress replaces the newest waiting message, at best progress too. A log line
    /// is dropped.
    fn push(&mut self, message: Interim) {
        let is_full =
            self.waiting.len() >= MAX_WAITING || self.bytes + message.length() > MAX_WAITING_BYTES;
        if is_full && message.kind() == InterimKind::Log {
            return self.count_dropped(InterimKind::Log);
        }
        if is_full {
            self.count_dropped(InterimKind::Progress);
            let is_progress = |waiting: &Interim| waiting.kind() == InterimKind::Progress;
            let is_log = |waiting: &Interim| waiting.kind() == InterimKind::Log;
            let newest = self.waiting.iter().rposition(is_progress);
            let newest = newest.or_else(|| self.waiting.iter().rposition(is_log));
            // A request must reach the client, so the message is lost instead.
            let Some(replaced) = newest.and_then(|index| self.waiting.remove(index)) else {
                return;
            };
            self.bytes -= replaced.length();
        }
        self.bytes += message.length();
        self.waiting.push_back(message);
    }

    fn pop(&mut self) -> Option<Interim> {
        let message = self.waiting.pop_front()?;
        self.bytes -= message.length();
        Some(message)
    }

    fn count_dropped(&mut self, kind: InterimKind) {
        self.dropped += 1;
        DROPPED[kind as usize].fetch_add(1, Ordering::Relaxed);
    }
}

impl InterimSender {
    /// Returns the kinds of messages that the receiver takes.
    pub fn kinds(&self) -> InterimKinds {
        self.kinds
    }

    /// Sends a message and never waits. If the channel is full, progress replaces the newest waiting progress, and a log line
    /// is dropped. A message of more than [`MAX_MESSAGE`] bytes is dropped. Without a receiver the message is lost.
    pub fn send(&self, message: Interim) {
        let mut state = self.channel.state.lock();
        if state.has_no_receiver {
            return;
        }
        if message.length() > MAX_MESSAGE {
            return state.count_dropped(message.kind());
        }
        state.push(message);
        drop(state);
        self.channel.changed.notify_one();
    }

    /// Sends a request of a server and never waits. Returns false if the channel is full, if the request has more than
    /// [`MAX_MESSAGE`] bytes, or if there is no receiver.
    pub fn send_request(&self, request: Bytes) -> bool {
        let mut state = self.channel.state.lock();
        let has_room = state.waiting.len() < MAX_WAITING
            && state.bytes + request.len() <= MAX_WAITING_BYTES
            && request.len() <= MAX_MESSAGE;
        if state.has_no_receiver || !has_room {
            return false;
        }
        state.push(Interim::Request(request));
        drop(state);
        self.channel.changed.notify_one();
        true
    }

    /// Counts a message that its producer could not send.
    pub fn count_dropped(&self, kind: InterimKind) {
        self.channel.state.lock().count_dropped(kind);
    }
}

impl Clone for InterimSender {
    fn clone(&self) -> Self {
        self.channel.state.lock().senders += 1;
        Self {
            channel: self.channel.clone(),
            kinds: self.kinds,
        }
    }
}

impl Drop for InterimSender {
    fn drop(&mut self) {
        let mut state = self.channel.state.lock();
        state.senders -= 1;
        let is_last = state.senders == 0;
        drop(state);
        if is_last {
            self.channel.changed.notify_one();
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
    pub fn count_dropped(&self, kind: InterimKind) {
        self.0.state.lock().count_dropped(kind);
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
    fn a_full_channel_drops_log_lines_and_keeps_the_newest_progress() {
        let log = |text: &str| Interim::Log(Bytes::from(text.to_owned()));
        let (sender, mut receiver) = interim_channel();
        sender.send(progress("old"));
        for number in 1..MAX_WAITING {
            sender.send(log(&number.to_string()));
        }
        sender.send(log("lost"));
        sender.send(progress("new"));
        assert_eq!(receiver.dropped(), 2);
        let kept = rest(&mut receiver);
        assert_eq!(kept.len(), MAX_WAITING);
        assert_eq!(kept.first(), Some(&log("1")));
        assert_eq!(kept.last(), Some(&progress("new")));
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
        let before = dropped_interim(InterimKind::Progress);
        sender.send(progress("x".repeat(MAX_MESSAGE + 1)));
        assert_eq!(rest(&mut receiver), []);
        assert_eq!(receiver.dropped(), 1);
        assert!(dropped_interim(InterimKind::Progress) > before);
    }

    #[test]
    fn messages_without_a_receiver_are_lost_and_not_counted() {
        let (sender, receiver) = interim_channel();
        drop(receiver);
        sender.send(progress("1"));
        let state = sender.channel.state.lock();
        assert!(state.waiting.is_empty());
        assert_eq!(state.dropped, 0);
    }
}
