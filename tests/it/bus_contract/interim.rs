//! The promises of a bus about messages before the reply.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use super::ask;
use crate::harness::PATIENCE;
use mcp_api::core::command::Area;
use mcp_api::core::ids::Position;
use mcp_api::ports::bus::{
    Ask, AskHandler, Bus, BusError, Busy, Interim, InterimReceiver, InterimSender, Reply, Target,
    interim_channel,
};

const POOL: Target = Target::AnyWorker(Area::Tools);
/// Far more messages than a channel holds.
const FLOOD: usize = 10_000;
/// The most messages that a channel holds.
const MAX_WAITING: usize = 64;

/// Reports its progress, and then replies.
struct Reports {
    messages: usize,
    pause: Duration,
    /// The sender of the last ask, after its reply.
    kept: watch::Sender<Option<InterimSender>>,
}

impl Reports {
    fn new(messages: usize, pause: Duration) -> Self {
        Self {
            messages,
            pause,
            kept: watch::Sender::new(None),
        }
    }
}

fn progress(number: usize) -> Interim {
    Interim::Progress(Bytes::from(format!(r#"{{"progress":{number}}}"#)))
}

fn first_messages(count: usize) -> Vec<Interim> {
    (0..count).map(progress).collect()
}

#[async_trait]
impl AskHandler for Reports {
    async fn handle(&self, ask: Ask) -> Result<Reply, Busy> {
        if let Some(interim) = &ask.interim {
            for number in 0..self.messages {
                interim.send(progress(number));
                if self.pause.is_zero() {
                    // The other side gets a turn now and then.
                    if number.is_multiple_of(16) {
                        tokio::task::yield_now().await;
                    }
                } else {
                    tokio::time::sleep(self.pause).await;
                }
            }
        }
        let has_interim = ask.interim.is_some();
        self.kept.send_replace(ask.interim);
        Ok(Reply {
            position: Position(0),
            outcome: Ok(has_interim.to_string().into()),
        })
    }
}

/// Sends an ask that takes interim messages, and returns the body of its reply.
async fn request(bus: &Arc<dyn Bus>, interim: Option<InterimSender>) -> Bytes {
    let ask = Ask {
        client: None,
        interim,
        ..ask(POOL, "", PATIENCE)
    };
    let reply = bus.request(ask).await.expect("a reply");
    reply.outcome.expect("a success")
}

fn rest(receiver: &mut InterimReceiver) -> Vec<Interim> {
    std::iter::from_fn(|| receiver.try_recv()).collect()
}

pub async fn interim_messages_arrive_in_order_before_the_reply(bus: Arc<dyn Bus>) {
    let reports = Reports::new(MAX_WAITING, Duration::ZERO);
    let _serving = bus.subscribe(POOL, Arc::new(reports));
    let (sender, mut receiver) = interim_channel();
    assert_eq!(request(&bus, Some(sender)).await, "true");
    assert_eq!(rest(&mut receiver), first_messages(MAX_WAITING));
    assert_eq!(receiver.dropped(), 0);
}

pub async fn interim_messages_arrive_while_the_work_runs(bus: Arc<dyn Bus>) {
    let reports = Reports::new(3, Duration::from_millis(50));
    let _serving = bus.subscribe(POOL, Arc::new(reports));
    let (sender, mut receiver) = interim_channel();
    let caller = bus.clone();
    let running = tokio::spawn(async move { request(&caller, Some(sender)).await });
    let first = tokio::time::timeout(PATIENCE, receiver.recv()).await;
    assert_eq!(first.expect("in time"), Some(progress(0)));
    assert!(!running.is_finished(), "the message came with the reply");
    running.await.expect("a caller");
    assert_eq!(rest(&mut receiver), [progress(1), progress(2)]);
}

pub async fn an_ask_without_a_receiver_has_no_interim_messages(bus: Arc<dyn Bus>) {
    let _serving = bus.subscribe(POOL, Arc::new(Reports::new(1, Duration::ZERO)));
    assert_eq!(request(&bus, None).await, "false");
}

pub async fn nothing_arrives_after_the_reply(bus: Arc<dyn Bus>) {
    let reports = Reports::new(1, Duration::ZERO);
    let kept = reports.kept.subscribe();
    let _serving = bus.subscribe(POOL, Arc::new(reports));
    let (sender, mut receiver) = interim_channel();
    request(&bus, Some(sender)).await;
    assert_eq!(rest(&mut receiver), [progress(0)]);
    drop(receiver);
    let late = kept.borrow().clone().expect("the sender of the ask");
    late.send(progress(1));
    // The next ask shows that the late message disturbs nothing.
    let (sender, mut receiver) = interim_channel();
    request(&bus, Some(sender)).await;
    assert_eq!(rest(&mut receiver), [progress(0)]);
}

pub async fn a_dropped_request_cancels_work_that_reports(bus: Arc<dyn Bus>) {
    struct Endless(watch::Sender<bool>);
    #[async_trait]
    impl AskHandler for Endless {
        async fn handle(&self, ask: Ask) -> Result<Reply, Busy> {
            struct Ended(watch::Sender<bool>);
            impl Drop for Ended {
                fn drop(&mut self) {
                    self.0.send_replace(true);
                }
            }
            let _ended = Ended(self.0.clone());
            let interim = ask.interim.expect("a sender");
            for number in 0.. {
                interim.send(progress(number));
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Err(Busy)
        }
    }
    let ended = watch::Sender::new(false);
    let _serving = bus.subscribe(POOL, Arc::new(Endless(ended.clone())));
    let (sender, mut receiver) = interim_channel();
    let caller = bus.clone();
    let running = tokio::spawn(async move { request(&caller, Some(sender)).await });
    let first = tokio::time::timeout(PATIENCE, receiver.recv()).await;
    first.expect("in time").expect("a message");
    running.abort();
    let mut ended = ended.subscribe();
    let cancelled = tokio::time::timeout(PATIENCE, ended.wait_for(|ended| *ended)).await;
    cancelled.expect("in time").expect("a worker");
    // The channel ends with the request.
    let end = async { while receiver.recv().await.is_some() {} };
    tokio::time::timeout(PATIENCE, end).await.expect("in time");
}

pub async fn a_slow_receiver_gets_the_first_and_the_newest_messages(bus: Arc<dyn Bus>) {
    let _serving = bus.subscribe(POOL, Arc::new(Reports::new(FLOOD, Duration::ZERO)));
    let (sender, mut receiver) = interim_channel();
    assert_eq!(request(&bus, Some(sender)).await, "true");
    let kept = rest(&mut receiver);
    assert_eq!(kept.len(), MAX_WAITING);
    assert_eq!(kept[..MAX_WAITING - 1], first_messages(MAX_WAITING - 1));
    let newest = &kept[MAX_WAITING - 1];
    // Over NATS the queue of the client may lose the last message too.
    assert!(!first_messages(MAX_WAITING).contains(newest), "{newest:?}");
    assert!(receiver.dropped() > 0);
}

/// Interim messages do not extend the time of an ask.
pub async fn work_that_ends_late_is_reported_as_timed_out(bus: Arc<dyn Bus>) {
    let reports = Reports::new(FLOOD, Duration::from_millis(100));
    let _serving = bus.subscribe(POOL, Arc::new(reports));
    let (sender, mut receiver) = interim_channel();
    let ask = Ask {
        interim: Some(sender),
        ..ask(POOL, "", Duration::from_secs(1))
    };
    let reply = bus.request(ask).await;
    assert_eq!(reply.map(drop), Err(BusError::TimedOut));
    assert!(!rest(&mut receiver).is_empty());
}
