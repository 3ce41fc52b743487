//! The NATS server dies or hangs, and workers die or leave.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{
    Echo, Hang, POOL, connect, job, next_job, options, shared_options, wait_for_reply,
    wait_until_served,
};
use crate::bus_contract::ask;
use crate::harness::PATIENCE;
use crate::services::nats::{Nats, Version};
use crate::wait::wait_until;
use mcp_api::adapters::bus_nats::NatsBus;
use mcp_api::core::command::{Area, Command, DeleteServer};
use mcp_api::core::ids::Position;
use mcp_api::ports::bus::{Bus, BusError, Hint, Target};

#[tokio::test(flavor = "multi_thread")]
async fn without_a_nats_server_the_bus_is_unavailable_at_once_and_it_reconnects() {
    let mut server = Nats::start(Version::Newest);
    let options = options(&server.url());
    let sender = connect(&options).await;
    let worker = connect(&options).await;
    let echo = Echo::default();
    let _subscription = worker.subscribe(POOL, Arc::new(echo.clone()));
    let mut jobs = worker.consume_jobs();
    wait_for_reply(&sender).await;
    sender.publish_job(job("stored")).await.expect("published");
    let started = echo.count();
    server.kill();
    // The first ask may be on its way when the server dies.
    wait_until("the bus is unavailable", async || {
        let result = sender.request(ask(POOL, "lost", PATIENCE)).await;
        result.map(drop) == Err(BusError::Unavailable)
    })
    .await;
    for _ in 0..100 {
        let start = Instant::now();
        let result = sender.request(ask(POOL, "lost", PATIENCE)).await;
        assert_eq!(result.map(drop), Err(BusError::Unavailable));
        let published = sender.publish_job(job("lost")).await;
        assert_eq!(published, Err(BusError::Unavailable));
        assert!(start.elapsed() < Duration::from_secs(10));
    }
    sender.publish(Hint::LogMoved(Position(9)));
    assert_eq!(sender.pending_jobs().await, 0);
    server.restart();
    wait_for_reply(&sender).await;
    assert!(
        echo.count() <= started + 1,
        "an ask that the bus refused was sent later"
    );
    let stored = next_job(&mut jobs).await;
    assert_eq!(stored.job.id, "stored");
    stored.ack.ack(Some(Ok(Bytes::new()))).await;
    assert_eq!(sender.pending_jobs().await, 0);
    // The server loses its data.
    server.kill();
    std::fs::remove_dir_all(server.folder.join("store")).expect("removed");
    server.restart();
    wait_for_reply(&sender).await;
    wait_until("NATS accepts a job", async || {
        sender.publish_job(job("new")).await.is_ok()
    })
    .await;
    assert_eq!(next_job(&mut jobs).await.job.id, "new");
}

async fn short_ask(bus: &Arc<NatsBus>) -> Result<(), BusError> {
    let request = ask(POOL, "late", Duration::from_secs(1));
    bus.request(request).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ask_that_a_hanging_server_delivers_late_is_not_started() {
    let server = Nats::start(Version::Newest);
    let options = options(&server.url());
    let echo = Echo::default();
    let worker = connect(&options).await;
    let _subscription = worker.subscribe(POOL, Arc::new(echo.clone()));
    let sender = connect(&options).await;
    let dead_sender = connect(&options).await;
    wait_for_reply(&sender).await;
    wait_for_reply(&dead_sender).await;
    let started = echo.count();
    server.pause();
    // A sender that dies does not cancel its asks.
    for _ in 0..20 {
        let mut request = Box::pin(short_ask(&dead_sender));
        assert!(futures::poll!(&mut request).is_pending());
        std::mem::forget(request);
    }
    let results = futures::future::join_all((0..20).map(|_| short_ask(&sender))).await;
    assert!(
        results
            .iter()
            .all(|result| *result == Err(BusError::TimedOut))
    );
    server.resume();
    wait_for_reply(&sender).await;
    wait_for_reply(&dead_sender).await;
    assert_eq!(
        echo.count(),
        started + 2,
        "a worker started an ask whose sender had timed out"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_ask_is_lost_when_a_worker_leaves() {
    const ROUNDS: usize = 50;
    let options = shared_options();
    let sender = connect(&options).await;
    let staying = connect(&options).await;
    let leaving = connect(&options).await;
    let _staying = staying.subscribe(POOL, Arc::new(Echo::default()));
    wait_for_reply(&sender).await;
    let rounds = Arc::new(AtomicUsize::new(0));
    let senders: Vec<_> = (0..32)
        .map(|_| {
            let (sender, rounds) = (sender.clone(), rounds.clone());
            tokio::spawn(async move {
                while rounds.load(Ordering::SeqCst) < ROUNDS {
                    let reply = sender.request(ask(POOL, "", PATIENCE)).await;
                    reply.expect("a reply");
                }
            })
        })
        .collect();
    let echo = Echo::default();
    for round in 1..=ROUNDS {
        let subscription = leaving.subscribe(POOL, Arc::new(echo.clone()));
        let enough = echo.count() + 20;
        while echo.count() < enough {
            tokio::task::yield_now().await;
        }
        drop(subscription);
        rounds.store(round, Ordering::SeqCst);
    }
    for sender in futures::future::join_all(senders).await {
        sender.expect("no ask is lost");
    }
}

#[test]
fn a_worker_that_dies_is_lost_after_three_seconds() {
    let runtime = || tokio::runtime::Runtime::new().expect("a runtime");
    let (worker, caller) = (runtime(), runtime());
    let options = shared_options();
    let hang = Hang::default();
    worker.block_on(async {
        let bus = connect(&options).await;
        std::mem::forget(bus.subscribe(POOL, Arc::new(hang.clone())));
        std::mem::forget(bus);
    });
    caller.block_on(async {
        let sender = connect(&options).await;
        wait_until_served(&sender, POOL).await;
        let started = hang.0.load(Ordering::SeqCst);
        let call = tokio::spawn(async move { sender.request(ask(POOL, "", PATIENCE)).await });
        wait_until("the worker starts the ask", async || {
            hang.0.load(Ordering::SeqCst) > started
        })
        .await;
        assert!(!call.is_finished());
        // The connection of the worker ends without a message.
        worker.shutdown_background();
        let start = Instant::now();
        let result = call.await.expect("a caller").map(drop);
        assert_eq!(result, Err(BusError::WorkerLost));
        let elapsed = start.elapsed();
        assert!(
            (Duration::from_secs(2)..Duration::from_secs(30)).contains(&elapsed),
            "{elapsed:?}"
        );
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_jetstream_serves_asks() {
    let server = Nats::with_config(Version::Newest, |_| String::new());
    let bus = connect(&options(&server.url())).await;
    let _subscription = bus.subscribe(POOL, Arc::new(Echo::default()));
    wait_for_reply(&bus).await;
    assert_eq!(bus.publish_job(job("x")).await, Err(BusError::Unavailable));
    let next = tokio::time::timeout(Duration::from_millis(100), bus.consume_jobs().next()).await;
    assert!(next.is_err());
    assert_eq!(bus.pending_jobs().await, 0);
    let servers = Target::AnyWorker(Area::Servers);
    let refused = bus.request(ask(servers, DeleteServer::NAME, PATIENCE));
    assert!(refused.await.is_err());
    wait_for_reply(&bus).await;
}
