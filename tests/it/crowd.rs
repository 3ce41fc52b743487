//! Many callers at once: limits for each of them, and each gets its own reply.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};

use crate::harness::{Answer, App};
use crate::processes::under_way;

const MANY: &[(&str, &str)] = &[
    ("MAX_CALLS", "8192"),
    ("MAX_CALLS_PER_SERVER", "4096"),
    ("MAX_CALLS_PER_USER", "4096"),
];

fn refused(answer: Answer) {
    assert_eq!(answer.headers["retry-after"], "1");
    assert!(
        answer
            .fails(503, "unavailable")
            .contains("MAX_CALLS_PER_USER")
    );
}

#[tokio::test]
async fn a_user_above_the_limit_is_refused_and_other_users_are_served() {
    let app = App::start_with(&[("MAX_CALLS_PER_USER", "2")]);
    app.register_fixture("fixture").await.ok();
    let pid = app.idle("fixture").await;
    let long = || app.call("ana", "fixture", "sleep", json!({ "ms": 4000 }));
    let (first, second, ()) = tokio::join!(long(), long(), async {
        under_way(pid, 2).await;
        refused(app.call("ana", "fixture", "echo", json!({})).await);
        app.call("ben", "fixture", "echo", json!({ "message": "mine" }))
            .await
            .ok();
    });
    first.ok();
    second.ok();
    app.call("ana", "fixture", "echo", json!({})).await.ok();
}

#[tokio::test]
async fn a_server_at_its_limit_does_not_delay_other_servers() {
    let app = App::start_with(&[("MAX_CALLS_PER_SERVER", "1")]);
    app.register_fixture("full").await.ok();
    app.register_fixture("free").await.ok();
    let pid = app.idle("full").await;
    let (first, ()) = tokio::join!(
        app.call("ana", "full", "sleep", json!({ "ms": 4000 })),
        async {
            under_way(pid, 1).await;
            refused(app.call("ben", "full", "echo", json!({})).await);
            app.call("ben", "free", "echo", json!({})).await.ok();
        }
    );
    first.ok();
    app.call("ben", "full", "echo", json!({})).await.ok();
}

#[tokio::test]
async fn a_short_crowd_waits_instead_of_failing() {
    let app = App::start_with(&[("MAX_CALLS_PER_SERVER", "4")]);
    app.register_fixture("fixture").await.ok();
    let calls = (0..40).map(|_| app.call("default", "fixture", "sleep", json!({ "ms": 20 })));
    for answer in join_all(calls).await {
        answer.ok();
    }
}

#[tokio::test]
async fn a_full_worker_is_ready_and_accepts_changes() {
    let app = App::start_with(&[("MAX_CALLS", "1")]);
    app.register_fixture("fixture").await.ok();
    let pid = app.idle("fixture").await;
    let (first, ()) = tokio::join!(
        app.call("ana", "fixture", "sleep", json!({ "ms": 4000 })),
        async {
            under_way(pid, 1).await;
            refused(app.call("ben", "fixture", "echo", json!({})).await);
            app.get("/readyz").await.ok();
            app.register("another", json!({ "enabled": false }))
                .await
                .ok();
            app.set_secret("ana", "fixture", "token", "set while full")
                .await;
        }
    );
    first.ok();
}

/// A thousand clients disconnect at different moments of their calls. All other clients get their own replies with their
/// own secrets, during the load and after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_client_gets_the_reply_of_a_client_that_disconnected() {
    let app = Arc::new(App::start_with(MANY));
    app.register_fixture("fixture").await.ok();
    for user in 0..10 {
        app.set_secret(
            &format!("user-{user}"),
            "fixture",
            "secret",
            &format!("secret of {user}"),
        )
        .await;
    }
    let leaving = (0..1000u64).map(|n| {
        let app = app.clone();
        tokio::spawn(async move {
            // The moments lie between the request and the reply, and are equal in every run.
            let moment = Duration::from_micros(n * 7919 % 60_000);
            let call = one(&app, n % 10, format!("left-{n}"), n % 50);
            let _ = tokio::time::timeout(moment, call).await;
        })
    });
    let staying = (0..300u64).map(|n| {
        let app = app.clone();
        tokio::spawn(async move { one(&app, n % 10, format!("stays-{n}"), n % 20).await })
    });
    let leaving: Vec<_> = leaving.collect();
    let staying: Vec<_> = staying.collect();
    for done in join_all(staying).await {
        done.expect("a reply of this call");
    }
    for done in join_all(leaving).await {
        done.expect("a reply of this call, or none");
    }
    for n in 0..30 {
        one(&app, n % 10, format!("after-{n}"), 0).await;
    }
}

/// Calls as one user with a text of its own, and checks that the reply contains it.
async fn one(app: &App, user: u64, text: String, wait: u64) {
    let args = json!({ "text": text, "wait": wait, "secret": "of another user" });
    let answer = app
        .call(&format!("user-{user}"), "fixture", "arguments", args)
        .await
        .ok();
    let seen: Value =
        serde_json::from_str(answer["data"]["content"].as_str().expect("a text")).expect("JSON");
    assert_eq!(
        seen,
        json!({ "text": text, "wait": wait, "secret": format!("secret of {user}") })
    );
}
