//! Finds out that the sender of a running ask has died, so that its work ends.
//!
//! A sender that gives up publishes a cancellation. A sender that dies publishes nothing, but its NATS connection ends, and with
//! it the subscription of its inbox. The worker sends each sign of life with a reply subject. If the inbox of the sender has no
//! subscription, the NATS server sends the status "no responders" (503) to that subject.

use std::sync::Arc;

use async_nats::{StatusCode, Subject};
use futures::FutureExt as _;

use super::inbox::{Inbox, ReplyWaiter};

/// The signs of life in a row without a subscriber after which the sender counts as dead. One sign is sent each second, and a
/// living sender that has lost its connection gives up after three seconds of silence.
const MAX_MISSED: u32 = 6;

/// The signs of life of one ask.
pub(super) struct SenderWatch<'a> {
    inbox: &'a Arc<Inbox>,
    /// Receives the report of the NATS server about the newest sign.
    report: Option<ReplyWaiter>,
    missed: u32,
}

impl<'a> SenderWatch<'a> {
    pub(super) fn new(inbox: &'a Arc<Inbox>) -> Self {
        Self {
            inbox,
            report: None,
            missed: 0,
        }
    }

    /// Returns the subject for the report about the next sign, or `None` if the sender is dead.
    pub(super) fn next_report(&mut self) -> Option<Subject> {
        let report = self.report.take().and_then(|mut report| {
            let report = report.reply().now_or_never();
            report.flatten()
        });
        let is_missed =
            report.is_some_and(|report| report.status == Some(StatusCode::NO_RESPONDERS));
        self.missed = if is_missed { self.missed + 1 } else { 0 };
        if self.missed >= MAX_MISSED {
            return None;
        }
        let report = self.inbox.wait();
        let subject = report.subject().into();
        self.report = Some(report);
        Some(subject)
    }
}
