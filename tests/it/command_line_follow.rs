//! `events --follow` while connections break, the program restarts or the token ends.

use std::io::{BufRead, BufReader, Read};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Stdio};
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;
use reqwest::Method;
use serde_json::{Value, json};

use crate::callers::{make_token, send};
use crate::harness::App;
use crate::process::{command, owned};

/// A TCP proxy that cuts each of its first connections after a number of bytes. It runs until the test process ends.
struct CuttingProxy {
    url: String,
    /// The address of the API, which changes with a restart.
    target: Arc<Mutex<String>>,
    /// The number of connections that the proxy has cut.
    cuts: Arc<Mutex<usize>>,
}

impl CuttingProxy {
    fn start(target: &str, bytes: &'static [usize]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let target = Arc::new(Mutex::new(target.to_owned()));
        let cuts = Arc::new(Mutex::new(0));
        let proxy = Self {
            url,
            target: target.clone(),
            cuts: cuts.clone(),
        };
        thread::spawn(move || {
            let mut limits = bytes.iter();
            for client in listener.incoming() {
                let client = client.expect("a connection");
                let Ok(api) = TcpStream::connect(target.lock().as_str()) else {
                    continue;
                };
                match limits.next() {
                    None => forward(client, api, u64::MAX),
                    Some(limit) => {
                        forward(client, api, *limit as u64);
                        *cuts.lock() += 1;
                    }
                }
            }
        });
        proxy
    }

    fn set_target(&self, url: &str) {
        *self.target.lock() = address(url).to_owned();
    }
}

fn address(url: &str) -> &str {
    url.strip_prefix("http://").expect("a URL")
}

/// Forwards a connection until one side ends it, or until the client has got this number of bytes.
fn forward(mut client: TcpStream, mut api: TcpStream, limit: u64) {
    let mut from_client = client.try_clone().expect("a stream");
    let mut to_api = api.try_clone().expect("a stream");
    let requests = thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_api);
        let _ = to_api.shutdown(Shutdown::Both);
    });
    let _ = std::io::copy(&mut api.by_ref().take(limit), &mut client);
    let _ = client.shutdown(Shutdown::Both);
    let _ = api.shutdown(Shutdown::Both);
    requests.join().expect("a thread");
}

/// A command that follows the events. Dropping it kills it.
struct Follower {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Follower {
    fn start(app: &App, url: &str, env: &[(&str, &str)]) -> Self {
        let mut child = command(app.dir.path(), &owned(env))
            .args(["events", "--follow", "--url", url])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let lines = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, lines }
    }

    /// Returns the ids of the lines up to the event with this id.
    fn ids_until(&mut self, last: &str) -> Vec<String> {
        let mut ids = Vec::new();
        while ids.last().is_none_or(|id| id != last) {
            let mut line = String::new();
            let read = self.lines.read_line(&mut line).expect("a line");
            assert_ne!(read, 0, "the command ended before {last}: {ids:?}");
            let event: Value = serde_json::from_str(&line).expect("JSON");
            ids.push(event["id"].as_str().expect("an id").to_owned());
        }
        ids
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Appends this number of events, and returns the ids of all events of the log.
async fn append(app: &App, count: usize) -> Vec<String> {
    for number in 0..count {
        let label = format!("number {number}");
        app.post("/tokens", json!({ "username": "ana", "label": label }))
            .await
            .ok();
    }
    let page = app.get("/events?limit=1000").await.ok();
    let events = page["events"].as_array().expect("events");
    let id = |event: &Value| event["id"].as_str().expect("an id").to_owned();
    events.iter().map(id).collect()
}

#[tokio::test]
async fn a_follower_prints_each_event_once_although_connections_break() {
    let mut app = App::embedded();
    let expected = append(&app, 20).await;
    // The first cut is in the head of a response, the others are in the middle of events.
    let cuts = &[1500, 60, 2500, 700, 900];
    let proxy = CuttingProxy::start(address(&app.url), cuts);
    let mut follower = Follower::start(&app, &proxy.url, &[]);
    let mut printed = follower.ids_until(expected.last().expect("an event"));
    assert_eq!(printed, expected);
    assert_eq!(*proxy.cuts.lock(), cuts.len());

    // A killed program that starts on another port, while the follower waits for its next attempt.
    for _ in 0..2 {
        let appended = append(&app, 3).await;
        app.kill_and_restart();
        app.http = reqwest::Client::new();
        proxy.set_target(&app.url);
        let expected = append(&app, 3).await;
        assert!(expected.starts_with(&appended));
        printed.extend(follower.ids_until(expected.last().expect("an event")));
        assert_eq!(printed, expected);
    }
}

#[tokio::test]
async fn a_revoked_token_ends_a_follower_with_a_clear_error() {
    const ADMIN: &str = "an-admin-token-of-many-characters";
    let app = App::embedded_with(&[("ADMIN_TOKEN", ADMIN)]);
    let body = json!({ "username": "ana", "scopes": ["audit"] });
    let (id, token) = make_token(&app, ADMIN, body).await;
    let mut follower = Follower::start(&app, &app.url, &[("MCP_API_TOKEN", &token)]);
    follower.ids_until("1.0");
    let path = format!("/tokens/{id}");
    send(&app, ADMIN, Method::DELETE, &path, None).await.ok();
    let mut rest = String::new();
    follower.lines.read_to_string(&mut rest).expect("UTF-8");
    assert_eq!(rest, "");
    let mut stderr = String::new();
    let mut errors = follower.child.stderr.take().expect("a pipe");
    errors.read_to_string(&mut stderr).expect("UTF-8");
    let status = follower.child.wait().expect("the command ends");
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("was revoked"), "{stderr}");
    assert!(!stderr.contains(&token), "{stderr}");
}
