//! Removes what jobs leave: arguments that no worker needs, and expired answers, idempotency keys and
//! dead letters.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use uuid::Uuid;

use super::{dead_letters, notify};
use crate::core::catalog::Catalog;
use crate::core::decide::{idempotency, job};
use crate::core::event::Actor;
use crate::core::ids::{CommandId, ValueId};
use crate::telemetry::error::error_chain;
use crate::time::clock::now_ms;
use crate::workers::context::Context;

const INTERVAL: Duration = Duration::from_secs(1);
/// The jobs or keys that one commit removes.
const MAX_PER_COMMIT: usize = 1000;

/// Removes values and expired records, every second.
#[derive(Clone)]
pub(crate) struct JobCleanup {
    context: Arc<Context>,
    /// The values that the next round removes together.
    unused_values: Arc<Mutex<Vec<ValueId>>>,
}

impl JobCleanup {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Self {
            context,
            unused_values: Arc::default(),
        }
    }

    /// Removes a value in the next round.
    pub(crate) fn remove_value(&self, value: ValueId) {
        self.unused_values.lock().push(value);
    }

    /// Runs for ever.
    pub(crate) async fn run(self) {
        let mut interval = tokio::time::interval(INTERVAL);
        loop {
            interval.tick().await;
            self.flush().await;
            self.expire_jobs().await;
            self.expire_keys().await;
            self.expire_dead_letters().await;
        }
    }

    /// Removes the unused values now.
    pub(crate) async fn flush(&self) {
        let values = std::mem::take(&mut *self.unused_values.lock());
        if values.is_empty() {
            return;
        }
        self.context.fresh_answers.forget(&values);
        if let Err(error) = self.context.vault.remove(&values).await {
            tracing::warn!(
                error = error_chain(&error),
                "cannot remove values of jobs; the sweep removes them"
            );
        }
    }

    /// Removes the jobs whose answers have expired. A failure is repeated in the next round.
    async fn expire_jobs(&self) {
        let now = now_ms();
        let expired: Vec<_> = {
            let catalog = self.context.projection.catalog();
            let ids = catalog.jobs.expired(now, MAX_PER_COMMIT).into_iter();
            ids.filter_map(|id| catalog.jobs.get(id).cloned()).collect()
        };
        if expired.is_empty() {
            return;
        }
        for job in expired.iter().filter(|job| job.needs_notification()) {
            // This is the last moment, because the log does not know the job afterwards.
            let _ = notify::notify_producer(&self.context, job, job.state()).await;
        }
        let committed = self
            .context
            .appender
            .commit(
                CommandId(Uuid::now_v7()),
                Actor::worker(),
                move |catalog: &Catalog| Ok(job::expire(catalog, now, MAX_PER_COMMIT)),
            )
            .await;
        // If another worker has committed first, that worker removes the values.
        let Some(before) = committed.ok().and_then(|committed| committed.before) else {
            return;
        };
        for id in before.jobs.expired(now, MAX_PER_COMMIT) {
            let ended = before.jobs.get(id).and_then(|job| job.ended());
            if let Some(value) = ended.and_then(|ended| ended.answer) {
                self.remove_value(value);
            }
        }
    }

    /// Removes the expired idempotency keys. A failure is repeated in the next round.
    async fn expire_keys(&self) {
        let now = now_ms();
        let has_expired = {
            let catalog = self.context.projection.catalog();
            !catalog.idempotency.expired(now, 1).is_empty()
        };
        if has_expired {
            let decide = move |catalog: &Catalog| {
                Ok(idempotency::expire_records(catalog, now, MAX_PER_COMMIT))
            };
            let _ = self
                .context
                .appender
                .commit(CommandId(Uuid::now_v7()), Actor::worker(), decide)
                .await;
        }
    }

    /// Removes the expired dead letters. A failure is repeated in the next round.
    async fn expire_dead_letters(&self) {
        let expired = self
            .context
            .projection
            .catalog()
            .dead_letters
            .expired(now_ms());
        if !expired.is_empty() {
            let _ = dead_letters::remove_dead_letters(&self.context, expired).await;
        }
    }
}
