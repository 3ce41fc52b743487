//! The MCP endpoints hide the arguments that credentials fill.

use serde_json::{Value, json};

use super::{ADMIN, post, start};
use crate::mcp_endpoint::client::McpClient;
use crate::remote::script::{Script, result_of};

#[tokio::test]
async fn only_the_targets_of_argument_credentials_are_hidden() {
    let app = start();
    let script = Script::start(|seen| {
        let properties = json!({ "q": {}, "KEY": {}, "api_key": {}, "org": {}, "x-token": {} });
        let schema = json!({ "type": "object", "properties": properties });
        let tools = json!({ "tools": [{ "name": "search", "inputSchema": schema }] });
        (seen.about() == "tools/list").then(|| result_of(seen, tools))
    })
    .await;
    let credentials = json!([
        { "name": "KEY", "as": "api_key" },
        { "name": "org", "owner": "shared" },
        { "name": "TOKEN", "in": "header", "as": "x-token" },
    ]);
    let server = json!({
        "name": "remote", "transportType": "streamable_http", "url": script.url,
        "credentials": credentials,
    });
    post(&app, ADMIN, "/mcp/servers", server).await.ok();
    let client = McpClient::new(&app, "/mcp/servers/remote/mcp").token(ADMIN);
    let list = client.modern("tools/list", json!({})).await;
    let schema: &Value = &list.body["result"]["tools"][0]["inputSchema"];
    assert_eq!(
        schema["properties"],
        json!({ "q": {}, "KEY": {}, "x-token": {} }),
        "{}",
        list.body
    );
}
