//! The asking side: one inbox a process, and whoever waits there.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::{HeaderMap, Message, StatusCode, SubscribeError};
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Shared;
use super::parts::{self, Offer};
use super::wire::{self, status};
use crate::core::names::Position;
use crate::ports::{Ask, BusError, Reply};

/// A worker that has begun says so more often than that.
const SILENCE: Duration = Duration::from_secs(3);
/// Between two attempts to reach somebody who has just left.
const GONE: Duration = Duration::from_millis(5);

pub struct Calls {
    shared: Arc<Shared>,
    inbox: String,
    next: AtomicU64,
    waiting: Arc<Waiting>,
}

#[derive(Default)]
struct Waiting(Mutex<HashMap<u64, Waiter>>);

struct Waiter {
    answer: oneshot::Sender<Message>,
    /// How often the worker has said that it is working.
    heard: Arc<AtomicU64>,
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Waiter>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One ask under way. Dropped before its answer, it is cancelled where it runs.
struct UnderWay<'a> {
    calls: &'a Calls,
    number: u64,
    reply: String,
    answered: bool,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.calls.waiting.lock().remove(&self.number);
        if !self.answered {
            let (client, reply) = (self.calls.shared.client.clone(), std::mem::take(&mut self.reply));
            let subject = format!("{}.cancel", self.calls.shared.prefix);
            tokio::spawn(async move { client.publish(subject, reply.into()).await });
        }
    }
}

impl Calls {
    pub async fn start(shared: &Arc<Shared>) -> Result<Self, SubscribeError> {
        let inbox = shared.client.new_inbox();
        let mut answers = shared.client.subscribe(format!("{inbox}.*")).await?;
        let waiting = Arc::<Waiting>::default();
        let (told, cut) = (waiting.clone(), inbox.len() + 1);
        tokio::spawn(async move {
            while let Some(message) = answers.next().await {
                let Some(number) = message.subject.get(cut..).and_then(|token| token.parse().ok()) else { continue };
                if is(&message, status::WORKING) {
                    if let Some(waiter) = told.lock().get(&number) {
                        waiter.heard.fetch_add(1, Ordering::Relaxed);
                    }
                } else if let Some(waiter) = told.lock().remove(&number) {
                    let _ = waiter.answer.send(message);
                }
            }
        });
        Ok(Self { shared: shared.clone(), inbox, next: AtomicU64::new(0), waiting })
    }

    pub async fn call(&self, ask: Ask) -> Result<Reply, BusError> {
        let until = Instant::now() + ask.time_left;
        let (subject, name_it) = wire::subject(&self.shared.prefix, ask.to, ask.command);
        let mut headers = HeaderMap::new();
        headers.insert(wire::WORKING, "1");
        headers.insert(wire::SEEN, ask.seen.0.to_string());
        if name_it {
            headers.insert(wire::COMMAND, ask.command);
        }
        if let Some(call) = &ask.call {
            headers.insert(wire::CALL, wire::ascii_json(call).unwrap_or_default());
        }
        if let Some(traceparent) = &ask.traceparent {
            headers.insert(wire::TRACEPARENT, &**traceparent);
        }
        // Kept until the ask is over: its parts are fetched meanwhile.
        let (body, _offer) = match Offer::of(&self.shared, &ask.body).await {
            Ok(None) => (ask.body.clone(), None),
            Ok(Some(offer)) => {
                headers.insert(wire::PARTS, offer.header.clone());
                (Bytes::new(), Some(offer))
            }
            Err(_) => return Err(BusError::Away),
        };
        loop {
            let left = until.saturating_duration_since(Instant::now());
            headers.insert(wire::TIME_LEFT, (left.as_millis() as u64).to_string());
            let message = self.send(&subject, headers.clone(), body.clone(), until).await?;
            if message.status == Some(StatusCode::NO_RESPONDERS) {
                return Err(BusError::NobodyThere);
            }
            if is(&message, status::BUSY) {
                return Err(BusError::Busy);
            }
            if !is(&message, status::GONE) {
                return self.read(message, until).await;
            }
            // It has not begun, and NATS will know of another or of nobody in a moment.
            tokio::time::sleep(GONE).await;
        }
    }

    /// Sends an ask once and waits for the answer.
    async fn send(&self, subject: &str, headers: HeaderMap, body: Bytes, until: Instant) -> Result<Message, BusError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, mut answered) = oneshot::channel();
        let heard = Arc::new(AtomicU64::new(0));
        let reply = format!("{}.{number}", self.inbox);
        self.waiting.lock().insert(number, Waiter { answer, heard: heard.clone() });
        let mut under_way = UnderWay { calls: self, number, reply: reply.clone(), answered: false };
        let sent = self.shared.client.publish_with_reply_and_headers(subject.to_owned(), reply, headers, body);
        sent.await.map_err(|_| BusError::Away)?;
        let mut last = 0;
        loop {
            let wait = until.min(Instant::now() + SILENCE);
            match tokio::time::timeout_at(wait, &mut answered).await {
                Ok(Ok(message)) => {
                    under_way.answered = true;
                    return Ok(message);
                }
                Ok(Err(_)) => return Err(BusError::Silent),
                Err(_) if Instant::now() >= until => return Err(BusError::TimedOut),
                Err(_) => {
                    let heard = heard.load(Ordering::Relaxed);
                    if heard == last {
                        return Err(BusError::Silent);
                    }
                    last = heard;
                }
            }
        }
    }

    async fn read(&self, message: Message, until: Instant) -> Result<Reply, BusError> {
        let headers = message.headers.unwrap_or_default();
        let text = |name: &str| headers.get(name).map(|value| value.as_str());
        let position = Position(text(wire::POSITION).and_then(|text| text.parse().ok()).unwrap_or_default());
        let body = match text(wire::PARTS) {
            None => message.payload,
            Some(parts) => {
                let fetched = tokio::time::timeout_at(until, parts::fetch(&self.shared, parts)).await;
                match fetched.map_err(|_| BusError::TimedOut)? {
                    Ok(body) => body,
                    Err(failure) => return Ok(Reply { position, outcome: Err(wire::failed(&failure)) }),
                }
            }
        };
        let outcome = if text(wire::STATUS) == Some(status::OK) { Ok(body) } else { Err(body) };
        Ok(Reply { position, outcome })
    }
}

fn is(message: &Message, status: &str) -> bool {
    let headers = message.headers.as_ref();
    headers.and_then(|headers| headers.get(wire::STATUS)).is_some_and(|value| value.as_str() == status)
}
