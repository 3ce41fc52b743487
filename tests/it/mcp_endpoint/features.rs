//! Prompts, resources and completion at the endpoint of one server, for clients and servers of both eras.

use serde_json::{Value, json};

use super::client::{McpClient, error_code, result};
use crate::harness::{Answer, App, fixture};
use crate::remote::script::{Script, result_of};
use crate::remote::{Kind, Real};

const PATH: &str = "/mcp/servers/suite/mcp";

/// A client of one era.
struct Client {
    client: McpClient,
    is_modern: bool,
}

impl Client {
    async fn send(&self, method: &str, params: Value) -> Answer {
        if self.is_modern {
            self.client.modern(method, params).await
        } else {
            self.client.legacy(method, params).await
        }
    }

    async fn result(&self, method: &str, params: Value) -> Value {
        let result = result(self.send(method, params).await);
        assert_eq!(
            result["resultType"] == "complete",
            self.is_modern,
            "{result}"
        );
        result
    }
}

async fn clients(app: &App, user: &str) -> [Client; 2] {
    let client = McpClient::new(app, PATH).user(user);
    let (session, _) = client.initialize("2025-11-25").await;
    [(client, true), (session, false)].map(|(client, is_modern)| Client { client, is_modern })
}

async fn register_stdio(app: &App) {
    register_suite(app, "suite").await;
}

async fn register_suite(app: &App, name: &str) {
    let python = crate::remote::installed("python/bin/python");
    let body = json!({ "name": name, "command": python, "args": [fixture("mcp_suite.py")] });
    app.post("/mcp/servers", body).await.ok();
}

async fn register_http(app: &App, url: &str) {
    crate::remote::register(app, "suite", url, json!({}))
        .await
        .ok();
}

/// Uses every method as a client of both eras.
async fn use_all_methods(app: &App) {
    for client in clients(app, "default").await {
        let prompts = client.result("prompts/list", json!({})).await;
        assert_eq!(prompts["prompts"][0]["name"], "test_simple_prompt");
        assert_eq!(prompts["cacheScope"] == "private", client.is_modern);
        assert_eq!(prompts["ttlMs"].is_u64(), client.is_modern);
        let params = json!({ "name": "test_prompt_with_arguments", "arguments": { "arg1": "a", "arg2": "b" } });
        let prompt = client.result("prompts/get", params).await;
        let text = &prompt["messages"][0]["content"]["text"];
        assert_eq!(text, "Prompt with arguments: arg1='a', arg2='b'");
        assert!(prompt.get("ttlMs").is_none(), "{prompt}");
        let resources = client.result("resources/list", json!({})).await;
        assert_eq!(resources["resources"][0]["uri"], "test://static-text");
        let templates = client.result("resources/templates/list", json!({})).await;
        assert_eq!(
            templates["resourceTemplates"][0]["uriTemplate"],
            "test://template/{id}/data"
        );
        let read = client
            .result("resources/read", json!({ "uri": "test://template/7/data" }))
            .await;
        assert!(
            read["contents"][0]["text"]
                .to_string()
                .contains("Data for ID: 7"),
            "{read}"
        );
        let params = json!({
            "ref": { "type": "ref/prompt", "name": "test_prompt_with_arguments" },
            "argument": { "name": "arg1", "value": "par" },
        });
        let completion = client.result("completion/complete", params).await;
        assert_eq!(
            completion["completion"]["values"],
            json!(["paris", "park", "party"])
        );
    }
}

#[tokio::test]
async fn a_child_process_serves_prompts_resources_and_completion() {
    let app = App::start();
    register_stdio(&app).await;
    use_all_methods(&app).await;
}

#[tokio::test]
async fn a_server_behind_a_url_serves_prompts_resources_and_completion() {
    let app = App::start();
    let suite = Real::start(Kind::Suite).await;
    register_http(&app, &suite.url()).await;
    use_all_methods(&app).await;
}

#[tokio::test]
async fn an_endpoint_declares_the_capabilities_of_its_servers() {
    let app = App::start();
    register_stdio(&app).await;
    app.register_fixture("fixture").await.ok();
    let declared = async |path: &str| {
        let client = McpClient::new(&app, path);
        let discovered = result(client.modern("server/discover", json!({})).await);
        let (_, begun) = client.initialize("2025-06-18").await;
        assert_eq!(discovered["capabilities"], begun["capabilities"]);
        discovered["capabilities"].clone()
    };
    let all = json!({
        "completions": {}, "prompts": { "listChanged": true }, "resources": { "subscribe": true, "listChanged": true }, "logging": {},
        "tools": { "listChanged": true },
    });
    assert_eq!(declared(PATH).await, all);
    let tools = json!({ "tools": { "listChanged": true }, "logging": {} });
    assert_eq!(declared("/mcp/servers/fixture/mcp").await, tools);
    assert_eq!(declared("/mcp").await, all);
    let client = McpClient::new(&app, "/mcp/servers/fixture/mcp");
    let answer = client.modern("prompts/list", json!({})).await;
    assert_eq!((answer.status, error_code(&answer)), (404, -32601));
}

/// Returns the texts of a member of all entries of a list.
fn texts(list: &Value, member: &str) -> Vec<String> {
    let entries = list.as_array().expect("a list").iter();
    entries
        .map(|entry| entry[member].as_str().expect("a text").to_owned())
        .collect()
}

/// Returns clients of both eras at the endpoint of all servers.
async fn clients_of_all(app: &App) -> [Client; 2] {
    let client = McpClient::new(app, "/mcp");
    let (session, _) = client.initialize("2025-11-25").await;
    [(client, true), (session, false)].map(|(client, is_modern)| Client { client, is_modern })
}

#[tokio::test]
async fn the_endpoint_of_all_servers_lists_and_reaches_everything() {
    let app = App::start();
    register_suite(&app, "suite").await;
    register_suite(&app, "Other_2").await;
    app.register_fixture("fixture").await.ok();
    for client in clients_of_all(&app).await {
        let list = client.result("prompts/list", json!({})).await;
        let prompts = texts(&list["prompts"], "name");
        assert_eq!(prompts.len(), 12, "{prompts:?}");
        assert!(list.get("_meta").is_none(), "{list}");
        assert!(
            prompts.contains(&"suite__test_simple_prompt".to_owned()),
            "{prompts:?}"
        );
        for name in prompts.iter().filter(|name| name.contains("simple_prompt")) {
            let prompt = client.result("prompts/get", json!({ "name": name })).await;
            let text = &prompt["messages"][0]["content"]["text"];
            assert_eq!(text, "This is a simple prompt for testing.", "{name}");
        }
        let list = client.result("resources/list", json!({})).await;
        let uris = texts(&list["resources"], "uri");
        assert!(
            uris.contains(&"suite+test://static-text".to_owned()),
            "{uris:?}"
        );
        for uri in uris.iter().filter(|uri| uri.ends_with("static-text")) {
            let read = client.result("resources/read", json!({ "uri": uri })).await;
            assert_eq!(read["contents"][0]["uri"], **uri);
        }
        let list = client.result("resources/templates/list", json!({})).await;
        let templates = texts(&list["resourceTemplates"], "uriTemplate");
        assert!(templates.contains(&"suite+test://template/{id}/data".to_owned()));
        complete_and_miss(&client).await;
    }
}

/// Completes an argument of an exposed prompt, and names what no server or more than one server has.
async fn complete_and_miss(client: &Client) {
    let params = json!({
        "ref": { "type": "ref/prompt", "name": "suite__test_prompt_with_arguments" },
        "argument": { "name": "arg1", "value": "park" },
    });
    let completion = client.result("completion/complete", params).await;
    assert_eq!(completion["completion"]["values"], json!(["park"]));
    for (method, params) in [
        ("prompts/get", json!({ "name": "test_simple_prompt" })),
        ("resources/read", json!({ "uri": "test://static-text" })),
        (
            "resources/read",
            json!({ "uri": "none+test://static-text" }),
        ),
        ("prompts/list", json!({ "cursor": "a" })),
    ] {
        let answer = client.send(method, params).await;
        assert_eq!(error_code(&answer), -32602, "{}", answer.body);
    }
}

#[tokio::test]
async fn a_name_of_a_server_that_is_off_reaches_no_other_server() {
    let app = App::start();
    register_suite(&app, "suite").await;
    register_suite(&app, "off").await;
    app.put("/mcp/servers/off/disable", json!({})).await.ok();
    for client in clients_of_all(&app).await {
        for (method, params) in [
            ("resources/read", json!({ "uri": "off+test://static-text" })),
            ("prompts/get", json!({ "name": "off__test_simple_prompt" })),
        ] {
            let answer = client.send(method, params).await;
            assert_eq!(error_code(&answer), -32602, "{}", answer.body);
        }
        // Only one server is left, so its raw names are accepted.
        let raw = json!({ "uri": "test://static-text" });
        client.result("resources/read", raw).await;
        let params = json!({ "name": "test_simple_prompt", "arguments": [1] });
        let answer = client.send("prompts/get", params).await;
        assert_eq!(error_code(&answer), -32602, "{}", answer.body);
    }
}

#[tokio::test]
async fn the_uri_in_a_result_of_a_tool_leads_back_to_its_server() {
    let app = App::start();
    register_suite(&app, "suite").await;
    for client in clients_of_all(&app).await {
        let params = json!({ "name": "suite__test_embedded_resource", "arguments": {} });
        let called = client.result("tools/call", params).await;
        let uri = &called["content"][0]["resource"]["uri"];
        assert_eq!(uri, "suite+test://embedded-resource");
    }
    for client in clients(&app, "default").await {
        let params = json!({ "name": "test_embedded_resource", "arguments": {} });
        let called = client.result("tools/call", params).await;
        let uri = &called["content"][0]["resource"]["uri"];
        assert_eq!(uri, "test://embedded-resource");
    }
}

#[tokio::test]
async fn a_server_that_is_down_does_not_keep_the_others_from_being_listed() {
    let app = App::start();
    let mut down = Real::start(Kind::Suite).await;
    let url = down.url();
    crate::remote::register(&app, "down", &url, json!({}))
        .await
        .ok();
    register_suite(&app, "suite").await;
    down.kill();
    for client in clients_of_all(&app).await {
        let list = client.result("prompts/list", json!({})).await;
        assert_eq!(list["prompts"].as_array().map(Vec::len), Some(6), "{list}");
        assert_eq!(list["_meta"]["mcp-api/missing"], json!(["down"]));
        assert_eq!(list["ttlMs"] == 0, client.is_modern, "{list}");
    }
}

/// Starts a server whose list of prompts is this text.
async fn listing(prompts: Value) -> Script {
    Script::start(move |seen| match seen.about() {
        "initialize" => {
            let mut begun = seen.body["params"].clone();
            begun["capabilities"] = json!({ "prompts": {} });
            begun["serverInfo"] = json!({ "name": "scripted", "version": "1" });
            Some(result_of(seen, begun))
        }
        "prompts/list" => Some(result_of(seen, prompts.clone())),
        _ => None,
    })
    .await
}

#[tokio::test]
async fn a_list_that_cannot_be_used_is_left_out_and_named() {
    let app = App::start();
    register_suite(&app, "suite").await;
    let many: Vec<_> = (0..10_001)
        .map(|n| json!({ "name": format!("p{n}") }))
        .collect();
    let long = "x".repeat(5 << 20);
    let lists = [
        ("endless", json!({ "prompts": [], "nextCursor": "again" })),
        (
            "large",
            json!({ "prompts": [{ "name": "p", "description": long }] }),
        ),
        ("many", json!({ "prompts": many })),
        ("none", json!({})),
        ("wrong", json!({ "prompts": { "name": "p" } })),
    ];
    let mut names = vec![];
    for (name, prompts) in lists {
        let script = listing(prompts).await;
        let server = crate::remote::register(&app, name, &script.url, json!({}));
        server.await.ok();
        names.push(name);
    }
    for client in clients_of_all(&app).await {
        let list = client.result("prompts/list", json!({})).await;
        assert_eq!(list["prompts"].as_array().map(Vec::len), Some(6));
        assert_eq!(list["_meta"]["mcp-api/missing"], json!(names));
    }
}

#[tokio::test]
async fn a_prompt_gets_the_secret_of_its_user_and_no_other() {
    let app = App::start();
    register_stdio(&app).await;
    for user in ["ana", "ben"] {
        app.set_secret(user, "suite", "arg2", &format!("of-{user}"))
            .await;
    }
    for user in ["ana", "ben"] {
        for client in clients(&app, user).await {
            let params = json!({ "name": "test_prompt_with_arguments", "arguments": { "arg1": "a", "arg2": "mine" } });
            let prompt = client.result("prompts/get", params).await;
            let text = prompt["messages"][0]["content"]["text"].to_string();
            assert!(text.contains(&format!("arg2='of-{user}'")), "{text}");
        }
    }
}

#[tokio::test]
async fn an_unknown_resource_has_the_code_of_the_era() {
    let app = App::start();
    register_stdio(&app).await;
    for client in clients(&app, "default").await {
        let answer = client
            .send("resources/read", json!({ "uri": "test://none" }))
            .await;
        let expected = if client.is_modern { -32602 } else { -32002 };
        assert_eq!(error_code(&answer), expected, "{}", answer.body);
        assert_eq!(answer.body["error"]["data"]["uri"], "test://none");
    }
}

#[tokio::test]
async fn wrong_parameters_and_headers_are_refused_before_the_server_sees_them() {
    let app = App::start();
    register_stdio(&app).await;
    for client in clients(&app, "default").await {
        let answer = client.send("resources/read", json!({})).await;
        let expected = if client.is_modern { -32020 } else { -32602 };
        assert_eq!(error_code(&answer), expected, "{}", answer.body);
        let mut deep = json!(1);
        for _ in 0..200 {
            deep = json!([deep]);
        }
        let params = json!({ "name": "test_simple_prompt", "arguments": { "a": deep } });
        let answer = client.send("prompts/get", params).await;
        assert_eq!(error_code(&answer), -32602, "{}", answer.body);
    }
}

#[tokio::test]
async fn a_server_that_is_down_is_an_error_that_names_the_failure() {
    let app = App::start();
    let mut suite = Real::start(Kind::Suite).await;
    register_http(&app, &suite.url()).await;
    suite.kill();
    for client in clients(&app, "default").await {
        let answer = client.send("prompts/list", json!({})).await;
        assert_eq!(error_code(&answer), -32603, "{}", answer.body);
        assert_eq!(answer.body["error"]["data"]["code"], "upstream_error");
    }
}
