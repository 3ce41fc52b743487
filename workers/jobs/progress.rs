//! How far a job is, told to the log: at most once a second, and the newest word only.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::core::event::Actor;
use crate::core::ids::{CommandId, JobId};
use crate::core::model::job;
use crate::workers::context::Context;
use crate::workers::install;

const EVERY: Duration = Duration::from_secs(1);
/// Characters of a line that are told.
const LINE: usize = 200;

/// Tells how far one job is, until dropped.
pub struct ProgressReporter {
    now: watch::Sender<job::JobProgress>,
    telling: JoinHandle<()>,
}

impl ProgressReporter {
    pub(super) fn start(context: &Arc<Context>, job: JobId, attempt: u32) -> Self {
        let (now, mut news) = watch::channel(job::JobProgress {
            phase: String::new(),
            line: None,
        });
        let (execute, worker) = (context.appender.clone(), context.manager.worker);
        let telling = tokio::spawn(async move {
            while news.changed().await.is_ok() {
                let progress = news.borrow_and_update().clone();
                let decide = move |catalog: &_| {
                    Ok(crate::core::decide::job::record_progress(
                        catalog, job, worker, attempt, &progress,
                    ))
                };
                // A word that is lost is followed by another.
                let _ = execute
                    .commit(CommandId(Uuid::now_v7()), Actor::Worker, decide)
                    .await;
                tokio::time::sleep(EVERY).await;
            }
        });
        Self { now, telling }
    }
}

impl install::ProgressSink for ProgressReporter {
    /// Something else is being done now.
    fn phase(&self, phase: &str) {
        self.now.send_replace(job::JobProgress {
            phase: phase.to_owned(),
            line: None,
        });
    }

    /// What the tool at work has printed, secrets masked.
    fn line(&self, line: &str) {
        let line = line
            .chars()
            .filter(|c| !c.is_control())
            .take(LINE)
            .collect();
        self.now.send_modify(|now| now.line = Some(line));
    }
}

impl Drop for ProgressReporter {
    fn drop(&mut self) {
        self.telling.abort();
    }
}
