//! The event log is shortened: old events move to an archive, and no state is lost.

mod archive;
mod distributed;
mod kill;
mod projection;
mod restored;
mod retained;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{App, answer};
use crate::process::owned;
use crate::samples::{command_id, commit, server_id};
use mcp_api::adapters::store_sqlite::SqliteStore;
use mcp_api::core::event::{Entry, Event, ServerRegistered, ServerUpdated};
use mcp_api::core::ids::Position;
use mcp_api::core::model::server::ServerConfig;
use mcp_api::ports::event_log::EventLog;

/// The entries that are older than 90 days, and all entries.
const OLD: u64 = 600;
const ALL: u64 = 700;
const SERVERS: u64 = 20;
const DAY_MS: u64 = 86_400_000;

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or(Duration::ZERO).as_millis() as u64
}

/// A configuration that differs at each position and needs about two kilobytes.
fn config(position: u64) -> ServerConfig {
    let padding = format!("{position:x}-").repeat(400);
    let config = json!({
        "transportType": "stdio", "command": "true",
        "env": { "POSITION": position.to_string(), "PADDING": padding },
    });
    serde_json::from_value(config).expect("a configuration")
}

/// Returns the event at a position: a new server that is disabled, or a change of a server.
fn event(position: u64) -> Event {
    let number = (position % SERVERS) as usize;
    let server = server_id(number);
    let name = format!("server-{number}").parse().expect("a name");
    let config = config(position);
    if position <= SERVERS {
        ServerRegistered {
            server,
            name,
            config,
            enabled: false,
        }
        .into()
    } else {
        ServerUpdated {
            server,
            name,
            config,
        }
        .into()
    }
}

/// Returns an entry with one or two events.
fn entry(position: u64, at: u64) -> Entry {
    let mut events = vec![event(position)];
    if position.is_multiple_of(3) {
        events.push(event(position));
    }
    Entry {
        position: Position(position),
        at,
        commits: vec![commit(command_id(), &events)],
    }
}

/// Fills an empty log. The first entries are 100 days old.
async fn fill(log: &dyn EventLog, old: u64, all: u64) {
    let now = now_ms();
    for position in 1..=all {
        let age = if position <= old { 100 * DAY_MS } else { 1_000 };
        let entry = entry(position, now - age + position / 100);
        log.append(&entry, &[]).await.expect("appended");
    }
}

/// Returns a folder whose embedded store has old and new entries.
async fn filled_folder(old: u64, all: u64) -> TempDir {
    let dir = TempDir::new().expect("a folder");
    let data = dir.path().join("data");
    fs::create_dir(&data).expect("created");
    let store = SqliteStore::open(&data.join("mcp-api.sqlite")).expect("a store");
    fill(&store, old, all).await;
    drop(store);
    dir
}

/// Starts one process on a filled store.
async fn filled_app(env: &[(&str, &str)]) -> App {
    App::start_in(filled_folder(OLD, ALL).await, None, 0, env)
}

/// Returns the servers without their live status, now or in the past.
async fn servers(app: &App, at: Option<u64>) -> Value {
    let query = at.map_or(String::new(), |at| format!("?at={at}"));
    let mut body = app.get(&format!("/mcp/servers{query}")).await.ok();
    for server in body["servers"].as_array_mut().expect("servers") {
        let fields = server.as_object_mut().expect("a server");
        fields.retain(|field, _| !["status", "logs", "error", "details"].contains(&field.as_str()));
    }
    body["servers"].take()
}

/// Returns all events after an id.
async fn events_after(app: &App, after: &str) -> Vec<Value> {
    let mut events = Vec::new();
    let mut after = after.to_owned();
    loop {
        let path = format!("/events?limit=1000&after={after}");
        let mut page = app.get(&path).await.ok();
        let found = page["events"].as_array_mut().map(std::mem::take);
        let found = found.expect("events");
        if found.is_empty() {
            return events;
        }
        events.extend(found);
        after = page["next"].as_str().expect("next").to_owned();
    }
}

/// Runs a command of the program as a client of this program.
fn run(app: &App, args: &[&str]) -> Output {
    let mut command = crate::process::command(app.dir.path(), &owned(&[("MCP_API_URL", &app.url)]));
    tokio::task::block_in_place(|| command.args(args).output().expect("run"))
}

fn compact_with_client(app: &App) -> String {
    let output = run(
        app,
        &["log", "compact", "--before", "90d", "--url", &app.url],
    );
    let text = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy);
    assert!(output.status.success(), "{}", text.concat());
    text.concat()
}

/// Starts a compaction and returns the id of its job.
async fn begin(app: &App) -> String {
    let request = app
        .http
        .post(format!("{}/log/compact", app.url))
        .header("Prefer", "respond-async")
        .json(&json!({ "before": "90d" }));
    let accepted = answer(request).await;
    assert_eq!(accepted.status, 202, "{}", accepted.body);
    accepted.body["jobId"].as_str().expect("an id").to_owned()
}

/// Returns the archives of a folder, in the order of their first positions.
fn archives(data: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(data.join("archive")).expect("archives");
    let mut archives: Vec<_> = files.flatten().map(|file| file.path()).collect();
    archives.retain(|path| path.extension().is_some_and(|extension| extension == "gz"));
    archives.sort_by_key(|path| first_position(path));
    archives
}

fn first_position(archive: &Path) -> u64 {
    let name = archive.file_name().and_then(|name| name.to_str());
    let first = name.and_then(|name| name.split_once('-'));
    first
        .and_then(|(first, _)| first.parse().ok())
        .expect("a name such as 1-600.jsonl.gz")
}

/// Checks that requests for removed positions get 410 with the oldest position.
async fn is_truncated(app: &App, oldest: u64) {
    let last = oldest - 1;
    for path in [
        "/events".to_owned(),
        "/events?after=0".to_owned(),
        "/events?after=5.0&limit=3".to_owned(),
        format!("/mcp/servers?at={last}"),
        "/mcp/servers?at=1".to_owned(),
        format!("/events?after={oldest}.0&at={last}"),
    ] {
        let refused = app.get(&path).await;
        assert_eq!(
            refused.body["oldest"],
            json!(oldest),
            "{path}: {}",
            refused.body
        );
        let error = refused.fails(410, "log_truncated");
        // The remedy fits the parameter with which the request named its position.
        if path.contains("at=") {
            let remedy = format!("at={oldest} or later");
            assert!(
                error.contains(&remedy) && !error.contains("after"),
                "{path}: {error}"
            );
        } else {
            let remedy = format!(" {last}.");
            assert!(
                error.contains(&remedy) && !error.contains("at="),
                "{path}: {error}"
            );
        }
    }
    let stream = app
        .http
        .get(format!("{}/events", app.url))
        .header("accept", "text/event-stream")
        .header("last-event-id", "5.0");
    answer(stream).await.fails(410, "log_truncated");
}
