//! The catalogue as it was: the log folded up to a position of the past.
//!
//! One is folded at a time. A few are kept, and the next begins at the nearest of them: who looks at one moment
//! after another folds each part of the log once.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::projection::Projection;
use super::snapshot;
use crate::core::catalog::Catalog;
use crate::core::failure::Failure;
use crate::core::ids::Position;
use crate::ports::error::StoreError;
use crate::telemetry::error::internal_error;
use crate::time::clock::now_ms;
use crate::time::rfc3339::parse_ms;

/// Catalogues that are kept.
const KEPT: usize = 4;
/// Appends read at once.
const PAGE: usize = 1000;
/// How long one request folds; the next one goes on from there.
const FOLDS: Duration = Duration::from_secs(10);
/// How long a request waits for those before it.
const WAITS: Duration = Duration::from_secs(10);
/// A snapshot is about as new as the head: it helps only for what is younger.
const RECENT: u64 = 4000;

/// A moment: a position, or a time in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PointInTime {
    Position(Position),
    Time(u64),
}

impl PointInTime {
    pub fn parse(text: &str) -> Result<Self, Failure> {
        if let Ok(position) = text.parse() {
            return Ok(Self::Position(Position(position)));
        }
        let wanted = "at must be a position such as 12, or a time such as 2026-01-31T12:00:00Z";
        parse_ms(text)
            .map(Self::Time)
            .ok_or_else(|| Failure::invalid(wanted))
    }

    /// The position that was the newest at this moment.
    pub async fn position(self, projection: &Projection) -> Result<Position, Failure> {
        let head = projection.position();
        match self {
            Self::Position(position) if position <= head => Ok(position),
            Self::Position(_) => Err(Failure::invalid(format!(
                "at is past the end of the log, which is at {head}"
            ))),
            Self::Time(time) if time > now_ms() => Err(Failure::invalid("at is in the future")),
            Self::Time(time) => newest_snapshot(projection, time, head)
                .await
                .map_err(store_unavailable),
        }
    }
}

/// The last append that is not younger. Appenders' clocks differ a little, and so much may this be wrong.
async fn newest_snapshot(
    projection: &Projection,
    time: u64,
    head: Position,
) -> Result<Position, StoreError> {
    let (mut not_younger, mut younger) = (0, head.0 + 1);
    while younger - not_younger > 1 {
        let middle = not_younger + (younger - not_younger) / 2;
        let entry = projection.log().read(Position(middle - 1), 1).await?.pop();
        match entry.is_some_and(|entry| entry.at <= time) {
            true => not_younger = middle,
            false => younger = middle,
        }
    }
    Ok(Position(not_younger))
}

/// What was folded last.
pub struct CatalogHistory {
    turn: Semaphore,
    kept: Mutex<Vec<Arc<Catalog>>>,
}

impl Default for CatalogHistory {
    fn default() -> Self {
        Self {
            turn: Semaphore::new(1),
            kept: Mutex::default(),
        }
    }
}

impl CatalogHistory {
    /// The catalogue at a position that the log has reached.
    pub async fn catalog(
        &self,
        projection: &Projection,
        at: Position,
    ) -> Result<Arc<Catalog>, Failure> {
        let busy =
            || Failure::unavailable("Others look at the past right now; ask again in a moment");
        let turn = tokio::time::timeout(WAITS, self.turn.acquire())
            .await
            .map_err(|_| busy())?;
        let _turn = turn.map_err(internal_error)?;
        let mut catalog = self.nearest(projection, at).await?;
        let until = Instant::now() + FOLDS;
        while catalog.position < at {
            let entries = projection
                .log()
                .read(catalog.position, PAGE)
                .await
                .map_err(store_unavailable)?;
            if entries.is_empty() {
                return Err(internal_error("the log is shorter than it was"));
            }
            for entry in entries.iter().take_while(|entry| entry.position <= at) {
                catalog.fold(entry).map_err(internal_error)?;
            }
            if catalog.position < at && Instant::now() >= until {
                self.keep(Arc::new(catalog));
                return Err(Failure::unavailable(
                    "The log is long; ask again, and it is read on from where it is now",
                ));
            }
            tokio::task::yield_now().await;
        }
        let catalog = Arc::new(catalog);
        self.keep(catalog.clone());
        Ok(catalog)
    }

    /// Where to begin.
    async fn nearest(&self, projection: &Projection, at: Position) -> Result<Catalog, Failure> {
        let now = projection.catalog().clone();
        if now.position == at {
            return Ok(Catalog::clone(&now));
        }
        let kept = {
            let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.iter()
                .filter(|catalog| catalog.position <= at)
                .max_by_key(|catalog| catalog.position)
                .cloned()
        };
        let kept = kept.map_or_else(Catalog::default, |catalog| Catalog::clone(&catalog));
        if kept.position.0 + RECENT >= at.0 || at.0 + RECENT < now.position.0 {
            return Ok(kept);
        }
        let snapshot = snapshot::load_snapshot(projection.log())
            .await
            .map_err(store_unavailable)?;
        Ok(snapshot
            .filter(|catalog| catalog.position <= at)
            .unwrap_or(kept))
    }

    fn keep(&self, catalog: Arc<Catalog>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|other| other.position != catalog.position);
        kept.insert(0, catalog);
        kept.truncate(KEPT);
    }
}

fn store_unavailable(error: StoreError) -> Failure {
    tracing::warn!(%error, "the past could not be read");
    Failure::unavailable("The store cannot be reached")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_positions_or_times() {
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
        for text in [
            "",
            "-1",
            "yesterday",
            "2026-01-31",
            "2026-13-31T12:00:00Z",
            "1.0",
            "é+02:00",
            "+02:00",
        ] {
            assert!(
                PointInTime::parse(text)
                    .expect_err(text)
                    .message
                    .contains("2026-01-31T12:00:00Z"),
                "{text}"
            );
        }
    }
}
