//! The event log in one process: the appender, the projection, snapshots, past catalogs, and the
//! compaction with its archives.

pub mod appender;
pub mod archive;
pub mod compaction;
mod conflict_backoff;
pub mod history;
pub mod job_watch;
pub mod projection;
pub mod reader;
mod shared_entry;
pub mod snapshot;

use crate::ports::event_log::ReadLimit;

/// One read of the log by a process that folds it. The bytes bound the memory of a start after
/// large entries.
const FOLD_PAGE: ReadLimit = ReadLimit {
    entries: 1_000,
    bytes: 8 << 20,
};

/// One read of exactly one entry.
const ONE_ENTRY: ReadLimit = ReadLimit::entries(1);
