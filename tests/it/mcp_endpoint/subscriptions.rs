//! Subscriptions to resources: `resources/subscribe` of the legacy era, and `resourceSubscriptions` of 2026-07-28.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::changes::{listen, register_stdio};
use super::client::{FIXTURE, McpClient, Messages, error_code, result, text_of};
use crate::harness::{App, PATIENCE, answer, fixture};
use crate::remote::{Kind, Real, connected};
use crate::wait::wait_until;

const ONE: &str = "/mcp/servers/suite/mcp";
const WATCHED: &str = "test://watched-resource";
const UPDATED: &str = "notifications/resources/updated";
const PROMPTS: &str = "notifications/prompts/list_changed";

/// A stream, and the URI that its client watches.
struct Watching {
    stream: Messages,
    uri: String,
    /// The session of a legacy client.
    session: Option<McpClient>,
}

impl Watching {
    async fn modern(client: &McpClient, uri: &str) -> Self {
        let wanted = json!({ "promptsListChanged": true, "resourceSubscriptions": [uri] });
        let (stream, honoured) = listen(client, wanted.clone()).await;
        assert_eq!(honoured, wanted);
        Self {
            stream,
            uri: uri.to_owned(),
            session: None,
        }
    }

    async fn legacy(client: &McpClient, uri: &str) -> Self {
        let (session, _) = client.initialize("2025-11-25").await;
        let stream = Messages::open(session.request(Method::GET)).await;
        subscribe(&session, uri).await;
        Self {
            stream,
            uri: uri.to_owned(),
            session: Some(session),
        }
    }

    async fn is_updated(&mut self) {
        let updated = self.stream.notification(UPDATED).await;
        assert_eq!(updated["params"]["uri"], *self.uri);
        let id = &updated["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"];
        assert_eq!(*id == 7, self.session.is_none(), "{updated}");
    }
}

async fn subscribe(session: &McpClient, uri: &str) {
    let params = json!({ "uri": uri });
    let subscribed = result(session.legacy("resources/subscribe", params).await);
    assert_eq!(subscribed, json!({}));
}

async fn update(client: &McpClient, uri: &str) {
    client
        .call_modern("test_update_resource", json!({ "uri": uri }))
        .await;
}

/// Opens a stream of each era at each endpoint.
async fn watch_everywhere(app: &App) -> Vec<Watching> {
    let mut streams = vec![];
    for (path, uri) in [
        (ONE, WATCHED.to_owned()),
        ("/mcp", format!("suite+{WATCHED}")),
    ] {
        let client = McpClient::new(app, path);
        streams.push(Watching::modern(&client, &uri).await);
        streams.push(Watching::legacy(&client, &uri).await);
    }
    streams
}

async fn follow_updates(app: &App) {
    let mut streams = watch_everywhere(app).await;
    let client = McpClient::new(app, ONE);
    update(&client, "test://static-text").await;
    update(&client, WATCHED).await;
    for stream in &mut streams {
        stream.is_updated().await;
    }
    for stream in &streams {
        if let Some(session) = &stream.session {
            let params = json!({ "uri": stream.uri });
            let ended = result(session.legacy("resources/unsubscribe", params).await);
            assert_eq!(ended, json!({}));
        }
    }
    update(&client, WATCHED).await;
    for stream in &mut streams {
        if stream.session.is_none() {
            stream.is_updated().await;
        }
    }
    // The next message of a session that has unsubscribed is about something else.
    client
        .call_modern("test_trigger_prompt_change", json!({}))
        .await;
    for stream in &mut streams {
        stream.stream.notification(PROMPTS).await;
    }
}

async fn subscribed_at_server(client: &McpClient) -> String {
    text_of(&client.call_modern("test_subscribed", json!({})).await).to_owned()
}

#[tokio::test]
async fn updates_of_a_child_process_reach_the_clients_that_watch() {
    let app = App::start();
    register_stdio(&app, json!({})).await;
    follow_updates(&app).await;
    // All streams have ended, so the worker unsubscribes from the resource.
    let client = McpClient::new(&app, ONE);
    wait_until("the server has no subscription", async || {
        subscribed_at_server(&client).await == "[]"
    })
    .await;
}

#[tokio::test]
async fn updates_of_a_server_with_sessions_reach_the_clients_that_watch() {
    let app = App::start();
    let suite = Real::start(Kind::SuiteWithSessions).await;
    connected(&app, "suite", &suite.url()).await;
    follow_updates(&app).await;
}

#[tokio::test]
async fn updates_of_a_server_without_sessions_reach_the_clients_that_watch() {
    let app = App::start();
    let suite = Real::start(Kind::Suite).await;
    connected(&app, "suite", &suite.url()).await;
    follow_updates(&app).await;
}

/// Restarts the server, and waits for an update that comes afterwards.
async fn restart_and_update(kind: Kind) {
    let app = App::start();
    let mut suite = Real::start(kind).await;
    connected(&app, "suite", &suite.url()).await;
    let client = McpClient::new(&app, ONE);
    let mut watching = Watching::modern(&client, WATCHED).await;
    suite.restart().await;
    let updated = async {
        let params = json!({ "name": "test_update_resource", "arguments": { "uri": WATCHED } });
        loop {
            client.modern("tools/call", params.clone()).await;
            let soon = tokio::time::timeout(Duration::from_millis(500), watching.is_updated());
            if soon.await.is_ok() {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, updated)
        .await
        .expect("the restarted server has the subscription");
}

#[tokio::test]
async fn a_restarted_server_with_sessions_gets_the_subscriptions_again() {
    restart_and_update(Kind::SuiteWithSessions).await;
}

#[tokio::test]
async fn a_restarted_server_without_sessions_gets_the_subscriptions_again() {
    restart_and_update(Kind::Suite).await;
}

#[tokio::test]
async fn a_session_may_subscribe_at_another_facade_and_before_its_stream_opens() {
    let mut app = App::start();
    register_stdio(&app, json!({})).await;
    let other = if app.services.is_some() {
        let second = app.add("api");
        app.processes[second].url.clone()
    } else {
        app.url.clone()
    };
    let (session, _) = McpClient::new(&app, ONE).initialize("2025-06-18").await;
    let elsewhere = session.moved(&format!("{other}{ONE}"));
    subscribe(&session, "test://first").await;
    let mut stream = Messages::open(session.request(Method::GET)).await;
    subscribe(&elsewhere, WATCHED).await;
    let client = McpClient::new(&app, ONE);
    // The news of the other facade arrive a moment later.
    let updated = async {
        let mut missing = vec!["test://first", WATCHED];
        while !missing.is_empty() {
            for uri in &missing {
                update(&client, uri).await;
            }
            let soon = tokio::time::timeout(Duration::from_millis(500), stream.next());
            if let Ok(message) = soon.await {
                let message = message.expect("a message");
                assert_eq!(message["method"], UPDATED, "{message}");
                missing.retain(|uri| message["params"]["uri"] != **uri);
            }
        }
    };
    tokio::time::timeout(PATIENCE, updated)
        .await
        .expect("both resources are updated");
}

#[tokio::test]
async fn a_process_of_one_user_updates_the_resources_of_this_user_alone() {
    let app = App::start();
    let credentials = json!([{ "name": "KEY", "in": "env", "required": true }]);
    let args = json!([fixture("mcp_suite.py"), "sessions"]);
    register_stdio(&app, json!({ "credentials": credentials, "args": args })).await;
    let mut streams = vec![];
    for user in ["ana", "ben"] {
        app.set_secret(user, "suite", "KEY", &format!("of-{user}"))
            .await;
        let client = McpClient::new(&app, ONE).user(user);
        client.call_modern("test_simple_text", json!({})).await;
        let watching = Watching::modern(&client, WATCHED).await;
        assert_eq!(
            subscribed_at_server(&client).await,
            format!("[\"{WATCHED}\"]")
        );
        streams.push((client, watching));
    }
    let [(ana, of_ana), (ben, of_ben)] = &mut streams[..] else {
        panic!("two streams");
    };
    update(ana, WATCHED).await;
    of_ana.is_updated().await;
    ben.call_modern("test_trigger_prompt_change", json!({}))
        .await;
    of_ben.stream.notification(PROMPTS).await;
}

#[tokio::test]
async fn resources_without_a_server_that_reports_them_are_refused() {
    let app = App::start();
    register_stdio(&app, json!({})).await;
    app.register_fixture("fixture").await.ok();
    let (session, begun) = McpClient::new(&app, FIXTURE).initialize("2025-11-25").await;
    assert!(begun["capabilities"].get("resources").is_none(), "{begun}");
    for method in ["resources/subscribe", "resources/unsubscribe"] {
        let refused = session.legacy(method, json!({ "uri": WATCHED })).await;
        assert_eq!(error_code(&refused), -32601, "{}", refused.body);
    }
    let (session, begun) = McpClient::new(&app, "/mcp").initialize("2025-11-25").await;
    let resources = &begun["capabilities"]["resources"];
    assert_eq!(
        *resources,
        json!({ "subscribe": true, "listChanged": true })
    );
    let long = format!("suite+test://{}", "x".repeat(2048));
    for uri in [json!("fixture+test://a"), json!(7), json!(long)] {
        let refused = session
            .legacy("resources/subscribe", json!({ "uri": uri }))
            .await;
        assert_eq!(error_code(&refused), -32602, "{}", refused.body);
    }
    let client = McpClient::new(&app, "/mcp");
    let uris = json!(["fixture+test://a", "suite+test://b", long]);
    let (_, honoured) = listen(&client, json!({ "resourceSubscriptions": uris })).await;
    assert_eq!(
        honoured,
        json!({ "resourceSubscriptions": ["suite+test://b"] })
    );
    let wanted = json!({ "notifications": { "resourceSubscriptions": [7] } });
    let refused = client.modern("subscriptions/listen", wanted).await;
    assert_eq!(error_code(&refused), -32602, "{}", refused.body);
    // The modern era has no such methods.
    let refused = client
        .modern("resources/subscribe", json!({ "uri": WATCHED }))
        .await;
    assert_eq!((refused.status, error_code(&refused)), (404, -32601));
}

fn uris(stream: usize, count: usize) -> Value {
    let uris = (0..count).map(|number| format!("test://{stream}/{number}"));
    json!({ "resourceSubscriptions": uris.collect::<Vec<_>>() })
}

#[tokio::test]
async fn the_watched_resources_of_a_stream_and_of_a_facade_are_limited() {
    let app = App::start();
    let suite = Real::start(Kind::Suite).await;
    connected(&app, "suite", &suite.url()).await;
    let client = McpClient::new(&app, ONE);
    let (session, _) = client.initialize("2025-11-25").await;
    for number in 0..64 {
        subscribe(&session, &format!("test://session/{number}")).await;
    }
    let more = session.legacy("resources/subscribe", json!({ "uri": "test://more" }));
    let more = more.await;
    assert!(more.headers.contains_key("retry-after"));
    more.fails(503, "unavailable");
    let request = |wanted| {
        let params = json!({ "notifications": wanted });
        client.modern_request("subscriptions/listen", params)
    };
    answer(request(uris(0, 65))).await.fails(503, "unavailable");
    let mut open = vec![];
    for stream in 0..16 {
        open.push(listen(&client, uris(stream, 64)).await);
    }
    let refused = answer(request(uris(16, 1))).await;
    assert!(refused.headers.contains_key("retry-after"));
    refused.fails(503, "unavailable");
    // Resources that another stream watches already need no further place.
    open.push(listen(&client, uris(3, 64)).await);
}
