//! A compaction that is killed at random moments, until it has finished.

use std::time::Duration;

use serde_json::Value;

use super::{archives, begin, events_after, filled_folder, servers};
use crate::harness::App;
use crate::wait::{wait_at_most, wait_until};
use mcp_api::eventlog::archive::read_archive;

const OLD: u64 = 3_000;
const ALL: u64 = 3_100;
const KILLS: u32 = 8;
/// The longest time between the start of a compaction and its kill.
const LONGEST_MS: u64 = 1_500;

async fn has_ended(app: &App, job: &str) -> bool {
    let path = format!("/jobs/{job}?username=mcp-api");
    app.get(&path).await.ok()["job"]["answer"].is_object()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compaction_survives_kill_9_at_any_time() {
    let mut app = App::start_in(filled_folder(OLD, ALL).await, None, 0, &[]);
    let state = servers(&app, None).await;
    let events = events_after(&app, "0").await;
    let seed = uuid::Uuid::new_v4().as_u128() as u64;
    println!("seed {seed}");
    let mut interrupted = 0;
    for round in 0..KILLS {
        let job = begin(&app).await;
        let moment = seed.rotate_left(8 * round) % LONGEST_MS;
        let ended = wait_at_most(Duration::from_millis(moment), async || {
            has_ended(&app, &job).await.then_some(())
        });
        interrupted += u32::from(ended.await.is_none());
        app.kill_and_restart();
        assert!(
            servers(&app, None).await == state,
            "round {round}: the state has changed"
        );
    }
    assert!(interrupted > 0, "no compaction was killed");
    let job = begin(&app).await;
    wait_until("the compaction ends", async || has_ended(&app, &job).await).await;

    // A later attempt may have ended after its fifth claim, so another compaction completes the work.
    let report = app
        .post("/log/compact", serde_json::json!({ "before": "90d" }))
        .await
        .ok();
    assert_eq!(report["oldest"], OLD + 1);
    let refused = app.get("/events?after=0").await;
    assert_eq!(refused.body["oldest"], OLD + 1);
    refused.fails(410, "log_truncated");
    assert!(servers(&app, None).await == state, "the state has changed");

    let mut archived = Vec::new();
    for archive in archives(&app.data()) {
        read_archive(&archive, |line| {
            archived.push(serde_json::from_str::<Value>(line)?);
            Ok(())
        })
        .expect("a whole archive");
    }
    let positions: Vec<_> = archived
        .iter()
        .map(|entry| entry["position"].as_u64())
        .collect();
    let expected: Vec<_> = (1..=OLD).map(Some).collect();
    assert_eq!(positions, expected, "each removed entry is in one archive");
    let kept = events_after(&app, &format!("{OLD}.1")).await;
    let old_events = (OLD + OLD / 3) as usize;
    let recent = &events[old_events..];
    assert!(kept[..recent.len()] == *recent, "an event has changed");
}
