//! `/healthz`, `/readyz`, `/metrics`, `/openapi.json` and `/docs`.

use serde_json::{Value, json};

use crate::harness::App;
use crate::processes::signal;

#[tokio::test]
async fn the_probes_answer() {
    let app = App::start();
    assert_eq!(app.get("/healthz").await.ok(), json!({ "success": true }));
    assert_eq!(
        app.get("/readyz").await.ok(),
        json!({ "success": true, "position": 0 })
    );
}

#[tokio::test]
async fn metrics_count_calls_and_children() {
    let app = App::embedded();
    app.register_fixture("fixture").await.ok();
    app.set_secret("ana", "fixture", "message", "hers").await;
    let before = app
        .metric("mcp_api_log_position", &[])
        .await
        .expect("a position");
    app.call("ana", "fixture", "echo", json!({})).await.ok();
    app.call("ben", "fixture", "echo", json!({})).await.ok();
    app.call(
        "ben",
        "fixture",
        "result",
        json!({ "result": { "content": [], "isError": true } }),
    )
    .await
    .ok();
    app.call(
        "ben",
        "fixture",
        "rpc_error",
        json!({ "code": 1, "message": "no" }),
    )
    .await
    .fails(502, "upstream_error");
    // Calls of unknown tools share one label, so that invented names fill no memory.
    for n in 0..3 {
        app.call("ben", "fixture", &format!("made-up-{n}"), json!({}))
            .await
            .fails(400, "invalid_request");
    }
    let calls = async |tool: &str, outcome: &str| {
        let labels = [("server", "fixture"), ("tool", tool), ("outcome", outcome)];
        app.metric("mcp_api_calls_total", &labels).await
    };
    assert_eq!(calls("echo", "ok").await, Some(2.0));
    assert_eq!(calls("result", "tool_error").await, Some(1.0));
    assert_eq!(calls("rpc_error", "upstream_error").await, Some(1.0));
    assert_eq!(calls("unknown", "invalid_request").await, Some(3.0));
    let text = app.get("/metrics").await;
    assert!(
        text.headers["content-type"]
            .to_str()
            .expect("text")
            .starts_with("application/openmetrics-text")
    );
    assert!(!text.body.as_str().expect("text").contains("made-up"));
    assert!(text.body.as_str().expect("text").ends_with("# EOF\n"));

    let echo = [("server", "fixture"), ("tool", "echo")];
    assert_eq!(
        app.metric("mcp_api_call_seconds_count", &echo).await,
        Some(2.0)
    );
    assert!(
        app.metric("mcp_api_call_seconds_sum", &echo)
            .await
            .is_some_and(|sum| sum > 0.0 && sum < 60.0)
    );
    assert_eq!(
        app.metric("mcp_api_secrets_opened_total", &[]).await,
        Some(1.0)
    );
    assert_eq!(app.metric("mcp_api_children_alive", &[]).await, Some(1.0));
    assert_eq!(app.metric("mcp_api_jobs_waiting", &[]).await, Some(0.0));

    signal(app.pid_of("fixture").await, "KILL");
    app.until("/mcp/servers/fixture", |body| {
        body["server"]["logs"]
            .to_string()
            .contains("killed by signal 9")
    })
    .await;
    app.pid_of("fixture").await;
    assert_eq!(
        app.metric("mcp_api_server_restarts_total", &[("server", "fixture")])
            .await,
        Some(1.0)
    );
    app.put("/mcp/servers/fixture/disable", json!({}))
        .await
        .ok();
    assert_eq!(app.metric("mcp_api_children_alive", &[]).await, Some(0.0));
    assert!(
        app.metric("mcp_api_log_position", &[])
            .await
            .is_some_and(|now| now > before)
    );
    app.delete("/mcp/servers/fixture").await.ok();
    assert_eq!(
        app.metric("mcp_api_call_seconds_count", &echo).await,
        None,
        "the metrics of a deleted server are removed"
    );
}

#[tokio::test]
async fn the_openapi_document_is_complete_and_its_page_needs_no_network() {
    let app = App::start();
    let description = app.get("/openapi.json").await.body;
    let paths = description["paths"].as_object().expect("paths");
    for path in [
        "/mcp/servers",
        "/mcp/servers/{name}",
        "/mcp/servers/{name}/enable",
        "/mcp/servers/{name}/disable",
        "/mcp/tools",
        "/mcp/tool/call",
        "/secrets/set",
        "/secrets/delete",
        "/events",
        "/healthz",
        "/readyz",
        "/metrics",
    ] {
        assert!(paths.contains_key(path), "{path}");
    }
    let page = app.get("/docs/").await;
    assert_eq!(page.status, 200);
    let page = page.body.as_str().expect("a page").to_owned();
    let quoted = page.split('"').skip(1).step_by(2);
    let files: Vec<&str> = quoted
        .filter(|text| text.ends_with(".js") || text.ends_with(".css"))
        .collect();
    assert!(files.len() >= 3, "{page}");
    for file in files {
        let file = file.trim_start_matches("./");
        assert!(
            !file.contains("//"),
            "the page loads {file} from the network"
        );
        let answer = app.get(&format!("/docs/{file}")).await;
        assert_eq!(answer.status, 200, "{file}");
        assert!(
            !answer.body.as_str().unwrap_or_default().is_empty(),
            "{file}"
        );
    }
    let start = app.get("/docs/swagger-initializer.js").await.body;
    assert!(
        start
            .as_str()
            .is_some_and(|script| script.contains("/openapi.json")),
        "{start}"
    );
    assert_eq!(
        description["openapi"].as_str().map(|version| &version[..2]),
        Some("3.")
    );
    assert_eq!(description["info"]["title"], Value::from("MCP API"));
}

#[tokio::test]
async fn deleting_a_server_removes_its_metrics() {
    let app = App::embedded();
    app.register_fixture("passing").await.ok();
    app.call("ana", "passing", "echo", json!({})).await.ok();
    app.call("ana", "passing", "unheard-of", json!({}))
        .await
        .fails(400, "invalid_request");
    assert!(
        app.metric("mcp_api_calls_total", &[("server", "passing")])
            .await
            .is_some()
    );
    app.delete("/mcp/servers/passing").await.ok();
    let figures = app.get("/metrics").await.body;
    assert!(
        !figures.as_str().expect("a text").contains("passing"),
        "{figures}"
    );
}
