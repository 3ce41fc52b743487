//! The OpenAPI document against the real program: schemathesis generates requests for every route.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::App;

/// The longest run of schemathesis. A usual run takes a fifth of this time.
const RUN_LIMIT: Duration = Duration::from_secs(300);
/// Test cases for each operation in the fuzzing phase.
const MAX_EXAMPLES: &str = "10";
/// A failure repeats with the same seed.
const SEED: &str = "1";
/// No process listens on this port, so requests to other hosts fail at once.
const CLOSED_PROXY: &str = "http://127.0.0.1:1";
/// Python 3.11 fails at random when several threads parse sources (`AST constructor recursion depth mismatch`), and
/// hypothesis parses sources in each thread.
const THREADS: &str = "1";
const CHECKS: &str = "status_code_conformance,content_type_conformance,response_schema_conformance";

#[tokio::test]
async fn every_answer_is_in_the_openapi_document() {
    let empty = TempDir::new().expect("a folder");
    // Generated servers and packages must not start programs of this machine or reach a registry.
    let app = App::start_with(&[
        ("PATH", empty.path().to_str().expect("UTF-8")),
        ("HTTPS_PROXY", CLOSED_PROXY),
        ("HTTP_PROXY", CLOSED_PROXY),
        ("NO_PROXY", "127.0.0.1,localhost"),
    ]);
    app.register_fixture("fixture").await.ok();
    app.call("default", "fixture", "echo", json!({ "message": "x" }))
        .await
        .ok();
    let program = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/target/services/schemathesis/bin/schemathesis"
    );
    let run = tokio::process::Command::new(program)
        .arg("run")
        .arg(format!("{}/openapi.json", app.url))
        .args(["--phases", "coverage,fuzzing", "--checks", CHECKS])
        .args(["--max-examples", MAX_EXAMPLES, "--seed", SEED])
        .args([
            "--workers",
            THREADS,
            "--request-timeout",
            "60",
            "--no-shrink",
        ])
        .args(["--generation-database", "none", "--no-color"])
        .args(["--warnings", "off", "--continue-on-failure"])
        .current_dir(empty.path())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(RUN_LIMIT, run)
        .await
        .expect("schemathesis ends in time")
        .expect("schemathesis starts");
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test]
async fn every_route_lists_the_failures_of_the_middleware() {
    let app = App::start();
    let document = app.get("/openapi.json").await.body;
    for (path, operations) in document["paths"].as_object().expect("paths") {
        if path == "/healthz" || path == "/readyz" {
            continue;
        }
        for (method, operation) in operations.as_object().expect("operations") {
            let responses = operation["responses"].as_object().expect("responses");
            for status in ["400", "403", "500", "503"] {
                assert!(responses.contains_key(status), "{method} {path}: {status}");
            }
            let needs_body = operation.get("requestBody").is_some();
            assert_eq!(
                responses.contains_key("413") && responses.contains_key("415"),
                needs_body,
                "{method} {path}"
            );
            for (status, response) in responses {
                let has_position = response["headers"]["Log-Position"] != Value::Null;
                assert!(has_position, "{method} {path}: {status}");
            }
        }
    }
}
