//! Real MCP servers: the tests register them by their commands and call them over HTTP.

mod github;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};

use crate::harness::{Answer, App, PATIENCE};
use crate::processes::{assert_no_process_left, left_of, signal};

/// An image of one pixel.
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

    // A single text block becomes a string, and `raw` returns the whole block.
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

    // A failure of the tool is a result.
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
    // The call waits until the server has started again.
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
async fn no_process_outlives_a_killed_program() {
    let mut app = App::start();
    // A shell between the worker and the server, as npx starts it.
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
    assert_no_process_left(app.dir.path());
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

/// Returns the fields that register an npm server.
fn node(package: &str) -> Value {
    let scope = if package == "mcp-github" {
        "@missionsquad"
    } else {
        "@modelcontextprotocol"
    };
    json!({ "command": "node", "args": [installed(&format!("npm/node_modules/{scope}/{package}/dist/index.js"))] })
}

/// Returns the fields that register mcp-server-time.
fn time() -> Value {
    json!({ "command": installed("python/bin/mcp-server-time"), "args": ["--local-timezone", "Etc/UTC"] })
}

/// Returns a file of the servers that `tests/services/install` installs.
pub fn installed(path: &str) -> PathBuf {
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

/// Returns the processes of a server without its guard.
fn children(app: &App, part: &str) -> Vec<(u32, String)> {
    let all = left_of(app.dir.path()).into_iter();
    all.filter(|(_, line)| line.contains(part) && !line.starts_with("mcp-api guard"))
        .collect()
}
