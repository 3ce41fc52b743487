//! Changes that servers report: of their prompts and of their resources.

use reqwest::Method;
use serde_json::{Value, json};

use super::client::{FIXTURE, McpClient, Messages, result};
use crate::harness::{App, PATIENCE, fixture};
use crate::remote::{Kind, Real, installed};

const ONE: &str = "/mcp/servers/suite/mcp";
const PROMPTS: &str = "notifications/prompts/list_changed";
const RESOURCES: &str = "notifications/resources/list_changed";
const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

pub async fn register_stdio(app: &App, more: Value) {
    let mut body = json!({
        "name": "suite", "command": installed("python/bin/python"), "args": [fixture("mcp_suite.py")],
    });
    let more = more.as_object().expect("an object").clone();
    body.as_object_mut().expect("an object").extend(more);
    app.post("/mcp/servers", body).await.ok();
}

/// Opens the stream of `subscriptions/listen`, and returns it with the notifications that it honours.
pub async fn listen(client: &McpClient, wanted: Value) -> (Messages, Value) {
    let params = json!({ "notifications": wanted });
    let mut stream = Messages::open(client.modern_request("subscriptions/listen", params)).await;
    let mut acknowledged = stream
        .notification("notifications/subscriptions/acknowledged")
        .await;
    let honoured = acknowledged["params"]["notifications"].take();
    (stream, honoured)
}

/// Opens streams of both eras at both endpoints.
async fn open_streams(app: &App) -> Vec<(Messages, bool)> {
    let mut streams = vec![];
    for path in [ONE, "/mcp"] {
        let client = McpClient::new(app, path);
        let (session, _) = client.initialize("2025-11-25").await;
        streams.push((Messages::open(session.request(Method::GET)).await, false));
        let wanted = json!({ "promptsListChanged": true, "resourcesListChanged": true });
        let (stream, honoured) = listen(&client, wanted.clone()).await;
        assert_eq!(honoured, wanted);
        streams.push((stream, true));
    }
    streams
}

/// Changes the prompts and the resources of the server, and reads the notifications of all streams.
async fn change_both_lists(app: &App) {
    let mut streams = open_streams(app).await;
    let client = McpClient::new(app, ONE);
    for (tool, method) in [
        ("test_trigger_prompt_change", PROMPTS),
        ("test_trigger_resource_change", RESOURCES),
    ] {
        client.call_modern(tool, json!({})).await;
        for (stream, is_modern) in &mut streams {
            let changed = stream.notification(method).await;
            let id = &changed["params"]["_meta"][SUBSCRIPTION];
            assert_eq!(*id == 7, *is_modern, "{changed}");
        }
    }
    let list = result(client.modern("prompts/list", json!({})).await);
    assert!(list.to_string().contains("\"added_1\""), "{list}");
}

#[tokio::test]
async fn changes_of_a_child_process_reach_both_eras_at_both_endpoints() {
    let app = App::start();
    register_stdio(&app, json!({})).await;
    change_both_lists(&app).await;
}

#[tokio::test]
async fn changes_of_a_server_with_sessions_reach_both_eras_at_both_endpoints() {
    let app = App::start();
    let suite = Real::start(Kind::SuiteWithSessions).await;
    crate::remote::connected(&app, "suite", &suite.url()).await;
    change_both_lists(&app).await;
    assert_eq!(crate::remote::eras(&app).await, ["session"]);
}

#[tokio::test]
async fn changes_of_a_server_without_sessions_reach_both_eras_at_both_endpoints() {
    let app = App::start();
    let suite = Real::start(Kind::Suite).await;
    crate::remote::connected(&app, "suite", &suite.url()).await;
    change_both_lists(&app).await;
    assert_eq!(crate::remote::eras(&app).await, ["stateless"]);
}

#[tokio::test]
async fn a_change_reaches_only_streams_that_ask_for_it_and_may_see_the_server() {
    let app = App::start();
    register_stdio(&app, json!({})).await;
    app.register_fixture("fixture").await.ok();
    let wanted = json!({ "resourcesListChanged": true, "promptsListChanged": false });
    let (mut resources, honoured) = listen(&McpClient::new(&app, ONE), wanted).await;
    assert_eq!(honoured, json!({ "resourcesListChanged": true }));
    let (session, _) = McpClient::new(&app, FIXTURE).initialize("2025-11-25").await;
    let mut other = Messages::open(session.request(Method::GET)).await;
    let client = McpClient::new(&app, ONE);
    client
        .call_modern("test_trigger_prompt_change", json!({}))
        .await;
    client
        .call_modern("test_trigger_resource_change", json!({}))
        .await;
    resources.notification(RESOURCES).await;
    // A stream of another server ends without a message.
    crate::harness::answer(session.request(Method::DELETE)).await;
    assert!(other.next().await.is_none());
}

#[tokio::test]
async fn a_process_of_one_user_tells_this_user_alone() {
    let app = App::start();
    let credentials = json!([{ "name": "KEY", "in": "env", "required": true }]);
    register_stdio(&app, json!({ "credentials": credentials })).await;
    let mut streams = vec![];
    for user in ["ana", "ben"] {
        app.set_secret(user, "suite", "KEY", &format!("of-{user}"))
            .await;
        let client = McpClient::new(&app, ONE).user(user);
        client.call_modern("test_simple_text", json!({})).await;
        let wanted = json!({ "promptsListChanged": true, "resourcesListChanged": true });
        let (stream, honoured) = listen(&client, wanted.clone()).await;
        assert_eq!(honoured, wanted);
        streams.push((client, stream));
    }
    let [(ana, of_ana), (ben, of_ben)] = &mut streams[..] else {
        panic!("two streams");
    };
    ana.call_modern("test_trigger_prompt_change", json!({}))
        .await;
    of_ana.notification(PROMPTS).await;
    ben.call_modern("test_trigger_resource_change", json!({}))
        .await;
    of_ben.notification(RESOURCES).await;
}

#[tokio::test]
async fn a_server_that_comes_changes_all_lists_of_the_endpoint_of_all_servers() {
    let app = App::start();
    let (session, _) = McpClient::new(&app, "/mcp").initialize("2025-11-25").await;
    let mut stream = Messages::open(session.request(Method::GET)).await;
    register_stdio(&app, json!({})).await;
    let mut missing = vec!["notifications/tools/list_changed", PROMPTS, RESOURCES];
    let all_notices = async {
        while !missing.is_empty() {
            let message = stream.next().await.expect("a message");
            missing.retain(|method| message["method"] != *method);
        }
    };
    tokio::time::timeout(PATIENCE, all_notices)
        .await
        .expect("all lists have changed");
}
