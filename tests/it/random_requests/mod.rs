//! Random requests with random tokens: no answer is a failure of the program, and no answer shows a secret.
//!
//! The requests come from the OpenAPI document. `MCP_TEST_RANDOM_REQUESTS` is their number, and `MCP_TEST_SEED` repeats a
//! run.

mod client;
mod fuzz;
mod planted;
mod random;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use serde_json::Value;

use self::client::{Connection, Reply};
use self::fuzz::{Fuzzed, Operation};
use self::planted::World;
use self::random::Random;

/// The number of requests without `MCP_TEST_RANDOM_REQUESTS`.
const REQUESTS: u64 = 10_000;
/// The number of connections that send requests at the same time.
const CONNECTIONS: u64 = 8;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect("a number"))
}

/// The number of replies for each status.
type Statuses = BTreeMap<u16, u64>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_random_request_makes_the_program_fail_or_shows_a_secret() {
    let count = number("MCP_TEST_RANDOM_REQUESTS").unwrap_or(REQUESTS);
    let seed = number("MCP_TEST_SEED").unwrap_or_else(|| uuid::Uuid::new_v4().as_u128() as u64);
    println!("MCP_TEST_SEED={seed} MCP_TEST_RANDOM_REQUESTS={count}");
    let (app, world) = planted::start().await;
    let world = Arc::new(world);
    let operations = Arc::new(fuzz::operations());
    let started = Instant::now();
    let senders: Vec<_> = (0..CONNECTIONS)
        .map(|sender| {
            let share = count / CONNECTIONS + u64::from(sender < count % CONNECTIONS);
            let random = Random::new(seed.wrapping_add(sender));
            tokio::spawn(send_all(
                app.url.clone(),
                random,
                share,
                world.clone(),
                operations.clone(),
            ))
        })
        .collect();
    let mut statuses = Statuses::new();
    for sender in senders {
        for (status, replies) in sender.await.expect("no wrong reply") {
            *statuses.entry(status).or_default() += replies;
        }
    }
    println!("{:?}: {statuses:?}", started.elapsed());
    // The requests reach the handlers.
    for status in [200, 400, 401, 403, 404, 405, 415] {
        assert!(statuses.contains_key(&status), "{status}: {statuses:?}");
    }
    app.get("/healthz").await.ok();
    world.check(|| "the log of the program".to_owned(), app.log().as_bytes());
}

/// Sends requests one after another, and checks each reply.
async fn send_all(
    url: String,
    mut random: Random,
    count: u64,
    world: Arc<World>,
    operations: Arc<Vec<Operation>>,
) -> Statuses {
    let mut connection = Connection::new(&url);
    let mut statuses = Statuses::new();
    for number in 0..count {
        let fuzzed = fuzz::request(&mut random, &world, &operations);
        let reply = connection.send(&fuzzed).await;
        check(&world, number, &fuzzed, &reply);
        *statuses.entry(reply.status).or_default() += 1;
    }
    statuses
}

fn check(world: &World, number: u64, fuzzed: &Fuzzed, reply: &Reply) {
    let shown = || format!("request {number}: {fuzzed:?}\n{reply:?}");
    let is_expected = match reply.status {
        503 => fuzzed.documents(503) && reply.head.contains("retry-after"),
        status if status >= 500 => fuzzed.reaches_other_programs() && fuzzed.documents(status),
        status => status >= 200,
    };
    assert!(is_expected, "a failure of the program: {}", shown());
    world.check(shown, reply.head.as_bytes());
    world.check(shown, &reply.body);
    let is_json = reply.head.contains("application/json");
    if reply.status >= 400 && is_json && !reply.body.is_empty() {
        let body: Value = serde_json::from_slice(&reply.body).expect("JSON");
        let is_failure =
            body["success"] == false && body["error"].is_string() && body["code"].is_string();
        // The MCP endpoints answer with JSON-RPC errors too.
        let is_rpc_error = body["jsonrpc"] == "2.0" && body["error"]["code"].is_i64();
        assert!(is_failure || is_rpc_error, "no failure: {}", shown());
    }
}
