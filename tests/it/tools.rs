//! `/mcp/tools` and `/mcp/tool/call`: what goes in, what comes out, and how long it may take.

use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::{Value, json};

use crate::harness::{Answer, App, answer};
use crate::wait::wait_for;

async fn fixture(more: Value) -> App {
    let app = App::start();
    app.register("fixture", more).await.ok();
    app
}

/// Calls the fixture with further fields in the request.
async fn call(app: &App, tool: &str, args: Value, more: Value) -> Answer {
    let mut body = json!({ "serverName": "fixture", "methodName": tool, "args": args });
    body.as_object_mut()
        .expect("an object")
        .extend(more.as_object().expect("an object").clone());
    app.post("/mcp/tool/call", body).await
}

#[tokio::test]
async fn every_kind_of_result_has_its_shape() {
    let app = fixture(json!({})).await;
    let text = |text: &str| json!({ "type": "text", "text": text });
    let image = json!({ "type": "image", "data": "aW1n", "mimeType": "image/png" });
    let audio = json!({ "type": "audio", "data": "YXVk", "mimeType": "audio/wav" });
    let link = json!({ "type": "resource_link", "uri": "file:///a", "name": "a", "future": [1.0] });
    let unknown = json!({ "type": "hologram", "beams": 3 });
    for (result, shown) in [
        (
            json!({ "content": [text("a\"\n€")] }),
            json!({ "content": "a\"\n€", "contentType": "text/plain", "isError": false }),
        ),
        (
            json!({ "content": [text("no")], "isError": true }),
            json!({ "content": "no", "contentType": "text/plain", "isError": true }),
        ),
        (
            json!({ "content": [image] }),
            json!({ "content": "aW1n", "contentType": "image/png", "isError": false }),
        ),
        (
            json!({ "content": [audio] }),
            json!({ "content": "YXVk", "contentType": "audio/wav", "isError": false }),
        ),
        (
            json!({ "content": [link] }),
            json!({ "content": [link], "contentType": "application/json", "isError": false }),
        ),
        (
            json!({ "content": [unknown] }),
            json!({ "content": [unknown], "contentType": "application/json", "isError": false }),
        ),
        (
            json!({ "content": [text("a"), image] }),
            json!({ "content": [text("a"), image], "contentType": "application/json", "isError": false }),
        ),
        (
            json!({ "content": [] }),
            json!({ "content": [], "contentType": "application/json", "isError": false }),
        ),
        (
            json!({ "content": [], "structuredContent": { "a": 1 } }),
            json!({ "content": { "a": 1 }, "contentType": "application/json", "isError": false, "structuredContent": { "a": 1 } }),
        ),
        (
            json!({ "structuredContent": { "a": 1 } }),
            json!({ "content": { "a": 1 }, "contentType": "application/json", "isError": false, "structuredContent": { "a": 1 } }),
        ),
        (
            json!({ "content": [text("{}")], "structuredContent": {}, "_meta": { "m": 1 } }),
            json!({ "content": "{}", "contentType": "text/plain", "isError": false, "structuredContent": {}, "meta": { "m": 1 } }),
        ),
    ] {
        let args = json!({ "result": result });
        assert_eq!(
            call(&app, "result", args.clone(), json!({})).await.ok()["data"],
            shown
        );
        assert_eq!(
            call(&app, "result", args, json!({ "raw": true }))
                .await
                .ok()["data"],
            result
        );
    }
    for nonsense in [
        json!("text"),
        json!(7),
        json!({ "content": "text" }),
        json!({ "content": [1] }),
    ] {
        let refused = call(&app, "result", json!({ "result": nonsense }), json!({})).await;
        assert_eq!(
            refused.body["mayHaveRun"], true,
            "{nonsense}: {}",
            refused.body
        );
        refused.fails(502, "upstream_error");
    }
}

#[tokio::test]
async fn a_json_rpc_error_is_a_failure_with_its_own_words() {
    let app = fixture(json!({})).await;
    for (code, status, ours) in [
        (-32602, 400, "invalid_request"),
        (-32603, 502, "upstream_error"),
        (7, 502, "upstream_error"),
    ] {
        let error = json!({ "code": code, "message": "not \"so\"", "data": { "field": "x", "n": 12345678901234567890u64 } });
        let refused = call(&app, "rpc_error", error.clone(), json!({})).await;
        assert_eq!(refused.body["mcpError"], error);
        assert!(refused.fails(status, ours).ends_with("not \"so\""));
    }
    // The fixture refuses a tool that it does not have; we never check that ourselves.
    let refused = call(&app, "no_such_tool", json!({}), json!({})).await;
    assert_eq!(refused.body["mcpError"]["code"], -32602);
    assert!(
        refused
            .fails(400, "invalid_request")
            .contains("no_such_tool")
    );
}

#[tokio::test]
async fn a_call_that_cannot_be_made_says_why() {
    let app = fixture(json!({})).await;
    let good = json!({ "serverName": "fixture", "methodName": "echo", "args": {} });
    app.post("/mcp/tool/call", good.clone()).await.ok();
    for (field, value, said) in [
        ("args", json!([]), "args must be an object"),
        ("args", json!("{}"), "args must be an object"),
        ("args", Value::Null, "args must be an object"),
        ("timeoutMs", json!(0), "timeoutMs"),
        ("timeoutMs", json!(-1), "timeoutMs: must be"),
        ("timeoutMs", json!(86_400_001), "timeoutMs"),
        ("raw", json!("yes"), "raw: must be"),
        ("username", json!(""), "username: must be"),
        ("username", json!("a\nb"), "username: must be"),
        ("username", json!("x".repeat(257)), "username: must be"),
        ("methodName", json!(""), "methodName: must be"),
        ("serverName", json!("a b"), "serverName: must be"),
        ("arguments", json!({}), "arguments"),
    ] {
        let mut body = good.clone();
        body[field] = value.clone();
        let error = app
            .post("/mcp/tool/call", body)
            .await
            .fails(400, "invalid_request");
        assert!(error.contains(said), "{field} {value}: {error}");
    }
    for absent in ["serverName", "methodName", "args"] {
        let mut body = good.clone();
        body.as_object_mut().expect("an object").remove(absent);
        let error = app
            .post("/mcp/tool/call", body)
            .await
            .fails(400, "invalid_request");
        assert!(error.contains(absent), "{error}");
    }
    app.call("default", "nobody", "echo", json!({}))
        .await
        .fails(404, "server_not_found");
}

#[tokio::test]
async fn a_call_past_its_time_is_cancelled() {
    let app = fixture(json!({ "toolTimeout": 300 })).await;
    let error = call(&app, "never", json!({}), json!({})).await;
    assert_eq!(error.body["mayHaveRun"], true);
    assert!(
        error.fails(504, "timeout").contains("300 ms"),
        "the server's toolTimeout"
    );
    let error = call(
        &app,
        "sleep",
        json!({ "ms": 10_000 }),
        json!({ "timeoutMs": 100 }),
    )
    .await
    .fails(504, "timeout");
    assert!(error.contains("100 ms"), "the request's own: {error}");
    // More time than the server's, where the request asks for it.
    call(
        &app,
        "sleep",
        json!({ "ms": 400 }),
        json!({ "timeoutMs": 20_000 }),
    )
    .await
    .ok();
    assert_eq!(cancelled(&app, 2).await, 2, "the server was told");
}

/// How many calls the fixture knows to be cancelled, once they are as many as wanted.
async fn cancelled(app: &App, wanted: usize) -> usize {
    wait_for("the server knows the cancelled calls", async || {
        let text = app.text("fixture", "cancellations", json!({})).await;
        let ids: Vec<u64> = serde_json::from_str(&text).expect("integers");
        (ids.len() >= wanted).then_some(ids.len())
    })
    .await
}

#[tokio::test]
async fn a_client_that_hangs_up_cancels_its_call() {
    let app = fixture(json!({})).await;
    let client = app.http.clone();
    let body = json!({ "serverName": "fixture", "methodName": "sleep", "args": { "ms": 20_000 } });
    let calling = client
        .post(format!("{}/mcp/tool/call", app.url))
        .json(&body)
        .send();
    assert!(
        tokio::time::timeout(Duration::from_millis(500), calling)
            .await
            .is_err()
    );
    assert_eq!(cancelled(&app, 1).await, 1);
    assert_eq!(
        app.text("fixture", "echo", json!({ "message": "next" }))
            .await,
        "next"
    );
}

#[tokio::test]
async fn progress_restarts_the_timeout_if_the_call_asks_for_it() {
    let app = fixture(json!({ "resetTimeoutOnProgress": true, "toolTimeout": 600 })).await;
    let steps = json!({ "steps": 8, "ms": 200 });
    assert_eq!(app.text("fixture", "progress", steps.clone()).await, "done");
    call(&app, "never", json!({}), json!({}))
        .await
        .fails(504, "timeout");
    app.put(
        "/mcp/servers/fixture",
        json!({ "resetTimeoutOnProgress": false }),
    )
    .await
    .ok();
    call(&app, "progress", steps, json!({}))
        .await
        .fails(504, "timeout");
}

#[tokio::test]
async fn secrets_are_added_and_win_in_every_spelling() {
    let app = fixture(json!({})).await;
    app.set_secret("ana", "fixture", "to_ken", "stored").await;
    app.set_secret("ana", "fixture", "fixture.dotted", "of the dotted name")
        .await;
    app.set_secret("ana", "fixture", "ü\"b", "odd").await;
    let secrets = json!({ "to_ken": "stored", "dotted": "of the dotted name", "ü\"b": "odd" });
    for args in [
        r#"{}"#,
        r#" { } "#,
        r#"{"to_ken":"mine"}"#,
        r#"{"to_ken":"mine","to_ken":{"a":[]}}"#,
        r#"{"\u0074o\u005fken":"mine","dotted":null}"#,
        "{\n\"to_ken\"\r\n:\t1}",
        r#"{"\u00fc\"b":1,"ü\u0022b":2}"#,
    ] {
        let request = app
            .http
            .post(format!("{}/mcp/tool/call", app.url))
            .header("content-type", "application/json");
        let body = answer(request.body(request_body(args))).await.ok();
        let seen: Value =
            serde_json::from_str(body["data"]["content"].as_str().expect("a text")).expect("JSON");
        assert_eq!(seen, secrets, "{args}");
    }
    // What only looks like a secret's name stays, and so does everything else.
    let args = json!({ "q": "to_ken", "deep": { "to_ken": "mine" }, "n": 1.50, "list": [null] });
    let seen = app
        .call("ana", "fixture", "arguments", args.clone())
        .await
        .ok();
    let mut wanted = args;
    wanted
        .as_object_mut()
        .expect("an object")
        .extend(secrets.as_object().expect("an object").clone());
    let seen: Value =
        serde_json::from_str(seen["data"]["content"].as_str().expect("a text")).expect("JSON");
    assert_eq!(seen, wanted);
}

fn request_body(args: &str) -> String {
    format!(r#"{{"username":"ana","serverName":"fixture","methodName":"arguments","args":{args}}}"#)
}

#[tokio::test]
async fn only_the_listed_secrets_are_injected() {
    let app = fixture(json!({ "secretNames": ["yes"] })).await;
    app.set_secret("default", "fixture", "yes", "1").await;
    app.set_secret("default", "fixture", "no", "2").await;
    assert_eq!(
        app.text("fixture", "arguments", json!({ "no": "mine" }))
            .await,
        r#"{"no": "mine", "yes": "1"}"#
    );
    app.put("/mcp/servers/fixture", json!({ "secretNames": [] }))
        .await
        .ok();
    assert_eq!(
        app.text("fixture", "arguments", json!({})).await,
        r#"{"no": "2", "yes": "1"}"#
    );
}

#[tokio::test]
async fn a_trace_context_is_handed_on() {
    let app = fixture(json!({})).await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for (header, seen) in [
        (trace, json!({ "traceparent": trace })),
        ("nonsense", Value::Null),
    ] {
        let body = json!({ "serverName": "fixture", "methodName": "meta", "args": {} });
        let request = app
            .http
            .post(format!("{}/mcp/tool/call", app.url))
            .header("traceparent", header)
            .json(&body);
        let body = answer(request).await.ok();
        let meta: Value =
            serde_json::from_str(body["data"]["content"].as_str().expect("a text")).expect("JSON");
        assert_eq!(meta, seen);
    }
}

#[tokio::test]
async fn large_arguments_and_results_pass_whole() {
    let app = fixture(json!({})).await;
    let large: String = ('a'..='z').cycle().take(1 << 20).collect();
    assert_eq!(
        app.text("fixture", "echo", json!({ "message": large }))
            .await,
        large
    );
    let result = app
        .text("fixture", "big", json!({ "size": 11 << 20 }))
        .await;
    assert!(result.len() == 11 << 20 && result.bytes().all(|b| b == b'x'));
}

#[tokio::test]
async fn a_result_above_the_limit_is_refused_and_the_next_is_not() {
    let app = App::start_with(&[("RESULT_LIMIT", "64kb")]);
    app.register_fixture("fixture").await.ok();
    for size in [65_536, 200_000, 2_000_000] {
        let refused = app
            .call("default", "fixture", "big", json!({ "size": size }))
            .await;
        assert_eq!(refused.body["mayHaveRun"], true);
        assert!(
            refused
                .fails(502, "result_too_large")
                .contains("RESULT_LIMIT")
        );
        assert_eq!(
            app.text("fixture", "big", json!({ "size": 60_000 }))
                .await
                .len(),
            60_000
        );
    }
}

#[tokio::test]
async fn the_list_of_tools_has_an_etag() {
    let app = fixture(json!({})).await;
    let list = |etag: &str| {
        answer(
            app.http
                .get(format!("{}/mcp/tools", app.url))
                .header("if-none-match", etag),
        )
    };
    let first = app.get("/mcp/tools").await;
    let etag = first.headers["etag"].to_str().expect("a tag").to_owned();
    for known in [
        etag.clone(),
        format!("W/{etag}"),
        format!("\"other\", {etag}"),
        "*".into(),
    ] {
        let unchanged = list(&known).await;
        assert_eq!(
            (unchanged.status, &unchanged.body),
            (304, &json!("")),
            "{known}"
        );
        assert_eq!(unchanged.headers["etag"], etag);
    }
    list("\"other\"").await.ok();
    app.put("/mcp/servers/fixture/disable", json!({}))
        .await
        .ok();
    let changed = list(&etag).await;
    assert_ne!(changed.headers["etag"], etag);
    assert_eq!(changed.ok()["tools"], json!([]));
}

#[tokio::test]
async fn calls_to_one_server_run_side_by_side() {
    let app = fixture(json!({})).await;
    let began = Instant::now();
    let calls = (0..100).map(|_| app.call("default", "fixture", "sleep", json!({ "ms": 1000 })));
    join_all(calls)
        .await
        .into_iter()
        .for_each(|answer| drop(answer.ok()));
    let took = began.elapsed();
    assert!(
        took < Duration::from_secs(50),
        "one after the other they take 100 seconds; these took {took:?}"
    );
}

#[tokio::test]
async fn arguments_too_deep_for_a_server_do_not_reach_it() {
    let app = fixture(json!({})).await;
    let pid = app.pid_of("fixture").await;
    let nested = |levels: usize| format!("{}1{}", r#"{"a":"#.repeat(levels), "}".repeat(levels));
    let body = |levels| {
        format!(
            r#"{{"serverName":"fixture","methodName":"echo","args":{}}}"#,
            nested(levels)
        )
    };
    let post = |body: String| {
        let request = app.http.post(format!("{}/mcp/tool/call", app.url));
        answer(
            request
                .header("content-type", "application/json")
                .body(body),
        )
    };
    post(body(128)).await.ok();
    for levels in [129, 100_000] {
        assert!(
            post(body(levels))
                .await
                .fails(400, "invalid_request")
                .contains("nested")
        );
    }
    assert_eq!(app.pid_of("fixture").await, pid);
}

#[tokio::test]
async fn a_body_in_broken_chunks_is_invalid() {
    let app = App::start();
    let head =
        "POST /mcp/tool/call HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    let broken =
        format!("{head}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\nnot a length\r\n");
    let (status, _, body) = app.raw(&broken).await;
    assert_eq!(
        (status, &body["code"]),
        (400, &json!("invalid_request")),
        "{body}"
    );
}
