//! The promises of a bus about asks.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Semaphore, watch};
use uuid::Uuid;

use super::ask;
use crate::harness::PATIENCE;
use mcp_api::core::command::Area;
use mcp_api::core::ids::{Position, ServerId, WorkerId};
use mcp_api::core::model::tool_call::CallTool;
use mcp_api::ports::bus::{Ask, AskHandler, Bus, BusError, Busy, Reply, Target};

const POOL: Target = Target::AnyWorker(Area::Tools);

/// Replies with its own text and the body of the ask.
struct Echo(&'static str);

#[async_trait]
impl AskHandler for Echo {
    async fn handle(&self, ask: Ask) -> Result<Reply, Busy> {
        let body = [self.0.as_bytes(), &ask.body].concat();
        Ok(Reply {
            position: ask.seen.next(),
            outcome: Ok(body.into()),
        })
    }
}

/// Works until it gets a permit. It counts the asks that have started, ended and finished.
#[derive(Clone)]
struct Work {
    started: watch::Sender<usize>,
    ended: watch::Sender<usize>,
    finished: Arc<AtomicUsize>,
    go: Arc<Semaphore>,
}

impl Work {
    fn new() -> Self {
        Self {
            started: watch::Sender::new(0),
            ended: watch::Sender::new(0),
            finished: Arc::default(),
            go: Arc::new(Semaphore::new(0)),
        }
    }

    async fn reached(counter: &watch::Sender<usize>, count: usize) {
        let mut seen = counter.subscribe();
        let reached = seen.wait_for(|n| *n >= count);
        tokio::time::timeout(PATIENCE, reached)
            .await
            .expect("in time")
            .expect("a sender");
    }
}

#[async_trait]
impl AskHandler for Work {
    async fn handle(&self, _: Ask) -> Result<Reply, Busy> {
        struct Ended(watch::Sender<usize>);
        impl Drop for Ended {
            fn drop(&mut self) {
                self.0.send_modify(|n| *n += 1);
            }
        }
        let _ended = Ended(self.ended.clone());
        self.started.send_modify(|n| *n += 1);
        self.go.acquire().await.expect("a semaphore").forget();
        self.finished.fetch_add(1, Ordering::SeqCst);
        Ok(Reply {
            position: Position(0),
            outcome: Ok(Bytes::new()),
        })
    }
}

async fn reply_to(bus: &Arc<dyn Bus>, to: Target, body: &'static str) -> Result<String, BusError> {
    let reply = bus.request(ask(to, body, PATIENCE)).await?;
    Ok(String::from_utf8(reply.outcome.expect("a success").to_vec()).expect("a text"))
}

pub async fn an_ask_is_answered(bus: Arc<dyn Bus>) {
    struct Refuses;
    #[async_trait]
    impl AskHandler for Refuses {
        async fn handle(&self, _: Ask) -> Result<Reply, Busy> {
            Ok(Reply {
                position: Position(7),
                outcome: Err(Bytes::from_static(b"a failure")),
            })
        }
    }
    let _serving = bus.subscribe(POOL, Arc::new(Echo("echo of ")));
    let _refusing = bus.subscribe(Target::AnyWorker(Area::Servers), Arc::new(Refuses));
    assert_eq!(
        reply_to(&bus, POOL, "hello").await,
        Ok("echo of hello".into())
    );
    let refused = bus
        .request(ask(Target::AnyWorker(Area::Servers), "", PATIENCE))
        .await
        .expect("an answer");
    assert_eq!(
        (refused.position, refused.outcome),
        (Position(7), Err(Bytes::from_static(b"a failure")))
    );
}

pub async fn the_whole_ask_arrives(bus: Arc<dyn Bus>) {
    struct Keep(watch::Sender<Option<Ask>>);
    #[async_trait]
    impl AskHandler for Keep {
        async fn handle(&self, ask: Ask) -> Result<Reply, Busy> {
            self.0.send_replace(Some(ask));
            Ok(Reply {
                position: Position(0),
                outcome: Ok(Bytes::new()),
            })
        }
    }
    let kept = watch::Sender::new(None);
    let _serving = bus.subscribe(POOL, Arc::new(Keep(kept.clone())));
    let call = CallTool {
        user: "Ünal \"1\"".parse().expect("a name"),
        server: "s".parse().expect("a name"),
        tool: "t".parse().expect("a name"),
        timeout_ms: Some(5),
    };
    let mut sent = ask(POOL, "body", Duration::from_secs(20));
    (sent.seen, sent.traceparent, sent.call) =
        (Position(41), Some("00-1-2-00".into()), Some(call.clone()));
    let meta = r#"{"com.example/key":"\u00e4"}"#;
    sent.meta = Some(meta.into());
    let command = sent.command;
    bus.request(sent).await.expect("an answer");
    let got = kept.send_replace(None).expect("an ask");
    assert_eq!(
        (got.to, got.command, got.seen),
        (POOL, command, Position(41))
    );
    assert_eq!(
        (got.traceparent.as_deref(), got.call, &got.body[..]),
        (Some("00-1-2-00"), Some(call), &b"body"[..])
    );
    assert_eq!(got.meta.as_deref(), Some(meta));
    assert!(got.time_left <= Duration::from_secs(20) && got.time_left > Duration::from_secs(10));
}

pub async fn each_of_many_asks_gets_its_own_reply(bus: Arc<dyn Bus>) {
    let _serving = bus.subscribe(POOL, Arc::new(Echo("")));
    let bodies: Vec<&'static str> = (0..200).map(|n| &*n.to_string().leak()).collect();
    let answers =
        futures::future::join_all(bodies.iter().map(|&body| reply_to(&bus, POOL, body))).await;
    answers
        .into_iter()
        .zip(bodies)
        .for_each(|(answer, body)| assert_eq!(answer.as_deref(), Ok(body)));
}

pub async fn a_target_without_a_worker_is_reported_at_once(bus: Arc<dyn Bus>) {
    let worker = WorkerId(Uuid::now_v7());
    for to in [
        POOL,
        Target::Owner(ServerId(Uuid::now_v7())),
        Target::Worker(worker),
    ] {
        let start = Instant::now();
        assert_eq!(reply_to(&bus, to, "").await, Err(BusError::NoResponders));
        assert!(start.elapsed() < PATIENCE / 2, "the bus waited");
    }
}

pub async fn a_busy_worker_is_reported(bus: Arc<dyn Bus>) {
    struct Full;
    #[async_trait]
    impl AskHandler for Full {
        async fn handle(&self, _: Ask) -> Result<Reply, Busy> {
            Err(Busy)
        }
    }
    let _serving = bus.subscribe(POOL, Arc::new(Full));
    assert_eq!(reply_to(&bus, POOL, "").await, Err(BusError::Busy));
}

pub async fn a_hanging_handler_is_cancelled_when_the_time_is_over(bus: Arc<dyn Bus>) {
    let work = Work::new();
    let _serving = bus.subscribe(POOL, Arc::new(work.clone()));
    let start = Instant::now();
    let answer = bus.request(ask(POOL, "", Duration::from_millis(200))).await;
    assert_eq!(answer.map(drop), Err(BusError::TimedOut));
    assert!(
        start.elapsed() >= Duration::from_millis(200),
        "the worker gets the whole time"
    );
    assert!(start.elapsed() < PATIENCE);
    Work::reached(&work.ended, 1).await;
    assert_eq!(work.finished.load(Ordering::SeqCst), 0);
}

pub async fn dropping_the_request_cancels_the_work(bus: Arc<dyn Bus>) {
    let work = Work::new();
    let _serving = bus.subscribe(POOL, Arc::new(work.clone()));
    let (caller, kept) = (bus.clone(), bus.clone());
    let dropped = tokio::spawn(async move { caller.request(ask(POOL, "", PATIENCE)).await });
    let other = tokio::spawn(async move { kept.request(ask(POOL, "", PATIENCE)).await });
    Work::reached(&work.started, 2).await;
    dropped.abort();
    Work::reached(&work.ended, 1).await;
    assert_eq!(
        work.finished.load(Ordering::SeqCst),
        0,
        "the work was cancelled, not finished"
    );
    // The other ask continues.
    work.go.add_permits(1);
    other.await.expect("a caller").expect("an answer");
    assert_eq!(
        (*work.ended.borrow(), work.finished.load(Ordering::SeqCst)),
        (2, 1)
    );
}

pub async fn an_ask_reaches_only_the_workers_of_its_target(bus: Arc<dyn Bus>) {
    let (a, b) = (Uuid::now_v7(), Uuid::now_v7());
    // A server and a worker with the same id are two targets.
    let targets = [
        (Target::AnyWorker(Area::Tools), "pool of tools"),
        (Target::AnyWorker(Area::Secrets), "pool of secrets"),
        (Target::Owner(ServerId(a)), "owner of a"),
        (Target::Owner(ServerId(b)), "owner of b"),
        (Target::Worker(WorkerId(a)), "worker a"),
        (Target::Worker(WorkerId(b)), "worker b"),
    ];
    let serving: Vec<_> = targets
        .iter()
        .map(|&(target, name)| (target, bus.subscribe(target, Arc::new(Echo(name)))))
        .collect();
    for (target, name) in targets {
        for _ in 0..5 {
            assert_eq!(reply_to(&bus, target, "").await.as_deref(), Ok(name));
        }
    }
    assert_eq!(
        reply_to(&bus, Target::AnyWorker(Area::Servers), "").await,
        Err(BusError::NoResponders)
    );
    for (target, guard) in serving {
        drop(guard);
        assert_eq!(
            reply_to(&bus, target, "").await,
            Err(BusError::NoResponders)
        );
    }
}

pub async fn the_workers_of_a_pool_share_the_asks(bus: Arc<dyn Bus>) {
    let first = bus.subscribe(POOL, Arc::new(Echo("a")));
    let _second = bus.subscribe(POOL, Arc::new(Echo("b")));
    let answers = futures::future::join_all((0..100).map(|_| reply_to(&bus, POOL, ""))).await;
    for worker in ["a", "b"] {
        let share = answers
            .iter()
            .filter(|answer| answer.as_deref() == Ok(worker))
            .count();
        assert!(share >= 10, "worker {worker} got {share} of 100 asks");
    }
    assert!(answers.iter().all(Result::is_ok));
    // After the first worker has left, the second worker gets all asks.
    drop(first);
    for _ in 0..10 {
        assert_eq!(reply_to(&bus, POOL, "").await.as_deref(), Ok("b"));
    }
}

pub async fn a_subscription_ends_and_its_running_asks_finish(bus: Arc<dyn Bus>) {
    let work = Work::new();
    let serving = bus.subscribe(POOL, Arc::new(work.clone()));
    let caller = bus.clone();
    let running = tokio::spawn(async move { caller.request(ask(POOL, "", PATIENCE)).await });
    Work::reached(&work.started, 1).await;
    drop(serving);
    assert_eq!(reply_to(&bus, POOL, "").await, Err(BusError::NoResponders));
    work.go.add_permits(1);
    let reply = running.await.expect("a caller");
    reply.expect("the running ask gets its reply");
    assert_eq!(work.finished.load(Ordering::SeqCst), 1);
}

/// A worker that is silent for three seconds counts as dead. A living worker sends signs of life.
pub async fn a_worker_with_a_long_ask_does_not_count_as_dead(bus: Arc<dyn Bus>) {
    struct Slow;
    #[async_trait]
    impl AskHandler for Slow {
        async fn handle(&self, _: Ask) -> Result<Reply, Busy> {
            tokio::time::sleep(Duration::from_secs(4)).await;
            Ok(Reply {
                position: Position(0),
                outcome: Ok(Bytes::from_static(b"done")),
            })
        }
    }
    let _serving = bus.subscribe(POOL, Arc::new(Slow));
    assert_eq!(reply_to(&bus, POOL, "").await.as_deref(), Ok("done"));
}
