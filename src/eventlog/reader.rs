//! Reads the log after a position, and notices that the log was shortened.

use super::snapshot::load_beginning_head;
use crate::core::event::Entry;
use crate::core::failure::Failure;
use crate::core::ids::Position;
use crate::ports::error::StoreError;
use crate::ports::event_log::{EventLog, ReadLimit};
use crate::telemetry::error::error_chain;

/// The place where a shortened log begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beginning {
    /// The position of the last entry that is not in the log any more.
    pub position: Position,
    /// The index of the last event of that entry.
    pub last_index: usize,
}

impl Beginning {
    /// Returns the oldest position that the log still has.
    pub fn oldest(self) -> Position {
        self.position.next()
    }

    /// Returns the failure of a request for an older position. Its sentence names the value with which this parameter of
    /// the request works.
    pub fn failure(self, parameter: PositionParameter) -> Failure {
        let Self {
            position,
            last_index,
        } = self;
        let oldest = self.oldest();
        let remedy = match parameter {
            PositionParameter::After => {
                format!("Continue with the id {position}.{last_index} (after, or Last-Event-ID)")
            }
            PositionParameter::At => format!("Use at={oldest} or later"),
            PositionParameter::Absent => "Repeat the request".to_owned(),
        };
        Failure::log_truncated(
            oldest,
            format!(
                "The log was shortened and begins at position {oldest}; older events are in an archive. {remedy}"
            ),
        )
    }
}

/// The way in which a request names its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PositionParameter {
    /// The id of the last event that the client has: `after`, or `Last-Event-ID` of a stream.
    After,
    /// A point in time: `at`.
    At,
    /// The request names no position: another process has shortened the log at the same time.
    Absent,
}

/// The reason why the log cannot be read after a position.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    #[error("the log was shortened and begins at position {}", .0.oldest())]
    Truncated(Beginning),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ReadError {
    /// Logs an error of the store, and returns the failure of the request that needed the log.
    pub fn into_failure(self, parameter: PositionParameter) -> Failure {
        if let Self::Store(error) = &self {
            tracing::warn!(error = error_chain(error), "cannot read the log");
        }
        self.failure(parameter)
    }

    /// Returns the failure of a request: `log_truncated`, or the failure of the store. The caller
    /// logs an error of the store.
    pub fn failure(&self, parameter: PositionParameter) -> Failure {
        match self {
            Self::Truncated(beginning) => beginning.failure(parameter),
            Self::Store(error) => error.failure(),
        }
    }
}

/// A log whose entries have a gap, although it was not shortened there.
#[derive(Debug, thiserror::Error)]
#[error("the log has no entry {0}, and no stored beginning replaces the entry")]
struct MissingEntry(Position);

/// Returns the entries after a position, in order and without gaps. The result is empty only if the
/// log ends at `after`.
///
/// # Errors
/// Returns `Truncated` if the next entry is not in the log any more.
pub async fn read_after(
    log: &dyn EventLog,
    after: Position,
    limit: ReadLimit,
) -> Result<Vec<Entry>, ReadError> {
    let mut entries = log.read(after, limit).await?;
    let unbroken = unbroken_entries(after, &entries);
    if unbroken == 0 && !entries.is_empty() {
        return Err(match load_beginning_head(log).await? {
            Some(beginning) if beginning.position > after => ReadError::Truncated(beginning),
            _ => StoreError::damaged("the log", MissingEntry(after.next())).into(),
        });
    }
    // A compaction may remove entries during the read.
    entries.truncate(unbroken);
    Ok(entries)
}

/// Returns the number of entries that follow each other without a gap.
fn unbroken_entries(after: Position, entries: &[Entry]) -> usize {
    let positions = entries.iter().map(|entry| entry.position.0);
    positions
        .zip(after.0 + 1..)
        .take_while(|(found, expected)| found == expected)
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(positions: &[u64]) -> Vec<Entry> {
        let entry = |position: &u64| Entry {
            position: Position(*position),
            at: 0,
            commits: vec![],
        };
        positions.iter().map(entry).collect()
    }

    #[test]
    fn the_entries_before_a_gap_are_unbroken() {
        for (after, positions, expected) in [
            (0, &[][..], 0),
            (0, &[1, 2, 3], 3),
            (4, &[5, 6, 9, 10], 2),
            (4, &[6, 7], 0),
        ] {
            let unbroken = unbroken_entries(Position(after), &entries(positions));
            assert_eq!(unbroken, expected, "{after}: {positions:?}");
        }
    }

    #[test]
    fn the_failure_names_the_oldest_position_and_the_remedy_of_its_parameter() {
        let beginning = Beginning {
            position: Position(50),
            last_index: 2,
        };
        let after = beginning.failure(PositionParameter::After);
        let at = beginning.failure(PositionParameter::At);
        assert_eq!(after.oldest.map(u64::from), Some(51));
        assert_eq!(at.oldest, after.oldest);
        let (after, at) = (after.message, at.message);
        assert!(after.contains("50.2") && !after.contains("at="), "{after}");
        assert!(at.contains("at=51") && !at.contains("after"), "{at}");
    }
}
