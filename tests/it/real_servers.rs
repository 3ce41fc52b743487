//! Real MCP servers, registered by their commands and called through HTTP.

use std::fs;
use std::future::IntoFuture;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use serde_json::{Value, json};

use crate::harness::{Answer, App, PATIENCE, fixture};
use crate::processes::{assert_nobody_left, left_of, signal};

/// One pixel.
const PNG: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==";

#[tokio::test]
async fn everything_gives_each_user_their_own_secret() {
    let app = App::start();
    register(&app, "everything", &node("server-everything"))
        .await
        .ok();
    app.set_secret("ana", "everything", "message", "ana's own")
        .await;
    app.set_secret("ben", "everything", "message", "ben's own")
        .await;
    for (user, said) in [
        ("ana", "ana's own"),
        ("ben", "ben's own"),
        ("cem", "from the caller"),
    ] {
        let answer = app
            .call(
                user,
                "everything",
                "echo",
                json!({ "message": "from the caller" }),
            )
            .await
            .ok();
        let said = format!("Echo: {said}");
        assert_eq!(
            answer["data"],
            json!({ "content": said, "contentType": "text/plain", "isError": false })
        );
    }
}

#[tokio::test]
async fn everything_sees_nothing_of_the_hosts_environment() {
    let planted = [
        ("SECRETS_KEY", "the key of the deployment"),
        ("PLANTED", "by the host"),
    ];
    let app = App::start_with(&planted);
    let mut server = node("server-everything");
    server["env"] = json!({ "OWN": "of the server" });
    register(&app, "everything", &server).await.ok();
    let answer = app
        .call("ana", "everything", "get-env", json!({}))
        .await
        .ok();
    let seen: Value =
        serde_json::from_str(answer["data"]["content"].as_str().expect("text")).expect("JSON");
    let seen = seen.as_object().expect("an object");
    assert_eq!(seen["OWN"], "of the server");
    let allowed = ["OWN", "PATH", "HOME", "USER", "LANG", "TMPDIR"];
    let foreign: Vec<_> = seen
        .keys()
        .filter(|name| !allowed.contains(&name.as_str()))
        .collect();
    assert!(foreign.is_empty(), "the server sees {foreign:?}");
}

#[tokio::test]
async fn everything_answers_in_every_shape() {
    let app = App::start();
    register(&app, "everything", &node("server-everything"))
        .await
        .ok();

    let weather = json!({ "temperature": 33, "conditions": "Cloudy", "humidity": 82 });
    let answer = app
        .call(
            "ana",
            "everything",
            "get-structured-content",
            json!({ "location": "New York" }),
        )
        .await
        .ok();
    assert_eq!(answer["data"]["structuredContent"], weather);
    assert_eq!(answer["data"]["contentType"], "text/plain");
    let text = answer["data"]["content"]
        .as_str()
        .expect("the block's text");
    assert_eq!(serde_json::from_str::<Value>(text).expect("JSON"), weather);

    let args = json!({ "messageType": "error", "includeImage": true });
    let data = app
        .call("ana", "everything", "get-annotated-message", args)
        .await
        .ok()["data"]
        .take();
    assert_eq!(data["contentType"], "application/json");
    assert_eq!(
        data["content"][0]["annotations"],
        json!({ "priority": 1, "audience": ["user", "assistant"] })
    );
    assert_eq!(
        (&data["content"][1]["type"], &data["content"][1]["mimeType"]),
        (&json!("image"), &json!("image/png"))
    );

    // One annotated text is its string; `raw` gives the whole block.
    let call = json!({ "serverName": "everything", "methodName": "get-annotated-message",
        "args": { "messageType": "debug" }, "raw": true });
    let raw = app.post("/mcp/tool/call", call).await.ok();
    assert_eq!(
        raw["data"]["content"][0]["annotations"],
        json!({ "priority": 0.3, "audience": ["assistant"] })
    );

    let unknown = app
        .call("ana", "everything", "no-such-tool", json!({}))
        .await
        .ok();
    assert_eq!(unknown["data"]["isError"], true);
    assert!(
        unknown["data"]["content"]
            .as_str()
            .expect("a reason")
            .contains("no-such-tool"),
        "{unknown}"
    );
}

#[tokio::test]
async fn everything_keeps_a_long_call_alive_by_progress() {
    let app = App::start();
    let mut server = node("server-everything");
    server["toolTimeout"] = json!(2000);
    register(&app, "strict", &server).await.ok();
    server["resetTimeoutOnProgress"] = json!(true);
    register(&app, "patient", &server).await.ok();
    let operation = json!({ "duration": 4, "steps": 8 });
    let (strict, patient) = tokio::join!(
        app.call(
            "ana",
            "strict",
            "trigger-long-running-operation",
            operation.clone()
        ),
        app.call(
            "ana",
            "patient",
            "trigger-long-running-operation",
            operation.clone()
        ),
    );
    strict.fails(504, "timeout");
    let said = "Long running operation completed. Duration: 4 seconds, Steps: 8.";
    assert_eq!(patient.ok()["data"]["content"], said);
}

#[tokio::test]
async fn filesystem_writes_and_reads() {
    let app = App::start();
    let folder = app
        .dir
        .path()
        .canonicalize()
        .expect("a folder")
        .join("shared");
    fs::create_dir(&folder).expect("a folder");
    let path = |name: &str| folder.join(name).display().to_string();
    let mut server = node("server-filesystem");
    server["args"]
        .as_array_mut()
        .expect("arguments")
        .push(json!(folder));
    register(&app, "files", &server).await.ok();

    let text = "first line\nsecond \"line\", naïve ☕\n";
    app.call(
        "ana",
        "files",
        "write_file",
        json!({ "path": path("note.txt"), "content": text }),
    )
    .await
    .ok();
    assert_eq!(
        fs::read_to_string(path("note.txt")).expect("the file"),
        text
    );
    let answer = app
        .call(
            "ben",
            "files",
            "read_text_file",
            json!({ "path": path("note.txt") }),
        )
        .await
        .ok();
    assert_eq!(
        (&answer["data"]["content"], &answer["data"]["isError"]),
        (&json!(text), &json!(false))
    );

    // A tool's own failure is an answer.
    let outside = app
        .call(
            "ana",
            "files",
            "read_text_file",
            json!({ "path": "/etc/hostname" }),
        )
        .await
        .ok();
    assert_eq!(outside["data"]["isError"], true);
    assert!(
        outside["data"]["content"]
            .as_str()
            .expect("a reason")
            .starts_with("Access denied"),
        "{outside}"
    );

    use base64::prelude::{BASE64_STANDARD, Engine};
    fs::write(
        path("dot.png"),
        BASE64_STANDARD.decode(PNG).expect("base64"),
    )
    .expect("a file");
    let image = app
        .call(
            "ana",
            "files",
            "read_media_file",
            json!({ "path": path("dot.png") }),
        )
        .await
        .ok();
    assert_eq!(
        (&image["data"]["content"], &image["data"]["contentType"]),
        (&json!(PNG), &json!("image/png"))
    );
}

#[tokio::test]
async fn memory_survives_the_end_of_its_process() {
    let app = App::start();
    let mut server = node("server-memory");
    server["env"] = json!({ "MEMORY_FILE_PATH": app.dir.path().join("memory.jsonl") });
    register(&app, "memory", &server).await.ok();
    let entity = json!({ "name": "Ada", "entityType": "person", "observations": ["wrote the first program"] });
    app.call(
        "ana",
        "memory",
        "create_entities",
        json!({ "entities": [entity] }),
    )
    .await
    .ok();

    let process = || children(&app, "server-memory").pop().map(|(pid, _)| pid);
    let first = process().expect("a process");
    signal(first, "KILL");
    let until = Instant::now() + PATIENCE;
    while process().is_none_or(|pid| pid == first) {
        assert!(Instant::now() < until, "the server was not restarted");
        tokio::task::yield_now().await;
    }
    let graph = app
        .call("ben", "memory", "read_graph", json!({}))
        .await
        .ok();
    assert_eq!(
        graph["data"]["structuredContent"],
        json!({ "entities": [entity], "relations": [] })
    );
    assert_eq!(
        app.get("/mcp/servers/memory").await.ok()["server"]["status"],
        "connected"
    );
}

#[tokio::test]
async fn time_is_converted() {
    let app = App::start();
    register(&app, "time", &time()).await.ok();
    let args = json!({ "source_timezone": "Asia/Tokyo", "time": "12:30", "target_timezone": "Asia/Kolkata" });
    let answer = app.call("ana", "time", "convert_time", args).await.ok();
    let said = answer["data"]["content"].as_str().expect("text");
    assert!(
        said.contains("T09:00:00+05:30") && said.contains("-3.5h"),
        "{said}"
    );
}

#[tokio::test]
async fn github_gets_each_users_own_token() {
    let (recorder, seen) = recorder().await;
    let app = App::start();
    let mut server = node("mcp-github");
    server["env"] = json!({ "NODE_OPTIONS": format!("--require={}", fixture("github.cjs")), "GITHUB_RECORDER": recorder });
    register(&app, "github", &server).await.ok();
    let tools = app.get("/mcp/tools").await.ok();
    let tools = tools["tools"][0]["github"].as_array().expect("tools");
    let create = tools
        .iter()
        .find(|tool| tool["name"] == "create_issue")
        .expect("create_issue");
    let schema = &create["inputSchema"];
    assert_eq!(schema["additionalProperties"], false);
    assert!(
        schema["properties"].get("github_pat").is_none(),
        "the key is hidden: {schema}"
    );

    let issue = |title: String| json!({ "owner": "acme", "repo": "site", "title": title });
    let refused = app
        .call("cem", "github", "create_issue", issue("of cem".into()))
        .await;
    let sentence = refused.fails(502, "upstream_error");
    assert!(sentence.contains("GitHub PAT is required"), "{sentence}");

    for user in ["ana", "ben"] {
        app.set_secret(user, "github", "github_pat", &format!("ghp_of-{user}"))
            .await;
    }
    // Side by side, so that a mix-up would show.
    let users = ["ana", "ben"].iter().cycle().take(24).enumerate();
    let calls = users
        .map(|(n, user)| app.call(user, "github", "create_issue", issue(format!("{user} {n}"))));
    for answer in futures::future::join_all(calls).await {
        let answer = answer.ok();
        assert_eq!(answer["data"]["isError"], false, "{answer}");
    }
    let seen = seen.lock().expect("the records");
    assert_eq!(seen.len(), 24);
    for Seen { line, token, body } in seen.iter() {
        assert_eq!(line, "POST /repos/acme/site/issues");
        let title = body["title"].as_str().expect("a title");
        let user = title.split(' ').next().expect("a user");
        assert_eq!(*token, format!("Bearer ghp_of-{user}"), "for {title}");
        assert!(body.get("github_pat").is_none(), "{body}");
    }
    assert!(!app.log().contains("ghp_of-"), "a token stands in the log");
}

#[tokio::test]
async fn a_killed_program_comes_back_with_its_servers_and_secrets() {
    let mut app = App::embedded();
    register(&app, "everything", &node("server-everything"))
        .await
        .ok();
    app.set_secret("ana", "everything", "message", "kept-for-ana")
        .await;
    app.kill_and_restart();
    let echo = async |app: &App| {
        app.call("ana", "everything", "echo", json!({ "message": "x" }))
            .await
    };
    // The call waits for the server, which starts anew.
    assert_eq!(
        echo(&app).await.ok()["data"]["content"],
        "Echo: kept-for-ana"
    );
    app.until("/mcp/servers/everything", |body| {
        body["server"]["status"] == "connected"
    })
    .await;

    app.put("/mcp/servers/everything/disable", json!({}))
        .await
        .ok();
    echo(&app).await.fails(409, "server_disabled");
    assert!(
        children(&app, "server-everything").is_empty(),
        "a disabled server still runs"
    );
    app.put("/mcp/servers/everything/enable", json!({}))
        .await
        .ok();
    assert_eq!(
        echo(&app).await.ok()["data"]["content"],
        "Echo: kept-for-ana"
    );
    app.delete("/mcp/servers/everything").await.ok();
    echo(&app).await.fails(404, "server_not_found");
    register(&app, "everything", &node("server-everything"))
        .await
        .ok();
    assert_eq!(
        echo(&app).await.ok()["data"]["content"],
        "Echo: x",
        "a secret outlived its server"
    );

    assert_eq!(app.terminate().code(), Some(0));
    for file in fs::read_dir(app.data()).expect("the folder").flatten() {
        let bytes = fs::read(file.path()).expect("a file");
        assert!(
            !String::from_utf8_lossy(&bytes).contains("kept-for-ana"),
            "{} has the secret",
            file.path().display()
        );
    }
}

#[tokio::test]
async fn nobody_outlives_a_killed_program() {
    let mut app = App::start();
    // As npx does: a shell between us and the server.
    let mut server = node("server-everything");
    let script = format!(
        "node {}; exit $?",
        server["args"][0].as_str().expect("a path")
    );
    (server["command"], server["args"]) = (json!("sh"), json!(["-c", script]));
    register(&app, "everything", &server).await.ok();
    assert_eq!(
        app.call("ana", "everything", "echo", json!({ "message": "x" }))
            .await
            .ok()["data"]["content"],
        "Echo: x"
    );
    let running = children(&app, "server-everything");
    for program in ["sh -c", "node /"] {
        assert!(
            running.iter().any(|(_, line)| line.starts_with(program)),
            "{program} is not in {running:?}"
        );
    }
    app.kill();
    assert_nobody_left(app.dir.path());
}

#[tokio::test]
async fn the_tools_of_all_are_listed() {
    let app = App::start();
    let mut files = node("server-filesystem");
    files["args"]
        .as_array_mut()
        .expect("arguments")
        .push(json!(app.dir.path()));
    let all = [
        (
            "everything",
            node("server-everything"),
            "get-structured-content",
        ),
        ("files", files, "read_text_file"),
        ("github", node("mcp-github"), "create_issue"),
        ("memory", node("server-memory"), "read_graph"),
        ("time", time(), "convert_time"),
    ];
    let registered = all
        .iter()
        .map(|(name, server, _)| register(&app, name, server));
    for answer in futures::future::join_all(registered).await {
        answer.ok();
    }
    let listed = app.get("/mcp/tools").await;
    assert!(listed.headers.contains_key("etag"), "{:?}", listed.headers);
    let listed = listed.ok();
    let listed = listed["tools"].as_array().expect("one object a server");
    assert_eq!(listed.len(), all.len());
    for (name, _, tool) in all {
        let tools = listed
            .iter()
            .find_map(|server| server[name].as_array())
            .expect(name);
        assert!(
            tools.iter().any(|listed| listed["name"] == tool),
            "{tool} of {name} is not listed"
        );
    }
}

/// The fields that register a server of npm.
fn node(package: &str) -> Value {
    let scope = if package == "mcp-github" {
        "@missionsquad"
    } else {
        "@modelcontextprotocol"
    };
    json!({ "command": "node", "args": [installed(&format!("npm/node_modules/{scope}/{package}/dist/index.js"))] })
}

/// The fields that register mcp-server-time.
fn time() -> Value {
    json!({ "command": installed("python/bin/mcp-server-time"), "args": ["--local-timezone", "Etc/UTC"] })
}

fn installed(path: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/services")
        .join(path);
    assert!(
        path.exists(),
        "run ./tests/run once: it installs the real MCP servers, and {} is missing",
        path.display()
    );
    path
}

/// Registers a server that must connect.
async fn register(app: &App, name: &str, fields: &Value) -> Answer {
    let mut body = fields.clone();
    body["name"] = json!(name);
    let answer = app.post("/mcp/servers", body).await;
    assert_eq!(
        answer.body["server"]["status"], "connected",
        "{name}: {}",
        answer.body
    );
    answer
}

/// The processes of a server, its guard left out.
fn children(app: &App, part: &str) -> Vec<(u32, String)> {
    let all = left_of(app.dir.path()).into_iter();
    all.filter(|(_, line)| line.contains(part) && !line.starts_with("mcp-api guard"))
        .collect()
}

/// What GitHub would have got.
struct Seen {
    line: String,
    token: String,
    body: Value,
}

type Records = Arc<Mutex<Vec<Seen>>>;

/// An HTTP server that writes down what it is told and answers like GitHub to a new issue.
async fn recorder() -> (String, Records) {
    let records = Records::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    let router = Router::new().fallback(record).with_state(records.clone());
    tokio::spawn(axum::serve(listener, router).into_future());
    (url, records)
}

async fn record(
    State(records): State<Records>,
    request: Request,
) -> (StatusCode, axum::Json<Value>) {
    let (parts, body) = request.into_parts();
    let token = parts
        .headers
        .get(header::AUTHORIZATION)
        .and_then(|token| token.to_str().ok())
        .unwrap_or_default();
    let body = axum::body::to_bytes(body, 1 << 20).await.expect("a body");
    let body = serde_json::from_slice(&body).unwrap_or_default();
    let line = format!("{} {}", parts.method, parts.uri.path());
    records.lock().expect("the records").push(Seen {
        line,
        token: token.into(),
        body,
    });
    (StatusCode::CREATED, axum::Json(json!({ "number": 1 })))
}
