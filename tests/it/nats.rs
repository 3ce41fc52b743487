//! What the bus keeps when its server, its takers and its senders do not behave.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_trait::async_trait;
use bytes::Bytes;
use serde_json::json;
use uuid::Uuid;

use crate::bus_contract::ask;
use crate::harness::PATIENCE;
use crate::services::nats::{Nats, Version, shared};
use crate::wait::wait_until;
use mcp_api::adapters::bus_nats::{NatsBus, NatsOptions};
use mcp_api::core::command::{Area, Command, DeleteServer};
use mcp_api::core::failure::{Code, Failure};
use mcp_api::core::ids::Position;
use mcp_api::ports::bus::{Ask, AskHandler, Bus, BusError, Busy, Hint, JobMessage, Reply, Target};

const POOL: Target = Target::AnyWorker(Area::Tools);
/// The default limit of a message.
const MAX_PAYLOAD: usize = 1 << 20;

fn options(url: &str) -> NatsOptions {
    NatsOptions {
        prefix: format!("test.{}", Uuid::new_v4().simple()),
        ..NatsOptions::new(vec![url.to_owned()])
    }
}

fn shared_options() -> NatsOptions {
    options(&shared(Version::Newest).expect("nats-server"))
}

async fn bus(options: &NatsOptions) -> Arc<NatsBus> {
    NatsBus::connect(options.clone()).await.expect("a bus")
}

/// Answers with what it was asked, as often as the first byte says, and counts.
#[derive(Clone, Default)]
struct Echo(Arc<AtomicUsize>);

#[async_trait]
impl AskHandler for Echo {
    async fn handle(&self, ask: Ask) -> Result<Reply, Busy> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(Reply {
            position: Position(3),
            outcome: Ok(ask.body),
        })
    }
}

/// Begins and never ends.
struct Hang;

#[async_trait]
impl AskHandler for Hang {
    async fn handle(&self, _: Ask) -> Result<Reply, Busy> {
        std::future::pending().await
    }
}

/// Waits for a level: until an ask is answered.
async fn answered(bus: &Arc<NatsBus>) {
    wait_until("an ask is answered", async || {
        bus.request(ask(POOL, "again", PATIENCE)).await.is_ok()
    })
    .await;
}

/// Waits until somebody who has just begun to serve can be reached from elsewhere.
async fn served(from: &Arc<NatsBus>, place: Target) {
    let asked = async || {
        from.request(ask(place, "{}", Duration::from_millis(200)))
            .await
    };
    wait_until("it is served", async || {
        !matches!(asked().await, Err(BusError::NoResponders))
    })
    .await;
}

fn job(id: &str) -> JobMessage {
    JobMessage {
        id: id.into(),
        command: "secrets.sweep".into(),
        call: None,
        reply: None,
        body: Bytes::from_static(b"{}"),
    }
}

fn failure(body: &[u8]) -> Failure {
    serde_json::from_slice(body).expect("a failure")
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_larger_than_a_message_travel_in_parts() {
    /// Answers with 10 MB and checks what it was asked.
    struct Large(Bytes, Bytes);
    #[async_trait]
    impl AskHandler for Large {
        async fn handle(&self, ask: Ask) -> Result<Reply, Busy> {
            let outcome = if ask.body == self.0 {
                Ok(self.1.clone())
            } else {
                Err(Bytes::from_static(b"not that"))
            };
            Ok(Reply {
                position: Position(0),
                outcome,
            })
        }
    }
    let bytes = |length: usize| {
        Bytes::from(
            (0..length)
                .map(|n| (n * 7 + n / 251) as u8)
                .collect::<Vec<_>>(),
        )
    };
    let options = shared_options();
    let (asking, serving) = (bus(&options).await, bus(&options).await);
    let (arguments, result) = (bytes(6_000_000), bytes(10_000_000));
    let _serving = serving.subscribe(POOL, Arc::new(Large(arguments.clone(), result.clone())));
    served(&asking, POOL).await;
    let calls = (0..3).map(|_| {
        let asking = asking.clone();
        let question = Ask {
            body: arguments.clone(),
            ..ask(POOL, "", PATIENCE)
        };
        async move {
            asking
                .request(question)
                .await
                .expect("an answer")
                .outcome
                .expect("a success")
        }
    });
    for answer in futures::future::join_all(calls).await {
        assert!(answer == result, "{} bytes came", answer.len());
    }
    // At the edges of what one message takes.
    let _echo = serving.subscribe(Target::AnyWorker(Area::Servers), Arc::new(Echo::default()));
    served(&asking, Target::AnyWorker(Area::Servers)).await;
    let part = MAX_PAYLOAD / 4 * 3;
    for length in [0, part - 1, part, part + 1, 2 * part, 2 * part + 1] {
        let question = Ask {
            body: bytes(length),
            ..ask(Target::AnyWorker(Area::Servers), "", PATIENCE)
        };
        let answer = asking
            .request(question)
            .await
            .expect("an answer")
            .outcome
            .expect("a success");
        assert!(answer == bytes(length), "{length}");
    }
    // More than is taken.
    let question = Ask {
        body: bytes(NatsOptions::MAX_BODY + 1),
        ..ask(POOL, "", PATIENCE)
    };
    let refused = asking
        .request(question)
        .await
        .expect("an answer")
        .outcome
        .expect_err("a failure");
    assert!(
        failure(&refused).message.contains("Mcp-Parts"),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_server_the_bus_is_away_at_once_and_heals() {
    let mut server = Nats::start(Version::Newest);
    let options = options(&server.url());
    let (asking, serving) = (bus(&options).await, bus(&options).await);
    let echo = Echo::default();
    let _serving = serving.subscribe(POOL, Arc::new(echo.clone()));
    let mut jobs = serving.consume_jobs();
    answered(&asking).await;
    asking.publish_job(job("kept")).await.expect("submitted");
    let begun = echo.0.load(Ordering::SeqCst);
    server.kill();
    let until = Instant::now() + PATIENCE;
    // The first may have been on its way when the server died.
    while asking.request(ask(POOL, "lost", PATIENCE)).await.map(drop) != Err(BusError::Unavailable)
    {
        assert!(Instant::now() < until);
    }
    for _ in 0..100 {
        let began = Instant::now();
        assert_eq!(
            asking.request(ask(POOL, "lost", PATIENCE)).await.map(drop),
            Err(BusError::Unavailable)
        );
        assert_eq!(
            asking.publish_job(job("lost")).await,
            Err(BusError::Unavailable)
        );
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "{:?}",
            began.elapsed()
        );
    }
    asking.publish(Hint::LogMoved(Position(9)));
    assert_eq!(asking.pending_jobs().await, 0);
    server.restart();
    answered(&asking).await;
    // What was refused was not kept for later.
    assert!(
        echo.0.load(Ordering::SeqCst) <= begun + 1,
        "an ask that was refused was sent later"
    );
    let kept = tokio::time::timeout(PATIENCE, jobs.next())
        .await
        .expect("in time")
        .expect("a job");
    assert_eq!(kept.job.id, "kept");
    kept.settle.ack(Some(Ok(Bytes::new()))).await;
    assert_eq!(asking.pending_jobs().await, 0);
    // It may even have lost everything.
    server.kill();
    std::fs::remove_dir_all(server.folder.join("store")).expect("removed");
    server.restart();
    answered(&asking).await;
    wait_until("NATS accepts a job", async || {
        asking.publish_job(job("new")).await.is_ok()
    })
    .await;
    let new = tokio::time::timeout(PATIENCE, jobs.next())
        .await
        .expect("in time")
        .expect("a job");
    assert_eq!(new.job.id, "new");
}

#[test]
fn what_a_hanging_server_kept_is_not_begun_later() {
    let server = Nats::start(Version::Newest);
    let options = options(&server.url());
    let runtime = || tokio::runtime::Runtime::new().expect("a runtime");
    let (dying, living) = (runtime(), runtime());
    let echo = Echo::default();
    let (serving, asking) = living.block_on(async { (bus(&options).await, bus(&options).await) });
    let _serving = living.block_on(async { serving.subscribe(POOL, Arc::new(echo.clone())) });
    let doomed = dying.block_on(async { bus(&options).await });
    living.block_on(answered(&asking));
    dying.block_on(answered(&doomed));
    let begun = echo.0.load(Ordering::SeqCst);
    server.pause();
    let late = || async { futures::future::join_all((0..20).map(|_| doomed_call(&asking))).await };
    for answer in living.block_on(late()) {
        assert_eq!(answer, Err(BusError::TimedOut));
    }
    // These are not even cancelled: their asker dies while the server has them.
    let began = Instant::now();
    for _ in 0..20 {
        let doomed = doomed.clone();
        dying.spawn(async move { doomed_call(&doomed).await });
    }
    std::thread::sleep(Duration::from_millis(300));
    dying.shutdown_background();
    std::thread::sleep(Duration::from_millis(1500).saturating_sub(began.elapsed()));
    server.resume();
    living.block_on(answered(&asking));
    assert_eq!(
        echo.0.load(Ordering::SeqCst),
        begun + 1,
        "an ask was begun that its asker had given up"
    );
}

async fn doomed_call(bus: &Arc<NatsBus>) -> Result<(), BusError> {
    bus.request(ask(POOL, "late", Duration::from_secs(1)))
        .await
        .map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_leaves_a_place_loses_no_ask() {
    let options = shared_options();
    let (asking, staying, leaving) = (
        bus(&options).await,
        bus(&options).await,
        bus(&options).await,
    );
    let _staying = staying.subscribe(POOL, Arc::new(Echo::default()));
    answered(&asking).await;
    let left = Arc::new(AtomicUsize::new(0));
    let askers = (0..32).map(|_| {
        let (asking, left) = (asking.clone(), left.clone());
        tokio::spawn(async move {
            while left.load(Ordering::SeqCst) < 50 {
                asking
                    .request(ask(POOL, "", PATIENCE))
                    .await
                    .expect("an answer");
            }
        })
    });
    let askers: Vec<_> = askers.collect();
    let echo = Echo::default();
    while left.load(Ordering::SeqCst) < 50 {
        let serving = leaving.subscribe(POOL, Arc::new(echo.clone()));
        let asked = echo.0.load(Ordering::SeqCst) + 20;
        while echo.0.load(Ordering::SeqCst) < asked {
            tokio::task::yield_now().await;
        }
        drop(serving);
        left.fetch_add(1, Ordering::SeqCst);
    }
    futures::future::join_all(askers)
        .await
        .into_iter()
        .for_each(|commands| commands.expect("none was lost"));
}

#[test]
fn a_taker_that_dies_is_silent_after_three_seconds() {
    let runtime = || tokio::runtime::Runtime::new().expect("a runtime");
    let (taker, caller) = (runtime(), runtime());
    let options = shared_options();
    taker.block_on(async {
        let bus = bus(&options).await;
        std::mem::forget(bus.subscribe(POOL, Arc::new(Hang)));
        std::mem::forget(bus);
    });
    caller.block_on(async {
        let asking = bus(&options).await;
        let call = tokio::spawn(async move { asking.request(ask(POOL, "", PATIENCE)).await });
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert!(!call.is_finished());
        // Its connection is gone, and it said nothing.
        taker.shutdown_background();
        let began = Instant::now();
        assert_eq!(
            call.await.expect("a caller").map(drop),
            Err(BusError::WorkerLost)
        );
        let after = began.elapsed();
        assert!(
            (Duration::from_secs(2)..Duration::from_secs(30)).contains(&after),
            "{after:?}"
        );
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn rubbish_is_refused_and_the_bus_lives_on() {
    let options = shared_options();
    let (serving, prefix) = (bus(&options).await, &options.prefix);
    let _serving = serving.subscribe(POOL, Arc::new(Echo::default()));
    let _holder = serving.subscribe(Target::AnyWorker(Area::Secrets), Arc::new(Echo::default()));
    let client = async_nats::connect(&options.urls[0])
        .await
        .expect("a client");
    let other = bus(&options).await;
    served(&other, POOL).await;
    served(&other, Target::AnyWorker(Area::Secrets)).await;
    let call = r#"{"user":"u","server":"s","tool":"t"}"#;
    for (subject, headers, named) in [
        ("ask.tools.call", vec![], "Mcp-Call"),
        ("ask.tools.call", vec![("Mcp-Call", "{")], "Mcp-Call"),
        (
            "ask.tools.call",
            vec![("Mcp-Call", r#"{"user":"u","server":"../s","tool":"t"}"#)],
            "Mcp-Call",
        ),
        (
            "ask.tools.call",
            vec![("Mcp-Call", call), ("Mcp-Time-Left", "soon")],
            "Mcp-Time-Left",
        ),
        (
            "ask.tools.call",
            vec![("Mcp-Call", call), ("Mcp-Seen", "-1")],
            "Mcp-Seen",
        ),
        (
            "ask.tools.call",
            vec![("Mcp-Call", call), ("Mcp-Parts", "[]")],
            "Mcp-Parts",
        ),
        (
            "ask.tools.call",
            vec![
                ("Mcp-Call", call),
                (
                    "Mcp-Parts",
                    r#"{"inbox":"$SYS.x","length":5,"part":4096,"sha256":""}"#,
                ),
            ],
            "Mcp-Parts",
        ),
        ("ask.tools.dance", vec![], "tools.dance"),
        ("ask.secrets.sweep", vec![], "secrets.sweep"),
    ] {
        let headers: HeaderMap = headers
            .into_iter()
            .map(|(k, v)| (k.parse().expect("a name"), v.into()))
            .collect();
        let asked =
            client.request_with_headers(format!("{prefix}.{subject}"), headers, "\0rubbish".into());
        let reply = asked.await.expect("a reply");
        assert_eq!(
            reply
                .headers
                .expect("headers")
                .get("Mcp-Status")
                .expect("a status")
                .as_str(),
            "failed"
        );
        let failure = failure(&reply.payload);
        assert!(
            failure.code == Code::InvalidRequest && failure.message.contains(named),
            "{failure}"
        );
    }
    // Time is up for a sender that keeps none, and an answer goes into an inbox or nowhere.
    let _hanging = serving.subscribe(Target::AnyWorker(Area::Servers), Arc::new(Hang));
    served(&other, Target::AnyWorker(Area::Servers)).await;
    let headers: HeaderMap = [("Mcp-Time-Left".parse().expect("a name"), "20".into())]
        .into_iter()
        .collect();
    let asked =
        client.request_with_headers(format!("{prefix}.ask.servers.delete"), headers, "{}".into());
    assert_eq!(
        failure(&asked.await.expect("a reply").payload).code,
        Code::Timeout
    );
    for (subject, body) in [
        ("cancel", "\u{7f}"),
        ("log.moved", "far"),
        ("status", "{"),
        ("clock", "x"),
    ] {
        client
            .publish(format!("{prefix}.{subject}"), body.into())
            .await
            .expect("published");
    }
    // Jobs come as they are, however wrong: whoever takes them reads them.
    let jetstream = async_nats::jetstream::new(client.clone());
    let (mut jobs, wrong) = (
        serving.consume_jobs(),
        [
            "job.secrets.dance.1",
            "job.secrets.sweep",
            "job.secrets",
            "job.tools.call.1",
        ],
    );
    serving.publish_job(job("first")).await.expect("submitted");
    let first = tokio::time::timeout(PATIENCE, jobs.next())
        .await
        .expect("in time")
        .expect("a job");
    first.settle.ack(None).await;
    for subject in wrong {
        let stored = jetstream
            .publish(format!("{prefix}.{subject}"), "\0".into())
            .await
            .expect("published")
            .await;
        stored.expect("stored");
    }
    for named in [
        ("secrets.dance", "1"),
        ("job.secrets", "sweep"),
        (
            &*format!("{}.job", prefix.rsplit('.').next().expect("a word")),
            "secrets",
        ),
        ("tools.call", "1"),
    ] {
        let next = tokio::time::timeout(PATIENCE, jobs.next())
            .await
            .expect("in time")
            .expect("a job");
        assert_eq!(
            (&*next.job.command, &*next.job.id, &next.job.body[..]),
            (named.0, named.1, &b"\0"[..])
        );
        next.settle.ack(Some(Err(Bytes::new()))).await;
    }
    answered(&serving).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hints_reach_other_processes_and_nobody_twice() {
    let options = shared_options();
    let (here, there) = (bus(&options).await, bus(&options).await);
    let (mut own, mut other) = (here.hints(), there.hints());
    // The subscriptions of a connection are made in order, so what one of its own answers is a sign.
    let _serving = there.subscribe(POOL, Arc::new(Echo::default()));
    answered(&here).await;
    here.publish(Hint::LogMoved(Position(7)));
    here.publish(Hint::Status(Bytes::from(json!({"a": 1}).to_string())));
    let mut heard = [None, None];
    for _ in 0..2 {
        match tokio::time::timeout(PATIENCE, other.recv())
            .await
            .expect("in time")
            .expect("a hint")
        {
            Hint::LogMoved(position) => heard[0] = Some(position.0.to_string()),
            Hint::Status(status) => heard[1] = Some(String::from_utf8_lossy(&status).into_owned()),
        }
    }
    assert_eq!(heard, [Some("7".into()), Some("{\"a\":1}".into())]);
    // What `there` says after it has heard comes after what an echo would have brought.
    there.publish(Hint::LogMoved(Position(8)));
    for expected in ["LogMoved(Position(7))", "Status", "LogMoved(Position(8))"] {
        let hint = tokio::time::timeout(PATIENCE, own.recv())
            .await
            .expect("in time")
            .expect("a hint");
        assert!(format!("{hint:?}").starts_with(expected), "{hint:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_jetstream_serves_asks() {
    let server = Nats::with_config(Version::Newest, |_| String::new());
    let bus = bus(&options(&server.url())).await;
    let _serving = bus.subscribe(POOL, Arc::new(Echo::default()));
    answered(&bus).await;
    assert_eq!(bus.publish_job(job("x")).await, Err(BusError::Unavailable));
    assert!(
        tokio::time::timeout(Duration::from_millis(100), bus.consume_jobs().next())
            .await
            .is_err()
    );
    assert_eq!(bus.pending_jobs().await, 0);
    assert!(
        bus.request(ask(
            Target::AnyWorker(Area::Servers),
            DeleteServer::NAME,
            PATIENCE
        ))
        .await
        .is_err()
    );
    answered(&bus).await;
}
