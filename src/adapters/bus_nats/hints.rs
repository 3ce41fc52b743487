//! Hints: they reach the listeners of this process at once, and other processes over NATS.

use std::sync::Arc;

use async_nats::{Message, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::{broadcast, mpsc, watch};

use super::error::NatsError;
use super::inbox::Inbox;
use super::subjects::Subjects;
use super::{chunked, hint_message};
use crate::core::ids::{Digest, Position};
use crate::ports::bus::{Hint, SignedEntry};

/// The number of hints that a listener may lag behind. A listener with more lag reads the log itself.
const MAX_LAG: usize = 1024;
/// The number of entries in the queue to NATS. Of an entry above it, only the position is sent.
const MAX_ENTRIES: usize = 64;
/// The number of statuses in the queue to NATS. A status above it is lost.
const MAX_STATUSES: usize = 64;
/// The number of hints of MCP clients and servers in the queue to NATS. A hint above it is lost.
const MAX_MCP_HINTS: usize = 1024;

/// Publishes hints.
pub(super) struct Hints {
    local: broadcast::Sender<Hint>,
    /// Only the newest position is sent.
    position: watch::Sender<Position>,
    entries: mpsc::Sender<SignedEntry>,
    status: mpsc::Sender<Bytes>,
    mcp: mpsc::Sender<String>,
}

/// Forwards hints between this process and NATS.
pub(super) struct HintForwarder {
    positions_in: Subscriber,
    statuses_in: Subscriber,
    mcp_in: Subscriber,
    position_out: watch::Receiver<Position>,
    entries_out: mpsc::Receiver<SignedEntry>,
    status_out: mpsc::Receiver<Bytes>,
    mcp_out: mpsc::Receiver<String>,
    local: broadcast::Sender<Hint>,
}

impl Hints {
    pub(super) async fn open(
        inbox: &Inbox,
        subjects: &Subjects,
    ) -> Result<(Self, HintForwarder), NatsError> {
        let positions_in = inbox.connection.subscribe(subjects.log_moved()).await?;
        let statuses_in = inbox.connection.subscribe(subjects.status()).await?;
        let mcp_in = inbox.connection.subscribe(subjects.mcp_hint()).await?;
        let local = broadcast::Sender::new(MAX_LAG);
        let (position, position_out) = watch::channel(Position(0));
        let (entries, entries_out) = mpsc::channel(MAX_ENTRIES);
        let (status, status_out) = mpsc::channel(MAX_STATUSES);
        let (mcp, mcp_out) = mpsc::channel(MAX_MCP_HINTS);
        let forwarder = HintForwarder {
            positions_in,
            statuses_in,
            mcp_in,
            position_out,
            entries_out,
            status_out,
            mcp_out,
            local: local.clone(),
        };
        let hints = Self {
            local,
            position,
            entries,
            status,
            mcp,
        };
        Ok((hints, forwarder))
    }

    pub(super) fn publish(&self, hint: Hint) {
        match &hint {
            Hint::LogMoved(position) => {
                self.position.send_replace(*position);
            }
            Hint::EntryAppended(entry) => {
                if self.entries.try_send(entry.clone()).is_err() {
                    self.position.send_replace(entry.position);
                }
            }
            // A full queue loses the status, because the worker soon publishes the next status.
            Hint::Status(status) => {
                let _ = self.status.try_send(status.clone());
            }
            Hint::McpCallCancelled(call) => {
                let _ = self.mcp.try_send(format!("{CALL_CANCELLED} {call}"));
            }
            Hint::McpSessionEnded(session) => {
                let _ = self.mcp.try_send(format!("{SESSION_ENDED} {session}"));
            }
            Hint::McpSessionChanged(change) => self.send_json(SESSION_CHANGED, change),
            Hint::UpstreamChanged(change) => self.send_json(UPSTREAM_CHANGED, change),
        }
        // Without listeners the hint is lost, which is allowed.
        let _ = self.local.send(hint);
    }

    /// Queues a hint of MCP whose content is JSON. A full queue loses it.
    fn send_json(&self, kind: &str, content: &impl serde::Serialize) {
        if let Ok(json) = serde_json::to_string(content) {
            let _ = self.mcp.try_send(format!("{kind} {json}"));
        }
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<Hint> {
        self.local.subscribe()
    }
}

impl HintForwarder {
    /// Forwards hints in both directions until the bus ends.
    pub(super) async fn run(mut self, inbox: Arc<Inbox>, subjects: Subjects, process: String) {
        // A hint is lost while NATS is disconnected, because a late hint has no use.
        let send = |subject: String, body: Bytes| {
            if inbox.connection.is_connected() {
                let hint = hint_message::hint(subject, &process, body);
                inbox.connection.send(hint);
            }
        };
        let send_entry = |entry: &SignedEntry| {
            if inbox.connection.is_connected() {
                let position = entry.position.to_string();
                let mut hint = hint_message::hint(subjects.log_moved(), &process, position.into());
                if entry.text.len() <= chunked::max_inline(&inbox.connection) {
                    hint_message::add_entry(&mut hint, entry);
                }
                inbox.connection.send(hint);
            }
        };
        loop {
            tokio::select! {
                Ok(()) = self.position_out.changed() => {
                    let position = self.position_out.borrow_and_update().to_string();
                    send(subjects.log_moved(), position.into());
                }
                Some(entry) = self.entries_out.recv() => send_entry(&entry),
                Some(status) = self.status_out.recv() => send(subjects.status(), status),
                Some(hint) = self.mcp_out.recv() => send(subjects.mcp_hint(), hint.into()),
                Some(message) = self.mcp_in.next() => {
                    self.on_message(&message, &process, |message| parse_mcp_hint(&message.payload));
                }
                Some(message) = self.positions_in.next() => {
                    self.on_message(&message, &process, hint_message::parse_log_hint);
                }
                Some(message) = self.statuses_in.next() => {
                    self.on_message(&message, &process, |message| Some(Hint::Status(message.payload.clone())));
                }
                else => return,
            }
        }
    }

    /// Publishes a hint of another process to the listeners of this process.
    fn on_message(
        &self,
        message: &Message,
        process: &str,
        parse: impl Fn(&Message) -> Option<Hint>,
    ) {
        if hint_message::is_from(message, process) {
            return;
        }
        if let Some(hint) = parse(message) {
            let _ = self.local.send(hint);
        }
    }
}

/// The first words of the hints of MCP clients and servers.
const CALL_CANCELLED: &str = "call-cancelled";
const SESSION_ENDED: &str = "session-ended";
const SESSION_CHANGED: &str = "session-changed";
const UPSTREAM_CHANGED: &str = "upstream-changed";

fn parse_mcp_hint(body: &Bytes) -> Option<Hint> {
    let (kind, content) = std::str::from_utf8(body).ok()?.split_once(' ')?;
    let digest = || content.parse().ok().map(Digest);
    match kind {
        CALL_CANCELLED => digest().map(Hint::McpCallCancelled),
        SESSION_ENDED => digest().map(Hint::McpSessionEnded),
        SESSION_CHANGED => serde_json::from_str(content)
            .ok()
            .map(Hint::McpSessionChanged),
        UPSTREAM_CHANGED => serde_json::from_str(content)
            .ok()
            .map(Hint::UpstreamChanged),
        // A later version of the program has more kinds.
        _ => None,
    }
}
