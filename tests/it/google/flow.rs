//! Calls with the tokens of a user who has given access.

use serde_json::{Value, json};

use super::page::{Google, fresh};
use super::{CREDENTIALS, connect, open, register, shown, start, with_token};
use crate::harness::App;
use crate::page_client::PageClient;

fn application() -> Value {
    serde_json::from_str(&CREDENTIALS).expect("JSON")
}

#[tokio::test]
async fn hidden_arguments_replace_the_callers_arguments() {
    let google = Google::start().await;
    let app = start(&[]);
    register(&app, &google, "workspace", &[]).await.ok();
    let page = connect(&app, &google, "ana", None).await;
    assert_eq!(page.status, 200, "{}", page.text);
    let ana = google.tokens();
    google.set_tokens(fresh());
    assert_eq!(
        connect(&app, &google, "zoë <b>&", Some("workspace"))
            .await
            .status,
        200
    );
    // A secret with the name of a hidden argument is not used. Other secrets are used.
    app.set_secret("ana", "workspace", "userCredentials", "a secret")
        .await;
    app.set_secret("ana", "workspace", "other", "of ana").await;
    for args in [
        "{}",
        r#"{"userCredentials":{},"user\u0043redentials":1,"gauthFileContent":"mine"}"#,
    ] {
        let args = serde_json::from_str(args).expect("JSON");
        let got = shown(&app, "ana", "workspace", args).await;
        assert_eq!(
            got,
            json!({ "userCredentials": ana, "gauthFileContent": application(), "other": "of ana" })
        );
    }
    let got = shown(&app, "zoë <b>&", "workspace", json!({})).await;
    assert_eq!(got["userCredentials"], google.tokens());
    app.call("nobody", "workspace", "show", json!({}))
        .await
        .fails(401, "reauth_required");
    // The tools of the sign-in get no hidden arguments.
    let answer = app
        .call("ana", "workspace", "auth_show", json!({ "q": 1 }))
        .await
        .ok();
    assert_eq!(
        answer["data"]["content"],
        r#"{"other": "of ana", "q": 1, "userCredentials": "a secret"}"#
    );
    // A server without the mark gets no hidden arguments.
    app.register_fixture("fixture").await.ok();
    let answer = app
        .call("ana", "fixture", "arguments", json!({}))
        .await
        .ok();
    assert_eq!(answer["data"]["content"], "{}");
}

#[tokio::test]
async fn every_form_of_a_tool_result_is_read() {
    let google = Google::start().await;
    let app = start(&[]);
    for shape in ["text", "json", "structured"] {
        register(&app, &google, shape, &[("SHAPE", shape)])
            .await
            .ok();
        let page = connect(&app, &google, "ana", Some(shape)).await;
        assert_eq!(page.status, 200, "{shape}: {}", page.text);
        assert_eq!(
            shown(&app, "ana", shape, json!({})).await["userCredentials"],
            google.tokens(),
            "{shape}"
        );
    }
}

#[tokio::test]
async fn tokens_are_deleted_with_their_server() {
    let google = Google::start().await;
    let mut app = start(&[]);
    register(&app, &google, "workspace", &[]).await.ok();
    assert_eq!(connect(&app, &google, "ana", None).await.status, 200);
    app.kill_and_restart();
    assert_eq!(
        shown(&app, "ana", "workspace", json!({})).await["userCredentials"],
        google.tokens()
    );
    // Google returns a refresh token only the first time.
    let first = google.tokens();
    let mut second = fresh();
    second
        .as_object_mut()
        .expect("an object")
        .remove("refresh_token");
    google.set_tokens(second.clone());
    assert_eq!(connect(&app, &google, "ana", None).await.status, 200);
    second["refresh_token"] = first["refresh_token"].clone();
    assert_eq!(
        shown(&app, "ana", "workspace", json!({})).await["userCredentials"],
        second
    );
    let events = app.get("/events?limit=1000").await.ok();
    let connected: Vec<_> = events["events"]
        .as_array()
        .expect("events")
        .iter()
        .filter(|e| e["type"] == "google.connected")
        .collect();
    assert_eq!(connected.len(), 2);
    let fields: Vec<_> = connected[1]["data"]
        .as_object()
        .expect("data")
        .keys()
        .collect();
    assert_eq!(
        fields,
        ["server", "serverName", "user"],
        "and not where they lie"
    );

    app.delete("/mcp/servers/workspace").await.ok();
    register(&app, &google, "workspace", &[]).await.ok();
    app.call("ana", "workspace", "show", json!({}))
        .await
        .fails(401, "reauth_required");
}

#[tokio::test]
async fn a_deployment_without_a_token_needs_no_signed_link() {
    let google = Google::start().await;
    let app = App::start();
    register(&app, &google, "workspace", &[]).await.ok();
    let begun = super::Begun::at(&format!("{}/auth/google/login?user_id=ana", app.url)).await;
    let page = open(
        &super::callback(&app, &google.code(), &begun.state()),
        Some(&begun.cookie),
    )
    .await;
    assert_eq!(page.status, 200, "{}", page.text);
    let got = shown(
        &app,
        "ana",
        "workspace",
        json!({ "gauthFileContent": "mine" }),
    )
    .await;
    assert_eq!(
        got,
        json!({ "userCredentials": google.tokens(), "gauthFileContent": "mine" }),
        "nothing was configured"
    );
}

#[tokio::test]
async fn links_and_cookies_use_public_url() {
    let google = Google::start().await;
    let app = start(&[("PUBLIC_URL", "https://mcp.example.com/api/")]);
    register(&app, &google, "workspace", &[]).await.ok();
    let link = super::link(&app, "ana", None).await;
    let path = link
        .strip_prefix("https://mcp.example.com/api")
        .expect("the public address");
    let url = format!("{}{path}", app.url);
    let mut client = PageClient::new();
    let form = client.get(&url).await.form("/api/auth/google/login");
    let form = form.expect("a form");
    let fields = [("form_token", form.fields[0].1.as_str())];
    let page = client.post(&url, &fields).await;
    let cookie = page.header("set-cookie");
    for attribute in [
        "Path=/api/auth/google",
        "Max-Age=600",
        "HttpOnly;",
        "SameSite=Lax;",
        "Secure",
    ] {
        assert!(cookie.contains(attribute), "{attribute}: {cookie}");
    }
    let refused = app.call("ana", "workspace", "show", json!({})).await;
    let url = refused.body["authorizationUrl"].as_str().expect("a URL");
    assert!(
        url.starts_with(
            "https://mcp.example.com/api/auth/google/login?user_id=ana&server=workspace&"
        ),
        "{url}"
    );
}

/// A job has the answer of the call, with a new link for each request.
#[tokio::test]
async fn the_answer_of_a_job_has_a_new_login_link() {
    let google = Google::start().await;
    let app = start(&[]);
    register(&app, &google, "workspace", &[]).await.ok();
    let call =
        json!({ "username": "ana", "serverName": "workspace", "methodName": "show", "args": {} });
    let request = app
        .http
        .post(format!("{}/mcp/tool/call", app.url))
        .header("prefer", "respond-async")
        .json(&call);
    let accepted = crate::harness::answer(request).await;
    let path = format!(
        "/jobs/{}?username=ana&wait=30s",
        accepted.body["jobId"].as_str().expect("a job")
    );
    let answer = app.get(&path).await.ok()["job"]["answer"].take();
    assert_eq!(
        (&answer["status"], &answer["body"]["code"]),
        (&json!(401), &json!("reauth_required")),
        "{answer}"
    );
    let link = answer["body"]["authorizationUrl"].as_str().expect("a link");
    assert_eq!(open(&format!("{}{link}", app.url), None).await.status, 200);
    assert_eq!(connect(&app, &google, "ana", None).await.status, 200);
    let keyed = app
        .http
        .post(format!("{}/mcp/tool/call", app.url))
        .header("idempotency-key", "once")
        .json(&call);
    let answer = crate::harness::answer(keyed).await.ok();
    assert!(
        answer["data"]["content"]
            .as_str()
            .is_some_and(|text| text.contains("userCredentials")),
        "{answer}"
    );
}

/// Every call has tokens while the tokens are replaced.
#[tokio::test]
async fn tokens_are_replaced_during_calls() {
    let google = Google::start().await;
    let app = with_token(App::start_with(&[("ADMIN_TOKEN", super::TOKEN)]));
    register(&app, &google, "workspace", &[]).await.ok();
    assert_eq!(connect(&app, &google, "ana", None).await.status, 200);
    let calls = async {
        for _ in 0..60 {
            shown(&app, "ana", "workspace", json!({})).await;
        }
    };
    let renewals = async {
        for _ in 0..10 {
            google.set_tokens(fresh());
            assert_eq!(connect(&app, &google, "ana", None).await.status, 200);
        }
    };
    tokio::join!(calls, renewals);
    assert_eq!(
        shown(&app, "ana", "workspace", json!({})).await["userCredentials"],
        google.tokens()
    );
}
