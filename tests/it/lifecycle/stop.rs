//! The steps of a stop.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::App;
use crate::processes::is_alive;

#[tokio::test]
async fn a_stop_closes_the_input_then_sends_sigterm_then_kills() {
    let app = App::embedded();
    let diary = app.dir.path().join("diary");
    let entries = || -> Vec<(String, u64)> {
        let text = fs::read_to_string(&diary).unwrap_or_default();
        let entry = |line: &str| {
            line.rsplit_once(' ')
                .map(|(step, at)| (step.to_owned(), at.parse().expect("a time")))
        };
        text.lines().filter_map(entry).collect()
    };
    app.register("good", json!({ "env": { "FIXTURE_DIARY": diary } }))
        .await
        .ok();
    app.delete("/mcp/servers/good").await.ok();
    assert_eq!(
        entries()
            .iter()
            .map(|(step, _)| step.as_str())
            .collect::<Vec<_>>(),
        ["end of input"]
    );
    fs::remove_file(&diary).expect("removed");

    app.register(
        "stubborn",
        json!({ "env": { "FIXTURE_DIARY": diary, "FIXTURE_STOP": "never" } }),
    )
    .await
    .ok();
    let pid = app.pid_of("stubborn").await;
    let began = Instant::now();
    let answer = app
        .put("/mcp/servers/stubborn/disable", json!({}))
        .await
        .ok();
    assert_eq!(answer["server"]["status"], "disconnected");
    assert!(!is_alive(pid));
    let took = began.elapsed();
    assert!(
        took >= Duration::from_secs(7) && took < Duration::from_secs(45),
        "two seconds and five: {took:?}"
    );
    let entries = entries();
    assert_eq!(
        entries
            .iter()
            .map(|(step, _)| step.as_str())
            .collect::<Vec<_>>(),
        ["end of input", "SIGTERM"]
    );
    assert!(
        entries[1].1 - entries[0].1 >= 1900,
        "SIGTERM comes two seconds after: {entries:?}"
    );
}
