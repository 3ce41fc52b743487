//! The answering side: a place is a subscription, an ask a task of its own.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use async_nats::{Message, Subject, Subscriber};
use futures::stream::{AbortHandle, Abortable};
use futures::{FutureExt, StreamExt};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::cancellation::RunningAsks;
use super::clock_skew::SenderClocks;
use super::inbox::Inbox;
use super::pending_ask::SILENCE;
use super::wire::{AskSender, ReceivedAsk};
use super::{NatsBus, chunked, wire};
use crate::core::failure::{Code, Failure};
use crate::core::ids::Position;
use crate::ports::bus::{AskHandler, Busy, Reply, SubscriptionGuard, Target};

/// Asks of one place in this process's hands; the workers' own permits are fewer.
const IN_HAND: usize = 4096;
/// After how long an asker hears that its ask is worked on, and how often from then on.
const FIRST_SIGN: Duration = Duration::from_millis(500);
const NEXT_SIGN: Duration = Duration::from_secs(1);
/// How late an ask may come: soon after that its asker takes the silence for a death.
const TOO_LATE: Duration = SILENCE.checked_sub(FIRST_SIGN).expect("longer");
/// How long the end of a subscription takes to go to the server and back.
pub const ROUND: Duration = Duration::from_secs(1);
/// A number of messages that a server does not read: it ends the subscription at once, while the client
/// still hands out what is on its way. `Subscriber::drain` and `unsubscribe` lose that. A server that
/// read it would go on until the subscription's real end, a round trip later.
pub const NO_MORE: u64 = 1_000_000_000_000;

impl NatsBus {
    pub(super) fn seat(&self, place: Target, taker: Arc<dyn AskHandler>) -> SubscriptionGuard {
        let (inbox, running, max_body) = (self.inbox.clone(), self.running.clone(), self.max_body);
        let clocks = self.clocks.clone();
        let desk = Arc::new(AskServer {
            place,
            taker,
            inbox,
            running,
            clocks,
            max_body,
            room: Arc::new(Semaphore::new(IN_HAND)),
        });
        let seat = Arc::new(Seat::default());
        let (client, (subject, group)) =
            (self.inbox.link.client.clone(), self.subjects.place(place));
        let taken = seat.clone();
        self.inbox.link.now_or_later(async move {
            match client.queue_subscribe(subject, group).await {
                Ok(subscriber) => {
                    taken.lock().subscriber = Some(subscriber);
                    let left = taken.lock().left;
                    tokio::spawn(desk.clone().work(taken.clone()));
                    if left {
                        taken.leave(desk.inbox.clone()).await;
                    }
                }
                Err(error) => tracing::error!(%error, ?place, "a place cannot be served"),
            }
        });
        let inbox = self.inbox.clone();
        SubscriptionGuard(Box::new(move || {
            seat.lock().left = true;
            let leaving = inbox.clone();
            inbox
                .link
                .now_or_later(async move { seat.leave(leaving).await });
        }))
    }
}

/// A place's subscription, between the loop that reads it and the guard that ends it.
#[derive(Default)]
struct Seat(Mutex<Subscription>);

#[derive(Default)]
struct Subscription {
    subscriber: Option<Subscriber>,
    left: bool,
}

impl Seat {
    fn lock(&self) -> MutexGuard<'_, Subscription> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn next(&self) -> Option<Message> {
        std::future::poll_fn(|cx| match self.lock().subscriber.as_mut() {
            Some(subscriber) => subscriber.poll_next_unpin(cx),
            None => Poll::Ready(None),
        })
        .await
    }

    /// Takes no new asks; those on their way are still read.
    async fn leave(&self, inbox: Arc<Inbox>) {
        self.insist(|subscriber| {
            subscriber
                .unsubscribe_after(NO_MORE)
                .now_or_never()
                .is_some()
        })
        .await;
        inbox.round_trip(ROUND).await;
        self.insist(|subscriber| subscriber.unsubscribe().now_or_never().is_some())
            .await;
    }

    /// Tells the client something, again where it has no room for it.
    async fn insist(&self, say: impl Fn(&mut Subscriber) -> bool) {
        while !self.lock().subscriber.as_mut().is_none_or(&say) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// What it takes to answer the asks of one place.
struct AskServer {
    place: Target,
    taker: Arc<dyn AskHandler>,
    inbox: Arc<Inbox>,
    running: Arc<RunningAsks>,
    clocks: Arc<SenderClocks>,
    max_body: usize,
    room: Arc<Semaphore>,
}

impl AskServer {
    async fn work(self: Arc<Self>, seat: Arc<Seat>) {
        while let Some(message) = seat.next().await {
            let commands = AskSender::of(&message);
            let Ok(room) = self.room.clone().try_acquire_owned() else {
                self.inbox.link.send_to(commands.reply, wire::busy);
                continue;
            };
            let (begun, registration) = match commands.id.clone().map(|id| self.running.begin(id)) {
                // Cancelled before it came.
                Some(None) => continue,
                Some(Some((begun, registration))) => (Some(begun), registration),
                // Nobody can cancel it, as nobody can name it.
                None => (None, AbortHandle::new_pair().1),
            };
            let answering = Abortable::new(self.clone().answer(message, commands), registration);
            tokio::spawn(async move {
                let _ = answering.await;
                drop((begun, room));
            });
        }
    }

    async fn answer(self: Arc<Self>, message: Message, commands: AskSender) {
        let late = self.clocks.delay(wire::sent(&message));
        let asked = match wire::read_ask(&message, self.place, self.max_body) {
            Ok(asked) => asked,
            Err(failure) => return self.reply(commands.reply, failed(&failure), Position(0)),
        };
        drop(message);
        // Its asker has given up, or does so at any moment.
        if late >= TOO_LATE.min(asked.ask.time_left) {
            tracing::warn!(
                command = asked.ask.command,
                ?late,
                "an ask came too late and is not begun"
            );
            return self.inbox.link.send_to(commands.reply, wire::busy);
        }
        let (seen, until) = (
            asked.ask.seen,
            Instant::now() + asked.ask.time_left.saturating_sub(late),
        );
        match self.serve(asked, &commands, until).await {
            Some(Ok(reply)) => self.reply(commands.reply, reply, seen),
            Some(Err(Busy)) => self.inbox.link.send_to(commands.reply, wire::busy),
            // Our own askers keep the time themselves.
            None if commands.patient => {}
            None => {
                let late = Failure::new(Code::Timeout, "The work took longer than Mcp-Time-Left")
                    .maybe_run();
                self.reply(commands.reply, failed(&late), seen);
            }
        }
    }

    /// Does the work until the time is up, and shows signs of life meanwhile.
    async fn serve(
        &self,
        ReceivedAsk { mut ask, parts }: ReceivedAsk,
        commands: &AskSender,
        until: Instant,
    ) -> Option<Result<Reply, Busy>> {
        let work = async {
            if let Some(parts) = parts {
                let Some(body) = parts.fetch(&self.inbox).await else {
                    return Ok(failed(&Failure::invalid(
                        "The body could not be fetched in parts as it was announced",
                    )));
                };
                ask.body = body;
            }
            self.taker.handle(ask).await
        };
        tokio::pin!(work);
        let mut sign = Instant::now() + FIRST_SIGN;
        loop {
            // One timer for both: most asks are done before it rings.
            let next = if commands.patient {
                sign.min(until)
            } else {
                until
            };
            match timeout_at(next, &mut work).await {
                Ok(outcome) => return Some(outcome),
                Err(_) if next == until => return None,
                Err(_) => self
                    .inbox
                    .link
                    .send_to(commands.reply.clone(), wire::working),
            }
            sign += NEXT_SIGN;
        }
    }

    /// Answers somebody who has seen so much of the log.
    fn reply(&self, to: Option<Subject>, reply: Reply, seen: Position) {
        let Some(to) = to else { return };
        let mut message = wire::reply(to, &reply, seen);
        let (Ok(body) | Err(body)) = reply.outcome;
        let held = chunked::load(&self.inbox, &mut message, body);
        self.inbox.link.send(message);
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
