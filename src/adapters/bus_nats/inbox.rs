//! The process's inbox: one subscription for all that comes back, and who waits for it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::message::OutboundMessage;
use async_nats::{Message, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::oneshot;
use tokio::time::Instant;
use uuid::Uuid;

use super::connection::NatsConnection;
use super::{chunked, wire};

/// How long an asker has to fetch a large answer, and how often is looked whether it has.
const FETCHED: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(200);

pub struct Inbox {
    pub link: NatsConnection,
    /// `_INBOX.<process>.`: what follows is the number of whoever waits.
    prefix: String,
    next: AtomicU64,
    entries: Mutex<HashMap<u64, InboxEntry>>,
}

enum InboxEntry {
    /// Somebody waits for one message.
    Waits {
        heard: Instant,
        answer: oneshot::Sender<Message>,
    },
    /// A body that is fetched in parts of that size.
    Holds(Bytes, usize),
}

impl Inbox {
    pub async fn open(link: NatsConnection) -> Result<(Arc<Self>, Subscriber), String> {
        let prefix = format!("_INBOX.{}.", Uuid::new_v4().simple());
        let letters = link
            .client
            .subscribe(format!("{prefix}*"))
            .await
            .map_err(|error| error.to_string())?;
        Ok((
            Arc::new(Self {
                link,
                prefix,
                next: AtomicU64::new(0),
                entries: Mutex::default(),
            }),
            letters,
        ))
    }

    /// Hands out what comes.
    pub async fn read(self: Arc<Self>, mut letters: Subscriber) {
        while let Some(letter) = letters.next().await {
            self.deliver(letter);
        }
    }

    fn deliver(&self, letter: Message) {
        let Some(number) = letter
            .subject
            .strip_prefix(self.prefix.as_str())
            .and_then(|n| n.parse().ok())
        else {
            return;
        };
        let mut entries = self.lock();
        match entries.get_mut(&number) {
            Some(InboxEntry::Waits { heard, .. }) if wire::is_working(&letter) => {
                *heard = Instant::now()
            }
            Some(InboxEntry::Waits { .. }) => {
                let Some(InboxEntry::Waits { answer, .. }) = entries.remove(&number) else {
                    return;
                };
                drop(entries);
                let _ = answer.send(letter);
            }
            Some(InboxEntry::Holds(..)) if letter.payload.is_empty() => {
                drop(entries.remove(&number))
            }
            Some(InboxEntry::Holds(body, size)) => {
                let part = chunked::part(body, &letter.payload, *size);
                drop(entries);
                if let (Some(payload), Some(reply)) = (part, letter.reply) {
                    self.link.send(OutboundMessage {
                        subject: reply,
                        reply: None,
                        payload,
                        headers: None,
                    });
                }
            }
            // A late answer is nobody's.
            None => {}
        }
    }

    /// A place for one message to come back to.
    pub fn wait(self: &Arc<Self>) -> ReplyWaiter {
        let (answer, rx) = oneshot::channel();
        let number = self.enter(InboxEntry::Waits {
            heard: Instant::now(),
            answer,
        });
        ReplyWaiter {
            inbox: self.clone(),
            number,
            answer: rx,
        }
    }

    /// Keeps a body to be fetched, until the guard is dropped or somebody says that he has it.
    pub fn hold(self: &Arc<Self>, body: Bytes, size: usize) -> HeldBody {
        HeldBody {
            inbox: self.clone(),
            number: self.enter(InboxEntry::Holds(body, size)),
        }
    }

    fn enter(&self, entry: InboxEntry) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(number, entry);
        number
    }

    fn subject(&self, number: u64) -> String {
        format!("{}{number}", self.prefix)
    }

    /// A subject below the inbox that the inbox itself does not hear.
    pub fn new_subject(&self, word: &str) -> String {
        format!(
            "{}{word}.{}",
            self.prefix,
            self.next.fetch_add(1, Ordering::Relaxed)
        )
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, InboxEntry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A question of one message with an answer of one message.
    pub async fn request(
        self: &Arc<Self>,
        mut question: OutboundMessage,
        limit: Duration,
    ) -> Option<Message> {
        let mut waiting = self.wait();
        question.reply = Some(waiting.subject().into());
        self.link.send(question);
        tokio::time::timeout(limit, waiting.answer())
            .await
            .ok()
            .flatten()
    }

    /// Waits until all that was sent before has been at the server, and what the server sent meanwhile is here.
    pub async fn round_trip(self: &Arc<Self>, limit: Duration) {
        let mut waiting = self.wait();
        let subject = waiting.subject().into();
        self.link.send(OutboundMessage {
            subject,
            reply: None,
            payload: Bytes::new(),
            headers: None,
        });
        let _ = tokio::time::timeout(limit, waiting.answer()).await;
    }
}

/// Somebody who waits; dropped, nobody does.
pub struct ReplyWaiter {
    inbox: Arc<Inbox>,
    number: u64,
    answer: oneshot::Receiver<Message>,
}

impl ReplyWaiter {
    pub fn subject(&self) -> String {
        self.inbox.subject(self.number)
    }

    /// The answer; `None` where there will be none.
    pub async fn answer(&mut self) -> Option<Message> {
        (&mut self.answer).await.ok()
    }

    /// When the last sign of life came.
    pub fn heard(&self) -> Option<Instant> {
        match self.inbox.lock().get(&self.number) {
            Some(InboxEntry::Waits { heard, .. }) => Some(*heard),
            _ => None,
        }
    }
}

impl Drop for ReplyWaiter {
    fn drop(&mut self) {
        self.inbox.lock().remove(&self.number);
    }
}

/// A body that can be fetched while this lives.
pub struct HeldBody {
    inbox: Arc<Inbox>,
    number: u64,
}

impl HeldBody {
    pub fn subject(&self) -> String {
        self.inbox.subject(self.number)
    }

    /// Stays until the body was fetched, or long enough.
    pub async fn fetched(self) {
        let began = Instant::now();
        while began.elapsed() < FETCHED && self.inbox.lock().contains_key(&self.number) {
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl Drop for HeldBody {
    fn drop(&mut self) {
        self.inbox.lock().remove(&self.number);
    }
}
