//! Servers that misbehave: each gives one clear error in time, and no error shows a credential.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::script::{Script, Seen, cut_off, session_of, stream};
use super::{installed, register};
use crate::harness::{App, fixture};
use crate::wait::wait_until;

const KEY: &str = "sk-live-0123456789";

/// Registers a server that does not connect and returns the reason. No reply and no log may show its key.
async fn refused(url: &str) -> String {
    refused_with(url, &[]).await
}

async fn refused_with(url: &str, env: &[(&str, &str)]) -> String {
    let app = App::start_with(env);
    let began = Instant::now();
    let fields = json!({ "startupTimeout": 8000, "headers": { "X-Api-Key": KEY, "Authorization": format!("Bearer {KEY}") } });
    let server = register(&app, "wrong", url, fields).await.ok()["server"].take();
    assert!(
        began.elapsed() < Duration::from_secs(40),
        "it took {:?}",
        began.elapsed()
    );
    assert_eq!(
        (&server["status"], &server["enabled"]),
        (&json!("error"), &json!(true)),
        "{server}"
    );
    assert!(!server.to_string().contains(KEY), "{server}");
    let failed = app.call("ana", "wrong", "echo", json!({})).await;
    assert!(!failed.body.to_string().contains(KEY), "{}", failed.body);
    assert!(failed.status >= 500, "{}", failed.body);
    assert!(!app.log().contains(KEY), "the log shows the key");
    server["error"].as_str().expect("a reason").to_owned()
}

/// Calls a tool of a server that is correct until then.
async fn failed(
    answering: impl Fn(&Seen) -> axum::response::Response + Send + Sync + 'static,
) -> (u16, Value) {
    let script =
        Script::start(move |seen| (seen.about() == "tools/call").then(|| answering(seen))).await;
    let app = App::start_with(&[("RESULT_LIMIT", "1mb")]);
    let headers = json!({ "headers": { "Authorization": format!("Bearer {KEY}") } });
    let server = register(&app, "wrong", &script.url, headers).await.ok()["server"].take();
    assert_eq!(server["status"], "connected", "{server}");
    let call =
        json!({ "serverName": "wrong", "methodName": "echo", "args": {}, "timeoutMs": 3000 });
    let began = Instant::now();
    let answer = app.post("/mcp/tool/call", call).await;
    assert!(
        began.elapsed() < Duration::from_secs(30),
        "it took {:?}",
        began.elapsed()
    );
    assert!(!answer.body.to_string().contains(KEY), "{}", answer.body);
    assert!(!app.log().contains(KEY), "the log shows the key");
    assert_eq!(script.times("tools/call"), 1, "the call was sent twice");
    (answer.status, answer.body)
}

#[tokio::test]
async fn a_redirect_to_another_host_is_not_followed() {
    let other = Script::start(|_| None).await;
    let to = other.url.clone();
    let script = Script::start(move |_| {
        Some((StatusCode::TEMPORARY_REDIRECT, [("location", to.clone())]).into_response())
    })
    .await;
    let error = refused(&script.url).await;
    assert!(error.contains("redirect"), "{error}");
    assert!(other.seen().is_empty(), "the redirect was followed");
}

#[tokio::test]
async fn a_redirect_within_the_origin_is_followed() {
    let script = Script::start(|seen| {
        (seen.path == "/mcp")
            .then(|| (StatusCode::TEMPORARY_REDIRECT, [("location", "/mcp/")]).into_response())
    })
    .await;
    let app = App::start();
    let server = register(&app, "script", &script.url, json!({})).await.ok();
    assert_eq!(server["server"]["status"], "connected");
    app.call("ana", "script", "echo", json!({})).await.ok();
    let round = Script::start(|_| {
        Some((StatusCode::TEMPORARY_REDIRECT, [("location", "/mcp")]).into_response())
    })
    .await;
    let error = refused(&round.url).await;
    assert!(error.contains("redirects more than"), "{error}");
}

#[tokio::test]
async fn a_certificate_that_has_expired() {
    let dir = tempfile::TempDir::new().expect("a folder");
    let made = Command::new(installed("python/bin/python"))
        .arg(fixture("expired.py"))
        .arg(dir.path())
        .output();
    let made = made.expect("python");
    assert!(made.status.success(), "{made:?}");
    let port = crate::services::free_port();
    let server = "s_server -quiet -www -cert cert.pem -key key.pem -accept";
    let mut server = Command::new("openssl")
        .current_dir(dir.path())
        .args(server.split(' '))
        .arg(format!("127.0.0.1:{port}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a server");
    wait_until("it listens", async || {
        std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
    })
    .await;
    let cert = dir.path().join("cert.pem").display().to_string();
    // The certificate is trusted and expired.
    let error = refused_with(
        &format!("https://127.0.0.1:{port}/mcp"),
        &[("SSL_CERT_FILE", &cert)],
    )
    .await;
    server.kill().expect("killed");
    server.wait().expect("ended");
    assert!(
        error.contains("certificate") && error.contains("expired"),
        "{error}"
    );
}

#[tokio::test]
async fn html_is_named_in_the_error() {
    let html = || {
        (
            [("content-type", "text/html; charset=utf-8")],
            "<h1>hello</h1>",
        )
            .into_response()
    };
    let script = Script::start(move |_| Some(html())).await;
    let error = refused(&script.url).await;
    assert!(error.contains("text/html"), "{error}");
    let (status, body) = failed(move |_| html()).await;
    assert_eq!(
        (status, &body["code"]),
        (502, &json!("upstream_error")),
        "{body}"
    );
    assert!(
        body["error"]
            .as_str()
            .expect("a sentence")
            .contains("text/html"),
        "{body}"
    );
}

#[tokio::test]
async fn a_stream_cut_in_the_middle_of_an_event() {
    let (status, body) = failed(|_| stream(cut_off("data: {\"jsonrpc\":\"2.0\",\"id\":"))).await;
    assert_eq!(
        (status, &body["code"], &body["mayHaveRun"]),
        (502, &json!("upstream_error"), &json!(true)),
        "{body}"
    );
    let (status, body) = failed(|_| {
        (
            [("content-type", "application/json")],
            cut_off("{\"jsonrpc\""),
        )
            .into_response()
    })
    .await;
    assert_eq!((status, &body["mayHaveRun"]), (502, &json!(true)), "{body}");
}

#[tokio::test]
async fn a_hundred_megabytes_are_too_large() {
    let endless = || {
        let chunk = "x".repeat(64 * 1024);
        let chunks = futures::stream::repeat_with(move || Ok::<_, std::io::Error>(chunk.clone()));
        Body::from_stream(futures::StreamExt::take(chunks, 1600))
    };
    let (status, body) =
        failed(move |_| ([("content-type", "application/json")], endless()).into_response()).await;
    assert_eq!(
        (status, &body["code"]),
        (502, &json!("result_too_large")),
        "{body}"
    );
    let (status, body) = failed(move |_| stream(endless())).await;
    assert_eq!(
        (status, &body["code"]),
        (502, &json!("result_too_large")),
        "{body}"
    );
}

#[tokio::test]
async fn endless_headers_time_out() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let url = format!("http://{}/mcp", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let mut sent = stream.write_all(b"HTTP/1.1 200 OK\r\n").await;
                while sent.is_ok() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    sent = stream.write_all(b"x-more: and more\r\n").await;
                }
            });
        }
    });
    let error = refused(&url).await;
    assert!(
        error.contains("startupTimeout") || error.contains("header"),
        "{error}"
    );
}

#[tokio::test]
async fn a_refusal_is_named_with_its_status() {
    for (status, wanted) in [(401, "HTTP 401"), (500, "HTTP 500"), (202, "202")] {
        let script = Script::start(move |_| {
            Some(
                StatusCode::from_u16(status)
                    .expect("a status")
                    .into_response(),
            )
        })
        .await;
        let error = refused(&script.url).await;
        assert!(error.contains(wanted), "{error}");
    }
    let error = refused("http://127.0.0.1:9/mcp").await;
    assert!(error.contains("refused"), "{error}");
}

#[tokio::test]
async fn credentials_that_a_server_repeats_are_hidden() {
    let (_, body) = failed(|seen| {
        let said = format!(
            "bad token {}",
            seen.header("authorization").expect("a token")
        );
        let bare = said.replace("Bearer ", "");
        let error = json!({ "code": -32000, "message": said, "data": { "token": bare } });
        axum::Json(json!({ "jsonrpc": "2.0", "id": seen.body["id"], "error": error }))
            .into_response()
    })
    .await;
    assert!(
        body["error"].as_str().expect("a sentence").contains("***"),
        "{body}"
    );
}

#[tokio::test]
async fn an_endpoint_of_another_origin_is_refused() {
    let script = Script::start(|seen| {
        Some(match seen.about() {
            "GET" => stream("event: endpoint\ndata: http://127.0.0.1:9/message\n\n"),
            _ => StatusCode::NOT_FOUND.into_response(),
        })
    })
    .await;
    let error = refused(&script.url).await;
    assert!(error.contains("another origin"), "{error}");
}

#[tokio::test]
async fn a_refusal_of_2026_07_28_leads_to_no_older_protocol() {
    let script = Script::start(|seen| {
        let error = json!({ "jsonrpc": "2.0", "id": seen.body["id"], "error": { "code": -32022, "message": "too old", "data": { "supported": ["2027-01-01"] } } });
        Some((StatusCode::BAD_REQUEST, axum::Json(error)).into_response())
    })
    .await;
    let error = refused(&script.url).await;
    assert!(error.contains("too old"), "{error}");
    assert_eq!(script.times("GET"), 0, "it was asked for an event stream");
}

#[tokio::test]
async fn a_server_that_forgets_its_sessions_is_asked_after_longer_and_longer_pauses() {
    let opened = Arc::new(Mutex::new(Vec::new()));
    let times = opened.clone();
    let forgotten = AtomicUsize::new(0);
    let script = Script::start(move |seen| {
        if seen.about() == "initialize" {
            let mut times = times.lock();
            times.push(Instant::now());
            return Some(session_of(seen, times.len()));
        }
        let session = seen.header("mcp-session-id")?.parse();
        let session = session.expect("a number");
        // The program opens this stream without a call.
        if seen.about() == "GET" {
            forgotten.fetch_max(session, Ordering::SeqCst);
        }
        let is_forgotten = session <= forgotten.load(Ordering::SeqCst);
        is_forgotten.then(|| StatusCode::NOT_FOUND.into_response())
    })
    .await;
    let app = App::start();
    register(&app, "forgetful", &script.url, json!({}))
        .await
        .ok();
    wait_until("five sessions", async || opened.lock().len() >= 5).await;
    let times = opened.lock().clone();
    let took = times[4] - times[0];
    assert!(took > Duration::from_secs(2), "five sessions in {took:?}");
    let events = app.happened().await;
    let recorded = events
        .iter()
        .filter(|event| event.starts_with("server.session_opened"));
    assert!(recorded.count() <= 1, "{events:?}");
}
