//! The answering side: subscriptions, and a task for each ask, which a word of its asker ends.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::{HeaderMap, Message, SubscribeError, Subscriber};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use super::Shared;
use super::parts::{self, Offer};
use super::wire::{self, Head, status};
use crate::core::command::Delivery;
use crate::core::failure::Failure;
use crate::core::names::Position;
use crate::ports::{Ask, Busy, Place, Reply, Serve, Serving};

/// Asks one place has under way at most; past that it is busy.
const UNDER_WAY: usize = 8192;
/// After that time an asker is told that its ask is being worked on, and then again and again.
const FIRST_WORD: Duration = Duration::from_millis(500);
const WORD: Duration = Duration::from_secs(1);

pub struct Takers {
    shared: Arc<Shared>,
    running: Arc<Running>,
}

/// The asks under way, by the subject they are to be answered at.
#[derive(Default)]
struct Running(Mutex<HashMap<String, AbortHandle>>);

impl Running {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, AbortHandle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One place that is served here.
struct Post {
    shared: Arc<Shared>,
    running: Arc<Running>,
    place: Place,
    taker: Arc<dyn Serve>,
    under_way: AtomicUsize,
    /// What comes now is sent on its way again: it came after the end.
    ended: AtomicBool,
}

impl Takers {
    pub async fn start(shared: &Arc<Shared>) -> Result<Self, SubscribeError> {
        let running = Arc::<Running>::default();
        let mut cancels = shared.client.subscribe(format!("{}.cancel", shared.prefix)).await?;
        let told = running.clone();
        tokio::spawn(async move {
            while let Some(cancel) = cancels.next().await {
                let running = std::str::from_utf8(&cancel.payload).ok().and_then(|reply| told.lock().remove(reply));
                if let Some(running) = running {
                    running.abort();
                }
            }
        });
        Ok(Self { shared: shared.clone(), running })
    }

    /// Serves a place until the guard is dropped.
    pub fn serve(&self, place: Place, taker: Arc<dyn Serve>) -> Serving {
        let (shared, running) = (self.shared.clone(), self.running.clone());
        let (under_way, ended) = (AtomicUsize::new(0), AtomicBool::new(false));
        let post = Arc::new(Post { shared, running, place, taker, under_way, ended });
        let (stop, stopped) = oneshot::channel::<()>();
        let (subject, group) = wire::subscription(&self.shared.prefix, place);
        let client = self.shared.client.clone();
        let mut subscribing = Box::pin(async move { client.queue_subscribe(subject, group).await });
        // In its place among what this process sends: what is asked from now on finds somebody.
        let subscribed = (&mut subscribing).now_or_never();
        let at_post = post.clone();
        tokio::spawn(async move {
            let subscribed = match subscribed {
                Some(subscribed) => subscribed,
                None => subscribing.await,
            };
            match subscribed {
                Ok(asks) => take_all(&at_post, asks, stopped).await,
                Err(error) => tracing::error!(?place, %error, "a place cannot be served"),
            }
        });
        Serving(Box::new(move || {
            post.ended.store(true, Ordering::Release);
            drop(stop);
        }))
    }
}

async fn take_all(post: &Arc<Post>, mut asks: Subscriber, mut stopped: oneshot::Receiver<()>) {
    loop {
        tokio::select! {
            ask = asks.next() => match ask {
                Some(ask) => post.take(ask),
                None => return,
            },
            _ = &mut stopped => break,
        }
    }
    // What NATS has sent before it heard of the end still gets an answer.
    if let Err(error) = asks.drain().await {
        tracing::debug!(%error, "a subscription could not be ended");
    }
    while let Some(ask) = asks.next().await {
        post.take(ask);
    }
}

impl Post {
    fn take(self: &Arc<Self>, message: Message) {
        let Some(reply) = message.reply.clone() else {
            return tracing::debug!("an ask that wants no answer is not carried out");
        };
        let refusal = if self.ended.load(Ordering::Acquire) {
            Some(status::GONE)
        } else if self.under_way.fetch_add(1, Ordering::Relaxed) >= UNDER_WAY {
            self.under_way.fetch_sub(1, Ordering::Relaxed);
            Some(status::BUSY)
        } else {
            None
        };
        let post = self.clone();
        if let Some(status) = refusal {
            tokio::spawn(async move { post.publish(&reply, wire::only(status), Bytes::new()).await });
            return;
        }
        // Held over both, so that the task cannot end before it is known.
        let mut running = self.running.lock();
        let key = reply.to_string();
        let task = tokio::spawn(async move {
            let done = Done { post: &post, reply: &reply };
            post.answer(&message, &reply).await;
            drop(done);
        });
        running.insert(key, task.abort_handle());
    }

    async fn answer(&self, message: &Message, reply: &str) {
        let headers = message.headers.as_ref();
        let head = match Head::read(&message.subject, &self.shared.prefix, headers) {
            Ok(head) if head.delivery == Delivery::Job => {
                let job = Failure::invalid(format!("{} is a job; send it to {}.job", head.command, self.shared.prefix));
                return self.refuse(reply, &job).await;
            }
            Ok(head) => head,
            Err(failure) => return self.refuse(reply, &failure).await,
        };
        let (working, time_left) = (head.working, head.time_left);
        let parts = headers.and_then(|headers| headers.get(wire::PARTS)).map(|value| value.as_str());
        let mut work = std::pin::pin!(tokio::time::timeout(time_left, self.work(head, parts, message.payload.clone())));
        let mut next = FIRST_WORD;
        let done = loop {
            match tokio::time::timeout(next, &mut work).await {
                Ok(done) => break done,
                Err(_) if working => self.publish(reply, wire::only(status::WORKING), Bytes::new()).await,
                Err(_) => {}
            }
            next = WORD;
        };
        match done {
            Ok(Ok(Ok(Reply { position, outcome }))) => self.tell(reply, position, outcome).await,
            Ok(Ok(Err(Busy))) => self.publish(reply, wire::only(status::BUSY), Bytes::new()).await,
            Ok(Err(failure)) => self.refuse(reply, &failure).await,
            // The asker has stopped waiting too.
            Err(_) => {}
        }
    }

    async fn work(&self, head: Head, parts: Option<&str>, body: Bytes) -> Result<Result<Reply, Busy>, Failure> {
        let body = match parts {
            None => body,
            Some(parts) => parts::fetch(&self.shared, parts).await?,
        };
        let Head { command, time_left, seen, call, traceparent, .. } = head;
        let traceparent = traceparent.map(Into::into);
        Ok(self.taker.serve(Ask { to: self.place, command, time_left, seen, traceparent, call, body }).await)
    }

    async fn refuse(&self, reply: &str, failure: &Failure) {
        self.tell(reply, Position(0), Err(wire::failed(failure))).await;
    }

    async fn tell(&self, reply: &str, position: Position, outcome: Result<Bytes, Bytes>) {
        let (mut headers, body) = wire::answer(position, outcome);
        match Offer::of(&self.shared, &body).await {
            Ok(None) => self.publish(reply, headers, body).await,
            Ok(Some(offer)) => {
                headers.insert(wire::PARTS, offer.header.clone());
                self.publish(reply, headers, Bytes::new()).await;
                offer.fetched().await;
            }
            Err(error) => tracing::warn!(%error, "an answer could not be sent"),
        }
    }

    async fn publish(&self, reply: &str, headers: HeaderMap, body: Bytes) {
        let sent = self.shared.client.publish_with_headers(reply.to_owned(), headers, body).await;
        if let Err(error) = sent {
            tracing::warn!(%error, "an answer could not be sent");
        }
    }
}

/// Takes an ask off the list, however it ends.
struct Done<'a> {
    post: &'a Post,
    reply: &'a str,
}

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.post.under_way.fetch_sub(1, Ordering::Relaxed);
        self.post.running.lock().remove(self.reply);
    }
}
