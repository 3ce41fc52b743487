//! Backup and restore of a shortened log.

use std::fs;

use super::{OLD, compact_with_client, events_after, filled_app, is_truncated, run, servers};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shortened_log_is_backed_up_and_restored() {
    let mut app = filled_app(&[]).await;
    compact_with_client(&app);
    let kept = format!("{OLD}.1");
    let state = servers(&app, None).await;
    let events = events_after(&app, &kept).await;
    let saved = run(&app, &["backup", "copy"]);
    assert!(saved.status.success());
    app.terminate();
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(app.data().join(format!("mcp-api.sqlite{suffix}")));
    }
    let restored = run(&app, &["restore", "copy"]);
    let error = String::from_utf8_lossy(&restored.stderr);
    assert!(restored.status.success(), "{error}");
    app.restart();
    is_truncated(&app, OLD + 1).await;
    assert!(servers(&app, None).await == state, "the state has changed");
    let after = events_after(&app, &kept).await;
    assert!(after[..events.len()] == events, "an event has changed");
}
