//! What a bus promises about jobs.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::harness::PATIENCE;
use mcp_api::ports::bus::{Bus, BusError, JobConsumer, JobDelivery, JobMessage};

/// Long enough to see that nothing comes that was on its way; a bus that is late passes unseen.
const NOTHING: Duration = Duration::from_millis(50);

fn job(id: impl Into<String>) -> JobMessage {
    let body = Bytes::from_static(b"{}");
    JobMessage {
        id: id.into(),
        command: "secrets.sweep".into(),
        call: None,
        reply: None,
        body,
    }
}

async fn next(jobs: &mut Box<dyn JobConsumer>) -> JobDelivery {
    tokio::time::timeout(PATIENCE, jobs.next())
        .await
        .expect("in time")
        .expect("a job")
}

async fn nothing_comes(jobs: &mut Box<dyn JobConsumer>) {
    if let Ok(delivery) = tokio::time::timeout(NOTHING, jobs.next()).await {
        panic!("{:?} came", delivery.map(|delivery| delivery.job.id));
    }
}

pub async fn a_job_is_handed_out_once_and_done(bus: Arc<dyn Bus>) {
    bus.publish_job(job("one")).await.expect("submitted");
    bus.publish_job(job("two")).await.expect("submitted");
    assert_eq!(
        bus.pending_jobs().await,
        2,
        "they wait, although nobody is there yet"
    );
    let mut jobs = bus.consume_jobs();
    for id in ["one", "two"] {
        let delivery = next(&mut jobs).await;
        assert_eq!((delivery.job.id.as_str(), delivery.attempt), (id, 1));
        assert_eq!(
            (&*delivery.job.command, &delivery.job.body[..]),
            ("secrets.sweep", &b"{}"[..])
        );
        delivery.settle.ack(Some(Ok(Bytes::new()))).await;
    }
    nothing_comes(&mut jobs).await;
    assert_eq!(bus.pending_jobs().await, 0);
    // A settled id is a new job.
    bus.publish_job(job("one")).await.expect("submitted");
    let delivery = next(&mut jobs).await;
    assert_eq!((delivery.job.id.as_str(), delivery.attempt), ("one", 1));
    delivery.settle.ack(Some(Ok(Bytes::new()))).await;
}

pub async fn a_job_comes_as_its_sender_wrote_it(bus: Arc<dyn Bus>) {
    let body = Bytes::from_static(b"\0 not JSON");
    let (call, reply) = (
        Some("{\"no\": tool".to_owned()),
        Some("_INBOX.x.1".to_owned()),
    );
    let job = JobMessage {
        id: "ä.b c".into(),
        command: "dance.tango".into(),
        call,
        reply,
        body,
    };
    bus.publish_job(job.clone()).await.expect("submitted");
    let delivery = next(&mut bus.consume_jobs()).await;
    assert_eq!(delivery.job, job);
    // Told later, where its sender wanted it; nobody is there, and that is nobody's trouble.
    delivery.settle.ack(None).await;
    bus.publish_outcome("_INBOX.x.1", Ok(Bytes::from_static(b"{}")))
        .await;
    bus.publish_dead_letter("x".into(), Bytes::from_static(b"{}"))
        .await;
    nothing_comes(&mut bus.consume_jobs()).await;
}

pub async fn a_delivery_dropped_unsettled_comes_back(bus: Arc<dyn Bus>) {
    let mut jobs = bus.consume_jobs();
    bus.publish_job(job("x")).await.expect("submitted");
    for attempt in 1..=3 {
        let delivery = next(&mut jobs).await;
        assert_eq!((delivery.job.id.as_str(), delivery.attempt), ("x", attempt));
        // Silence means "again"; a panic is silence too.
        let holder = tokio::spawn(async move {
            let _delivery = delivery;
            assert!(attempt % 2 == 0, "a worker's panic, on purpose");
        });
        let _ = holder.await;
    }
    next(&mut jobs)
        .await
        .settle
        .ack(Some(Ok(Bytes::new())))
        .await;
    nothing_comes(&mut jobs).await;
}

pub async fn again_comes_back_later(bus: Arc<dyn Bus>) {
    let mut jobs = bus.consume_jobs();
    bus.publish_job(job("x")).await.expect("submitted");
    let (after, began) = (Duration::from_millis(300), Instant::now());
    next(&mut jobs).await.settle.nak_after(after).await;
    // Others do not wait for it.
    bus.publish_job(job("y")).await.expect("submitted");
    let other = next(&mut jobs).await;
    assert_eq!(other.job.id, "y");
    other.settle.ack(Some(Ok(Bytes::new()))).await;
    // While it rests it is still unsettled.
    bus.publish_job(job("x")).await.expect("submitted");
    let delivery = next(&mut jobs).await;
    assert_eq!((delivery.job.id.as_str(), delivery.attempt), ("x", 2));
    assert!(
        began.elapsed() >= after,
        "it came back after {:?}",
        began.elapsed()
    );
    delivery.settle.ack(Some(Ok(Bytes::new()))).await;
    nothing_comes(&mut jobs).await;
}

pub async fn the_same_id_unsettled_is_one_job(bus: Arc<dyn Bus>) {
    let mut jobs = bus.consume_jobs();
    for _ in 0..3 {
        bus.publish_job(job("x")).await.expect("the same job");
    }
    let delivery = next(&mut jobs).await;
    bus.publish_job(job("x"))
        .await
        .expect("the same job, in a worker's hands");
    nothing_comes(&mut jobs).await;
    delivery.settle.ack(Some(Ok(Bytes::new()))).await;
    nothing_comes(&mut jobs).await;
}

pub async fn whoever_waits_for_a_job_can_leave(bus: Arc<dyn Bus>) {
    let (mut leaving, mut staying) = (bus.consume_jobs(), bus.consume_jobs());
    for n in 0..50 {
        // The one who was told of a job is gone before it takes it: the other must be told.
        let left = tokio::spawn(async move {
            let _ = tokio::time::timeout(Duration::from_micros(n * 20), leaving.next()).await;
            leaving
        });
        bus.publish_job(job(format!("{n}")))
            .await
            .expect("submitted");
        next(&mut staying)
            .await
            .settle
            .ack(Some(Ok(Bytes::new())))
            .await;
        leaving = left.await.expect("a taker");
    }
}

pub async fn takers_share_the_jobs(bus: Arc<dyn Bus>) {
    const JOBS: usize = 200;
    // One that is at work does not keep the other from the next job.
    let (mut a, mut b) = (bus.consume_jobs(), bus.consume_jobs());
    for id in ["a", "b"] {
        bus.publish_job(job(id)).await.expect("submitted");
    }
    let (of_a, of_b) = (next(&mut a).await, next(&mut b).await);
    assert_ne!(of_a.job.id, of_b.job.id);
    of_a.settle.ack(Some(Ok(Bytes::new()))).await;
    of_b.settle.ack(Some(Ok(Bytes::new()))).await;
    // And together they do each once.
    let (seen, mut handed) = tokio::sync::mpsc::unbounded_channel();
    let takers = [a, b].map(|mut jobs| {
        let seen = seen.clone();
        tokio::spawn(async move {
            while let Some(delivery) = jobs.next().await {
                seen.send(delivery.job.id.clone()).expect("a listener");
                tokio::task::yield_now().await;
                delivery.settle.ack(Some(Ok(Bytes::new()))).await;
            }
        })
    });
    for n in 0..JOBS {
        bus.publish_job(job(n.to_string()))
            .await
            .expect("submitted");
    }
    let mut ids = HashSet::new();
    while ids.len() < JOBS {
        let id = tokio::time::timeout(PATIENCE, handed.recv())
            .await
            .expect("in time")
            .expect("a taker");
        assert!(ids.insert(id), "a job was handed out twice");
    }
    takers.iter().for_each(|taker| taker.abort());
}

pub async fn the_lane_is_bounded(bus: Arc<dyn Bus>) {
    /// More than any lane takes.
    const TOO_MANY: usize = 1_000_000;
    let mut taken = 0;
    let refused = loop {
        match bus.publish_job(job(taken.to_string())).await {
            Ok(()) => taken += 1,
            Err(refused) => break refused,
        }
        assert!(taken < TOO_MANY, "nobody says stop");
    };
    assert_eq!(refused, BusError::Unavailable);
    assert_eq!(bus.pending_jobs().await, taken);
    // A job in a worker's hands may come back, so its place is not free before it is settled.
    let mut jobs = bus.consume_jobs();
    let delivery = next(&mut jobs).await;
    assert_eq!(
        bus.publish_job(job("one more")).await,
        Err(BusError::Unavailable)
    );
    delivery.settle.ack(Some(Ok(Bytes::new()))).await;
    bus.publish_job(job("one more"))
        .await
        .expect("there is room again");
}
