//! A broken server and a slow server do not delay the calls and the lists of healthy servers.

use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::json;
use tokio::task::JoinHandle;

use super::client::{McpClient, result};
use crate::harness::App;

/// The calls of one pass, by as many clients as `CLIENTS`.
const CALLS: usize = 200;
const CLIENTS: usize = 4;
/// The passes of each program. The best pass counts, because other programs use the machine too.
const PASSES: usize = 3;
/// The promise for lists.
const LIST: Duration = Duration::from_millis(50);

/// The longest times that 99 of 100 requests need.
#[derive(Debug, Clone, Copy)]
struct Times {
    call: Duration,
    list: Duration,
}

fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

async fn measure(app: &App) -> Times {
    let client = McpClient::new(app, "/mcp");
    let pass = async |number: usize| {
        let (mut calls, mut lists) = (vec![], vec![]);
        for _ in 0..CALLS / CLIENTS {
            let begun = Instant::now();
            let message = format!("{number}");
            client
                .call_modern("healthy__echo", json!({ "message": message }))
                .await;
            calls.push(begun.elapsed());
            let begun = Instant::now();
            let list = result(client.modern("tools/list", json!({})).await);
            lists.push(begun.elapsed());
            assert!(list.to_string().contains("\"healthy__echo\""));
        }
        (calls, lists)
    };
    let (calls, lists): (Vec<_>, Vec<_>) =
        join_all((0..CLIENTS).map(pass)).await.into_iter().unzip();
    Times {
        call: p99(calls.concat()),
        list: p99(lists.concat()),
    }
}

/// Calls a tool of a server again and again.
fn keep_calling(app: &App, server: &str, tool: &'static str) -> JoinHandle<()> {
    let client = McpClient::new(app, &format!("/mcp/servers/{server}/mcp"));
    tokio::spawn(async move {
        loop {
            let call = json!({ "name": tool, "arguments": { "ms": 500, "message": "x" } });
            client.modern("tools/call", call).await;
            tokio::task::yield_now().await;
        }
    })
}

fn best(times: &[Times], read: impl Fn(&Times) -> Duration) -> Duration {
    times.iter().map(read).min().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_and_slow_servers_delay_neither_calls_nor_lists() {
    let alone = App::start();
    alone.register_fixture("healthy").await.ok();
    let beside = App::start();
    beside.register_fixture("healthy").await.ok();
    beside.register_fixture("slow").await.ok();
    let crash = json!({ "env": { "FIXTURE_START": "crash" } });
    let broken = beside.register("broken", crash).await.ok();
    assert_eq!(broken["server"]["status"], "error");
    let mut callers = vec![keep_calling(&beside, "broken", "echo")];
    callers.extend((0..16).map(|_| keep_calling(&beside, "slow", "sleep")));
    let (mut without, mut with) = (vec![], vec![]);
    for _ in 0..PASSES {
        without.push(measure(&alone).await);
        with.push(measure(&beside).await);
    }
    for caller in callers {
        assert!(!caller.is_finished(), "a caller of a bad server failed");
        caller.abort();
    }
    eprintln!("without: {without:?}\nwith: {with:?}");
    // The machine may be slow, so the limits grow with the times of the program without bad servers.
    let call = best(&without, |times| times.call);
    assert!(
        best(&with, |times| times.call) < 3 * call + Duration::from_millis(10),
        "{with:?}"
    );
    let list = best(&without, |times| times.list);
    assert!(
        best(&with, |times| times.list) < LIST.max(3 * list),
        "{with:?}"
    );
}
