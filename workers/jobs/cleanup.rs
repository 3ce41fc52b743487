//! Lets go of what is over: arguments nobody needs, answers, keys and dead letters that have expired.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use uuid::Uuid;

use super::{dead_letters, notify};
use crate::core::catalog::Catalog;
use crate::core::decide::idempotency;
use crate::core::event::Actor;
use crate::core::ids::{CommandId, ValueId};
use crate::time::clock::now_ms;
use crate::workers::context::Context;

const EVERY: Duration = Duration::from_secs(1);
/// Jobs forgotten in one append.
const AT_ONCE: usize = 1000;

#[derive(Clone)]
pub struct JobCleanup {
    context: Arc<Context>,
    values: Arc<Mutex<Vec<ValueId>>>,
}

impl JobCleanup {
    pub fn new(context: Arc<Context>) -> Self {
        Self {
            context,
            values: Arc::default(),
        }
    }

    /// Drops it a little later, together with others.
    pub fn drop_value(&self, value: ValueId) {
        self.values
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(value);
    }

    pub async fn run(self) {
        let mut every = tokio::time::interval(EVERY);
        loop {
            every.tick().await;
            self.flush().await;
            self.forget().await;
            self.forget_requests().await;
            let dead = self.context.projection.catalog().dead.expired(now_ms());
            if !dead.is_empty() {
                let _ = dead_letters::expire_dead_letters(&self.context, dead).await;
            }
        }
    }

    pub async fn flush(&self) {
        let values =
            std::mem::take(&mut *self.values.lock().unwrap_or_else(PoisonError::into_inner));
        if !values.is_empty()
            && let Err(error) = self.context.vault.remove(&values).await
        {
            tracing::warn!(%error, "what jobs have left is left to the sweep");
        }
    }

    async fn forget_requests(&self) {
        let now = now_ms();
        if !self
            .context
            .projection
            .catalog()
            .requests
            .expired(now, 1)
            .is_empty()
        {
            let decide =
                move |catalog: &Catalog| Ok(idempotency::expire_records(catalog, now, AT_ONCE));
            let _ = self
                .context
                .appender
                .commit(CommandId(Uuid::now_v7()), Actor::Worker, decide)
                .await;
        }
    }

    /// Forgets jobs whose answers have expired.
    async fn forget(&self) {
        let now = now_ms();
        let expired: Vec<_> = {
            let catalog = self.context.projection.catalog();
            let ids = catalog.jobs.expired(now, AT_ONCE);
            ids.iter()
                .filter_map(|id| catalog.jobs.get(*id))
                .cloned()
                .collect()
        };
        if expired.is_empty() {
            return;
        }
        for job in expired.iter().filter(|job| job.needs_notification()) {
            // The last moment: after that nobody knows that there was one.
            let _ = notify::notify_producer(&self.context, job, job.state()).await;
        }
        let decide =
            move |catalog: &Catalog| Ok(crate::core::decide::job::expire(catalog, now, AT_ONCE));
        let done = self
            .context
            .appender
            .commit(CommandId(Uuid::now_v7()), Actor::Worker, decide)
            .await;
        // Where another worker was first, the values are its to drop.
        let Some(before) = done.ok().and_then(|done| done.before) else {
            return;
        };
        let expired = before.jobs.expired(now, AT_ONCE);
        let jobs = expired.iter().filter_map(|id| before.jobs.get(*id));
        jobs.filter_map(|job| job.ended()?.answer)
            .for_each(|value| self.drop_value(value));
    }
}
