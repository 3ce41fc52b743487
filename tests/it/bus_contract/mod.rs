//! The contract of the port `bus`: one suite for all adapters. An adapter joins with one line.

mod asks;
mod hints;
mod interim;
mod jobs;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use crate::services::nats::{Version, shared};
use mcp_api::adapters::bus_local::LocalBus;
use mcp_api::adapters::bus_nats::{NatsBus, NatsOptions};
use mcp_api::core::command::{Area, Command, DeleteSecret, DeleteServer};
use mcp_api::core::ids::Position;
use mcp_api::core::model::tool_call::CallTool;
use mcp_api::ports::bus::{Ask, Bus, Target};

/// Returns a new bus, or `None` if its server is not installed.
pub async fn in_process() -> Option<Arc<dyn Bus>> {
    Some(LocalBus::new())
}

pub async fn nats() -> Option<Arc<dyn Bus>> {
    on_nats(Version::Newest).await
}

pub async fn nats_debian() -> Option<Arc<dyn Bus>> {
    on_nats(Version::Debian).await
}

async fn on_nats(version: Version) -> Option<Arc<dyn Bus>> {
    let Some(url) = shared(version) else {
        println!("skipped: {version:?}'s nats-server is not installed");
        return None;
    };
    let options = NatsOptions {
        prefix: format!("test.{}", Uuid::new_v4().simple()),
        ..NatsOptions::new(vec![url])
    };
    Some(NatsBus::connect(options).await.expect("a bus"))
}

/// Returns an ask with a command that the target serves.
pub fn ask(to: Target, body: &'static str, time_left: Duration) -> Ask {
    let command = match to {
        Target::AnyWorker(Area::Tools) => CallTool::NAME,
        Target::AnyWorker(Area::Secrets) => DeleteSecret::NAME,
        _ => DeleteServer::NAME,
    };
    let call = CallTool {
        user: "ana".parse().expect("a name"),
        server: "notes".parse().expect("a name"),
        tool: "echo".parse().expect("a name"),
        timeout_ms: None,
    };
    Ask {
        to,
        command,
        time_left,
        seen: Position(0),
        traceparent: None,
        meta: None,
        call: (command == CallTool::NAME).then_some(call),
        client: None,
        interim: None,
        body: Bytes::from_static(body.as_bytes()),
    }
}

/// Runs the whole suite on an adapter.
macro_rules! suite {
    ($adapter:ident: $($area:ident { $($promise:ident),+ $(,)? })+) => {
        mod $adapter {
            $(mod $area {
                use crate::bus_contract as suite;
                $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $promise() {
                    if let Some(bus) = suite::$adapter().await {
                        suite::$area::$promise(bus).await;
                    }
                })+
            })+
        }
    };
}

macro_rules! adapters {
    ($($adapter:ident),+) => {
        $(suite! { $adapter:
            asks {
                an_ask_is_answered,
                the_whole_ask_arrives,
                each_of_many_asks_gets_its_own_reply,
                a_target_without_a_worker_is_reported_at_once,
                a_busy_worker_is_reported,
                a_hanging_handler_is_cancelled_when_the_time_is_over,
                dropping_the_request_cancels_the_work,
                an_ask_reaches_only_the_workers_of_its_target,
                the_workers_of_a_pool_share_the_asks,
                a_subscription_ends_and_its_running_asks_finish,
                a_worker_with_a_long_ask_does_not_count_as_dead,
            }
            interim {
                interim_messages_arrive_in_order_before_the_reply,
                interim_messages_arrive_while_the_work_runs,
                an_ask_without_a_receiver_has_no_interim_messages,
                nothing_arrives_after_the_reply,
                a_dropped_request_cancels_work_that_reports,
                a_slow_receiver_gets_the_first_and_the_newest_messages,
                work_that_ends_late_is_reported_as_timed_out,
            }
            jobs {
                a_job_is_delivered_once_until_it_is_acknowledged,
                a_job_arrives_as_its_producer_wrote_it,
                an_unacknowledged_job_is_delivered_again,
                a_delayed_job_is_delivered_later,
                a_repeated_id_of_an_unacknowledged_job_is_one_job,
                a_consumer_that_leaves_loses_no_job,
                consumers_share_the_jobs,
                the_number_of_jobs_is_bounded,
            }
            hints {
                every_listener_receives_every_hint,
                a_hint_without_listeners_is_no_error,
                a_lagging_listener_gets_an_error,
            }
        })+
    };
}

adapters!(in_process, nats, nats_debian);
