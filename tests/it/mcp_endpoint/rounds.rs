//! Ten thousand rounds in which two users send equal messages at the same time: equal request ids, equal progress tokens,
//! both eras, both URLs. Each message reaches its asker only.

use std::time::Instant;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD as URL_SAFE, Engine as _};
use futures::future::join_all;
use serde_json::json;

use super::client::{FIXTURE, McpClient, error_code};
use super::wire::Wire;
use crate::harness::App;

const USERS: [&str; 2] = ["ana", "ben"];
/// The rounds of all pairs of connections.
const ROUNDS: usize = 10_000;
/// The pairs of connections of each era at each URL.
const PAIRS: usize = 8;
/// A session serves this many rounds.
const ROUNDS_OF_SESSION: usize = 100;
/// The position of the random part in the bytes of a session id.
const RANDOM: std::ops::Range<usize> = 5..17;
/// The endpoints with the name that the tool has there.
const ENDPOINTS: [(&str, &str); 2] = [("/mcp", "fixture__progress"), (FIXTURE, "progress")];
/// The members of `_meta` that each modern request needs.
const MODERN_META: &str = r#","io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}"#;

/// One connection of each user to the same endpoint in the same era.
struct Pair<'a> {
    app: &'a App,
    number: usize,
    path: &'static str,
    tool: &'static str,
    is_legacy: bool,
    wires: [Wire; 2],
    /// The headers of each user.
    headers: [String; 2],
}

impl<'a> Pair<'a> {
    async fn open(
        app: &'a App,
        number: usize,
        (path, tool): (&'static str, &'static str),
        is_legacy: bool,
    ) -> Self {
        let headers = USERS.map(|user| {
            format!(
                "mcp-api-user: {user}\r\nmcp-protocol-version: 2026-07-28\r\nmcp-method: tools/call\r\nmcp-name: {tool}\r\n"
            )
        });
        Self {
            app,
            number,
            path,
            tool,
            is_legacy,
            wires: [Wire::open(&app.url).await, Wire::open(&app.url).await],
            headers,
        }
    }

    /// Begins a session of each user. The id of one user is unknown to the other user, also with the random part of the
    /// other user's id.
    async fn begin_sessions(&mut self) {
        let client = |user: &str| McpClient::new(self.app, self.path).user(user);
        let (_, ana) = client("ana").begin("2025-11-25", json!({})).await;
        let (_, ben) = client("ben").begin("2025-11-25", json!({})).await;
        let mixed = with_random_of(&ana, &ben);
        for (user, id) in [
            ("ben", &ana),
            ("ana", &ben),
            ("ana", &mixed),
            ("ben", &mixed),
        ] {
            let stranger = client(user).with("mcp-session-id", id);
            let found = stranger.legacy("ping", json!({})).await;
            assert_eq!((found.status, error_code(&found)), (404, -32602), "{user}");
        }
        let headers =
            |user: &str, id: &str| format!("mcp-api-user: {user}\r\nmcp-session-id: {id}\r\n");
        self.headers = [headers("ana", &ana), headers("ben", &ben)];
    }

    async fn run(mut self, rounds: usize) {
        for round in 0..rounds {
            if self.is_legacy && round.is_multiple_of(ROUNDS_OF_SESSION) {
                self.begin_sessions().await;
            }
            self.run_round(round).await;
        }
    }

    /// Both users send a call with the same id and the same token, and then read their answers.
    async fn run_round(&mut self, round: usize) {
        let id = round % 4;
        let token = format!("token {}", round % 2);
        let meta = if self.is_legacy { "" } else { MODERN_META };
        let (tool, number) = (self.tool, self.number);
        let mark = |user: &str| format!("{user} at {tool} {} {number} {round}.", meta.len());
        for (index, user) in USERS.into_iter().enumerate() {
            let mark = mark(user);
            let body = format!(
                r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{tool}","arguments":{{"steps":1,"ms":0,"message":"{mark}","result":"{mark}"}},"_meta":{{"progressToken":"{token}"{meta}}}}}}}"#
            );
            self.wires[index]
                .send(self.path, &self.headers[index], &body)
                .await;
        }
        for (wire, user) in self.wires.iter_mut().zip(USERS) {
            check(wire.read_events().await, id, &token, &mark(user));
        }
    }
}

/// Checks the answer to a call: its own progress, then its own result, and nothing else.
fn check(answer: &str, id: usize, token: &str, mark: &str) {
    let events: Vec<_> = answer
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .collect();
    let [progress, response] = events[..] else {
        panic!("{mark}: {answer}");
    };
    let is_own_progress = progress.contains(&format!(r#""progressToken":"{token}""#))
        && progress.contains(&format!(r#""0: {mark}""#));
    assert!(is_own_progress, "{mark}: {answer}");
    let is_own_response = response
        .starts_with(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":"#))
        && response.contains(&format!(r#""{mark}""#));
    assert!(is_own_response, "{mark}: {answer}");
}

/// Returns the first session id with the random part of the second one.
fn with_random_of(id: &str, other: &str) -> String {
    let mut bytes = URL_SAFE.decode(id).expect("base64");
    let other = URL_SAFE.decode(other).expect("base64");
    bytes[RANDOM].copy_from_slice(&other[RANDOM]);
    URL_SAFE.encode(bytes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_messages_of_two_users_meet_their_own_answers_in_ten_thousand_rounds() {
    let app = App::start();
    app.register_fixture("fixture").await.ok();
    let mut pairs = vec![];
    for endpoint in ENDPOINTS {
        for is_legacy in [false, true] {
            for number in 0..PAIRS {
                pairs.push(Pair::open(&app, number, endpoint, is_legacy).await);
            }
        }
    }
    let begun = Instant::now();
    let rounds = ROUNDS.div_ceil(pairs.len());
    join_all(pairs.into_iter().map(|pair| pair.run(rounds))).await;
    eprintln!("{ROUNDS} rounds took {:?}", begun.elapsed());
}
