//! The promises of a bus about jobs.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::harness::PATIENCE;
use mcp_api::ports::bus::{Bus, BusError, JobConsumer, JobDelivery, JobMessage};

/// The time in which no job may arrive. A job that is on its way arrives earlier.
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
        panic!("{:?} arrived", delivery.map(|delivery| delivery.job.id));
    }
}

pub async fn a_job_is_delivered_once_until_it_is_acknowledged(bus: Arc<dyn Bus>) {
    bus.publish_job(job("one")).await.expect("submitted");
    bus.publish_job(job("two")).await.expect("submitted");
    assert_eq!(bus.pending_jobs().await, 2, "jobs wait for a consumer");
    let mut jobs = bus.consume_jobs();
    for id in ["one", "two"] {
        let delivery = next(&mut jobs).await;
        assert_eq!((delivery.job.id.as_str(), delivery.attempt), (id, 1));
        assert_eq!(
            (&*delivery.job.command, &delivery.job.body[..]),
            ("secrets.sweep", &b"{}"[..])
        );
        delivery.ack.ack(Some(Ok(Bytes::new()))).await;
    }
    nothing_comes(&mut jobs).await;
    assert_eq!(bus.pending_jobs().await, 0);
    // The id of an acknowledged job is free for a new job.
    bus.publish_job(job("one")).await.expect("submitted");
    let delivery = next(&mut jobs).await;
    assert_eq!((delivery.job.id.as_str(), delivery.attempt), ("one", 1));
    delivery.ack.ack(Some(Ok(Bytes::new()))).await;
}

pub async fn a_job_arrives_as_its_producer_wrote_it(bus: Arc<dyn Bus>) {
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
    // A worker publishes the outcome later. An outcome without a receiver is lost.
    delivery.ack.ack(None).await;
    bus.publish_outcome("_INBOX.x.1", Ok(Bytes::from_static(b"{}")))
        .await;
    bus.publish_dead_letter("x".into(), Bytes::from_static(b"{}"))
        .await;
    nothing_comes(&mut bus.consume_jobs()).await;
}

pub async fn an_unacknowledged_job_is_delivered_again(bus: Arc<dyn Bus>) {
    let mut jobs = bus.consume_jobs();
    bus.publish_job(job("x")).await.expect("submitted");
    for attempt in 1..=3 {
        let delivery = next(&mut jobs).await;
        assert_eq!((delivery.job.id.as_str(), delivery.attempt), ("x", attempt));
        // A dropped delivery returns the job. A panic drops it too.
        let holder = tokio::spawn(async move {
            let _delivery = delivery;
            assert!(attempt % 2 == 0, "an intended panic of a worker");
        });
        let _ = holder.await;
    }
    next(&mut jobs).await.ack.ack(Some(Ok(Bytes::new()))).await;
    nothing_comes(&mut jobs).await;
}

pub async fn a_delayed_job_is_delivered_later(bus: Arc<dyn Bus>) {
    let mut jobs = bus.consume_jobs();
    bus.publish_job(job("x")).await.expect("submitted");
    let (after, start) = (Duration::from_millis(300), Instant::now());
    next(&mut jobs).await.ack.nak_after(after).await;
    // Other jobs do not wait for the delayed job.
    bus.publish_job(job("y")).await.expect("submitted");
    let other = next(&mut jobs).await;
    assert_eq!(other.job.id, "y");
    other.ack.ack(Some(Ok(Bytes::new()))).await;
    // The delayed job is not acknowledged, so its id is in use.
    bus.publish_job(job("x")).await.expect("submitted");
    let delivery = next(&mut jobs).await;
    assert_eq!((delivery.job.id.as_str(), delivery.attempt), ("x", 2));
    assert!(
        start.elapsed() >= after,
        "the job was delivered after {:?}",
        start.elapsed()
    );
    delivery.ack.ack(Some(Ok(Bytes::new()))).await;
    nothing_comes(&mut jobs).await;
}

pub async fn a_repeated_id_of_an_unacknowledged_job_is_one_job(bus: Arc<dyn Bus>) {
    let mut jobs = bus.consume_jobs();
    for _ in 0..3 {
        bus.publish_job(job("x")).await.expect("the same job");
    }
    let delivery = next(&mut jobs).await;
    bus.publish_job(job("x"))
        .await
        .expect("the job that a worker holds");
    nothing_comes(&mut jobs).await;
    delivery.ack.ack(Some(Ok(Bytes::new()))).await;
    nothing_comes(&mut jobs).await;
}

pub async fn a_consumer_that_leaves_loses_no_job(bus: Arc<dyn Bus>) {
    let (mut leaving, mut staying) = (bus.consume_jobs(), bus.consume_jobs());
    for n in 0..50 {
        // The consumer may leave after the bus has chosen it. The other consumer must get the job.
        let left = tokio::spawn(async move {
            let _ = tokio::time::timeout(Duration::from_micros(n * 20), leaving.next()).await;
            leaving
        });
        bus.publish_job(job(format!("{n}")))
            .await
            .expect("submitted");
        next(&mut staying)
            .await
            .ack
            .ack(Some(Ok(Bytes::new())))
            .await;
        leaving = left.await.expect("a consumer");
    }
}

pub async fn consumers_share_the_jobs(bus: Arc<dyn Bus>) {
    const JOBS: usize = 200;
    // A consumer with a job does not delay the next job.
    let (mut a, mut b) = (bus.consume_jobs(), bus.consume_jobs());
    for id in ["a", "b"] {
        bus.publish_job(job(id)).await.expect("submitted");
    }
    let (first, second) = (next(&mut a).await, next(&mut b).await);
    assert_ne!(first.job.id, second.job.id);
    first.ack.ack(Some(Ok(Bytes::new()))).await;
    second.ack.ack(Some(Ok(Bytes::new()))).await;
    // The consumers together get each job once.
    let (seen, mut delivered) = tokio::sync::mpsc::unbounded_channel();
    let consumers = [a, b].map(|mut jobs| {
        let seen = seen.clone();
        tokio::spawn(async move {
            while let Some(delivery) = jobs.next().await {
                seen.send(delivery.job.id.clone()).expect("a listener");
                tokio::task::yield_now().await;
                delivery.ack.ack(Some(Ok(Bytes::new()))).await;
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
        let id = tokio::time::timeout(PATIENCE, delivered.recv())
            .await
            .expect("in time")
            .expect("a consumer");
        assert!(ids.insert(id), "a job was delivered twice");
    }
    for consumer in consumers {
        consumer.abort();
    }
}

pub async fn the_number_of_jobs_is_bounded(bus: Arc<dyn Bus>) {
    /// More jobs than any bus accepts.
    const TOO_MANY: usize = 1_000_000;
    let mut accepted = 0;
    let refused = loop {
        match bus.publish_job(job(accepted.to_string())).await {
            Ok(()) => accepted += 1,
            Err(refused) => break refused,
        }
        assert!(accepted < TOO_MANY, "the bus has no limit");
    };
    assert_eq!(refused, BusError::Unavailable);
    assert_eq!(bus.pending_jobs().await, accepted);
    // A job that a worker holds counts until the worker acknowledges it.
    let mut jobs = bus.consume_jobs();
    let delivery = next(&mut jobs).await;
    assert_eq!(
        bus.publish_job(job("one more")).await,
        Err(BusError::Unavailable)
    );
    delivery.ack.ack(Some(Ok(Bytes::new()))).await;
    bus.publish_job(job("one more"))
        .await
        .expect("the limit allows another job");
}
