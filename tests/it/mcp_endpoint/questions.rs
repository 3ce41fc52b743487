//! Five users make 200 calls at the same time, and the server asks each caller. Every question reaches only the stream of its
//! own call, and every answer reaches its own call, although all requests have the same id. In the distributed setup,
//! the answers go to another facade.
//!
//! A round is one question to each of the five users. The test runs as many rounds as its time allows. `MCP_TEST_ROUNDS` is
//! another number of rounds, for example 10,000.

use std::time::{Duration, Instant};

use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use super::asking::{Session, ask, text};
use super::client::{McpClient, Messages, error_code, result};
use super::input::{PATH, register_suite};
use crate::harness::{Answer, App};
use crate::remote::Kind;

const USERS: [&str; 5] = ["ana", "ben", "eva", "kim", "leo"];
/// The calls of each user at the same time.
const CALLS: usize = 40;
/// The time for each kind of server.
const TIME: Duration = Duration::from_secs(25);
/// After this number of passes, another user tries to answer each question first.
const PASSES_BETWEEN_STRANGERS: usize = 8;
const TOOL: &str = "test_elicitation";
const LIMITS: &[(&str, &str)] = &[
    ("MAX_CALLS", "1024"),
    ("MAX_CALLS_PER_SERVER", "1024"),
    ("MAX_CALLS_PER_USER", "1024"),
];

/// One of the callers of a user.
struct Caller {
    name: String,
    is_modern: bool,
    client: McpClient,
    /// The same caller at the facade that takes the answers.
    answering: McpClient,
    /// Another user at this facade.
    stranger: McpClient,
}

/// A question that its caller has received.
struct Question<'a> {
    caller: &'a Caller,
    /// A text that only this call has.
    mark: String,
    kind: QuestionKind,
}

enum QuestionKind {
    /// A request on the stream of the call.
    Request { stream: Messages, asked: Value },
    /// A result that asks for input.
    Result(Value),
}

impl Caller {
    async fn new(app: &App, other: &str, user: usize, number: usize, is_modern: bool) -> Self {
        let url = format!("{other}{PATH}");
        let client = async |user: &str| {
            if is_modern {
                McpClient::new(app, PATH).user(user)
            } else {
                Session::begin(app, PATH, user).await.0
            }
        };
        let stranger = client(USERS[(user + 1) % USERS.len()]).await;
        let client = client(USERS[user]).await;
        Self {
            name: format!("{} {number}", USERS[user]),
            is_modern,
            answering: client.moved(&url),
            client,
            stranger: stranger.moved(&url),
        }
    }

    /// Begins a call, and waits for its question.
    async fn call(&self, pass: usize) -> Question<'_> {
        let mark = format!("{} in pass {pass}.", self.name);
        let params = json!({ "name": TOOL, "arguments": { "message": mark } });
        let (kind, params) = if self.is_modern {
            let asked = result(ask(&self.client, "tools/call", params).await);
            let params = asked["inputRequests"]["user"]["params"].clone();
            (QuestionKind::Result(asked), params)
        } else {
            let body =
                json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params });
            let request = self.client.request(Method::POST).json(&body);
            let mut stream = Messages::open(request).await;
            let asked = stream.notification("elicitation/create").await;
            let params = asked["params"].clone();
            (QuestionKind::Request { stream, asked }, params)
        };
        assert_eq!(params["message"], mark, "the question of another call");
        Question {
            caller: self,
            mark,
            kind,
        }
    }
}

impl Question<'_> {
    /// Answers the question, and checks that the call gets this answer.
    async fn answer(self, is_stranger_first: bool) {
        let mark = &self.mark;
        let content = json!({ "username": mark, "email": "a@example.com" });
        let input = json!({ "action": "accept", "content": content });
        let result = match self.kind {
            QuestionKind::Request { mut stream, asked } => {
                if is_stranger_first {
                    let refused = respond(&self.caller.stranger, &asked, &input).await;
                    assert_eq!((refused.status, error_code(&refused)), (400, -32600));
                }
                let taken = respond(&self.caller.answering, &asked, &input).await;
                assert_eq!(taken.status, 202, "{}", taken.body);
                let mut response = stream.next().await.expect("a response");
                assert_eq!(response["id"], 7, "{response}");
                assert_eq!(stream.next().await, None, "{mark}");
                response["result"].take()
            }
            QuestionKind::Result(asked) => {
                let mut params = json!({
                    "name": TOOL, "arguments": { "message": mark }, "inputResponses": { "user": input },
                });
                if asked["requestState"].is_string() {
                    params["requestState"] = asked["requestState"].clone();
                }
                result(ask(&self.caller.answering, "tools/call", params).await)
            }
        };
        let expected = format!("\"username\": \"{mark}\"");
        assert!(text(&result).contains(&expected), "{mark} {result}");
    }
}

async fn respond(client: &McpClient, asked: &Value, input: &Value) -> Answer {
    let body = json!({ "jsonrpc": "2.0", "id": asked["id"], "result": input });
    client.post(&body.to_string()).await
}

/// Starts the program and the callers, and runs the rounds.
async fn run(kind: Kind, eras: &[bool]) {
    let mut app = App::start_with(LIMITS);
    let other = if app.services.is_some() {
        let number = app.add("api");
        app.processes[number].url.clone()
    } else {
        app.url.clone()
    };
    let _suite = register_suite(&app, kind).await;
    let callers = (0..USERS.len() * CALLS).map(|index| {
        let (user, number) = (index % USERS.len(), index / USERS.len());
        Caller::new(&app, &other, user, number, eras[number % eras.len()])
    });
    let callers = join_all(callers).await;
    let asked = std::env::var("MCP_TEST_ROUNDS").ok();
    let rounds = asked.map(|text| text.parse::<usize>().expect("a number of rounds"));
    let begun = Instant::now();
    let mut pass = 0;
    let is_over = |pass: usize| match rounds {
        Some(rounds) => pass * CALLS >= rounds,
        None => pass > 0 && begun.elapsed() >= TIME,
    };
    while !is_over(pass) {
        let questions = join_all(callers.iter().map(|caller| caller.call(pass))).await;
        let is_stranger_first = pass.is_multiple_of(PASSES_BETWEEN_STRANGERS);
        let answers = questions
            .into_iter()
            .map(|question| question.answer(is_stranger_first));
        join_all(answers).await;
        pass += 1;
    }
    eprintln!("{} rounds took {:?}", pass * CALLS, begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_2026_asks_the_caller_of_each_call_in_both_eras() {
    run(Kind::Suite, &[false, true]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_sessions_asks_the_caller_of_each_call() {
    run(Kind::SuiteWithSessions, &[false]).await;
}
