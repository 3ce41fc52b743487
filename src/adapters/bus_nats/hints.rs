//! News for everybody: told here at once, and to the other processes when NATS is there.

use std::sync::Arc;

use async_nats::{Message, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::{broadcast, mpsc, watch};

use super::inbox::Inbox;
use super::subjects::Subjects;
use super::wire;
use crate::core::ids::Position;
use crate::ports::bus::Hint;

/// Hints a listener may be behind; one that is further behind looks for itself.
const HINTS: usize = 1024;
/// Status that waits to be sent; more is not worth waiting.
const STATUS: usize = 64;

pub struct Hints {
    here: broadcast::Sender<Hint>,
    /// Of positions the newest alone is news.
    position: watch::Sender<Position>,
    status: mpsc::Sender<Bytes>,
}

/// The two subscriptions, and what waits to be sent.
pub struct HintForwarder {
    moved: Subscriber,
    status: Subscriber,
    position_out: watch::Receiver<Position>,
    status_out: mpsc::Receiver<Bytes>,
    here: broadcast::Sender<Hint>,
}

impl Hints {
    pub async fn open(inbox: &Inbox, subjects: &Subjects) -> Result<(Self, HintForwarder), String> {
        let client = &inbox.link.client;
        let moved = client
            .subscribe(subjects.log_moved())
            .await
            .map_err(|error| error.to_string())?;
        let heard = client
            .subscribe(subjects.status())
            .await
            .map_err(|error| error.to_string())?;
        let here = broadcast::Sender::new(HINTS);
        let (position, position_out) = watch::channel(Position(0));
        let (status, status_out) = mpsc::channel(STATUS);
        let wire = HintForwarder {
            moved,
            status: heard,
            position_out,
            status_out,
            here: here.clone(),
        };
        Ok((
            Self {
                here,
                position,
                status,
            },
            wire,
        ))
    }

    pub fn publish(&self, hint: Hint) {
        match &hint {
            Hint::LogMoved(position) => drop(self.position.send_replace(*position)),
            // Where there is no room the next one will do.
            Hint::Status(status) => drop(self.status.try_send(status.clone())),
        }
        // Nobody listening is no loss: hints are hints.
        let _ = self.here.send(hint);
    }

    pub fn listen(&self) -> broadcast::Receiver<Hint> {
        self.here.subscribe()
    }
}

impl HintForwarder {
    /// Sends what this process has to say and tells it what the others say.
    pub async fn run(mut self, inbox: Arc<Inbox>, subjects: Subjects, process: String) {
        // A hint that comes late is no hint, so none waits for the connection.
        let send = |subject: String, body: Bytes| {
            if inbox.link.is_connected() {
                inbox.link.send(wire::hint(subject, &process, body));
            }
        };
        loop {
            tokio::select! {
                Ok(()) = self.position_out.changed() => {
                    let position = self.position_out.borrow_and_update().to_string();
                    send(subjects.log_moved(), position.into());
                }
                Some(status) = self.status_out.recv() => send(subjects.status(), status),
                Some(hint) = self.moved.next() => self.tell(&hint, &process, |body| {
                    Some(Hint::LogMoved(Position(std::str::from_utf8(body).ok()?.trim().parse().ok()?)))
                }),
                Some(hint) = self.status.next() => self.tell(&hint, &process, |body| Some(Hint::Status(body.clone()))),
                else => return,
            }
        }
    }

    fn tell(&self, message: &Message, process: &str, read: impl Fn(&Bytes) -> Option<Hint>) {
        if wire::is_from(message, process) {
            return;
        }
        if let Some(hint) = read(&message.payload) {
            let _ = self.here.send(hint);
        }
    }
}
