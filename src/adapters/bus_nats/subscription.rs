//! The worker's side of asks: one NATS subscription for each subject, one task for each ask.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use async_nats::{Message, Subject, Subscriber};
use futures::stream::{AbortHandle, Abortable};
use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::cancellation::{RunningAsks, RunningGuard};
use super::clock_skew::SenderClocks;
use super::inbox::Inbox;
use super::interim_relay::InterimRelay;
use super::pending_ask::SILENCE;
use super::sender_watch::SenderWatch;
use super::wire::{AskSender, ReceivedAsk};
use super::{NatsBus, chunked, wire};
use crate::core::failure::{Code, Failure};
use crate::core::ids::Position;
use crate::ports::bus::{AskHandler, Busy, Reply, SubscriptionGuard, Target, interim_channel_for};
use crate::time::clock::monotonic;

/// The number of asks of one target that this process holds. The permits of a worker are fewer.
const MAX_ASKS: usize = 4096;
/// The time after which a worker sends the first sign of life.
const FIRST_SIGN: Duration = Duration::from_millis(500);
/// The time between two signs of life.
const NEXT_SIGN: Duration = Duration::from_secs(1);
/// The delay after which a worker does not start an ask, because its sender soon times out.
const TOO_LATE: Duration = SILENCE.checked_sub(FIRST_SIGN).expect("longer");
/// The time limit for a round trip to the NATS server at the end of a subscription.
pub(super) const ROUND: Duration = Duration::from_secs(1);
/// A message count for `unsubscribe_after` that no subscription reaches. The NATS server ends the
/// subscription at once, because it cannot parse the number, and the client still delivers the
/// messages that are on their way. `Subscriber::drain` and `unsubscribe` lose these messages.
pub(super) const NO_MORE: u64 = 1_000_000_000_000;

impl NatsBus {
    /// Serves a target until the guard is dropped.
    pub(super) fn subscribe_target(
        &self,
        target: Target,
        handler: Arc<dyn AskHandler>,
    ) -> SubscriptionGuard {
        let server = Arc::new(AskServer {
            target,
            handler,
            inbox: self.inbox.clone(),
            running: self.running.clone(),
            clocks: self.clocks.clone(),
            max_body: self.max_body,
            slots: Arc::new(Semaphore::new(MAX_ASKS)),
            refused: self.refused_asks.clone(),
        });
        let (subjects, group) = self.subjects.subscriptions(target);
        let subscriptions: Vec<_> = subjects
            .into_iter()
            .map(|subject| server.clone().subscribe(subject, group.clone()))
            .collect();
        let inbox = self.inbox.clone();
        SubscriptionGuard(Box::new(move || {
            for subscription in subscriptions {
                subscription.0.lock().has_ended = true;
                let leaving = inbox.clone();
                inbox
                    .connection
                    .now_or_later(async move { subscription.end(leaving).await });
            }
        }))
    }
}

/// One NATS subscription, shared by the task that reads it and the guard that ends it.
#[derive(Default)]
struct Subscription(Mutex<SubscriptionState>);

#[derive(Default)]
struct SubscriptionState {
    subscriber: Option<Subscriber>,
    has_ended: bool,
}

impl Subscription {
    async fn next(&self) -> Option<Message> {
        std::future::poll_fn(|context| match self.0.lock().subscriber.as_mut() {
            Some(subscriber) => subscriber.poll_next_unpin(context),
            None => Poll::Ready(None),
        })
        .await
    }

    /// Accepts no new asks and still reads the asks that are on their way.
    async fn end(&self, inbox: Arc<Inbox>) {
        self.repeat_until_accepted(|subscriber| {
            subscriber
                .unsubscribe_after(NO_MORE)
                .now_or_never()
                .is_some()
        })
        .await;
        inbox.round_trip(ROUND).await;
        self.repeat_until_accepted(|subscriber| subscriber.unsubscribe().now_or_never().is_some())
            .await;
    }

    /// Gives an order to the client, and repeats it while the queue of the client is full.
    async fn repeat_until_accepted(&self, order: impl Fn(&mut Subscriber) -> bool) {
        while !self.0.lock().subscriber.as_mut().is_none_or(&order) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// The registration and the permit of an ask. The task of the ask drops them after its reply, or when the sender cancels it.
struct HeldAsk {
    _running: Option<RunningGuard>,
    _slot: OwnedSemaphorePermit,
}

/// Replies to the asks of one target.
struct AskServer {
    target: Target,
    handler: Arc<dyn AskHandler>,
    inbox: Arc<Inbox>,
    running: Arc<RunningAsks>,
    clocks: Arc<SenderClocks>,
    max_body: usize,
    slots: Arc<Semaphore>,
    /// Asks whose command did not belong to their subject.
    refused: Arc<AtomicU64>,
}

impl AskServer {
    fn subscribe(self: Arc<Self>, subject: String, group: String) -> Arc<Subscription> {
        let subscription = Arc::new(Subscription::default());
        let started = subscription.clone();
        let inbox = self.inbox.clone();
        let client = inbox.connection.client.clone();
        inbox.connection.now_or_later(async move {
            match client.queue_subscribe(subject, group).await {
                Ok(subscriber) => {
                    started.0.lock().subscriber = Some(subscriber);
                    let has_ended = started.0.lock().has_ended;
                    tokio::spawn(self.clone().read_asks(started.clone()));
                    if has_ended {
                        started.end(self.inbox.clone()).await;
                    }
                }
                Err(error) => {
                    tracing::error!(%error, target = ?self.target, "the bus cannot subscribe");
                }
            }
        });
        subscription
    }

    async fn read_asks(self: Arc<Self>, subscription: Arc<Subscription>) {
        while let Some(message) = subscription.next().await {
            let sender = AskSender::from_message(&message);
            let Ok(slot) = self.slots.clone().try_acquire_owned() else {
                self.inbox.connection.send_to(sender.reply, wire::busy);
                continue;
            };
            let (running, registration) = match sender.id.clone().map(|id| self.running.begin(id)) {
                // The cancellation arrived before the ask.
                Some(None) => continue,
                Some(Some((running, registration))) => (Some(running), registration),
                // An ask without an id cannot be cancelled.
                None => (None, AbortHandle::new_pair().1),
            };
            let held = HeldAsk {
                _running: running,
                _slot: slot,
            };
            let answering = self.clone().answer(message, sender, held);
            tokio::spawn(Abortable::new(answering, registration));
        }
    }

    async fn answer(self: Arc<Self>, message: Message, sender: AskSender, _held: HeldAsk) {
        let delay = self.clocks.delay(wire::stamp(&message));
        if let Some(failure) = wire::foreign_command(&message) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return self.reply(sender.reply, failed(&failure), Position(0));
        }
        let received = match wire::parse_ask(&message, self.target, self.max_body) {
            Ok(received) => received,
            Err(failure) => return self.reply(sender.reply, failed(&failure), Position(0)),
        };
        drop(message);
        // The sender has timed out already, or times out soon.
        if delay >= TOO_LATE.min(received.ask.time_left) {
            tracing::warn!(
                command = received.ask.command,
                ?delay,
                "an ask arrived too late; the worker does not start it"
            );
            return self.inbox.connection.send_to(sender.reply, wire::busy);
        }
        let seen = received.ask.seen;
        let until = monotonic() + received.ask.time_left.saturating_sub(delay);
        match self.serve(received, &sender, until).await {
            Some(Ok(reply)) => self.reply(sender.reply, reply, seen),
            Some(Err(Busy)) => self.inbox.connection.send_to(sender.reply, wire::busy),
            // A facade measures the time itself.
            None if sender.wants_signs => {}
            None => {
                let failure =
                    Failure::new(Code::Timeout, "The work took longer than Mcp-Time-Left")
                        .maybe_run();
                self.reply(sender.reply, failed(&failure), seen);
            }
        }
    }

    /// Executes an ask until its time is over, and publishes its interim messages before it returns.
    async fn serve(
        &self,
        mut received: ReceivedAsk,
        sender: &AskSender,
        until: Instant,
    ) -> Option<Result<Reply, Busy>> {
        let to = sender.reply.clone().filter(|_| !sender.interim.is_empty());
        let Some(to) = to else {
            return self.execute(received, sender, until).await;
        };
        let (interim, messages) = interim_channel_for(sender.interim);
        received.ask.interim = Some(interim);
        let mut relay = InterimRelay {
            connection: &self.inbox.connection,
            to,
            messages,
        };
        // Most asks have no such messages. The box keeps the futures of these asks small.
        let mut work = Box::pin(self.execute(received, sender, until));
        let outcome = tokio::select! {
            outcome = &mut work => outcome,
            () = relay.publish_all() => None,
        };
        // The work frees its permits before the relay publishes the rest of the messages.
        drop(work);
        relay.publish_rest();
        outcome
    }

    /// Executes an ask until its time is over or its sender is dead, and sends signs of life while it works.
    async fn execute(
        &self,
        ReceivedAsk { mut ask, chunked }: ReceivedAsk,
        sender: &AskSender,
        until: Instant,
    ) -> Option<Result<Reply, Busy>> {
        let work = async {
            if let Some(chunked) = chunked {
                let Some(body) = Box::pin(chunked.fetch(&self.inbox)).await else {
                    return Ok(failed(&Failure::invalid(
                        "The parts of the body cannot be fetched as Mcp-Parts announces them; send the ask again",
                    )));
                };
                ask.body = body;
            }
            self.handler.handle(ask).await
        };
        tokio::pin!(work);
        let mut sign = monotonic() + FIRST_SIGN;
        let mut watch = SenderWatch::new(&self.inbox);
        loop {
            // One timer serves both limits, because most asks end before it fires.
            let next = if sender.wants_signs {
                sign.min(until)
            } else {
                until
            };
            match timeout_at(next, &mut work).await {
                Ok(outcome) => return Some(outcome),
                Err(_) if next == until => return None,
                // A dead sender needs no result. Dropping the work cancels it, as a cancellation does.
                Err(_) => {
                    let report = watch.next_report()?;
                    let connection = &self.inbox.connection;
                    connection.send_to(sender.reply.clone(), |to| wire::working(to, report));
                }
            }
            sign += NEXT_SIGN;
        }
    }

    /// Sends a reply to a sender that has seen the log up to a position.
    fn reply(&self, to: Option<Subject>, reply: Reply, seen: Position) {
        let Some(to) = to else { return };
        let mut message = wire::reply(to, &reply, seen);
        let (Ok(body) | Err(body)) = reply.outcome;
        let held = chunked::add_body(&self.inbox, &mut message, body);
        self.inbox.connection.send(message);
        if let Some(held) = held {
            tokio::spawn(held.fetched());
        }
    }
}

fn failed(failure: &Failure) -> Reply {
    Reply {
        position: Position(0),
        outcome: Err(serde_json::to_vec(failure).unwrap_or_default().into()),
    }
}
