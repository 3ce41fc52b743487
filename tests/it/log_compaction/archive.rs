//! One compaction of an embedded store: the archive, the state, the size of the file.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::{
    ALL, OLD, archives, compact_with_client, events_after, filled_app, is_truncated, run, servers,
};
use crate::harness::App;
use crate::wait::wait_until;
use mcp_api::eventlog::archive::read_archive;

/// Returns the bytes of the store and its write-ahead log.
fn store_bytes(app: &App) -> u64 {
    let bytes = |suffix| {
        let file = app.data().join(format!("mcp-api.sqlite{suffix}"));
        fs::metadata(file).map_or(0, |file| file.len())
    };
    bytes("") + bytes("-wal")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_events_move_to_an_archive_and_the_state_stays() {
    let mut app = filled_app(&[]).await;
    let kept = format!("{OLD}.1");
    let before = (
        servers(&app, None).await,
        servers(&app, Some(OLD + 1)).await,
        servers(&app, Some(OLD + 50)).await,
    );
    let all_events = events_after(&app, "0").await;
    let bytes = store_bytes(&app);

    let printed = compact_with_client(&app);
    assert!(
        printed.contains(&format!("begins at position {}", OLD + 1)),
        "{printed}"
    );
    assert!(printed.contains("800 events"), "{printed}");

    for restarts in [false, true] {
        if restarts {
            app.kill_and_restart();
        }
        is_truncated(&app, OLD + 1).await;
        let after = (
            servers(&app, None).await,
            servers(&app, Some(OLD + 1)).await,
            servers(&app, Some(OLD + 50)).await,
        );
        assert!(after == before, "the state has changed");
        let kept_events = events_after(&app, &kept).await;
        assert_eq!(kept_events[0]["id"], format!("{}.0", OLD + 1));
        let expected = &all_events[800..];
        assert!(
            kept_events[..expected.len()] == *expected,
            "an event has changed"
        );
    }
    println!("{bytes} bytes before, {} bytes after", store_bytes(&app));
    wait_until("the file is smaller", async || {
        store_bytes(&app) < bytes / 2
    })
    .await;

    let archive = archives(&app.data());
    let [archive] = &archive[..] else {
        panic!("{archive:?}")
    };
    let shown = run(&app, &["log", "show", archive.to_str().expect("UTF-8")]);
    assert!(shown.status.success());
    let entries: Vec<Value> = String::from_utf8(shown.stdout)
        .expect("UTF-8")
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let ids = |entries: &[Value]| -> Vec<String> {
        let commits = entries.iter().flat_map(|entry| entry["commits"].as_array());
        let ids = commits.flatten().flat_map(|commit| {
            let events = commit["events"].as_array().map_or(0, Vec::len);
            std::iter::repeat_n(commit["commandId"].to_string(), events)
        });
        ids.collect()
    };
    let expected: Vec<_> = all_events[..800]
        .iter()
        .map(|event| event["commandId"].to_string())
        .collect();
    assert_eq!(entries.len() as u64, OLD);
    assert_eq!(
        ids(&entries),
        expected,
        "the archive has every removed event"
    );

    let again = compact_with_client(&app);
    assert!(again.contains("No event is old enough"), "{again}");
    assert_eq!(archives(&app.data()).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_archive_is_found() {
    let app = filled_app(&[]).await;
    compact_with_client(&app);
    let archive = archives(&app.data()).remove(0);
    let whole = fs::read(&archive).expect("an archive");
    let damaged = app.dir.path().join("damaged.gz");
    let is_whole = |path: &Path| read_archive(path, |_| Ok(())).is_ok();
    assert!(is_whole(&archive));
    for position in (0..whole.len()).step_by(1 + whole.len() / 60) {
        let mut bytes = whole.clone();
        bytes[position] ^= 0x10;
        fs::write(&damaged, &bytes).expect("written");
        assert!(!is_whole(&damaged), "byte {position} of {}", whole.len());
    }
    for bytes in [
        &whole[..whole.len() / 2],
        &whole[..whole.len() - 1],
        b"",
        b"text",
    ] {
        fs::write(&damaged, bytes).expect("written");
        let shown = run(&app, &["log", "show", damaged.to_str().expect("UTF-8")]);
        assert!(!shown.status.success());
    }
    fs::write(&damaged, [&whole[..], b"more"].concat()).expect("written");
    assert!(!is_whole(&damaged), "the file has bytes after its end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_without_old_events_stays_whole() {
    let app = App::embedded();
    let report = app
        .post("/log/compact", json!({ "before": "1d" }))
        .await
        .ok();
    assert_eq!(report["oldest"], 1);
    assert_eq!(report["archive"], Value::Null);
    app.get("/events?after=0").await.ok();
    for (body, named) in [
        (json!({ "before": "23h" }), "from 1d"),
        (json!({ "before": "soon" }), "90d"),
        (json!({ "before": "90d", "until": 1 }), "until"),
        (json!({}), "before"),
    ] {
        let sentence = app
            .post("/log/compact", body)
            .await
            .fails(400, "invalid_request");
        assert!(sentence.contains(named), "{sentence}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_retention_shortens_the_log_without_a_request() {
    let app = filled_app(&[("LOG_RETENTION", "90d")]).await;
    app.until("/events?after=0", |body| body["code"] == "log_truncated")
        .await;
    wait_until("the archive is complete", async || {
        archives(&app.data()).len() == 1
    })
    .await;
    let events = events_after(&app, &format!("{OLD}.1")).await;
    assert!(events.len() as u64 >= ALL - OLD);
}
