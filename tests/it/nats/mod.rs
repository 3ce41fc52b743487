//! Tests of the NATS adapter that need two processes, a failing NATS server or messages of other senders.

mod failures;
mod messages;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use uuid::Uuid;

use crate::bus_contract::ask;
use crate::harness::PATIENCE;
use crate::services::nats::{Version, shared};
use crate::wait::wait_until;
use mcp_api::adapters::bus_nats::{NatsBus, NatsOptions};
use mcp_api::core::command::Area;
use mcp_api::core::ids::Position;
use mcp_api::ports::bus::{
    Ask, AskHandler, Bus, BusError, Busy, JobConsumer, JobDelivery, JobMessage, Reply, Target,
};

const POOL: Target = Target::AnyWorker(Area::Tools);

fn options(url: &str) -> NatsOptions {
    NatsOptions {
        prefix: format!("test.{}", Uuid::new_v4().simple()),
        ..NatsOptions::new(vec![url.to_owned()])
    }
}

fn shared_options() -> NatsOptions {
    options(&shared(Version::Newest).expect("nats-server"))
}

async fn connect(options: &NatsOptions) -> Arc<NatsBus> {
    NatsBus::connect(options.clone()).await.expect("a bus")
}

/// Replies with the body of the ask, and counts the asks.
#[derive(Clone, Default)]
struct Echo(Arc<AtomicUsize>);

impl Echo {
    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

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

/// Starts to handle an ask and never ends. It counts the asks, and those that were dropped.
#[derive(Clone, Default)]
struct Hang(Arc<AtomicUsize>, Arc<AtomicUsize>);

#[async_trait]
impl AskHandler for Hang {
    async fn handle(&self, _: Ask) -> Result<Reply, Busy> {
        self.0.fetch_add(1, Ordering::SeqCst);
        let _dropped = CountOnDrop(self.1.clone());
        std::future::pending().await
    }
}

struct CountOnDrop(Arc<AtomicUsize>);

impl Drop for CountOnDrop {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Waits until an ask gets a reply.
async fn wait_for_reply(bus: &Arc<NatsBus>) {
    wait_until("an ask gets a reply", async || {
        bus.request(ask(POOL, "retry", PATIENCE)).await.is_ok()
    })
    .await;
}

/// Waits until another process can reach a target.
async fn wait_until_served(from: &Arc<NatsBus>, target: Target) {
    wait_until("the target is served", async || {
        let request = ask(target, "{}", Duration::from_millis(200));
        !matches!(from.request(request).await, Err(BusError::NoResponders))
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

async fn next_job(jobs: &mut Box<dyn JobConsumer>) -> JobDelivery {
    let next = tokio::time::timeout(PATIENCE, jobs.next()).await;
    next.expect("in time").expect("a job")
}
