//! Tests that this program reads the data of an earlier program, answers as that program did, and goes on with the
//! data. `fixtures/old_data/README.md` says how the data were made, and which values the tests do not compare.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use mongodb::bson::Document;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Answer, App, PATIENCE, answer};
use crate::process::{Services, command, owned};
use crate::remote::script::Script;

const SECRETS_KEY: &str = "the passphrase of the old data";
/// 2100-01-01: the data keep answers and keys until then. A job that ends in this test is kept for a shorter time.
const FAR: u64 = 4_102_444_800_000;
const ZOE: &str = "zoë@example.com";

/// How this program shows an event that has another name in the data.
struct Renamed {
    old: &'static str,
    new: &'static str,
    /// The new subject, where the subject is another one too.
    subject: Option<&'static str>,
    /// A field of the data, before and after.
    field: Option<(&'static str, &'static str)>,
}

/// All events that have another name now.
const RENAMED: &[Renamed] = &[];

/// The fields that say how something is right now.
const LIVE: &[&str] = &["status", "logs", "error", "details"];

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/fixtures/old_data").join(name)
}

fn saved(name: &str) -> Vec<Value> {
    let file = File::open(fixture("expected").join(name)).expect("a fixture");
    serde_json::from_reader(BufReader::new(file)).expect("JSON")
}

/// The saved event as this program shows it.
fn shown_now(mut event: Value) -> Value {
    let Some(renamed) = RENAMED.iter().find(|renamed| event["type"] == renamed.old) else { return event };
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

/// The body without what is not compared.
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
    // A sentence that is stored stays; this program makes the others.
    if !is_stored && let Some(body) = one.pointer_mut("/answer/body").and_then(Value::as_object_mut) {
        body.remove("error");
    }
}

/// A proxy whose tunnels all lead to one address, whatever they ask for.
async fn proxy(to: SocketAddr) -> String {
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

/// What is around the program: the server behind `tools.example.com`, and the variables that lead there.
struct Surroundings {
    script: Script,
    env: Vec<(String, String)>,
}

impl Surroundings {
    async fn start() -> Self {
        let script = Script::start(|_| None).await;
        let address = script.url.trim_start_matches("http://").trim_end_matches("/mcp").parse().expect("an address");
        let proxy = proxy(address).await;
        // The job that installs a package fails before it asks an index.
        let env = [("SECRETS_KEY", SECRETS_KEY), ("PYTHON_BIN", "no-such-python"), ("HTTP_PROXY", &proxy)];
        let env = owned(&env);
        Self { script, env }
    }

    fn env(&self) -> Vec<(&str, &str)> {
        self.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }
}

/// A folder with what `stores.tar.gz` holds: `data`, and the collections in `mongo`.
fn unpacked() -> TempDir {
    let dir = TempDir::new().expect("a temporary folder");
    let unpack = Command::new("tar").arg("-xzf").arg(fixture("stores.tar.gz")).current_dir(dir.path()).status();
    assert!(unpack.expect("tar").success());
    dir
}

/// Puts the dumped collections into the database.
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
        let name = path.file_stem().and_then(|stem| stem.to_str()).expect("a name");
        database.collection::<Document>(name).insert_many(documents).await.expect("inserted");
    }
}

/// Asks until the answer is the saved one.
async fn answers_as_before(app: &App) {
    let until = Instant::now() + PATIENCE;
    for saved in saved("answers.json") {
        let path = saved["path"].as_str().expect("a path");
        let expected = masked(saved["body"].clone());
        loop {
            let answer = app.get(path).await;
            let body = answer.body.to_string().replace(&app.data().display().to_string(), "DATA_DIR");
            let found = (answer.status, masked(serde_json::from_str(&body).expect("JSON")));
            if found == (200, expected.clone()) {
                break;
            }
            assert!(Instant::now() < until, "{path}: {} {:#}\ninstead of {expected:#}", found.0, found.1);
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

/// The first events are the saved ones.
async fn happened_as_before(app: &App) {
    let mut page = app.get("/events?limit=1000&after=0.0").await.ok();
    let mut found = page["events"].as_array_mut().map(std::mem::take).expect("events");
    let expected: Vec<_> = saved("events.json").into_iter().map(shown_now).collect();
    found.truncate(expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.len(), expected.len());
    if let Some(Renamed { new, subject: Some(subject), .. }) = RENAMED.iter().find(|renamed| renamed.subject.is_some())
    {
        let some = app.get(&format!("/events?limit=1000&after=0.0&subject={subject}")).await.ok();
        assert!(some["events"].as_array().expect("events").iter().any(|event| event["type"] == *new), "{some}");
    }
}

/// The arguments as the tool got them.
async fn arguments(app: &App, user: &str, server: &str) -> Value {
    let answer = app.call(user, server, "arguments", json!({})).await.ok();
    serde_json::from_str(answer["data"]["content"].as_str().expect("a text")).expect("JSON")
}

/// What is sealed in the data still has its effect.
async fn opens(app: &App, script: &Script) {
    let ana = json!({ "token": "the secret of ana", "second": "another secret of ana" });
    assert_eq!(arguments(app, "ana", "notes").await, ana);
    assert_eq!(arguments(app, ZOE, "notes").await, json!({ "token": "the secret of zoë" }));
    assert_eq!(arguments(app, "ben", "notes").await, json!({}));
    let google = json!({ "userCredentials": { "access_token": "google-access-of-code-of-zoe" } });
    assert_eq!(arguments(app, ZOE, "calendar").await, google);
    let keys = app.get("/keys").await.ok();
    assert_eq!((&keys["unreadable"], &keys["earlier"]), (&json!(0), &json!(0)), "{keys}");

    for (user, token) in [("default", "Bearer access-of-all"), ("ana", "Bearer refreshed-of-ana")] {
        app.call(user, "remote", "echo", json!({})).await.ok();
        let call = script.seen().into_iter().rfind(|seen| seen.about() == "tools/call").expect("a call");
        let sent = ["authorization", "x-api-key", "x-team"].map(|name| call.header(name).map(str::to_owned));
        assert_eq!(sent, [token, "the sealed header", "blue"].map(|value| Some(value.to_owned())));
    }
    app.call(ZOE, "remote", "echo", json!({})).await.fails(401, "reauth_required");
}

/// The server behind a URL was not asked for a session: the stored one goes on.
fn session_goes_on(script: &Script) {
    let answers = saved("answers.json");
    let remote = answers.iter().find(|answer| answer["path"] == "/mcp/servers/remote").expect("a server");
    let session = remote["body"]["server"]["sessionId"].as_str().expect("a session");
    let seen = script.seen();
    let first = seen.iter().find(|seen| seen.about() == "tools/list").expect("a request");
    assert_eq!(first.header("mcp-session-id"), Some(session), "{first:?}");
    assert_eq!(script.times("initialize"), 0);
}

/// The same requests under the same keys get their answers, and nothing is done.
async fn repeats(app: &App) {
    let events = app.happened().await.len();
    for repeat in saved("repeats.json") {
        let send = async |body: &str| -> Answer {
            let text = |field: &str| repeat[field].as_str().expect("a text");
            let method: Method = text("method").parse().expect("a method");
            let mut request = app.http.request(method, format!("{}{}", app.url, text("path")));
            for (name, value) in repeat["headers"].as_object().expect("headers") {
                request = request.header(name, value.as_str().expect("a text"));
            }
            answer(request.body(body.to_owned())).await
        };
        let body = repeat["body"].as_str().expect("a text");
        let again = send(body).await;
        assert_eq!(json!(again.status), repeat["status"], "{}", again.body);
        assert_eq!(masked(again.body), masked(repeat["answer"].clone()), "{repeat}");
        send(&format!("{body} ")).await.fails(409, "conflict");
    }
    assert_eq!(app.happened().await.len(), events, "a repeat has changed something");
}

/// What was stored can be changed, and removed.
async fn goes_on(app: &App) {
    app.set_secret("ana", "notes", "token", "a new value").await;
    app.set_secret(ZOE, "notes", "third", "another value").await;
    let gone = json!({ "username": "ana", "serverName": "notes", "secretName": "second" });
    app.post("/secrets/delete", gone).await.ok();
    app.register_fixture("fresh").await.ok();
    assert_eq!(app.text("fresh", "echo", json!({ "message": "hi" })).await, "hi");
    app.put("/mcp/servers/notes", json!({ "toolTimeout": 20_000 })).await.ok();
    app.delete("/mcp/servers/off").await.ok();
    app.put("/mcp/servers/each/disable", json!({})).await.ok();
    app.delete("/packages/packed").await.ok();
    let letters = app.get("/dead").await.ok();
    let letter = format!("/dead/{}", letters["letters"][0]["letter"].as_str().expect("a letter"));
    // The letter opens, and what it holds still cannot be read.
    app.post(&format!("{letter}/retry"), json!({})).await.fails(400, "invalid_request");
    app.delete(&letter).await.ok();
    changed(app).await;
}

/// The changes are there.
async fn changed(app: &App) {
    app.until("/readyz", |body| body["success"] == true).await;
    app.until("/mcp/servers/notes", |body| body["server"]["status"] == "connected").await;
    assert_eq!(arguments(app, "ana", "notes").await, json!({ "token": "a new value" }));
    let zoe = json!({ "token": "the secret of zoë", "third": "another value" });
    assert_eq!(arguments(app, ZOE, "notes").await, zoe);
    assert_eq!(app.get("/dead").await.ok()["letters"], json!([]));
    assert_eq!(app.get("/packages").await.ok()["packages"], json!([]));
    assert_eq!(app.server("notes").await["toolTimeout"], 20_000);
    app.get("/mcp/servers/off").await.fails(404, "server_not_found");
    app.until("/mcp/servers/fresh", |body| body["server"]["status"] == "connected").await;
    happened_as_before(app).await;
}

async fn works(app: &App, script: &Script) {
    app.until("/readyz", |body| body["success"] == true).await;
    answers_as_before(app).await;
    happened_as_before(app).await;
    session_goes_on(script);
    opens(app, script).await;
    repeats(app).await;
    goes_on(app).await;
}

#[tokio::test]
async fn a_data_folder_of_an_earlier_program_stays_usable() {
    let surroundings = Surroundings::start().await;
    let mut app = App::start_in(unpacked(), None, 0, &surroundings.env());
    works(&app, &surroundings.script).await;
    app.terminate();
    app.restart();
    changed(&app).await;

    let folder = app.dir.path().to_owned();
    let run = |args: &[&str]| {
        let output = command(&folder, &surroundings.env).args(args).output().expect("run");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
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
    changed(&app).await;
}

#[tokio::test]
async fn a_database_of_an_earlier_program_stays_usable() {
    let surroundings = Surroundings::start().await;
    let (dir, services) = (unpacked(), Services::start());
    load_dump(&dir.path().join("mongo"), &services.mongo_url).await;
    let mut app = App::start_in(dir, Some(services), 1, &surroundings.env());
    works(&app, &surroundings.script).await;
    app.terminate();
    app.restart();
    changed(&app).await;
}
