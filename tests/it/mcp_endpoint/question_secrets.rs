//! Planted secrets of users appear in no question, even if the server of one user's call knows the secret of another user.

use futures::future::join_all;
use serde_json::{Value, json};

use super::asking::{Session, ask};
use super::client::{McpClient, Messages, result};
use super::input::PATH;
use crate::harness::App;
use crate::leaks::{SECRETS, clean};
use crate::remote::{Kind, Real, register};

/// Two users with a secret. The server repeats the secret of a caller in its question.
const PLANTED: [(&str, &str); 2] = [("ana", SECRETS[0]), ("ben", SECRETS[1])];
/// A user without a secret.
const OTHER: &str = "kim";
const TOOL: &str = "test_elicitation";

async fn register_leaking(app: &App, kind: Kind) -> Real {
    let suite = Real::start(kind).await;
    let more = json!({ "secretNames": ["message"] });
    register(app, "suite", &suite.url(), more).await.ok();
    for (user, secret) in PLANTED {
        app.set_secret(user, "suite", "message", secret).await;
    }
    suite
}

/// Asks a client with a session. Returns the question and the open stream of its call.
async fn asked(app: &App, user: &str, arguments: Value) -> (Value, Messages) {
    let session = Session::begin(app, PATH, user).await;
    let mut stream = session.call(TOOL, arguments).await;
    let question = stream.notification("elicitation/create").await;
    (question, stream)
}

/// Returns the question that a client of 2026-07-28 gets.
async fn asked_of_modern(app: &App, user: &str, arguments: Value) -> Value {
    let client = McpClient::new(app, PATH).user(user);
    let params = json!({ "name": TOOL, "arguments": arguments });
    let mut result = result(ask(&client, "tools/call", params).await);
    result["inputRequests"]["user"].take()
}

fn check(about: &str, question: &Value) {
    assert_eq!(question["method"], "elicitation/create", "{question}");
    let secrets = PLANTED.map(|(_, secret)| secret);
    clean(about, question.to_string().as_bytes(), &secrets);
}

#[tokio::test]
async fn no_question_shows_the_secret_of_a_user() {
    for kind in [Kind::Suite, Kind::SuiteWithSessions] {
        let app = App::start();
        let _suite = register_leaking(&app, kind).await;
        let asked_of_owner = |(user, _)| asked(&app, user, json!({}));
        // The test keeps their streams open until it has compared all texts.
        let owners = join_all(PLANTED.map(asked_of_owner)).await;
        for ((user, _), (question, _)) in PLANTED.iter().zip(&owners) {
            assert_eq!(question["params"]["message"], "***", "{user}");
            check(user, question);
        }
        for (user, secret) in PLANTED {
            let leaked = json!({ "message": secret });
            let (question, _stream) = asked(&app, OTHER, leaked.clone()).await;
            check(user, &question);
            if matches!(kind, Kind::Suite) {
                check(user, &asked_of_modern(&app, OTHER, leaked).await);
            }
        }
    }
}
