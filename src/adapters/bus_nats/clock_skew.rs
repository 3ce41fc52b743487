//! Asks that come too late. A server that hangs keeps what it was sent, and a connection may: when they
//! go on, the asker has long been told that nothing came of it, so it must not be begun.
//!
//! No two machines agree on the time, so a sender says what its own steady clock shows. Whoever hears
//! from it now and then knows the least that this differs from his own, and what exceeds that was spent
//! on the way. A sender that was never heard before is believed to be in time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::Subscriber;
use futures::StreamExt;
use tokio::time::Instant;

use super::inbox::Inbox;
use super::wire;

/// How often a process lets the others hear its clock.
const TICK: Duration = Duration::from_secs(5);
/// Steady clocks drift, and stop with their machine: what is older than two of these is forgotten, but
/// not before something newer was heard.
const WINDOW: i64 = 30_000;
/// Senders that are remembered.
const SENDERS: usize = 4096;

/// This process's clock and what is known of the others'.
pub struct SenderClocks {
    own: String,
    began: Instant,
    heard: Mutex<HashMap<String, Heard>>,
}

/// The least difference to a sender's clock, in milliseconds, of this window and of the one before it.
struct Heard {
    since: i64,
    least: i64,
    before: i64,
}

impl SenderClocks {
    pub fn new(own: String) -> Self {
        Self {
            own,
            began: Instant::now(),
            heard: Mutex::default(),
        }
    }

    fn now(&self) -> i64 {
        i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    /// What a message says of its sender's clock.
    pub fn stamp(&self) -> String {
        format!("{} {}", self.own, self.now())
    }

    /// Lets the others hear this clock, at once when there is a new connection.
    pub async fn tick(self: Arc<Self>, inbox: Arc<Inbox>, subject: String) {
        let mut connected = inbox.link.connected.clone();
        loop {
            if inbox.link.is_connected() {
                inbox.link.send(wire::tick(subject.clone(), self.stamp()));
            }
            let _ = tokio::time::timeout(TICK, connected.changed()).await;
        }
    }

    pub async fn listen(self: Arc<Self>, mut ticks: Subscriber) {
        while let Some(tick) = ticks.next().await {
            self.delay(wire::sent(&tick));
        }
    }

    /// How long a message with that stamp was on its way, beyond what is usual.
    pub fn delay(&self, stamp: Option<&str>) -> Duration {
        self.late_at(self.now(), stamp)
    }

    fn late_at(&self, now: i64, stamp: Option<&str>) -> Duration {
        let mut words = stamp.unwrap_or_default().split(' ');
        let (Some(sender), Some(sent)) = (words.next(), words.next()) else {
            return Duration::ZERO;
        };
        let Ok(sent) = sent.parse::<i64>() else {
            return Duration::ZERO;
        };
        let difference = now.saturating_sub(sent);
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(clock) = heard.get_mut(sender) else {
            if heard.len() >= SENDERS {
                heard.retain(|_, clock| now - clock.since < 2 * WINDOW);
            }
            if heard.len() < SENDERS {
                heard.insert(
                    sender.to_owned(),
                    Heard {
                        since: now,
                        least: difference,
                        before: difference,
                    },
                );
            }
            return Duration::ZERO;
        };
        let usual = clock.least.min(clock.before);
        if now - clock.since >= WINDOW {
            *clock = Heard {
                since: now,
                least: difference,
                before: clock.least,
            };
        } else {
            clock.least = clock.least.min(difference);
        }
        Duration::from_millis(u64::try_from(difference.saturating_sub(usual)).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How late messages are that were sent and heard at these times.
    fn delay(messages: &[(i64, i64)]) -> Vec<u128> {
        let clocks = SenderClocks::new("me".into());
        messages
            .iter()
            .map(|(sent, now)| {
                clocks
                    .late_at(*now, Some(&format!("it {sent}")))
                    .as_millis()
            })
            .collect()
    }

    #[test]
    fn what_exceeds_the_least_difference_was_spent_on_the_way() {
        // Its clock is 1,000 ahead; the quickest way takes 2.
        assert_eq!(
            delay(&[
                (1_000, 5),
                (1_100, 102),
                (1_200, 202),
                (1_300, 9_302),
                (10_400, 9_402)
            ]),
            [0, 0, 0, 9_000, 0]
        );
    }

    #[test]
    fn after_a_long_silence_the_first_to_come_is_late_nevertheless() {
        assert_eq!(
            delay(&[(0, 0), (100, 600_100), (600_200, 600_200)]),
            [0, 600_000, 0]
        );
    }

    #[test]
    fn a_clock_that_stopped_for_a_while_is_believed_again() {
        let stopped: Vec<_> = (1..20).map(|n| (n * 5_000, n * 5_000 + 4_000)).collect();
        let late = delay(&[&[(0, 0)], &stopped[..]].concat());
        assert_eq!((late[1], late[late.len() - 1]), (4_000, 0));
    }

    #[test]
    fn whoever_says_nothing_of_its_clock_is_in_time() {
        let clocks = SenderClocks::new("me".into());
        for stamp in [None, Some(""), Some("it"), Some("it x")] {
            assert_eq!(clocks.late_at(9, stamp), Duration::ZERO);
        }
        assert_eq!(clocks.delay(Some(&clocks.stamp())), Duration::ZERO);
    }
}
