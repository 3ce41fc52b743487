//! Messages of other programs on NATS: asks, jobs, cancellations, clocks and hints with any headers and bodies.

use std::sync::Arc;
use std::time::Duration;

use async_nats::header::{HeaderMap, HeaderValue};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use proptest::prelude::*;
use tokio::runtime::Runtime;
use uuid::Uuid;

use super::{check, like, within_memory};
use crate::bus_contract::ask;
use crate::services::nats::{Version, shared};
use mcp_api::adapters::bus_nats::{NatsBus, NatsOptions};
use mcp_api::core::command::Area;
use mcp_api::ports::bus::{Ask, AskHandler, Bus, Busy, Reply, SubscriptionGuard, Target};

const POOL: Target = Target::AnyWorker(Area::Tools);
/// The longest time until a correct ask has its reply.
const PATIENCE: Duration = Duration::from_secs(20);

const SUBJECTS: &[&str] = &[
    "ask.tools.call",
    "ask.tools.call",
    "ask.tools.call",
    "ask.secrets.delete",
    "ask.owner.01a21bbe-872f-732b-b9b5-14a8b65e9edb",
    "ask.worker.x.keys.count",
    "job.tools.call.a",
    "job.tools.call.=41",
    "job.tools.call.=4",
    "job.servers.delete.b",
    "cancel",
    "clock",
    "log.moved",
    "status",
];

/// The headers of the program, with a value that each of them accepts.
const HEADERS: &[(&str, &str)] = &[
    ("Mcp-Time-Left", "1000"),
    ("Mcp-Seen", "7"),
    (
        "traceparent",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    ),
    ("Mcp-Ask", "an-id"),
    ("Mcp-Call", CALL),
    ("Mcp-Call", CALL),
    ("Mcp-Call", CALL),
    ("Mcp-Command", "tools.call"),
    ("Mcp-Working", "1"),
    ("Mcp-Parts", PARTS),
    ("Mcp-Parts", PARTS),
    ("Mcp-Reply", "_INBOX.nobody"),
    ("Mcp-Status", "ok"),
    ("Mcp-Position", "7"),
    ("Mcp-Sent", "a 1000 7"),
    ("Mcp-From", "a"),
    ("Mcp-Entry", ENTRY),
    ("Mcp-Signature", "AAAA"),
    ("Nats-Msg-Id", "a"),
];
/// An entry without a valid signature.
const ENTRY: &str = r#"{"previous":"01a21bbe-872f-732b-b9b5-14a8b65e9edb","entry":{"position":8,"at":0,"commits":[]}}"#;
const CALL: &str = r#"{"user":"ana","server":"s","tool":"t"}"#;
/// Announces a body that never comes.
const PARTS: &str = r#"{"inbox":"_INBOX.x","length":6000000,"part":1048576,"sha256":"00"}"#;

/// Values that a header may have by mistake.
const VALUES: &[&str] = &[
    "0",
    "18446744073709551615",
    CALL,
    PARTS,
    "tools.call",
    "a 1000 7",
    "01a21bbe-872f-732b-b9b5-14a8b65e9edb 99999999999 1",
    "working",
];

const BODIES: &[&str] = &[
    "{\"message\":\"x\"}",
    "7",
    "{\"worker\":\"01a21bbe-872f-732b-b9b5-14a8b65e9edb\",\"servers\":[],\"keyId\":\"k\"}",
    "",
];

struct Echo;

#[async_trait]
impl AskHandler for Echo {
    async fn handle(&self, ask: Ask) -> Result<Reply, Busy> {
        Ok(Reply {
            position: ask.seen,
            outcome: Ok(ask.body),
        })
    }
}

/// A bus that serves asks and consumes jobs, and a program that may publish anything.
struct Peers {
    runtime: Runtime,
    bus: Arc<dyn Bus>,
    stranger: async_nats::Client,
    prefix: String,
    serving: Option<SubscriptionGuard>,
}

impl Drop for Peers {
    fn drop(&mut self) {
        // The end of the subscription needs the runtime.
        let _entered = self.runtime.enter();
        self.serving = None;
    }
}

impl Peers {
    fn connect(url: String) -> Self {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().expect("a runtime");
        let prefix = format!("test.{}", Uuid::new_v4().simple());
        let options = NatsOptions {
            prefix: prefix.clone(),
            ..NatsOptions::new(vec![url.clone()])
        };
        let (bus, stranger, serving) = runtime.block_on(async {
            let bus: Arc<dyn Bus> = NatsBus::connect(options).await.expect("a bus");
            let serving = bus.subscribe(POOL, Arc::new(Echo));
            let mut jobs = bus.consume_jobs();
            tokio::spawn(async move {
                while let Some(delivery) = jobs.next().await {
                    delivery.ack.ack(None).await;
                }
            });
            bus.flush().await;
            let stranger = async_nats::connect(url).await.expect("connected");
            (bus, stranger, serving)
        });
        Self {
            runtime,
            bus,
            stranger,
            prefix,
            serving: Some(serving),
        }
    }

    /// Publishes the messages, and checks that a correct ask still has its reply.
    fn survive(&self, messages: Vec<Foreign>) {
        self.runtime.block_on(async {
            for Foreign {
                subject,
                headers,
                body,
                has_reply,
            } in messages
            {
                let subject = format!("{}.{subject}", self.prefix);
                let body = Bytes::from(body);
                let headers = header_map(headers);
                let published = if has_reply {
                    let reply = self.stranger.new_inbox();
                    self.stranger
                        .publish_with_reply_and_headers(subject, reply, headers, body)
                        .await
                } else {
                    self.stranger
                        .publish_with_headers(subject, headers, body)
                        .await
                };
                // The client refuses some subjects itself.
                let _ = published;
            }
            self.stranger.flush().await.expect("published");
            let request = self.bus.request(ask(POOL, "mine", PATIENCE));
            let reply = tokio::time::timeout(PATIENCE * 2, request).await;
            let reply = reply.expect("a reply in time").expect("a reply");
            assert_eq!(reply.outcome, Ok(Bytes::from_static(b"mine")));
        });
    }
}

fn header_map(headers: Vec<(&'static str, Vec<u8>)>) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        // A value with a line break cannot be sent.
        let value = String::from_utf8_lossy(&value).into_owned();
        if let Ok(value) = value.parse::<HeaderValue>() {
            map.append(name, value);
        }
    }
    map
}

#[derive(Debug, Clone)]
struct Foreign {
    subject: &'static str,
    headers: Vec<(&'static str, Vec<u8>)>,
    body: Vec<u8>,
    has_reply: bool,
}

fn foreign() -> impl Strategy<Value = Foreign> {
    let header = prop_oneof![
        3 => prop::sample::select(HEADERS).prop_map(|(name, value)| (name, value.as_bytes().to_vec())),
        1 => (prop::sample::select(HEADERS), like(VALUES)).prop_map(|((name, _), value)| (name, value)),
    ];
    (
        prop::sample::select(SUBJECTS),
        prop::collection::vec(header, 0..6),
        like(BODIES),
        any::<bool>(),
    )
        .prop_map(|(subject, headers, body, has_reply)| Foreign {
            subject,
            headers,
            body,
            has_reply,
        })
}

#[test]
fn any_messages_leave_the_bus_working() {
    let url = shared(Version::Newest).expect("nats-server is installed");
    // One bus for all inputs. Its tasks run on the thread that checks an input.
    let peers = Arc::new(Mutex::new(Peers::connect(url)));
    let messages = || prop::collection::vec(foreign(), 1..16);
    check(messages, move |messages: Vec<Foreign>| {
        let input: usize = messages
            .iter()
            .map(|message| 1024 + message.body.len())
            .sum();
        within_memory(input, 200, || peers.lock().survive(messages));
    });
}
