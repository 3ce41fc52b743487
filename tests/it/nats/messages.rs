//! Large bodies, invalid messages and hints between processes.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_nats::HeaderMap;
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use serde_json::json;
use uuid::Uuid;

use super::{
    Echo, Hang, POOL, connect, job, next_job, shared_options, wait_for_reply, wait_until_served,
};
use crate::bus_contract::ask;
use crate::harness::PATIENCE;
use crate::wait::wait_until;
use mcp_api::adapters::bus_nats::NatsOptions;
use mcp_api::core::command::Area;
use mcp_api::core::failure::{Code, Failure};
use mcp_api::core::ids::{Digest, FacadeId, Position, ServerId};
use mcp_api::core::model::client_session::{SessionChange, SessionSetting};
use mcp_api::core::model::upstream_change::{ChangedPart, UpstreamChange};
use mcp_api::ports::bus::{Ask, AskHandler, Bus, Busy, Hint, Reply, Target};

/// The default limit of NATS for a message.
const MAX_PAYLOAD: usize = 1 << 20;

const SERVERS: Target = Target::AnyWorker(Area::Servers);
const SECRETS: Target = Target::AnyWorker(Area::Secrets);

/// Replies with a large body if the body of the ask is the expected body.
struct Large {
    expected: Bytes,
    reply: Bytes,
}

#[async_trait]
impl AskHandler for Large {
    async fn handle(&self, ask: Ask) -> Result<Reply, Busy> {
        let outcome = if ask.body == self.expected {
            Ok(self.reply.clone())
        } else {
            Err(Bytes::from_static(b"another body"))
        };
        Ok(Reply {
            position: Position(0),
            outcome,
        })
    }
}

fn bytes(length: usize) -> Bytes {
    let bytes = (0..length).map(|index| (index * 7 + index / 251) as u8);
    Bytes::from(bytes.collect::<Vec<_>>())
}

fn parse_failure(body: &[u8]) -> Failure {
    serde_json::from_slice(body).expect("a failure")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_larger_than_a_message_travels_in_chunks() {
    let options = shared_options();
    let sender = connect(&options).await;
    let worker = connect(&options).await;
    let arguments = bytes(2_000_000);
    let result = bytes(4_000_000);
    let large = Large {
        expected: arguments.clone(),
        reply: result.clone(),
    };
    let _large = worker.subscribe(POOL, Arc::new(large));
    wait_until_served(&sender, POOL).await;
    let send = async |target, body| {
        let request = Ask {
            body,
            ..ask(target, "", PATIENCE)
        };
        sender.request(request).await.expect("a reply").outcome
    };
    let replies = futures::future::join_all((0..3).map(|_| send(POOL, arguments.clone()))).await;
    for reply in replies {
        let body = reply.expect("a success");
        assert!(body == result, "{} bytes arrived", body.len());
    }
    // Bodies near the limits of one message and of two chunks.
    let _echo = worker.subscribe(SERVERS, Arc::new(Echo::default()));
    wait_until_served(&sender, SERVERS).await;
    let chunk = MAX_PAYLOAD / 4 * 3;
    for length in [0, chunk - 1, chunk, chunk + 1, 2 * chunk, 2 * chunk + 1] {
        let reply = send(SERVERS, bytes(length)).await.expect("a success");
        assert!(reply == bytes(length), "{length}");
    }
    let refused = send(POOL, bytes(NatsOptions::MAX_BODY + 1)).await;
    let failure = parse_failure(&refused.expect_err("a failure"));
    assert!(failure.message.contains("Mcp-Parts"), "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_ask_is_refused_with_a_reason() {
    let options = shared_options();
    let prefix = &options.prefix;
    let worker = connect(&options).await;
    let _tools = worker.subscribe(POOL, Arc::new(Echo::default()));
    let _secrets = worker.subscribe(SECRETS, Arc::new(Echo::default()));
    let _servers = worker.subscribe(SERVERS, Arc::new(Hang::default()));
    let client = async_nats::connect(&options.urls[0])
        .await
        .expect("a client");
    let other = connect(&options).await;
    for target in [POOL, SECRETS, SERVERS] {
        wait_until_served(&other, target).await;
    }
    let call = ("Mcp-Call", r#"{"user":"u","server":"s","tool":"t"}"#);
    let escape = r#"{"user":"u","server":"../s","tool":"t"}"#;
    let no_inbox = r#"{"inbox":"$SYS.x","length":5,"part":4096,"sha256":""}"#;
    for (subject, headers, named) in [
        ("ask.tools.call", vec![], "Mcp-Call"),
        ("ask.tools.call", vec![("Mcp-Call", "{")], "Mcp-Call"),
        ("ask.tools.call", vec![("Mcp-Call", escape)], "Mcp-Call"),
        (
            "ask.tools.call",
            vec![call, ("Mcp-Time-Left", "soon")],
            "Mcp-Time-Left",
        ),
        ("ask.tools.call", vec![call, ("Mcp-Seen", "-1")], "Mcp-Seen"),
        (
            "ask.tools.call",
            vec![call, ("Mcp-Parts", "[]")],
            "Mcp-Parts",
        ),
        (
            "ask.tools.call",
            vec![call, ("Mcp-Parts", no_inbox)],
            "Mcp-Parts",
        ),
        ("ask.tools.dance", vec![], "tools.dance"),
        ("ask.secrets.sweep", vec![], "secrets.sweep"),
    ] {
        let headers: HeaderMap = headers
            .into_iter()
            .map(|(name, value)| (name.parse().expect("a name"), value.into()))
            .collect();
        let subject = format!("{prefix}.{subject}");
        let reply = client.request_with_headers(subject, headers, "\0invalid".into());
        let reply = reply.await.expect("a reply");
        let headers = reply.headers.expect("headers");
        let status = headers.get("Mcp-Status").expect("a status");
        assert_eq!(status.as_str(), "failed");
        let failure = parse_failure(&reply.payload);
        assert!(
            failure.code == Code::InvalidRequest && failure.message.contains(named),
            "{failure}"
        );
    }
    // A sender that does not measure the time gets a failure after its time.
    let headers: HeaderMap = [("Mcp-Time-Left".parse().expect("a name"), "20".into())]
        .into_iter()
        .collect();
    let subject = format!("{prefix}.ask.servers.delete");
    let reply = client.request_with_headers(subject, headers, "{}".into());
    let failure = parse_failure(&reply.await.expect("a reply").payload);
    assert_eq!(failure.code, Code::Timeout);
    wait_for_reply(&worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_continues_after_invalid_messages_and_delivers_invalid_jobs() {
    let options = shared_options();
    let prefix = &options.prefix;
    let worker = connect(&options).await;
    let _tools = worker.subscribe(POOL, Arc::new(Echo::default()));
    let client = async_nats::connect(&options.urls[0])
        .await
        .expect("a client");
    for (subject, body) in [
        ("cancel", "\u{7f}"),
        ("log.moved", "far"),
        ("status", "{"),
        ("clock", "x"),
    ] {
        let published = client.publish(format!("{prefix}.{subject}"), body.into());
        published.await.expect("published");
    }
    // The bus delivers invalid jobs, because the worker checks them.
    let jetstream = async_nats::jetstream::new(client.clone());
    let mut jobs = worker.consume_jobs();
    worker.publish_job(job("first")).await.expect("published");
    next_job(&mut jobs).await.ack.ack(None).await;
    for subject in [
        "job.secrets.dance.1",
        "job.secrets.sweep",
        "job.secrets",
        "job.tools.call.1",
    ] {
        let published = jetstream.publish(format!("{prefix}.{subject}"), "\0".into());
        published.await.expect("published").await.expect("stored");
    }
    let end_of_prefix = prefix.rsplit('.').next().expect("a prefix");
    let short = format!("{end_of_prefix}.job");
    for (command, id) in [
        ("secrets.dance", "1"),
        ("job.secrets", "sweep"),
        (&*short, "secrets"),
        ("tools.call", "1"),
    ] {
        let next = next_job(&mut jobs).await;
        assert_eq!((&*next.job.command, &*next.job.id), (command, id));
        assert_eq!(&next.job.body[..], b"\0");
        next.ack.ack(Some(Err(Bytes::new()))).await;
    }
    wait_for_reply(&worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hint_reaches_every_other_process_once() {
    let options = shared_options();
    let first = connect(&options).await;
    let second = connect(&options).await;
    let mut hints_of_first = first.hints();
    let mut hints_of_second = second.hints();
    // A connection creates its subscriptions in order, so a reply proves that the earlier subscriptions exist.
    let _subscription = second.subscribe(POOL, Arc::new(Echo::default()));
    wait_for_reply(&first).await;
    first.publish(Hint::LogMoved(Position(7)));
    first.publish(Hint::Status(Bytes::from(json!({"a": 1}).to_string())));
    let cancelled = Digest(Uuid::from_u128(1));
    let ended = Digest(Uuid::from_u128(2));
    first.publish(Hint::McpCallCancelled(cancelled));
    first.publish(Hint::McpSessionEnded(ended));
    let change = UpstreamChange {
        server: ServerId(Uuid::from_u128(3)),
        user: Some("ana".parse().expect("a name")),
        part: ChangedPart::Resource("a:b c".into()),
    };
    first.publish(Hint::UpstreamChanged(change.clone()));
    let setting = SessionChange {
        session: ended,
        facade: FacadeId(Uuid::from_u128(4)),
        setting: SessionSetting::Watched("a:b c".into()),
    };
    first.publish(Hint::McpSessionChanged(setting.clone()));
    let mut position = None;
    let mut status = None;
    let mut digests = Vec::new();
    let mut changes = Vec::new();
    let mut settings = Vec::new();
    for _ in 0..6 {
        let hint = tokio::time::timeout(PATIENCE, hints_of_second.recv()).await;
        match hint.expect("in time").expect("a hint") {
            Hint::LogMoved(moved) => position = Some(moved),
            Hint::Status(body) => status = Some(body),
            Hint::McpCallCancelled(call) => digests.push(("cancelled", call)),
            Hint::McpSessionEnded(session) => digests.push(("ended", session)),
            Hint::UpstreamChanged(change) => changes.push(change),
            Hint::McpSessionChanged(setting) => settings.push(setting),
            Hint::EntryAppended(entry) => panic!("an entry that no process appended: {entry:?}"),
        }
    }
    assert_eq!(changes, [change]);
    assert_eq!(settings, [setting]);
    assert_eq!(digests, [("cancelled", cancelled), ("ended", ended)]);
    assert_eq!(position, Some(Position(7)));
    assert_eq!(status, Some(Bytes::from_static(b"{\"a\":1}")));
    // An echo of the first hints would arrive before this hint.
    second.publish(Hint::LogMoved(Position(8)));
    for expected in [
        "LogMoved(Position(7))",
        "Status",
        "McpCallCancelled",
        "McpSessionEnded",
        "UpstreamChanged",
        "McpSessionChanged",
        "LogMoved(Position(8))",
    ] {
        let hint = tokio::time::timeout(PATIENCE, hints_of_first.recv()).await;
        let hint = hint.expect("in time").expect("a hint");
        assert!(format!("{hint:?}").starts_with(expected), "{hint:?}");
    }
}

/// Sends an ask with signs of life whose reply goes to an inbox, and returns the subscription of the inbox.
async fn ask_with_signs(client: &async_nats::Client, prefix: &str) -> async_nats::Subscriber {
    let inbox = client.new_inbox();
    let replies = client.subscribe(inbox.clone()).await.expect("an inbox");
    let headers: HeaderMap = [("Mcp-Working", "1"), ("Mcp-Time-Left", "600000")]
        .into_iter()
        .map(|(name, value)| (name.parse().expect("a name"), value.into()))
        .collect();
    let subject = format!("{prefix}.ask.servers.delete");
    let sent = client.publish_with_reply_and_headers(subject, inbox, headers, "{}".into());
    sent.await.expect("sent");
    client.flush().await.expect("flushed");
    replies
}

#[tokio::test(flavor = "multi_thread")]
async fn the_work_for_a_dead_sender_ends_and_the_work_for_others_goes_on() {
    let options = shared_options();
    let worker = connect(&options).await;
    let hang = Hang::default();
    let _subscription = worker.subscribe(SERVERS, Arc::new(hang.clone()));
    wait_until_served(&connect(&options).await, SERVERS).await;
    let (begun, dropped) = (&hang.0, &hang.1);
    let [living, dead] = [0, 1].map(|_| async_nats::connect(&options.urls[0]));
    let (living, dead) = (
        living.await.expect("a client"),
        dead.await.expect("a client"),
    );
    wait_until("the asks that found the target have ended", async || {
        dropped.load(Ordering::SeqCst) == begun.load(Ordering::SeqCst)
    })
    .await;
    let before = dropped.load(Ordering::SeqCst);
    let mut replies = ask_with_signs(&living, &options.prefix).await;
    let of_dead = ask_with_signs(&dead, &options.prefix).await;
    wait_until("both asks have begun", async || {
        begun.load(Ordering::SeqCst) == before + 2
    })
    .await;
    drop(of_dead);
    drop(dead);
    wait_until("the work for the dead sender has ended", async || {
        dropped.load(Ordering::SeqCst) == before + 1
    })
    .await;
    // The living sender hears more signs than those that a dead sender misses.
    for _ in 0..8 {
        let sign = tokio::time::timeout(PATIENCE, replies.next()).await;
        let sign = sign.expect("in time").expect("a sign");
        let headers = sign.headers.expect("headers");
        let status = headers.get("Mcp-Status").expect("a status");
        assert_eq!(status.as_str(), "working");
    }
    assert_eq!(dropped.load(Ordering::SeqCst), before + 1);
}
