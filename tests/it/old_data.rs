//! Tests that this program reads the data of an earlier program, answers as that program did, and goes on with the
//! data. `fixtures/old_data/README.md` says how the data were made, and which values the tests do not compare.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use mongodb::bson::Document;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Answer, App, answer};
use crate::process::{Services, command, owned};
use crate::remote::script::Script;

const SECRETS_KEY: &str = "the passphrase of the old data";
/// 2100-01-01, the expiry of answers and keys in the data. Jobs that end in this test expire earlier.
const FAR: u64 = 4_102_444_800_000;
const ZOE: &str = "zoë@example.com";

/// An event type that had another name when the data were written.
struct Renamed {
    old: &'static str,
    new: &'static str,
    /// The new subject, if the subject changed too.
    subject: Option<&'static str>,
    /// The old and the new name of a field of `data`, if a field changed.
    field: Option<(&'static str, &'static str)>,
}

/// All renamed event types. The data contain the old names, and `GET /events` shows the new names.
const RENAMED: &[Renamed] = &[
    Renamed {
        old: "server.era_found",
        new: "server.protocol_detected",
        subject: None,
        field: Some(("era", "protocol")),
    },
    Renamed {
        old: "grant.refreshing",
        new: "grant.refresh_started",
        subject: None,
        field: None,
    },
    Renamed {
        old: "grant.not_refreshed",
        new: "grant.refresh_failed",
        subject: None,
        field: None,
    },
    Renamed {
        old: "job.returned",
        new: "job.requeued",
        subject: None,
        field: None,
    },
    Renamed {
        old: "job.forgotten",
        new: "job.expired",
        subject: None,
        field: None,
    },
    Renamed {
        old: "dead.kept",
        new: "dead_letter.stored",
        subject: Some("dead_letters"),
        field: None,
    },
    Renamed {
        old: "dead.dropped",
        new: "dead_letter.removed",
        subject: Some("dead_letters"),
        field: None,
    },
    Renamed {
        old: "request.kept",
        new: "idempotency.recorded",
        subject: Some("idempotency"),
        field: None,
    },
    Renamed {
        old: "request.forgotten",
        new: "idempotency.expired",
        subject: Some("idempotency"),
        field: None,
    },
];

/// Fields of `data` that the earlier program showed and this program hides, because they are ids of sealed values or
/// digests of keys.
const HIDDEN: &[(&str, &[&str])] = &[
    ("server.session_opened", &["/value"]),
    ("server.session_ended", &["/value"]),
    ("grant.stored", &["/tokens/access", "/tokens/renewal"]),
    ("grant.refreshed", &["/tokens/access", "/tokens/renewal"]),
    ("grant.refresh_started", &["/access"]),
    ("grant.refresh_failed", &["/access"]),
    ("package.installed", &["/package/recipe/lock"]),
    ("package.upgraded", &["/package/recipe/lock"]),
    ("dead_letter.stored", &["/letter"]),
    ("dead_letter.removed", &["/letters"]),
    ("idempotency.recorded", &["/scope", "/body"]),
    ("idempotency.expired", &["/scopes"]),
];

/// Fields that show the present moment.
const LIVE: &[&str] = &["status", "logs", "error", "details"];

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/it/fixtures/old_data")
        .join(name)
}

fn saved(name: &str) -> Vec<Value> {
    let file = File::open(fixture("expected").join(name)).expect("a fixture");
    serde_json::from_reader(BufReader::new(file)).expect("JSON")
}

/// Returns the saved event in the form that this program shows.
fn current_form(event: Value) -> Value {
    let mut event = renamed(event);
    let hidden = HIDDEN.iter().find(|(name, _)| event["type"] == *name);
    for pointer in hidden.map_or(&[][..], |(_, pointers)| *pointers) {
        let (parent, field) = pointer.rsplit_once('/').expect("a pointer");
        let parent = event["data"].pointer_mut(parent).expect("an object");
        parent
            .as_object_mut()
            .expect("an object")
            .remove(field)
            .expect("the field");
    }
    let headers = event["data"].pointer_mut("/config/headers");
    for header in headers
        .and_then(Value::as_object_mut)
        .into_iter()
        .flat_map(|headers| headers.values_mut())
    {
        if header.is_object() {
            *header = json!("***");
        }
    }
    event
}

/// Returns the event with its current type, subject and field names.
fn renamed(mut event: Value) -> Value {
    let Some(renamed) = RENAMED.iter().find(|renamed| event["type"] == renamed.old) else {
        return event;
    };
    event["type"] = json!(renamed.new);
    if let Some(subject) = renamed.subject {
        event["subject"] = json!(subject);
    }
    if let Some((old, new)) = renamed.field {
        let data = event["data"].as_object_mut().expect("data");
        let value = data.remove(old).expect("the field");
        data.insert(new.into(), value);
    }
    event
}

/// Returns the body without the values that the tests do not compare.
fn masked(mut body: Value) -> Value {
    for field in ["server", "package", "job"] {
        if let Some(one) = body.get_mut(field) {
            mask(one);
        }
    }
    for field in ["servers", "packages", "jobs"] {
        if let Some(all) = body.get_mut(field).and_then(Value::as_array_mut) {
            all.iter_mut().for_each(mask);
        }
    }
    body
}

fn mask(one: &mut Value) {
    let ended_before = one["expires"] == FAR;
    let is_stored = ended_before && one["state"] != "cancelled" && one["state"] != "unknown";
    let fields = one.as_object_mut().expect("an object");
    fields.retain(|field, _| !LIVE.contains(&field.as_str()));
    if !ended_before {
        fields.retain(|field, _| field != "expires" && field != "attempts");
    }
    // Only a stored sentence is compared. This program makes the other sentences.
    if !is_stored
        && let Some(body) = one
            .pointer_mut("/answer/body")
            .and_then(Value::as_object_mut)
    {
        body.remove("error");
    }
}

/// Starts a proxy that connects every tunnel to one address, and returns the URL of the proxy.
async fn start_proxy(to: SocketAddr) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(tunnel(client, to));
        }
    });
    format!("http://{address}")
}

async fn tunnel(mut client: TcpStream, to: SocketAddr) -> io::Result<()> {
    let mut head = vec![];
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    let mut server = TcpStream::connect(to).await?;
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}

/// The server behind `tools.example.com`, and the variables of the program.
struct Surroundings {
    script: Script,
    env: Vec<(String, String)>,
}

impl Surroundings {
    async fn start() -> Self {
        let script = Script::start(|_| None).await;
        let address = script
            .url
            .trim_start_matches("http://")
            .trim_end_matches("/mcp")
            .parse()
            .expect("an address");
        let proxy = start_proxy(address).await;
        // Without Python, the stored installation job fails before it asks a package index.
        let env = [
            ("SECRETS_KEY", SECRETS_KEY),
            ("PYTHON_BIN", "no-such-python"),
            ("HTTP_PROXY", &proxy),
        ];
        let env = owned(&env);
        Self { script, env }
    }

    fn env(&self) -> Vec<(&str, &str)> {
        self.env
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect()
    }
}

/// Unpacks `stores.tar.gz` and returns the folder: `data` is a `DATA_DIR`, `mongo` holds the dumped collections.
fn unpack() -> TempDir {
    let dir = TempDir::new().expect("a temporary folder");
    let status = Command::new("tar")
        .arg("-xzf")
        .arg(fixture("stores.tar.gz"))
        .current_dir(dir.path())
        .status();
    assert!(status.expect("tar").success());
    dir
}

/// Loads the dumped collections into the database.
async fn load_dump(dump: &Path, url: &str) {
    let client = mongodb::Client::with_uri_str(url).await.expect("a client");
    let database = client.default_database().expect("a database");
    for entry in fs::read_dir(dump).expect("a dump") {
        let path = entry.expect("a file").path();
        let mut file = BufReader::new(File::open(&path).expect("a dump"));
        let mut documents = vec![];
        while !file.fill_buf().expect("a dump").is_empty() {
            documents.push(Document::from_reader(&mut file).expect("a document"));
        }
        let name = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .expect("a name");
        database
            .collection::<Document>(name)
            .insert_many(documents)
            .await
            .expect("inserted");
    }
}

/// Checks every saved answer. Jobs that the earlier program left running need a moment to end.
async fn check_answers(app: &App) {
    let data = app.data().display().to_string();
    for saved in saved("answers.json") {
        let path = saved["path"].as_str().expect("a path");
        // The earlier program showed this header. This program hides all headers but a few harmless ones.
        let body = saved["body"].to_string();
        let body = body.replace(r#""X-Team":"blue""#, r#""X-Team":"***""#);
        let expected = masked(serde_json::from_str(&body).expect("JSON"));
        let is_expected = |body: &Value| {
            let body = body.to_string().replace(&data, "DATA_DIR");
            masked(serde_json::from_str(&body).expect("JSON")) == expected
        };
        app.until(path, is_expected).await;
    }
}

/// Checks that the log begins with the saved events.
async fn check_events(app: &App) {
    let mut page = app.get("/events?limit=1000&after=0.0").await.ok();
    let mut found = page["events"]
        .as_array_mut()
        .map(std::mem::take)
        .expect("events");
    let expected: Vec<_> = saved("events.json").into_iter().map(current_form).collect();
    found.truncate(expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.len(), expected.len());
    if let Some(Renamed {
        new,
        subject: Some(subject),
        ..
    }) = RENAMED.iter().find(|renamed| renamed.subject.is_some())
    {
        let some = app
            .get(&format!("/events?limit=1000&after=0.0&subject={subject}"))
            .await
            .ok();
        assert!(
            some["events"]
                .as_array()
                .expect("events")
                .iter()
                .any(|event| event["type"] == *new),
            "{some}"
        );
    }
}

/// Returns the arguments that the tool received.
async fn arguments(app: &App, user: &str, server: &str) -> Value {
    let answer = app.call(user, server, "arguments", json!({})).await.ok();
    serde_json::from_str(answer["data"]["content"].as_str().expect("a text")).expect("JSON")
}

/// Checks that the program opens the sealed values: secrets, Google tokens, headers and access tokens.
async fn check_sealed_values(app: &App, script: &Script) {
    let ana = json!({ "token": "the secret of ana", "second": "another secret of ana" });
    assert_eq!(arguments(app, "ana", "notes").await, ana);
    assert_eq!(
        arguments(app, ZOE, "notes").await,
        json!({ "token": "the secret of zoë" })
    );
    assert_eq!(arguments(app, "ben", "notes").await, json!({}));
    let google = json!({ "userCredentials": { "access_token": "google-access-of-code-of-zoe" } });
    assert_eq!(arguments(app, ZOE, "calendar").await, google);
    let keys = app.get("/keys").await.ok();
    assert_eq!(
        (&keys["unreadable"], &keys["earlier"]),
        (&json!(0), &json!(0)),
        "{keys}"
    );

    for (user, token) in [
        ("default", "Bearer access-of-all"),
        ("ana", "Bearer refreshed-of-ana"),
    ] {
        app.call(user, "remote", "echo", json!({})).await.ok();
        let call = script
            .seen()
            .into_iter()
            .rfind(|seen| seen.about() == "tools/call")
            .expect("a call");
        let sent = ["authorization", "x-api-key", "x-team"]
            .map(|name| call.header(name).map(str::to_owned));
        assert_eq!(
            sent,
            [token, "the sealed header", "blue"].map(|value| Some(value.to_owned()))
        );
    }
    app.call(ZOE, "remote", "echo", json!({}))
        .await
        .fails(401, "reauth_required");
}

/// Checks that the program resumed the stored session of the server behind a URL.
fn check_session(script: &Script) {
    let answers = saved("answers.json");
    let remote = answers
        .iter()
        .find(|answer| answer["path"] == "/mcp/servers/remote")
        .expect("a server");
    let session = remote["body"]["server"]["sessionId"]
        .as_str()
        .expect("a session");
    let seen = script.seen();
    let first = seen
        .iter()
        .find(|seen| seen.about() == "tools/list")
        .expect("a request");
    assert_eq!(first.header("mcp-session-id"), Some(session), "{first:?}");
    assert_eq!(script.times("initialize"), 0);
}

/// Checks that repeated requests with an `Idempotency-Key` get their stored answers and change nothing.
async fn repeat_requests(app: &App) {
    let before = count_executions(app).await;
    for repeat in saved("repeats.json") {
        let send = async |body: &str| -> Answer {
            let text = |field: &str| repeat[field].as_str().expect("a text");
            let method: Method = text("method").parse().expect("a method");
            let mut request = app
                .http
                .request(method, format!("{}{}", app.url, text("path")));
            for (name, value) in repeat["headers"].as_object().expect("headers") {
                request = request.header(name, value.as_str().expect("a text"));
            }
            answer(request.body(body.to_owned())).await
        };
        let body = repeat["body"].as_str().expect("a text");
        let again = send(body).await;
        assert_eq!(json!(again.status), repeat["status"], "{}", again.body);
        assert_eq!(
            masked(again.body),
            masked(repeat["answer"].clone()),
            "{repeat}"
        );
        send(&format!("{body} ")).await.fails(409, "conflict");
    }
    assert_eq!(
        count_executions(app).await,
        before,
        "a repeat has changed something"
    );
}

/// Returns how many servers and secrets were stored, and how many jobs user `ana` has.
async fn count_executions(app: &App) -> (usize, usize) {
    let events = app.happened().await;
    let changes = events
        .iter()
        .filter(|line| line.starts_with("server.registered") || line.starts_with("secret.set"));
    let jobs = app.get("/jobs?username=ana").await.ok();
    (
        changes.count(),
        jobs["jobs"].as_array().expect("jobs").len(),
    )
}

/// Changes and removes stored data.
async fn change_data(app: &App) {
    app.set_secret("ana", "notes", "token", "a new value").await;
    app.set_secret(ZOE, "notes", "third", "another value").await;
    let gone = json!({ "username": "ana", "serverName": "notes", "secretName": "second" });
    app.post("/secrets/delete", gone).await.ok();
    app.register_fixture("fresh").await.ok();
    assert_eq!(
        app.text("fresh", "echo", json!({ "message": "hi" })).await,
        "hi"
    );
    app.put("/mcp/servers/notes", json!({ "toolTimeout": 20_000 }))
        .await
        .ok();
    app.delete("/mcp/servers/off").await.ok();
    app.put("/mcp/servers/each/disable", json!({})).await.ok();
    app.delete("/packages/packed").await.ok();
    let letters = app.get("/dead").await.ok();
    let letter = format!(
        "/dead/{}",
        letters["letters"][0]["letter"].as_str().expect("a letter")
    );
    // The program opens the letter and still cannot parse the message.
    app.post(&format!("{letter}/retry"), json!({}))
        .await
        .fails(400, "invalid_request");
    app.delete(&letter).await.ok();
    check_changes(app).await;
}

/// Checks the changes of [`change_data`].
async fn check_changes(app: &App) {
    app.until("/readyz", |body| body["success"] == true).await;
    app.until("/mcp/servers/notes", |body| {
        body["server"]["status"] == "connected"
    })
    .await;
    assert_eq!(
        arguments(app, "ana", "notes").await,
        json!({ "token": "a new value" })
    );
    let zoe = json!({ "token": "the secret of zoë", "third": "another value" });
    assert_eq!(arguments(app, ZOE, "notes").await, zoe);
    assert_eq!(app.get("/dead").await.ok()["letters"], json!([]));
    assert_eq!(app.get("/packages").await.ok()["packages"], json!([]));
    assert_eq!(app.server("notes").await["toolTimeout"], 20_000);
    app.get("/mcp/servers/off")
        .await
        .fails(404, "server_not_found");
    app.until("/mcp/servers/fresh", |body| {
        body["server"]["status"] == "connected"
    })
    .await;
    check_events(app).await;
}

async fn check_program(app: &App, script: &Script) {
    app.until("/readyz", |body| body["success"] == true).await;
    check_answers(app).await;
    check_events(app).await;
    check_session(script);
    check_sealed_values(app, script).await;
    repeat_requests(app).await;
    change_data(app).await;
}

#[tokio::test]
async fn a_data_folder_of_an_earlier_program_stays_usable() {
    let surroundings = Surroundings::start().await;
    let mut app = App::start_in(unpack(), None, 0, &surroundings.env());
    check_program(&app, &surroundings.script).await;
    app.terminate();
    app.restart();
    check_changes(&app).await;

    let folder = app.dir.path().to_owned();
    let run = |args: &[&str]| {
        let output = command(&folder, &surroundings.env)
            .args(args)
            .output()
            .expect("run");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    run(&["backup", "copy"]);
    app.terminate();
    for ending in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(app.data().join(format!("mcp-api.sqlite{ending}")));
    }
    let said = run(&["restore", "copy"]);
    assert!(!said.contains("does not open"), "{said}");
    app.restart();
    check_changes(&app).await;
}

#[tokio::test]
async fn a_database_of_an_earlier_program_stays_usable() {
    let surroundings = Surroundings::start().await;
    let dir = unpack();
    let services = Services::start();
    load_dump(&dir.path().join("mongo"), &services.mongo_url).await;
    let mut app = App::start_in(dir, Some(services), 1, &surroundings.env());
    check_program(&app, &surroundings.script).await;
    app.terminate();
    app.restart();
    check_changes(&app).await;
}
