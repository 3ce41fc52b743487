//! Wakes only the requests whose job has changed.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::core::event::Entry;
use crate::core::ids::JobId;

/// The subject of events about one job begins with this text and ends with the id of the job.
const JOB_SUBJECT: &str = "job/";
/// The subject of an event about several jobs.
const JOBS_SUBJECT: &str = "jobs";

/// The jobs that requests of this process wait for.
#[derive(Default)]
pub(super) struct JobWatchers(Mutex<HashMap<JobId, watch::Sender<()>>>);

/// Tells one request when its job may have changed. Dropping the watch ends it.
pub struct JobWatch {
    job: JobId,
    changes: watch::Receiver<()>,
    watchers: Arc<JobWatchers>,
}

impl JobWatchers {
    /// Starts to watch a job. A change after this call is never missed.
    pub(super) fn watch(self: &Arc<Self>, job: JobId) -> JobWatch {
        let mut watched = self.0.lock();
        let sender = watched.entry(job).or_insert_with(|| watch::Sender::new(()));
        JobWatch {
            job,
            changes: sender.subscribe(),
            watchers: self.clone(),
        }
    }

    /// Wakes all watches, because the changes are not known.
    pub(super) fn notify_all(&self) {
        for sender in self.0.lock().values() {
            sender.send_replace(());
        }
    }

    /// Wakes the watches of all jobs that these entries change. The catalog with the changes must
    /// be visible before this call.
    pub(super) fn notify(&self, entries: &[Entry]) {
        let watched = self.0.lock();
        if watched.is_empty() {
            return;
        }
        let commits = entries.iter().flat_map(|entry| &entry.commits);
        for event in commits.flat_map(|commit| &commit.events) {
            if event.subject == JOBS_SUBJECT {
                for sender in watched.values() {
                    sender.send_replace(());
                }
            } else if let Some(sender) = job_in_subject(&event.subject)
                .as_ref()
                .and_then(|job| watched.get(job))
            {
                sender.send_replace(());
            }
        }
    }
}

fn job_in_subject(subject: &str) -> Option<JobId> {
    subject
        .strip_prefix(JOB_SUBJECT)
        .and_then(|id| id.parse().ok())
        .map(JobId)
}

impl JobWatch {
    /// Waits until the job may have changed since the last call, or since the watch began.
    pub async fn changed(&mut self) {
        if self.changes.changed().await.is_err() {
            // The sender stays in the map until the last watch of its job is dropped.
            std::future::pending().await
        }
    }
}

impl Drop for JobWatch {
    fn drop(&mut self) {
        let mut watched = self.watchers.0.lock();
        let is_last = watched
            .get(&self.job)
            .is_some_and(|sender| sender.receiver_count() <= 1);
        if is_last {
            watched.remove(&self.job);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use uuid::Uuid;

    use super::*;
    use crate::core::event::{Actor, Commit, Event, JobExpired, JobRequeued};
    use crate::core::ids::{CommandId, Position};

    fn entry(event: &Event) -> Entry {
        Entry {
            position: Position(1),
            at: 0,
            commits: vec![Commit {
                command_id: CommandId(Uuid::nil()),
                actor: Actor::worker(),
                events: vec![event.encode().expect("encoded")],
            }],
        }
    }

    #[test]
    fn a_change_of_one_job_wakes_the_watches_of_this_job() {
        let watchers = Arc::new(JobWatchers::default());
        let first = JobId(Uuid::from_u128(1));
        let mut watch_of_first = watchers.watch(first);
        let mut watch_of_second = watchers.watch(JobId(Uuid::from_u128(2)));
        let requeued = Event::JobRequeued(JobRequeued { job: first });
        watchers.notify(&[entry(&requeued)]);
        assert!(watch_of_first.changed().now_or_never().is_some());
        assert!(watch_of_first.changed().now_or_never().is_none());
        assert!(watch_of_second.changed().now_or_never().is_none());
    }

    #[test]
    fn an_event_about_several_jobs_wakes_every_watch() {
        let watchers = Arc::new(JobWatchers::default());
        let mut watch = watchers.watch(JobId(Uuid::from_u128(1)));
        let expired = Event::JobExpired(JobExpired { jobs: vec![] });
        watchers.notify(&[entry(&expired)]);
        assert!(watch.changed().now_or_never().is_some());
    }

    #[test]
    fn the_last_watch_of_a_job_removes_its_entry() {
        let watchers = Arc::new(JobWatchers::default());
        let job = JobId(Uuid::from_u128(1));
        let first = watchers.watch(job);
        let second = watchers.watch(job);
        drop(first);
        assert_eq!(watchers.0.lock().len(), 1);
        drop(second);
        assert!(watchers.0.lock().is_empty());
    }
}
