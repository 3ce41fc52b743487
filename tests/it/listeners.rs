//! `GET /events` as a live stream: many listeners, slow ones, and facades that come and go.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::harness::{App, PATIENCE, answer};
use crate::processes::signal;
use crate::wait::wait_until;

/// A client that follows the log on a connection of its own.
struct Listener {
    stream: TcpStream,
    text: Vec<u8>,
}

/// The last message of a stream.
#[derive(Debug, PartialEq)]
enum StreamMessage {
    Event(String),
    /// The program has ended the stream, or has ended itself.
    End,
}

impl StreamMessage {
    fn id(self) -> String {
        match self {
            Self::Event(id) => id,
            Self::End => panic!("the stream has ended"),
        }
    }
}

impl Listener {
    async fn open(url: &str, last: Option<&str>, query: &str) -> Self {
        let opened = Self::try_open(url, last, query).await;
        opened.expect("the facade opens a stream")
    }

    /// Opens a stream. Returns `None` if the facade ends before it responds.
    async fn try_open(url: &str, last: Option<&str>, query: &str) -> Option<Self> {
        let mut listener = Self::send_request(url, last, query).await?;
        listener.read_status().await?;
        Some(listener)
    }

    /// Sends the request for a stream, and does not wait for the response.
    async fn send_request(url: &str, last: Option<&str>, query: &str) -> Option<Self> {
        let address = url
            .strip_prefix("http://")
            .expect("a URL")
            .parse()
            .expect("an address");
        let socket = TcpSocket::new_v4().expect("a socket");
        // Unread bytes stay in the program and not in the kernel.
        socket.set_recv_buffer_size(64 << 10).expect("a buffer");
        let mut stream = socket.connect(address).await.ok()?;
        let last = last.map_or(String::new(), |last| format!("Last-Event-ID: {last}\r\n"));
        let head = format!(
            "GET /events{query} HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n"
        );
        let head = format!("{head}Connection: close\r\n{last}\r\n");
        stream.write_all(head.as_bytes()).await.ok()?;
        Some(Self {
            stream,
            text: vec![],
        })
    }

    /// Reads the status of the response, which must be a success.
    async fn read_status(&mut self) -> Option<()> {
        assert_eq!(self.line().await?, "HTTP/1.1 200 OK");
        Some(())
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.text.drain(..=end).collect();
                return Some(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.text)).await;
            if read.expect("a word in time").unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// Returns the id of the next complete event.
    async fn next(&mut self) -> StreamMessage {
        let (mut id, mut whole) = (None, false);
        while let Some(line) = self.line().await {
            match line.split_once(": ") {
                Some(("id", event)) => id = Some(event.to_owned()),
                Some(("data", data)) => whole = data.ends_with('}'),
                _ if line.is_empty() && whole => return StreamMessage::Event(id.expect("an id")),
                _ => {}
            }
        }
        StreamMessage::End
    }

    /// Reads up to this event, and returns the ids of all events on the way.
    async fn until(&mut self, id: &str) -> Vec<String> {
        let mut received = vec![];
        while received.last().is_none_or(|last| last != id) {
            match self.next().await {
                StreamMessage::Event(id) => received.push(id),
                StreamMessage::End => panic!("the stream has ended before {id}"),
            }
        }
        received
    }
}

/// Returns the ids of all events.
async fn all(app: &App) -> Vec<String> {
    let (mut all, mut after) = (Vec::new(), "0.0".to_owned());
    loop {
        let page = app
            .get(&format!("/events?limit=1000&after={after}"))
            .await
            .ok();
        let events = page["events"].as_array().expect("events");
        if events.is_empty() {
            return all;
        }
        all.extend(
            events
                .iter()
                .map(|event| event["id"].as_str().expect("an id").to_owned()),
        );
        after = page["next"].as_str().expect("next").to_owned();
    }
}

/// Returns the CPU time of a process in milliseconds.
fn cpu(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
    let fields: Vec<_> = stat
        .rsplit_once(')')
        .expect("a name")
        .1
        .split_whitespace()
        .collect();
    (fields[11].parse::<u64>().expect("ticks") + fields[12].parse::<u64>().expect("ticks")) * 10
}

async fn toggle(app: &App, times: usize) {
    for n in 0..times {
        let verb = if n % 2 == 0 { "disable" } else { "enable" };
        app.put(&format!("/mcp/servers/off/{verb}"), json!({}))
            .await
            .ok();
    }
}

async fn app() -> App {
    let app = App::embedded();
    app.register("off", json!({ "command": "/nowhere", "enabled": false }))
        .await
        .ok();
    app
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_listeners_share_one_read_of_the_log() {
    const LISTENERS: usize = 1000;
    let app = app().await;
    let mut listeners = Vec::new();
    for _ in 0..LISTENERS / 50 {
        listeners.extend(join_all((0..50).map(|_| Listener::open(&app.url, None, ""))).await);
    }
    let first = all(&app).await;
    join_all(
        listeners
            .iter_mut()
            .map(|listener| listener.until(&first[first.len() - 1])),
    )
    .await;
    assert_eq!(
        app.metric("mcp_api_event_listeners", &[]).await,
        Some(LISTENERS as f64)
    );
    let reads = app
        .metric("mcp_api_event_stream_reads_total", &[])
        .await
        .expect("a figure");
    let (began, used) = (Instant::now(), cpu(app.pid()));
    toggle(&app, 20).await;
    let ids = all(&app).await;
    let wanted = &ids[first.len()..];
    let received = join_all(
        listeners
            .iter_mut()
            .map(|listener| listener.until(&ids[ids.len() - 1])),
    )
    .await;
    assert!(received.iter().all(|received| received == wanted));
    // One read for each change, and a few for listeners that had not received the last event.
    let reads = app
        .metric("mcp_api_event_stream_reads_total", &[])
        .await
        .expect("a figure")
        - reads;
    assert!(
        reads <= 2.0 * wanted.len() as f64,
        "{reads} reads for {} moves",
        wanted.len()
    );
    let (took, used) = (began.elapsed(), cpu(app.pid()) - used);
    println!(
        "{} events to {LISTENERS} listeners: {took:?}, {used} ms of CPU",
        wanted.len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_that_replay_share_the_reads_of_the_log() {
    const LISTENERS: usize = 100;
    let app = app().await;
    toggle(&app, 300).await;
    let ids = all(&app).await;
    let reads = async || {
        let reads = app.metric("mcp_api_event_stream_reads_total", &[]).await;
        reads.expect("a figure")
    };
    let before = reads().await;
    let replay = async || {
        let mut listener = Listener::open(&app.url, None, "").await;
        listener.until(&ids[ids.len() - 1]).await
    };
    let replays = join_all((0..LISTENERS).map(|_| replay())).await;
    assert!(replays.iter().all(|replayed| *replayed == ids));
    let cost = reads().await - before;
    assert!(
        cost < LISTENERS as f64 / 2.0,
        "{cost} reads for {LISTENERS} replays"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_that_connect_during_changes_receive_every_event_once() {
    let app = app().await;
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..16)
        .map(|user| secrets(&app, user, stop.clone()))
        .collect();
    let mut listeners = Vec::new();
    for _ in 0..40 {
        listeners.extend(join_all((0..5).map(|_| Listener::open(&app.url, None, ""))).await);
    }
    stop.store(true, Ordering::Relaxed);
    join_all(writers)
        .await
        .into_iter()
        .for_each(|writer| writer.expect("no change failed"));
    let ids = all(&app).await;
    for listener in &mut listeners {
        assert_eq!(listener.until(&ids[ids.len() - 1]).await, ids);
    }
}

/// Sets a secret repeatedly until `stop` is set.
fn secrets(app: &App, user: usize, stop: Arc<AtomicBool>) -> tokio::task::JoinHandle<()> {
    let (http, url) = (app.http.clone(), format!("{}/secrets/set", app.url));
    let secret = json!({ "username": format!("u{user}"), "serverName": "off", "secretName": "n", "secretValue": "v" });
    tokio::spawn(async move {
        while !stop.load(Ordering::Relaxed) {
            answer(http.post(&url).json(&secret)).await.ok();
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_facade_that_is_behind_folds_the_log_first() {
    let mut app = App::distributed(1, &[]);
    let second = app.add("api");
    app.register("off", json!({ "command": "/nowhere", "enabled": false }))
        .await
        .ok();
    let behind = &app.processes[second];
    for _ in 0..5 {
        signal(behind.pid(), "STOP");
        toggle(&app, 3).await;
        let ids = all(&app).await;
        let last = ids[ids.len() - 1].clone();
        // The kernel accepts the connection and stores the request while the facade stands still.
        let sent = Listener::send_request(&behind.url, Some(&last), "").await;
        let mut listener = sent.expect("the kernel accepts the request");
        signal(behind.pid(), "CONT");
        listener.read_status().await.expect("a stream");
        app.put("/mcp/servers/off/enable", json!({})).await.ok();
        assert_eq!(
            listener.next().await,
            StreamMessage::Event(all(&app).await.pop().expect("an id"))
        );
    }
}

/// The URLs of the running facades.
#[derive(Clone)]
struct Facades(Arc<Mutex<Vec<String>>>);

impl Facades {
    /// Returns the URL of a facade that runs. Different numbers choose different facades.
    fn url(&self, number: usize) -> String {
        let urls = self.0.lock().expect("the facades");
        urls[number % urls.len()].clone()
    }

    fn replace(&self, urls: Vec<String>) {
        *self.0.lock().expect("the facades") = urls;
    }
}

/// Changes one server again and again, until the test stops the writer.
fn writer(
    http: &reqwest::Client,
    facades: Facades,
    number: usize,
    stop: Arc<AtomicBool>,
) -> tokio::task::JoinHandle<()> {
    let http = http.clone();
    tokio::spawn(async move {
        while !stop.load(Ordering::Relaxed) {
            for verb in ["disable", "enable"] {
                let url = facades.url(number);
                let path = format!("{url}/mcp/servers/off-{number}/{verb}");
                // A facade that is killed answers with an error.
                let _ = http.put(path).json(&json!({})).send().await;
            }
        }
    })
}

/// Follows the log across several facades, and returns the ids of all events.
async fn follow(
    facades: Facades,
    subject: &'static str,
    until: Arc<tokio::sync::watch::Sender<String>>,
) -> Vec<String> {
    let (mut received, mut ends) = (Vec::<String>::new(), until.subscribe());
    for turn in 0.. {
        let last = received.last().map(String::as_str);
        let opened = Listener::try_open(&facades.url(turn), last, subject).await;
        let Some(mut listener) = opened else {
            continue;
        };
        // The client sometimes changes the facade without a reason.
        for _ in 0..40 {
            let next = tokio::select! {
                next = listener.next() => next,
                _ = ends.wait_for(|end| received.last() == Some(end)) => return received,
            };
            match next {
                StreamMessage::Event(id) => received.push(id),
                StreamMessage::End => break,
            }
        }
    }
    received
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_changes_facades_misses_nothing() {
    let mut app = App::distributed(1, &[]);
    let second = app.add("api");
    app.until("/readyz", |body| body["success"] == true).await;
    for n in 0..3 {
        app.register(
            &format!("off-{n}"),
            json!({ "command": "/nowhere", "enabled": false }),
        )
        .await
        .ok();
    }
    let urls = vec![app.url.clone(), app.processes[second].url.clone()];
    let facades = Facades(Arc::new(Mutex::new(urls)));
    let (stop, end) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(tokio::sync::watch::Sender::new(String::new())),
    );
    let writers: Vec<_> = (0..3)
        .map(|n| writer(&app.http, facades.clone(), n, stop.clone()))
        .collect();
    let followers: Vec<_> = ["", "", "?subject=server/off-1"]
        .into_iter()
        .map(|subject| tokio::spawn(follow(facades.clone(), subject, end.clone())))
        .collect();
    for n in [second, 0, second] {
        let received = all(&app).await.len();
        wait_until("50 more events happen", async || {
            all(&app).await.len() >= received + 50
        })
        .await;
        // A facade that starts again gets another port. If it kept its port, a client that connects meanwhile
        // could get that port as its own.
        let other = if n == 0 { second } else { 0 };
        facades.replace(vec![app.processes[other].url.clone()]);
        app.processes[n].kill();
        let dir = app.dir.path().to_owned();
        app.processes[n].restart(&dir);
        app.url = app.processes[0].url.clone();
        facades.replace(vec![app.url.clone(), app.processes[second].url.clone()]);
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.expect("a writer");
    }
    // The last event is about the server that all listeners follow.
    app.put("/mcp/servers/off-1/enable", json!({})).await.ok();
    let ids = all(&app).await;
    let page = app
        .get("/events?subject=server/off-1&limit=1000")
        .await
        .ok();
    let of_one: Vec<_> = page["events"]
        .as_array()
        .expect("events")
        .iter()
        .map(|event| event["id"].clone())
        .collect();
    end.send_replace(
        of_one
            .last()
            .and_then(Value::as_str)
            .expect("an id")
            .to_owned(),
    );
    let received = join_all(followers)
        .await
        .into_iter()
        .map(|received| received.expect("a follower"))
        .collect::<Vec<_>>();
    let last = ids
        .iter()
        .position(|id| json!(id) == of_one[of_one.len() - 1])
        .expect("it is there");
    assert!(
        received[0] == ids[..=last] && received[1] == received[0],
        "a gap or a repeat in {received:?}"
    );
    assert_eq!(
        received[2],
        of_one
            .iter()
            .map(|id| id.as_str().expect("an id"))
            .collect::<Vec<_>>()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_listener_receives_every_event_and_a_deaf_one_is_disconnected() {
    let app = app().await;
    let mut slow = Listener::open(&app.url, None, "").await;
    let _deaf = Listener::open(&app.url, None, "").await;
    let listeners = async || app.metric("mcp_api_event_listeners", &[]).await;
    assert_eq!(listeners().await, Some(2.0));
    let large = "x".repeat(512 << 10);
    let mut received = vec![];
    // More bytes than all buffers between, and more than the facade holds for listeners.
    for n in 0..120 {
        let began = Instant::now();
        let change = json!({ "args": [format!("{n}{large}")] });
        app.put("/mcp/servers/off", change).await.ok();
        assert!(
            began.elapsed() < Duration::from_secs(25),
            "who does not read holds up who writes"
        );
        if n % 6 == 0 {
            received.push(slow.next().await.id());
        }
    }
    let ids = all(&app).await;
    received.extend(slow.until(&ids[ids.len() - 1]).await);
    assert_eq!(received, ids);
    // The listener that reads nothing is disconnected. Only the other listener remains.
    wait_until("one listener is left", async || {
        listeners().await == Some(1.0)
    })
    .await;
    let answer = answer(
        app.http
            .get(format!("{}/events?at=1", app.url))
            .header("accept", "text/event-stream"),
    )
    .await;
    assert!(
        answer
            .fails(400, "invalid_request")
            .contains("at cannot be used with a stream")
    );
}
