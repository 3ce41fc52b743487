//! What every bus must keep, written against the port alone. An adapter joins with one line.

mod asks;
mod hints;
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

/// A bus with nobody on it; `None` where its server is not installed.
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
        call: (command == CallTool::NAME).then_some(call),
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
                an_ask_of_many_is_answered_with_its_own,
                nobody_there_is_said_at_once,
                busy_is_passed_on,
                a_hanging_taker_costs_time_left_and_is_cancelled,
                dropping_the_call_cancels_the_work,
                a_place_reaches_those_who_serve_it_and_nobody_else,
                the_takers_of_a_pool_share_the_work,
                serving_ends_while_asks_under_way_finish,
                a_long_ask_is_not_taken_for_dead,
            }
            jobs {
                a_job_is_handed_out_once_and_done,
                a_job_comes_as_its_sender_wrote_it,
                a_delivery_dropped_unsettled_comes_back,
                again_comes_back_later,
                the_same_id_unsettled_is_one_job,
                whoever_waits_for_a_job_can_leave,
                takers_share_the_jobs,
                the_lane_is_bounded,
            }
            hints {
                every_listener_hears_every_hint,
                a_hint_without_listeners_is_no_error,
                a_lagging_listener_is_told_so,
            }
        })+
    };
}

adapters!(in_process, nats, nats_debian);
