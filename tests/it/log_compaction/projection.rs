//! The projection and the appender on a shortened log.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;

use super::{entry, fill};
use crate::samples::snapshot as catalog_bytes;
use crate::store_contract::{fresh, sqlite};
use crate::wait::PATIENCE;
use mcp_api::adapters::bus_local::LocalBus;
use mcp_api::core::catalog::{Catalog, FOLD_VERSION};
use mcp_api::core::command::CompactionReport;
use mcp_api::core::ids::Position;
use mcp_api::eventlog::archive::read_archive;
use mcp_api::eventlog::compaction::{CompactionPlan, CompactionStep, compact_log};
use mcp_api::eventlog::projection::Projection;
use mcp_api::eventlog::snapshot::{load_beginning, save_snapshot};
use mcp_api::ports::error::StoreError;
use mcp_api::ports::event_log::{BEGINNING_FOLD, EventLog, ReadLimit, SnapshotHead};

async fn compact(log: &dyn EventLog, folder: &Path, head: u64) -> CompactionReport {
    let plan = CompactionPlan {
        before: super::now_ms() - 90 * super::DAY_MS,
        head: Position(head),
        retained: HashSet::new(),
        folder: folder.to_owned(),
    };
    compact_log(log, &plan, |_| {}).await.expect("compacted")
}

async fn open(log: &Arc<dyn EventLog>) -> Arc<Projection> {
    let opened = Projection::open(log.clone(), LocalBus::new()).await;
    opened.expect("a projection")
}

fn shown(catalog: &Catalog) -> Vec<u8> {
    catalog_bytes(catalog)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_starts_at_the_beginning_and_a_process_behind_it_skips_to_it() {
    let (store, _dir) = fresh(sqlite).await;
    let archive = TempDir::new().expect("a folder");
    fill(&*store.log, 50, 50).await;
    let behind = open(&store.log).await;
    for position in 51..=80 {
        let at = super::now_ms() - 95 * super::DAY_MS;
        store
            .log
            .append(&entry(position, at), &[])
            .await
            .expect("appended");
    }
    let whole = open(&store.log).await;
    let report = compact(&*store.log, archive.path(), 80).await;
    // The newest entry stays, however old it is.
    assert_eq!(
        (report.oldest, report.entries, report.removed),
        (Position(80), 79, 79)
    );
    assert_eq!(behind.position(), Position(50));
    assert!(behind.wait_for(Position(80), PATIENCE).await);
    assert!(shown(&behind.catalog()) == shown(&whole.catalog()));
    let started = open(&store.log).await;
    assert!(shown(&started.catalog()) == shown(&whole.catalog()));
    assert_eq!(store.log.head().await.expect("a head"), Position(80));
    store
        .log
        .append(&entry(81, 1), &[])
        .await
        .expect("appended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_from_before_the_beginning_is_not_used() {
    let (store, _dir) = fresh(sqlite).await;
    let archive = TempDir::new().expect("a folder");
    fill(&*store.log, 60, 80).await;
    let entries = store.log.read(Position(0), ReadLimit::entries(30)).await;
    let mut early = Catalog::default();
    for entry in entries.expect("entries") {
        early.fold(&entry).expect("folded");
    }
    save_snapshot(&*store.log, early.into())
        .await
        .expect("saved");
    let whole = open(&store.log).await;
    let report = compact(&*store.log, archive.path(), 80).await;
    assert_eq!(report.oldest, Position(61));
    let started = open(&store.log).await;
    assert!(shown(&started.catalog()) == shown(&whole.catalog()));
    // A second compaction continues at the beginning of the first one.
    for position in 81..=90 {
        let at = super::now_ms();
        store
            .log
            .append(&entry(position, at), &[])
            .await
            .expect("appended");
    }
    let plan = CompactionPlan {
        before: u64::MAX,
        head: Position(90),
        retained: HashSet::new(),
        folder: archive.path().to_owned(),
    };
    let second = compact_log(&*store.log, &plan, |_| {})
        .await
        .expect("compacted");
    assert_eq!((second.entries, second.oldest), (29, Position(90)));
    assert_eq!(open(&store.log).await.position(), Position(90));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_removed_before_the_archive_and_the_beginning_are_stored() {
    let (store, _dir) = fresh(sqlite).await;
    let folder = TempDir::new().expect("a folder");
    fill(&*store.log, 60, 80).await;
    // The folder of the archives cannot be created, because a file has its name.
    let blocked = folder.path().join("archive");
    std::fs::write(&blocked, "a file").expect("written");
    let plan = CompactionPlan {
        before: super::now_ms() - 90 * super::DAY_MS,
        head: Position(80),
        retained: HashSet::new(),
        folder: blocked,
    };
    let failure = compact_log(&*store.log, &plan, |step| {
        assert!(!matches!(step, CompactionStep::Removing { .. }), "{step:?}");
    })
    .await
    .expect_err("the archive cannot be written")
    .failure();
    assert!(
        failure.message.contains("the log is unchanged"),
        "{failure}"
    );
    let entries = store.log.read(Position(0), ReadLimit::entries(100)).await;
    assert_eq!(entries.expect("entries").len(), 80);
    assert!(
        load_beginning(&*store.log)
            .await
            .expect("an answer")
            .is_none()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_beginning_of_a_newer_program_is_refused() {
    let (store, _dir) = fresh(sqlite).await;
    let mut head = SnapshotHead {
        id: uuid::Uuid::now_v7(),
        fold: BEGINNING_FOLD,
        at: Position(7),
        pieces: 0,
    };
    let header = format!("{{\"fold\":{},\"lastIndex\":0}}\u{1e}", FOLD_VERSION + 1);
    let put = store
        .log
        .put_snapshot_piece(&head, header.into_bytes())
        .await;
    put.expect("stored");
    head.pieces = 1;
    store.log.finish_snapshot(&head).await.expect("finished");
    let refused = load_beginning(&*store.log).await;
    assert!(
        matches!(refused, Err(StoreError::Newer { .. })),
        "{refused:?}"
    );
}

/// A compaction that ends at any of its steps leaves the state, and the next compaction completes it.
#[tokio::test(flavor = "multi_thread")]
async fn an_interruption_at_any_step_loses_nothing() {
    const OLD: u64 = 620;
    const ALL: u64 = 640;
    for interrupted_step in 0.. {
        let (store, _dir) = fresh(sqlite).await;
        let archive = TempDir::new().expect("a folder");
        fill(&*store.log, OLD, ALL).await;
        let whole = open(&store.log).await;
        let plan = CompactionPlan {
            before: super::now_ms() - 90 * super::DAY_MS,
            head: Position(ALL),
            retained: HashSet::new(),
            folder: archive.path().to_owned(),
        };
        let log = store.log.clone();
        let interrupted = tokio::spawn(async move {
            let steps = AtomicUsize::new(0);
            compact_log(&*log, &plan, |step| {
                let number = steps.fetch_add(1, Ordering::Relaxed);
                assert!(number != interrupted_step, "interrupted at {step:?}");
            })
            .await
        });
        let is_complete = interrupted.await.is_ok();
        let started = open(&store.log).await;
        assert!(
            shown(&started.catalog()) == shown(&whole.catalog()),
            "step {interrupted_step}"
        );
        let report = compact(&*store.log, archive.path(), ALL).await;
        assert_eq!(report.oldest, Position(OLD + 1));
        let started = open(&store.log).await;
        assert!(shown(&started.catalog()) == shown(&whole.catalog()));
        let archived = archive.path().join(format!("1-{OLD}.jsonl.gz"));
        let trailer = read_archive(&archived, |_| Ok(())).expect("a whole archive");
        assert_eq!(trailer.entries, OLD);
        if is_complete {
            assert!(interrupted_step >= 5, "only {interrupted_step} steps");
            break;
        }
    }
}
