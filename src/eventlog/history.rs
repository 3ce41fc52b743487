//! Past catalogs: the log folded up to an earlier position.
//!
//! The history folds one catalog at a time and retains a few. The next fold starts at the nearest
//! retained catalog, so a client that reads one position after another folds each entry once.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::FOLD_PAGE;
use super::compaction::find_last_before;
use super::projection::Projection;
use super::reader::{Beginning, PositionParameter, ReadError, read_after};
use super::snapshot::{load_beginning, load_beginning_head, load_snapshot};
use crate::core::catalog::Catalog;
use crate::core::failure::Failure;
use crate::core::ids::Position;
use crate::ports::error::StoreError;
use crate::telemetry::error::internal_error;
use crate::time::clock::{self, now_ms};
use crate::time::rfc3339::parse_ms;

/// The most retained catalogs.
const RETAINED: usize = 4;
/// One request folds entries for this long. The next request continues there.
const FOLD_TIME: Duration = Duration::from_secs(10);
/// A request waits this long for the requests before it.
const TURN_WAIT: Duration = Duration::from_secs(10);
/// The newest snapshot is at most this many entries older than the head. It helps only a request
/// for a younger position.
const SNAPSHOT_AGE: u64 = 4000;

/// A position, or a time in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PointInTime {
    Position(Position),
    Time(u64),
}

impl PointInTime {
    /// Parses the query parameter `at`.
    ///
    /// # Errors
    /// Returns `invalid_request` if the text is neither a position nor an RFC 3339 time.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        if let Ok(position) = text.parse() {
            return Ok(Self::Position(Position(position)));
        }
        parse_ms(text).map(Self::Time).ok_or_else(|| {
            Failure::invalid(
                "at must be a position such as 12, or a time such as 2026-01-31T12:00:00Z",
            )
        })
    }

    /// Returns the position that was the head at this point in time.
    ///
    /// # Errors
    /// Returns `invalid_request` for a point in the future, `log_truncated` for a point before the
    /// beginning of a shortened log, and `unavailable` if the store does not answer.
    pub async fn position(self, projection: &Projection) -> Result<Position, Failure> {
        let head = projection.position();
        match self {
            Self::Position(position) if position > head => Err(Failure::invalid(format!(
                "at is past the end of the log; the log ends at {head}"
            ))),
            Self::Time(time) if time > now_ms() => Err(Failure::invalid(
                "at is in the future; give a time in the past",
            )),
            _ => {
                let beginning = load_beginning_head(projection.log()).await;
                let beginning = beginning
                    .map_err(|error| ReadError::from(error).into_failure(PositionParameter::At))?;
                let position = match self {
                    Self::Position(position) => position,
                    Self::Time(time) => head_at(projection, time, head, beginning).await?,
                };
                match beginning {
                    Some(beginning) if position < beginning.oldest() => {
                        Err(beginning.failure(PositionParameter::At))
                    }
                    _ => Ok(position),
                }
            }
        }
    }
}

/// Returns the position of the last entry that was appended at `time` or before.
async fn head_at(
    projection: &Projection,
    time: u64,
    head: Position,
    beginning: Option<Beginning>,
) -> Result<Position, Failure> {
    let start = beginning.map_or(Position(0), |beginning| beginning.position);
    find_last_before(projection.log(), start, head.next(), time + 1)
        .await
        .map_err(|error| error.into_failure(PositionParameter::At))
}

/// The past catalogs that requests asked for last.
pub struct CatalogHistory {
    turn: Semaphore,
    retained: Mutex<Vec<Arc<Catalog>>>,
}

impl Default for CatalogHistory {
    fn default() -> Self {
        Self {
            turn: Semaphore::new(1),
            retained: Mutex::default(),
        }
    }
}

impl CatalogHistory {
    /// Returns the catalog at a position that the log has reached.
    ///
    /// # Errors
    /// Returns `log_truncated` if the log was shortened after the position, and `unavailable` if the
    /// store does not answer, if other requests fold for ten seconds, or if the fold takes longer than
    /// ten seconds. A repeated request continues the fold.
    pub async fn catalog(
        &self,
        projection: &Projection,
        position: Position,
    ) -> Result<Arc<Catalog>, Failure> {
        let acquired = tokio::time::timeout(TURN_WAIT, self.turn.acquire()).await;
        let _turn = acquired
            .map_err(|_| Failure::unavailable("Other requests read the past; retry in a moment"))?
            .map_err(internal_error)?;
        let start = self.nearest_catalog(projection, position).await?;
        let deadline = clock::monotonic() + FOLD_TIME;
        let catalog = fold_until(projection, start, position, deadline).await?;
        let catalog = Arc::new(catalog);
        self.retain(catalog.clone());
        if catalog.position < position {
            return Err(Failure::unavailable(
                "The log is long; retry, and the next request continues the read",
            ));
        }
        Ok(catalog)
    }

    /// Returns the nearest catalog at or before a position: the current one, a retained one, the
    /// newest snapshot, or the beginning of the log.
    async fn nearest_catalog(
        &self,
        projection: &Projection,
        position: Position,
    ) -> Result<Catalog, Failure> {
        let current = projection.catalog().clone();
        if current.position == position {
            return Ok(Catalog::clone(&current));
        }
        let log = projection.log();
        let store_failure =
            |error: StoreError| ReadError::from(error).into_failure(PositionParameter::At);
        let beginning = load_beginning_head(log).await.map_err(store_failure)?;
        let beginning = beginning.map_or(Position(0), |beginning| beginning.position);
        let retained = self.nearest_retained(beginning, position);
        let start = retained
            .as_ref()
            .map_or(beginning, |catalog| catalog.position);
        let is_near = start.0 + SNAPSHOT_AGE >= position.0;
        let is_older_than_snapshots = position.0 + SNAPSHOT_AGE < current.position.0;
        if !is_near && !is_older_than_snapshots {
            let snapshot = load_snapshot(log).await.map_err(store_failure)?;
            let usable = beginning..=position;
            if let Some(snapshot) = snapshot.filter(|found| usable.contains(&found.position)) {
                return Ok(snapshot);
            }
        }
        match retained {
            Some(retained) => Ok(retained),
            None if beginning == Position(0) => Ok(Catalog::default()),
            None => {
                let beginning = load_beginning(log).await.map_err(store_failure)?;
                Ok(beginning.unwrap_or_default())
            }
        }
    }

    /// Returns the nearest retained catalog that the log can still continue.
    fn nearest_retained(&self, beginning: Position, position: Position) -> Option<Catalog> {
        let retained = self.retained.lock();
        retained
            .iter()
            .filter(|catalog| (beginning..=position).contains(&catalog.position))
            .max_by_key(|catalog| catalog.position)
            .map(|catalog| Catalog::clone(catalog))
    }

    fn retain(&self, catalog: Arc<Catalog>) {
        let mut retained = self.retained.lock();
        retained.retain(|other| other.position != catalog.position);
        retained.insert(0, catalog);
        retained.truncate(RETAINED);
    }
}

/// Folds entries until the catalog reaches the position or the deadline.
async fn fold_until(
    projection: &Projection,
    mut catalog: Catalog,
    position: Position,
    deadline: Instant,
) -> Result<Catalog, Failure> {
    while catalog.position < position {
        let read = read_after(projection.log(), catalog.position, FOLD_PAGE).await;
        let entries = read.map_err(|error| error.into_failure(PositionParameter::At))?;
        if entries.is_empty() {
            return Err(internal_error("the log is shorter than it was before"));
        }
        for entry in entries
            .iter()
            .take_while(|entry| entry.position <= position)
        {
            catalog.fold(entry).map_err(internal_error)?;
        }
        if clock::monotonic() >= deadline {
            break;
        }
        // A long fold must not keep a thread from other tasks.
        tokio::task::yield_now().await;
    }
    Ok(catalog)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_a_position_and_an_rfc_3339_text_is_a_time() {
        assert_eq!(
            PointInTime::parse("12").ok(),
            Some(PointInTime::Position(Position(12)))
        );
        let noon = Some(PointInTime::Time(1_769_860_800_000));
        for text in [
            "2026-01-31T12:00:00Z",
            "2026-01-31T14:00:00+02:00",
            "2026-01-31T06:30:00-05:30",
        ] {
            assert_eq!(PointInTime::parse(text).ok(), noon, "{text}");
        }
        assert_eq!(
            PointInTime::parse("2026-01-31T12:00:00.250Z").ok(),
            Some(PointInTime::Time(1_769_860_800_250))
        );
    }

    #[test]
    fn the_error_for_another_text_shows_both_forms() {
        for text in ["", "-1", "yesterday", "2026-01-31", "1.0", "é+02:00"] {
            let failure = PointInTime::parse(text).expect_err(text);
            assert!(failure.message.contains("2026-01-31T12:00:00Z"), "{text}");
        }
    }
}
