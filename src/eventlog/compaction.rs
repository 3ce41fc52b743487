//! Shortens the log: old entries move to an archive, and a stored catalog replaces them.
//!
//! Each step is complete on the disk before the next step begins, so a compaction that is killed can
//! be repeated at any point:
//!
//! 1. Write the entries to an archive, and read the archive again.
//! 2. Store the catalog at the last archived entry as the beginning of the log.
//! 3. Remove the entries up to the beginning, in small parts.
//! 4. Give the space back to the file system, if the store can.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;

use super::archive::{Archive, ArchiveError, ArchiveWriter, remove_partial_files};
use super::reader::{Beginning, PositionParameter, ReadError, read_after};
use super::snapshot::{load_beginning, load_beginning_head, save_beginning};
use super::{FOLD_PAGE, ONE_ENTRY};
use crate::core::catalog::Catalog;
use crate::core::command::CompactionReport;
use crate::core::event::{DecodeError, Entry};
use crate::core::failure::Failure;
use crate::core::ids::{CommandId, Position};
use crate::ports::error::StoreError;
use crate::ports::event_log::{EventLog, ReadLimit};
use crate::telemetry::error::{error_chain, internal_error};

/// The entries that one step removes. Appends wait for one step at most.
const REMOVE_PAGE: ReadLimit = ReadLimit {
    entries: 500,
    bytes: 4 << 20,
};
/// A partial archive of this age belongs to no running compaction.
const PARTIAL_AGE: Duration = Duration::from_secs(24 * 3_600);

/// The entries that leave the log, and the place of their archive.
#[derive(Debug, Clone)]
pub struct CompactionPlan {
    /// Entries that were appended earlier leave the log. Milliseconds since 1970.
    pub before: u64,
    /// The newest position that this process has folded. The entry at this position always stays.
    pub head: Position,
    /// The commits of these commands stay, with all later entries.
    pub retained: HashSet<CommandId>,
    /// The folder of the archives.
    pub folder: PathBuf,
}

/// The progress of a compaction, in positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompactionStep {
    Archiving { position: Position, last: Position },
    Storing,
    Removing { removed: u64 },
    Reclaiming,
}

/// The reason why a compaction stopped. A repeat continues it.
#[derive(Debug, thiserror::Error)]
pub enum CompactionError {
    #[error("the log cannot be shortened")]
    Read(#[from] ReadError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("an old entry cannot be folded")]
    Decode(#[from] DecodeError),
    #[error("a task of the compaction failed")]
    Task(#[from] tokio::task::JoinError),
}

impl CompactionError {
    /// Returns the failure of the job.
    pub fn failure(self) -> Failure {
        match self {
            Self::Read(error) => {
                tracing::warn!(
                    error = error_chain(&error),
                    "the compaction cannot read the log"
                );
                error.failure(PositionParameter::Absent)
            }
            Self::Store(error) => {
                tracing::warn!(
                    error = error_chain(&error),
                    "the compaction cannot use the store"
                );
                error.failure()
            }
            Self::Archive(ArchiveError::Write { path, source }) => {
                let path = path.display();
                tracing::warn!(%path, error = %source, "the compaction cannot write an archive");
                Failure::unavailable(format!(
                    "The archive {path} cannot be written ({source}); the log is unchanged. Free some space or correct the folder, then retry"
                ))
            }
            other => internal_error(other),
        }
    }
}

/// Shortens the log as the plan says. A repeat after any interruption completes the work.
///
/// # Errors
/// Returns an error if the store or the archive fails. Nothing is removed before the archive and the
/// beginning are complete.
pub async fn compact_log(
    log: &dyn EventLog,
    plan: &CompactionPlan,
    on_step: impl Fn(CompactionStep),
) -> Result<CompactionReport, CompactionError> {
    let folder = plan.folder.clone();
    spawn_blocking(move || remove_partial_files(&folder, PARTIAL_AGE)).await?;
    let mut beginning = load_beginning_head(log).await?;
    let archived = match cut_position(log, plan, beginning).await? {
        Some(last) => archive_entries(log, plan, last, &on_step).await?,
        None => None,
    };
    let mut report = CompactionReport::default();
    if let Some(archived) = archived {
        on_step(CompactionStep::Storing);
        let position = archived.catalog.position;
        let last_index = archived.last_index;
        save_beginning(log, archived.catalog, last_index).await?;
        beginning = Some(Beginning {
            position,
            last_index,
        });
        report.entries = archived.archive.trailer.entries;
        report.events = archived.archive.trailer.events;
        report.archive = Some(archived.archive.path.display().to_string());
    }
    if let Some(beginning) = beginning {
        report.removed = remove_entries(log, beginning.position, &on_step).await?;
        on_step(CompactionStep::Reclaiming);
        log.reclaim_space().await?;
    }
    report.oldest = beginning.map_or(Position(1), Beginning::oldest);
    Ok(report)
}

/// Returns the position of the last entry that the plan removes, or `None` if no entry is old enough.
async fn cut_position(
    log: &dyn EventLog,
    plan: &CompactionPlan,
    beginning: Option<Beginning>,
) -> Result<Option<Position>, CompactionError> {
    let start = beginning.map_or(Position(0), |beginning| beginning.position);
    // The newest entry stays, because the next append follows it.
    let last = find_last_before(log, start, plan.head, plan.before).await?;
    Ok((last > start).then_some(last))
}

/// Returns the position of the last entry between `start` and `head` that was appended before a time,
/// or `start`. The entry at `head` is never returned. The clocks of the appending processes differ a
/// little, and the result can be wrong by this difference.
pub async fn find_last_before(
    log: &dyn EventLog,
    start: Position,
    head: Position,
    before: u64,
) -> Result<Position, ReadError> {
    let mut older = start.0;
    let mut younger = head.0.max(start.0 + 1);
    while younger - older > 1 {
        let middle = older + (younger - older) / 2;
        let entry = read_after(log, Position(middle - 1), ONE_ENTRY)
            .await?
            .pop();
        if entry.is_some_and(|entry| entry.at < before) {
            older = middle;
        } else {
            younger = middle;
        }
    }
    Ok(Position(older))
}

/// Entries that are in an archive, and the state after them.
struct ArchivedEntries {
    catalog: Arc<Catalog>,
    last_index: usize,
    archive: Archive,
}

/// Writes the entries up to `last` to an archive. Stops before an entry whose commit must stay.
/// Returns `None` if no entry can leave the log.
async fn archive_entries(
    log: &dyn EventLog,
    plan: &CompactionPlan,
    last: Position,
    on_step: &impl Fn(CompactionStep),
) -> Result<Option<ArchivedEntries>, CompactionError> {
    let mut catalog = load_beginning(log).await?.unwrap_or_default();
    let first = catalog.position.next();
    let folder = plan.folder.clone();
    let mut writer = spawn_blocking(move || ArchiveWriter::create(&folder, first)).await??;
    let mut last_index = 0;
    while catalog.position < last {
        let mut entries = read_after(log, catalog.position, FOLD_PAGE).await?;
        let count = entries.len();
        entries.retain(|entry| entry.position <= last);
        if let Some(retained) = entries.iter().position(|entry| is_retained(entry, plan)) {
            entries.truncate(retained);
        }
        for entry in &entries {
            catalog.fold(entry)?;
            last_index = last_event_index(entry);
        }
        let is_end = entries.len() < count;
        writer = spawn_blocking(move || add_entries(writer, &entries)).await??;
        let position = catalog.position;
        on_step(CompactionStep::Archiving { position, last });
        if is_end {
            break;
        }
    }
    if catalog.position < first {
        return Ok(None);
    }
    let archive = spawn_blocking(move || writer.finish()).await??;
    Ok(Some(ArchivedEntries {
        catalog: Arc::new(catalog),
        last_index,
        archive,
    }))
}

fn is_retained(entry: &Entry, plan: &CompactionPlan) -> bool {
    let mut commits = entry.commits.iter();
    commits.any(|commit| plan.retained.contains(&commit.command_id))
}

fn last_event_index(entry: &Entry) -> usize {
    let events = entry.commits.iter().map(|commit| commit.events.len());
    events.sum::<usize>().saturating_sub(1)
}

fn add_entries(
    mut writer: ArchiveWriter,
    entries: &[Entry],
) -> Result<ArchiveWriter, ArchiveError> {
    for entry in entries {
        writer.add(entry)?;
    }
    Ok(writer)
}

/// Removes the entries up to a position. Returns their number.
async fn remove_entries(
    log: &dyn EventLog,
    through: Position,
    on_step: &impl Fn(CompactionStep),
) -> Result<u64, CompactionError> {
    let mut removed = 0;
    loop {
        let page = log.remove_entries(through, REMOVE_PAGE).await?;
        if page == 0 {
            return Ok(removed);
        }
        removed += page;
        on_step(CompactionStep::Removing { removed });
    }
}
