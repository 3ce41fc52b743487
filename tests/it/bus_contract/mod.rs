//! What every bus must keep, written against the port alone. An adapter joins with one line.

mod asks;
mod hints;
mod jobs;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use mcp_api::adapters::bus_in_process::InProcessBus;
use mcp_api::adapters::bus_nats::{NatsBus, NatsOptions};
use mcp_api::core::command::{Command, DeleteServer};
use mcp_api::core::names::Position;
use mcp_api::ports::{Ask, Bus, Place};
use uuid::Uuid;

use crate::services::{self, nats::Nats};

/// A bus with nobody on it.
pub async fn in_process() -> Arc<dyn Bus> {
    InProcessBus::new()
}

/// A bus of its own on a server that all tests share.
pub async fn nats() -> Arc<dyn Bus> {
    static SERVER: LazyLock<Nats> = LazyLock::new(Nats::start);
    nats_on(&SERVER).await
}

/// The same on the oldest server that is supported; on the newest where that one cannot be had.
pub async fn nats_debian() -> Arc<dyn Bus> {
    static SERVER: LazyLock<Nats> = LazyLock::new(|| match Nats::is_there(services::nats::DEBIAN) {
        true => Nats::start_with(services::nats::DEBIAN, ""),
        false => {
            eprintln!("Debian's nats-server 2.9.10 is not there: its contract is checked on the newest alone");
            Nats::start()
        }
    });
    nats_on(&SERVER).await
}

async fn nats_on(server: &Nats) -> Arc<dyn Bus> {
    let prefix = format!("t{}", Uuid::new_v4().simple());
    let options = NatsOptions { urls: vec![server.url()], creds: None, ca: None, prefix, max_body: 16 << 20 };
    NatsBus::connect(options).await.expect("connected")
}

/// A question with a body, by somebody who waits so long.
pub fn ask(to: Place, body: &'static str, time_left: Duration) -> Ask {
    Ask {
        to,
        command: DeleteServer::NAME,
        time_left,
        seen: Position(0),
        traceparent: None,
        call: None,
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
                    suite::$area::$promise(suite::$adapter().await).await;
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
                a_job_reaches_its_area_alone,
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
