//! Records the progress of a job in the log: at most once a second, and only the newest state.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::core::decide::job::record_progress;
use crate::core::event::Actor;
use crate::core::ids::{CommandId, JobId};
use crate::core::model::job::JobProgress;
use crate::workers::context::Context;
use crate::workers::install;

const RECORD_INTERVAL: Duration = Duration::from_secs(1);
/// The longest recorded line in characters.
const MAX_LINE: usize = 200;

/// Records the progress of one job until it is dropped.
pub(crate) struct ProgressReporter {
    newest: watch::Sender<JobProgress>,
    recorder: JoinHandle<()>,
}

impl ProgressReporter {
    pub(super) fn start(context: &Arc<Context>, job: JobId, attempt: u32) -> Self {
        let (newest, changes) = watch::channel(JobProgress {
            phase: String::new(),
            line: None,
        });
        let recorder = tokio::spawn(record_changes(context.clone(), job, attempt, changes));
        Self { newest, recorder }
    }
}

async fn record_changes(
    context: Arc<Context>,
    job: JobId,
    attempt: u32,
    mut changes: watch::Receiver<JobProgress>,
) {
    let worker = context.manager.worker;
    while changes.changed().await.is_ok() {
        let progress = changes.borrow_and_update().clone();
        let decide =
            move |catalog: &_| Ok(record_progress(catalog, job, worker, attempt, &progress));
        // A lost record does no harm, because another record follows.
        let _ = context
            .appender
            .commit(CommandId(Uuid::now_v7()), Actor::worker(), decide)
            .await;
        tokio::time::sleep(RECORD_INTERVAL).await;
    }
}

impl install::ProgressSink for ProgressReporter {
    fn phase(&self, phase: &str) {
        self.newest.send_replace(JobProgress {
            phase: phase.to_owned(),
            line: None,
        });
    }

    fn line(&self, line: &str) {
        let line = line
            .chars()
            .filter(|character| !character.is_control())
            .take(MAX_LINE)
            .collect();
        self.newest
            .send_modify(|progress| progress.line = Some(line));
    }
}

impl Drop for ProgressReporter {
    fn drop(&mut self) {
        self.recorder.abort();
    }
}
