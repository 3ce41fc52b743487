//! Questions whose client or worker disappears: the call ends, its permit is free, and the client hears of it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::asking::{Session, text};
use super::client::Messages;
use super::input::{PATH, answered, register_suite};
use crate::harness::App;
use crate::remote::Kind;
use crate::wait::wait_until;

const KINDS: [Kind; 2] = [Kind::Suite, Kind::SuiteWithSessions];
const METRIC: &str = "mcp_api_mcp_server_requests_total";
/// The promise: the stream of a call ends within this time after a kill of its worker.
const STREAM_ENDS: Duration = Duration::from_secs(5);

/// Opens a call, and returns its stream after the question.
async fn open_question(session: &Session) -> Messages {
    let arguments = json!({ "message": "Who are you?" });
    let mut stream = session.call("test_elicitation", arguments).await;
    stream.notification("elicitation/create").await;
    stream
}

/// Waits until the processes of the program have counted ended questions.
async fn wait_for_ended(app: &App, expected: f64) {
    let labels = [("method", "elicitation/create"), ("outcome", "ended")];
    wait_until("the questions have ended", async || {
        app.total(METRIC, &labels).await == expected
    })
    .await;
}

#[tokio::test]
async fn a_client_that_closes_its_stream_at_a_question_ends_the_call() {
    for kind in KINDS {
        let app = App::start_with(&[("MAX_CALLS_PER_USER", "1")]);
        let _suite = register_suite(&app, kind).await;
        let session = Session::begin(&app, PATH, "ana").await;
        for round in 1..=3 {
            drop(open_question(&session).await);
            wait_for_ended(&app, f64::from(round)).await;
            // The user has one permit, so a further call works only if the ended call has returned it.
            let arguments = json!({ "message": "Who are you?" });
            let (result, asked) = answered(&session, "test_elicitation", arguments).await;
            assert_eq!(asked, 1, "{result}");
            assert!(text(&result).contains("action: accept"), "{result}");
        }
    }
}

/// An embedded program has no worker that can be killed alone.
#[tokio::test]
async fn a_question_of_a_killed_worker_ends_soon_and_its_call_may_have_run() {
    for kind in KINDS {
        let mut app = App::distributed(1, &[]);
        let _suite = register_suite(&app, kind).await;
        let session = Session::begin(&app, PATH, "ana").await;
        let mut stream = open_question(&session).await;

        app.processes[1].kill();
        let killed = Instant::now();
        let response = stream.next().await.expect("a response");
        let elapsed = killed.elapsed();
        eprintln!("the call ended {elapsed:?} after the kill");
        assert!(elapsed < STREAM_ENDS, "{elapsed:?}");
        let result = &response["result"];
        assert_eq!(result["isError"], true, "{response}");
        assert_eq!(
            result["_meta"]["mcp-api/failure"]["mayHaveRun"], true,
            "{response}"
        );
        assert_eq!(stream.next().await, None);

        // The session goes on with the next worker.
        app.add("worker");
        wait_until("the next worker runs calls", async || {
            simple_text(&session).await["result"]["isError"] == false
        })
        .await;
        let arguments = json!({ "message": "Who are you?" });
        let (result, _) = answered(&session, "test_elicitation", arguments).await;
        assert!(text(&result).contains("action: accept"), "{result}");
    }
}

/// An embedded program has no facade that can be killed alone.
#[tokio::test]
async fn a_question_of_a_killed_facade_ends_and_frees_the_permit_of_its_user() {
    for kind in KINDS {
        let mut app = App::distributed(1, &[("MAX_CALLS_PER_USER", "1")]);
        let second = app.add("api");
        let _suite = register_suite(&app, kind).await;
        let session = Session::begin(&app, PATH, "ana").await;
        let _stream = open_question(&session).await;
        let other = Session(
            session
                .0
                .moved(&format!("{}{PATH}", app.processes[second].url)),
        );
        let refused = simple_text(&other).await;
        assert_eq!(refused["error"]["data"]["code"], "unavailable", "{refused}");

        app.processes[0].kill();
        let killed = Instant::now();
        wait_until("the user's next call gets the permit", async || {
            simple_text(&other).await["result"]["isError"] == false
        })
        .await;
        eprintln!("the permit is free {:?} after the kill", killed.elapsed());
    }
}

/// Calls a tool that asks nothing, and returns the response.
async fn simple_text(session: &Session) -> Value {
    let params = json!({ "name": "test_simple_text", "arguments": {} });
    session.0.legacy("tools/call", params).await.body
}
