//! Records the tool list of a server in the event log, once a minute on average.
//!
//! A server may report at any time that its tools have changed. The worker records five changes in a row at once, because
//! clients of the MCP endpoints wait for them. After that it records the newest list each minute, and serves the live list
//! until then. The lists of starts have their own limit, so that a start does not delay the first change.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::handle::ServerHandle;
use super::manager::ServerManager;
use crate::core::catalog::Catalog;
use crate::core::command::RecordTools;
use crate::core::decide::server;
use crate::core::event::Actor;
use crate::core::ids::{CommandId, Position};
use crate::core::model::tool::Tools;
use crate::time::clock::monotonic;
use crate::workers::mcp::Connection;

/// Average time between two recorded lists of one server.
const RECORD_INTERVAL: Duration = Duration::from_secs(60);
/// The lists of changes that are recorded at once after a quiet time.
const CHANGES_AT_ONCE: u32 = 5;

/// Limits the records of the tool list of one server.
#[derive(Default)]
pub struct ToolRecorder {
    schedule: Mutex<RecordSchedule>,
    /// The newest list, while the recorded list is older.
    unrecorded: ArcSwapOption<Tools>,
}

/// The origin of a tool list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ListOrigin {
    Start,
    /// The server said that its tools have changed.
    Change,
}

/// Decides when the next record is made.
#[derive(Default)]
pub(super) struct RecordSchedule {
    starts: RecordBudget,
    changes: RecordBudget,
    /// A task waits for the end of the interval.
    is_scheduled: bool,
}

/// The records that are still allowed. Each record uses one, and each interval gives one back.
#[derive(Default)]
struct RecordBudget {
    /// The time at which all records are allowed again.
    full_at: Option<Instant>,
    /// The change of the server that was valid at the last record. After another change all records are allowed, because
    /// only clients make changes.
    changed: Option<Position>,
}

impl RecordBudget {
    /// Uses one record, and returns the time that has to pass before the record.
    fn take(&mut self, size: u32, now: Instant, changed: Option<Position>) -> Duration {
        let full_at = match self.full_at {
            Some(full_at) if self.changed == changed => full_at.max(now),
            _ => now,
        };
        let pause = (full_at - now).saturating_sub(RECORD_INTERVAL * (size - 1));
        self.full_at = Some(full_at + RECORD_INTERVAL);
        self.changed = changed;
        pause
    }
}

/// The time at which a new list is recorded.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RecordTime {
    Now,
    /// After this time. A task must be started for it.
    In(Duration),
    /// A task records the list already.
    Scheduled,
}

impl RecordSchedule {
    /// Returns the time of the record of a new finding. After `In`, the caller must call [`Self::end_pause`].
    pub(super) fn next(
        &mut self,
        origin: ListOrigin,
        now: Instant,
        changed: Option<Position>,
    ) -> RecordTime {
        if self.is_scheduled {
            return RecordTime::Scheduled;
        }
        let pause = match origin {
            ListOrigin::Start => self.starts.take(1, now, changed),
            ListOrigin::Change => self.changes.take(CHANGES_AT_ONCE, now, changed),
        };
        if pause.is_zero() {
            return RecordTime::Now;
        }
        self.is_scheduled = true;
        RecordTime::In(pause)
    }

    /// Ends the pause before a scheduled record.
    pub(super) fn end_pause(&mut self) {
        self.is_scheduled = false;
    }
}

impl ToolRecorder {
    /// Returns the newest tool list if the recorded list is older.
    pub fn unrecorded(&self) -> Option<Arc<Tools>> {
        self.unrecorded.load_full()
    }
}

/// Lists the tools again, and records the list.
pub(super) async fn refresh_tools(
    manager: Arc<ServerManager>,
    handle: Arc<ServerHandle>,
    connection: Arc<Connection>,
    limit: Duration,
) {
    match tokio::time::timeout(limit, connection.list_tools()).await {
        Ok(Ok(tools)) => record_tools(&manager, &handle, ListOrigin::Change, tools).await,
        Ok(Err(reason)) => {
            let reason = handle.redactor.mask(&reason.to_string());
            let line = format!("the new tool list could not be read: {reason}");
            handle.log_buffer.push("transport", &line);
        }
        Err(_) => handle
            .log_buffer
            .push("transport", "the new tool list did not arrive in time"),
    }
}

/// Records the tools of a server if they differ from the recorded tools: now, or at the end of the interval.
/// Without the record the server works, and its next start tries again.
pub(super) async fn record_tools(
    manager: &Arc<ServerManager>,
    handle: &Arc<ServerHandle>,
    origin: ListOrigin,
    tools: Tools,
) {
    let command = RecordTools {
        server: handle.id,
        tools,
        fencing_token: handle.lease.fencing_token(),
    };
    let catalog = manager.projection.catalog();
    if server::record_tools(&catalog, &command).is_empty() {
        handle.tools.unrecorded.store(None);
        return;
    }
    let changed = change_of(&catalog, handle);
    drop(catalog);
    let time = handle
        .tools
        .schedule
        .lock()
        .next(origin, monotonic(), changed);
    match time {
        RecordTime::Now => {
            handle.tools.unrecorded.store(None);
            append_tools(manager, handle, command).await;
        }
        RecordTime::In(pause) => {
            handle.tools.unrecorded.store(Some(Arc::new(command.tools)));
            let recording = record_later(manager.clone(), handle.clone(), pause);
            manager.tasks.spawn(recording);
        }
        RecordTime::Scheduled => handle.tools.unrecorded.store(Some(Arc::new(command.tools))),
    }
}

async fn record_later(manager: Arc<ServerManager>, handle: Arc<ServerHandle>, pause: Duration) {
    tokio::select! {
        () = tokio::time::sleep(pause) => {}
        () = manager.ending.cancelled() => {}
    }
    handle.tools.schedule.lock().end_pause();
    // Without a list, the server has returned to the recorded one.
    if let Some(tools) = handle.tools.unrecorded.swap(None) {
        let command = RecordTools {
            server: handle.id,
            tools: Tools::clone(&tools),
            fencing_token: handle.lease.fencing_token(),
        };
        append_tools(&manager, &handle, command).await;
    }
}

pub(super) fn change_of(catalog: &Catalog, handle: &ServerHandle) -> Option<Position> {
    catalog.server_by_id(handle.id).map(|server| server.changed)
}

async fn append_tools(manager: &ServerManager, handle: &ServerHandle, command: RecordTools) {
    let id = CommandId(uuid::Uuid::now_v7());
    let lease = handle.lease.clone();
    let recorded = manager
        .appender
        .commit(id, Actor::worker(), move |catalog| {
            // A worker that stood still for longer than its lease records nothing: another worker may own the server.
            if !lease.is_held() {
                return Ok(vec![]);
            }
            Ok(server::record_tools(catalog, &command))
        });
    if let Err(failure) = recorded.await {
        tracing::warn!(server = %handle.name, %failure, "the tools of a server could not be recorded");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_changes_are_recorded_at_once_and_then_one_a_minute() {
        let mut schedule = RecordSchedule::default();
        let start = monotonic();
        let changed = Some(Position(7));
        let mut next = |second| {
            let later = start + Duration::from_secs(second);
            schedule.next(ListOrigin::Change, later, changed)
        };
        for second in 0..5 {
            assert_eq!(next(second), RecordTime::Now, "{second}");
        }
        assert_eq!(next(10), RecordTime::In(Duration::from_secs(50)));
        for second in 11..60 {
            assert_eq!(next(second), RecordTime::Scheduled);
        }
        schedule.is_scheduled = false;
        let later = start + Duration::from_secs(61);
        assert_eq!(
            schedule.next(ListOrigin::Change, later, changed),
            RecordTime::In(Duration::from_secs(59))
        );
    }

    #[test]
    fn a_quiet_hour_allows_no_more_than_five_changes() {
        let mut schedule = RecordSchedule::default();
        let start = monotonic();
        schedule.next(ListOrigin::Change, start, None);
        let later = start + Duration::from_secs(3600);
        for _ in 0..5 {
            assert_eq!(
                schedule.next(ListOrigin::Change, later, None),
                RecordTime::Now
            );
        }
        assert_eq!(
            schedule.next(ListOrigin::Change, later, None),
            RecordTime::In(RECORD_INTERVAL)
        );
    }

    #[test]
    fn a_start_does_not_delay_the_first_change() {
        let mut schedule = RecordSchedule::default();
        let now = monotonic();
        assert_eq!(schedule.next(ListOrigin::Start, now, None), RecordTime::Now);
        assert_eq!(
            schedule.next(ListOrigin::Change, now, None),
            RecordTime::Now
        );
    }

    #[test]
    fn the_first_list_after_a_change_of_the_server_is_recorded_at_once() {
        let mut schedule = RecordSchedule::default();
        let start = monotonic();
        assert_eq!(
            schedule.next(ListOrigin::Start, start, Some(Position(7))),
            RecordTime::Now
        );
        assert_eq!(
            schedule.next(ListOrigin::Start, start, Some(Position(8))),
            RecordTime::Now
        );
    }
}
