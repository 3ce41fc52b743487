//! `GET /connections`: the servers that the caller may use, with the state of each value.

use serde_json::{Value, json};

use super::{ADMIN, connection, get, post, register, set_secret, set_shared, start, token_of};
use crate::callers::make_token;
use crate::remote::script::Script;

fn credentials() -> Value {
    json!([
        { "name": "KEY", "required": true, "description": "A personal key" },
        { "name": "ORG", "owner": "shared" },
    ])
}

#[tokio::test]
async fn a_user_sees_which_values_are_set_and_no_value() {
    let app = start();
    register(&app, "fixture", credentials()).await;
    let (ana, ben) = (token_of(&app, "ana").await, token_of(&app, "ben").await);
    let slot = |name: &str, required: bool, owner: &str, description: Value| {
        json!({
            "name": name, "in": "argument", "required": required, "owner": owner,
            "description": description, "set": false, "setAt": null,
        })
    };
    let slots = [
        slot("KEY", true, "user", json!("A personal key")),
        slot("ORG", false, "shared", json!(null)),
    ];
    let list = get(&app, &ana, "/connections").await.ok();
    assert_eq!(
        list,
        json!({ "success": true, "connections": [
            { "serverName": "fixture", "slots": slots, "oauth": null, "google": null },
        ] })
    );
    set_secret(&app, &ana, "fixture", "KEY", "planted-of-ana").await;
    set_shared(&app, "fixture", "ORG", "planted-of-all").await;
    let list = get(&app, &ana, "/connections").await.ok();
    let text = list.to_string();
    assert!(!text.contains("planted"), "{text}");
    for slot in list["connections"][0]["slots"].as_array().expect("slots") {
        assert_eq!(slot["set"], true, "{slot}");
        let at = slot["setAt"].as_str().expect("a time");
        assert!(at.starts_with("20") && at.ends_with('Z'), "{at}");
    }
    let of_ben = connection(&app, &ben, "fixture").await;
    assert_eq!(of_ben["slots"][0], slots[0]);
    assert_eq!(of_ben["slots"][1]["set"], true);
}

#[tokio::test]
async fn an_administrator_reads_for_every_user_and_a_user_for_no_other() {
    let app = start();
    register(&app, "fixture", credentials()).await;
    let ana = token_of(&app, "ana").await;
    set_secret(&app, &ana, "fixture", "KEY", "of ana").await;
    for (path, is_set) in [
        ("/connections?username=ana", true),
        ("/connections?username=ben", false),
        ("/connections", false),
    ] {
        let list = get(&app, ADMIN, path).await.ok();
        assert_eq!(list["connections"][0]["slots"][0]["set"], is_set, "{path}");
    }
    get(&app, &ana, "/connections?username=ana").await.ok();
    get(&app, &ana, "/connections?username=ben")
        .await
        .fails(403, "forbidden");
    let why = get(&app, ADMIN, "/connections?username=mcp-api").await;
    assert!(why.fails(400, "invalid_request").contains("username"));
    let why = get(&app, ADMIN, "/connections?user=ana").await;
    assert!(why.fails(400, "invalid_request").contains("user"));
    let tools = json!({ "username": "ana", "scopes": ["tools"] });
    let (_, tools) = make_token(&app, ADMIN, tools).await;
    get(&app, &tools, "/connections")
        .await
        .fails(403, "forbidden");
}

#[tokio::test]
async fn a_caller_for_some_servers_sees_these_servers() {
    let app = start();
    register(&app, "fixture", credentials()).await;
    register(&app, "other", credentials()).await;
    let names = async |token: &str| -> Vec<String> {
        let list = get(&app, token, "/connections").await.ok();
        let connections = list["connections"].as_array().expect("a list").iter();
        let names = connections.map(|connection| connection["serverName"].as_str());
        names.map(|name| name.expect("a name").to_owned()).collect()
    };
    let body = json!({ "username": "ana", "servers": ["other"] });
    let (_, of_other) = make_token(&app, ADMIN, body).await;
    assert_eq!(names(&of_other).await, ["other"]);
    assert_eq!(names(ADMIN).await, ["fixture", "other"]);
}

#[tokio::test]
async fn oauth_and_google_show_the_state_of_the_tokens() {
    let app = start();
    let script = Script::start(|_| None).await;
    let server = json!({ "name": "remote", "transportType": "streamable_http", "url": script.url });
    post(&app, ADMIN, "/mcp/servers", server).await.ok();
    let marked = json!({
        "name": "workspace", "command": crate::harness::python(),
        "args": ["-u", crate::harness::fixture("server.py")],
        "env": { "MCP_AUTH_TYPE": "OAUTH2_GOOGLE" },
    });
    post(&app, ADMIN, "/mcp/servers", marked).await.ok();
    let (ana, ben) = (token_of(&app, "ana").await, token_of(&app, "ben").await);
    let remote = connection(&app, &ana, "remote").await;
    assert_eq!(remote["oauth"], Value::Null);
    let state = |connected: bool| {
        json!({
            "connected": connected, "scopes": null, "expiresAt": null,
            "needsReauthorization": false,
        })
    };
    let workspace = connection(&app, &ana, "workspace").await;
    assert_eq!(workspace["google"], state(false));
    assert_eq!(workspace["oauth"], Value::Null);

    let tokens = json!({
        "accessToken": "planted-access", "clientId": "c",
        "redirectUri": "https://h.example/callback",
    });
    post(&app, &ana, "/mcp/servers/remote/oauth", tokens)
        .await
        .ok();
    assert_eq!(connection(&app, &ana, "remote").await["oauth"], state(true));
    assert_eq!(
        connection(&app, &ben, "remote").await["oauth"],
        state(false)
    );
}
