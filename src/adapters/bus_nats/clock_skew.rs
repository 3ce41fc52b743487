//! Measures the delay of messages without a common clock.
//!
//! A NATS server that hangs retains the messages that it received, and a connection can retain them
//! too. When they arrive, the sender of an ask has timed out, so a worker must not start the ask.
//!
//! The wall clocks of two machines differ. Every message therefore carries the monotonic clock of its
//! sender. The receiver knows the smallest difference between its own clock and the clock of the
//! sender. A message with a larger difference was delayed. The first message of a sender counts as
//! not delayed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Subscriber;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::inbox::Inbox;
use super::wire;
use crate::time::clock::monotonic;

/// The time between two messages with the clock of this process.
const TICK: Duration = Duration::from_secs(5);
/// The length of a window in milliseconds. Monotonic clocks drift, and they stop while their machine
/// sleeps. The smallest difference expires after two windows, but only after a newer message.
const WINDOW: i64 = 30_000;
/// The number of senders that are remembered.
const MAX_SENDERS: usize = 4096;

/// The clock of this process, and the differences to the clocks of other processes.
pub(super) struct SenderClocks {
    process: String,
    started: Instant,
    senders: Mutex<HashMap<String, Differences>>,
}

/// The smallest differences to the clock of one sender, in milliseconds.
struct Differences {
    /// The start of the current window.
    since: i64,
    /// The smallest difference of the current window.
    least: i64,
    /// The smallest difference of the previous window.
    previous: i64,
}

impl SenderClocks {
    pub(super) fn new(process: String) -> Self {
        Self {
            process,
            started: monotonic(),
            senders: Mutex::default(),
        }
    }

    fn now(&self) -> i64 {
        let elapsed = monotonic() - self.started;
        i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
    }

    /// Returns the text that a message carries: the process and its clock.
    pub(super) fn stamp(&self) -> String {
        format!("{} {}", self.process, self.now())
    }

    /// Publishes the clock of this process every five seconds, and at once after a new connection.
    pub(super) async fn publish_ticks(self: Arc<Self>, inbox: Arc<Inbox>, subject: String) {
        let connection = &inbox.connection;
        let mut connected = connection.connected.clone();
        loop {
            if connection.is_connected() {
                connection.send(wire::tick(subject.clone(), self.stamp()));
            }
            let _ = tokio::time::timeout(TICK, connected.changed()).await;
        }
    }

    /// Reads the clocks of other processes until the subscription ends.
    pub(super) async fn read_ticks(self: Arc<Self>, mut ticks: Subscriber) {
        while let Some(tick) = ticks.next().await {
            self.delay(wire::stamp(&tick));
        }
    }

    /// Returns the delay of a message with this stamp, or zero without a valid stamp.
    pub(super) fn delay(&self, stamp: Option<&str>) -> Duration {
        self.delay_at(self.now(), stamp)
    }

    fn delay_at(&self, now: i64, stamp: Option<&str>) -> Duration {
        let Some((sender, sent)) = stamp.and_then(parse_stamp) else {
            return Duration::ZERO;
        };
        let difference = now.saturating_sub(sent);
        let mut senders = self.senders.lock();
        let Some(clock) = senders.get_mut(sender) else {
            insert_sender(&mut senders, sender, now, difference);
            return Duration::ZERO;
        };
        let usual = clock.least.min(clock.previous);
        if now - clock.since >= WINDOW {
            *clock = Differences {
                since: now,
                least: difference,
                previous: clock.least,
            };
        } else {
            clock.least = clock.least.min(difference);
        }
        Duration::from_millis(u64::try_from(difference.saturating_sub(usual)).unwrap_or(0))
    }
}

/// Returns the process and the clock of a stamp.
fn parse_stamp(stamp: &str) -> Option<(&str, i64)> {
    let mut parts = stamp.split(' ');
    let sender = parts.next()?;
    let sent = parts.next()?.parse().ok()?;
    Some((sender, sent))
}

/// Remembers a new sender. If there are too many senders, the silent senders are removed first.
fn insert_sender(
    senders: &mut HashMap<String, Differences>,
    sender: &str,
    now: i64,
    difference: i64,
) {
    if senders.len() >= MAX_SENDERS {
        senders.retain(|_, clock| now - clock.since < 2 * WINDOW);
    }
    if senders.len() < MAX_SENDERS {
        let differences = Differences {
            since: now,
            least: difference,
            previous: difference,
        };
        senders.insert(sender.to_owned(), differences);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the delays of messages, given as (clock of the sender, clock of the receiver).
    fn delays(messages: &[(i64, i64)]) -> Vec<u128> {
        let clocks = SenderClocks::new("me".into());
        let delay = |(sent, now): &(i64, i64)| {
            let stamp = format!("sender {sent}");
            clocks.delay_at(*now, Some(&stamp)).as_millis()
        };
        messages.iter().map(delay).collect()
    }

    #[test]
    fn a_difference_above_the_smallest_difference_is_a_delay() {
        // The clock of the sender is 1,000 ahead. The fastest message takes 2.
        let messages = [
            (1_000, 5),
            (1_100, 102),
            (1_200, 202),
            (1_300, 9_302),
            (10_400, 9_402),
        ];
        assert_eq!(delays(&messages), [0, 0, 0, 9_000, 0]);
    }

    #[test]
    fn the_first_message_after_a_long_silence_can_be_delayed() {
        let messages = [(0, 0), (100, 600_100), (600_200, 600_200)];
        assert_eq!(delays(&messages), [0, 600_000, 0]);
    }

    #[test]
    fn a_clock_that_stopped_for_a_while_counts_again_after_two_windows() {
        let stopped: Vec<_> = (1..20).map(|n| (n * 5_000, n * 5_000 + 4_000)).collect();
        let delays = delays(&[&[(0, 0)], &stopped[..]].concat());
        assert_eq!((delays[1], delays[delays.len() - 1]), (4_000, 0));
    }

    #[test]
    fn a_message_without_a_valid_stamp_is_not_delayed() {
        let clocks = SenderClocks::new("me".into());
        for stamp in [None, Some(""), Some("sender"), Some("sender x")] {
            assert_eq!(clocks.delay_at(9, stamp), Duration::ZERO);
        }
        assert_eq!(clocks.delay(Some(&clocks.stamp())), Duration::ZERO);
    }
}
