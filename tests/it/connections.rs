//! Connections that send no complete request cost little and keep no other caller waiting.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::harness::App;
use crate::wait::{PATIENCE, wait_until};

const MIB: usize = 1 << 20;

async fn connect(app: &App) -> TcpStream {
    TcpStream::connect(app.url.strip_prefix("http://").expect("a URL"))
        .await
        .expect("connected")
}

/// Reads until the connection ends, and returns the status and the body of the response.
async fn response(stream: &mut TcpStream) -> (String, Value) {
    let mut text = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut text))
        .await
        .expect("the connection ends")
        .expect("a response");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.lines().next().expect("a status line").to_owned();
    assert!(head.contains("content-type: application/json"), "{head}");
    (status, serde_json::from_str(body).expect("JSON"))
}

fn resident_bytes(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let figure = status
        .lines()
        .find_map(|field| field.strip_prefix("VmRSS:"))
        .expect("a figure");
    let kib: usize = figure
        .split_whitespace()
        .next()
        .and_then(|kib| kib.parse().ok())
        .expect("a number");
    kib * 1024
}

fn open_descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("a process")
        .count()
}

/// Raises the limit of open files of the test, and returns it.
fn raise_own_file_limit() -> usize {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, raised).expect("the limit is raised");
    maximum.unwrap_or(1 << 20) as usize
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_unfinished_heads_use_little_memory_and_delay_no_other_client() {
    let count = 10_000.min(raise_own_file_limit() / 2);
    let app = App::embedded();
    let before = resident_bytes(app.pid());
    let mut unfinished = Vec::new();
    for number in 0..count {
        let mut stream = connect(&app).await;
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-header: never ends")
            .await
            .expect("sent");
        unfinished.push(stream);
        if number % 1_000 == 0 {
            app.get("/healthz").await.ok();
        }
    }
    app.get("/healthz").await.ok();
    let cost = resident_bytes(app.pid()).saturating_sub(before);
    println!("{count} unfinished heads: {} KiB each", cost / count / 1024);
    assert!(
        cost < count * 10 * 1024,
        "{count} unfinished heads cost {cost} bytes"
    );
    // The program closes the unfinished connections and tells each client why.
    let newest = unfinished.last_mut().expect("a connection");
    let (status, body) = response(newest).await;
    assert_eq!(status, "HTTP/1.1 408 Request Timeout");
    assert_eq!(body["code"], "invalid_request");
    wait_until("all unfinished connections are closed", async || {
        open_descriptors(app.pid()) < 200
    })
    .await;
    app.get("/healthz").await.ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_connection_replaces_an_idle_connection() {
    let app = App::embedded_with(&[("MAX_CONNECTIONS", "16")]);
    let mut idle = Vec::new();
    for _ in 0..100 {
        let mut stream = connect(&app).await;
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
            .await
            .expect("sent");
        let mut first = [0; 15];
        stream.read_exact(&mut first).await.expect("a response");
        assert_eq!(&first, b"HTTP/1.1 200 OK");
        idle.push(stream);
    }
    wait_until("the oldest connections are closed", async || {
        open_descriptors(app.pid()) < 100
    })
    .await;
    // A listener has a running request, so its connection stays.
    let mut listener = connect(&app).await;
    listener
        .write_all(b"GET /events HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n")
        .await
        .expect("sent");
    let mut first = [0; 15];
    listener.read_exact(&mut first).await.expect("a response");
    for _ in 0..100 {
        idle.push(connect(&app).await);
    }
    app.register("off", json!({ "command": "/nowhere", "enabled": false }))
        .await
        .ok();
    read_until(&mut listener, "server.registered").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_streams_take_at_most_half_of_the_connections() {
    let app = App::embedded_with(&[("MAX_CONNECTIONS", "16")]);
    let mut streams = Vec::new();
    let mut statuses = Vec::new();
    for _ in 0..12 {
        let mut stream = connect(&app).await;
        stream
            .write_all(
                b"GET /events HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n",
            )
            .await
            .expect("sent");
        let mut status = [0; 12];
        stream.read_exact(&mut status).await.expect("a response");
        statuses.push(String::from_utf8_lossy(&status[9..]).into_owned());
        streams.push(stream);
    }
    assert_eq!(statuses, [["200"; 8].as_slice(), &["503"; 4]].concat());
    app.get("/mcp/servers").await.ok();
    // A closed stream gives its permit back.
    streams.truncate(4);
    let request = || {
        let request = app.http.get(format!("{}/events", app.url));
        request.header("accept", "text/event-stream").send()
    };
    wait_until("another stream is accepted", async || {
        request().await.expect("a response").status() == 200
    })
    .await;
}

/// Sends a request for the event stream of the log, and returns what the program sends until `end`.
async fn read_events(stream: &mut TcpStream, version: &str, end: &str) -> String {
    let request =
        format!("GET /events {version}\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    read_until(stream, end).await
}

async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    while !text.contains(end) {
        let mut part = [0; 4096];
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut part)).await;
        let length = read.expect("more text").expect("the stream is open");
        assert!(length > 0, "the stream has ended without {end:?}: {text}");
        text.push_str(std::str::from_utf8(&part[..length]).expect("UTF-8"));
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_stream_has_chunks_and_ends_its_connection() {
    let mut app = App::embedded();
    app.register("off", json!({ "command": "/nowhere", "enabled": false }))
        .await
        .ok();
    let (mut new, mut old) = (connect(&app).await, connect(&app).await);
    let text = read_events(&mut new, "HTTP/1.1", "server.registered").await;
    let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.contains("transfer-encoding: chunked"), "{head}");
    assert!(head.contains("connection: close"), "{head}");
    let (size, _) = body.split_once("\r\n").expect("a chunk");
    assert!(usize::from_str_radix(size, 16).is_ok(), "{body}");
    // A client of HTTP/1.0 knows no chunks.
    let text = read_events(&mut old, "HTTP/1.0", "server.registered").await;
    assert!(!text.contains("chunked"), "{text}");
    app.terminate();
    let mut rest = String::new();
    new.read_to_string(&mut rest).await.expect("the end");
    assert!(rest.ends_with("0\r\n\r\n"), "{rest}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_stream_of_an_mcp_client_costs_less_than_10_kb() {
    const COUNT: usize = 1000;
    raise_own_file_limit();
    let limit = COUNT.to_string();
    let app = App::embedded_with(&[("MCP_MAX_STREAMS_PER_USER", &limit)]);
    let message = json!({
        "jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen",
        "params": {
            "notifications": { "toolsListChanged": true },
            "_meta": {
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientInfo": { "name": "test", "version": "1" },
                "io.modelcontextprotocol/clientCapabilities": {},
            },
        },
    })
    .to_string();
    let request = format!(
        "POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\naccept: text/event-stream\r\n\
         mcp-protocol-version: 2026-07-28\r\nmcp-method: subscriptions/listen\r\ncontent-length: {}\r\n\r\n{message}",
        message.len()
    );
    let open = async || {
        let mut stream = connect(&app).await;
        stream.write_all(request.as_bytes()).await.expect("sent");
        read_until(&mut stream, "acknowledged").await;
        stream
    };
    // The first streams fill the pools of the allocator.
    let mut streams = Vec::new();
    for _ in 0..COUNT / 10 {
        streams.push(open().await);
    }
    let before = resident_bytes(app.pid());
    while streams.len() < COUNT {
        streams.push(open().await);
    }
    let cost = resident_bytes(app.pid()).saturating_sub(before) / (COUNT - COUNT / 10);
    println!("an idle stream: {cost} bytes");
    assert!(cost < 10_000, "an idle stream costs {cost} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_bodies_share_a_bounded_memory() {
    const BODIES: usize = 100;
    const LENGTH: usize = 6_000_000;
    let app = App::embedded();
    let mut clients = JoinSet::new();
    for _ in 0..BODIES {
        let mut stream = connect(&app).await;
        clients.spawn(async move {
            let head = format!(
                "POST /mcp/servers HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {LENGTH}\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await.expect("sent");
            let (mut reader, mut writer) = stream.into_split();
            // All bytes but the last one.
            let body = vec![b' '; LENGTH - 1];
            let mut answer = [0; 12];
            let is_refused = tokio::select! {
                sent = writer.write_all(&body) => sent.is_err(),
                read = reader.read_exact(&mut answer) => {
                    assert!(read.is_err() || &answer == b"HTTP/1.1 503");
                    true
                }
            };
            (reader, writer, is_refused)
        });
    }
    let mut held = Vec::new();
    let mut refused = 0;
    while let Some(client) = clients.join_next().await {
        let (reader, writer, is_refused) = client.expect("a client");
        refused += usize::from(is_refused);
        held.push((reader, writer));
    }
    let resident = resident_bytes(app.pid());
    println!(
        "{refused} of {BODIES} refused, {} MiB resident",
        resident / MIB
    );
    assert!(resident < 420 * MIB, "{resident} bytes are resident");
    assert!(refused > 0);
    let answered = tokio::time::timeout(Duration::from_secs(10), app.get("/mcp/servers")).await;
    answered.expect("another caller is served").ok();
}

#[tokio::test]
async fn a_head_that_cannot_be_parsed_gets_the_json_envelope() {
    let app = App::embedded();
    let long = "a".repeat(70_000);
    let many = format!("x-a: {}\r\n", "b".repeat(1_000)).repeat(70);
    for (request, status) in [
        ("GET / HTTP/9.9\r\n\r\n".to_owned(), 400),
        ("\u{16}\u{3}\u{1} no HTTP".to_owned(), 400),
        ("GET / HTTP/1.1\r\nno colon\r\n\r\n".to_owned(), 400),
        (
            format!("GET /{long} HTTP/1.1\r\nhost: localhost\r\n\r\n"),
            414,
        ),
        (
            format!("GET /healthz HTTP/1.1\r\nhost: localhost\r\n{many}\r\n"),
            431,
        ),
        (
            format!(
                "GET /healthz HTTP/1.1\r\nhost: localhost\r\n{}\r\n",
                "x: y\r\n".repeat(101)
            ),
            431,
        ),
        (
            "GET / HTTP/1.1\r\nhost: localhost\r\nbad\u{1}header: x\r\n\r\n".to_owned(),
            400,
        ),
    ] {
        let (answered, head, body) = app.raw(&request).await;
        let start: String = request.chars().take(30).collect();
        assert_eq!(answered, status, "{start}: {head}");
        assert!(head.contains("content-type: application/json"), "{head}");
        assert_eq!(body["success"], false, "{start}");
        assert_eq!(body["code"], "invalid_request", "{start}");
    }
    app.get("/healthz").await.ok();
}

#[tokio::test]
async fn a_second_request_that_cannot_be_parsed_gets_the_json_envelope() {
    let app = App::embedded();
    let mut stream = connect(&app).await;
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .expect("sent");
    let mut first = [0; 15];
    stream.read_exact(&mut first).await.expect("a response");
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    stream.write_all(b"no request\r\n\r\n").await.expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("the end");
    let (_, rejection) = text.split_once("HTTP/1.1 400 Bad Request").expect("a 400");
    let (_, body) = rejection.split_once("\r\n\r\n").expect("a body");
    let body: Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(body["code"], "invalid_request");
}
