//! The second part of the demo: a server that reads its key from the environment. Each user has a process with a key of
//! their own.

use hyper::Method;
use serde_json::{Value, json};

use super::show::Show;
use super::story::{check, failed, succeeded};
use super::vendor;
use crate::cli::client::{ApiClient, ClientError, error_text};

const PACKAGE: &str = "@perplexity-ai/mcp-server";
const VERSION: &str = "1.2.1";
const SERVER: &str = "search";
const TOOL: &str = "perplexity_search";
/// The variable that the server reads.
const KEY: &str = "PERPLEXITY_API_KEY";
/// The users with a key, and the keys.
pub(super) const KEYS: [(&str, &str); 2] = [("ana", "key-of-ana-4711"), ("ben", "key-of-ben-0815")];
/// A user without a key.
const USER_WITHOUT_KEY: &str = "cem";

pub(super) async fn run(api: &ApiClient, show: &Show) -> Result<(), ClientError> {
    install(api, show).await?;
    set_keys(api, show).await?;
    call(api, show).await
}

async fn install(api: &ApiClient, show: &Show) -> Result<(), ClientError> {
    show.step("Install a server that reads its key from the environment");
    let vendor = vendor::start().await;
    let vendor = vendor.map_err(|error| failed(format!("cannot listen on loopback: {error}")))?;
    show.result(&format!(
        "without an account, this process stands in for the API of the vendor: {vendor}"
    ));
    // The stand-in is on this machine, so the server must not use a proxy.
    let env = json!({ "PERPLEXITY_BASE_URL": vendor, "HTTP_PROXY": "", "HTTPS_PROXY": "" });
    let package = json!({
        "name": PACKAGE, "version": VERSION, "serverName": SERVER, "env": env,
        "credentials": [{ "name": KEY, "in": "env", "required": true }],
    });
    let path = "/packages/install";
    let (status, mut answer) = show.request(api, Method::POST, path, Some(package)).await?;
    if status == 409 {
        show.result("the package is installed already; the next request sets the URL");
        let path = format!("/mcp/servers/{SERVER}");
        let change = json!({ "env": env, "enabled": true });
        answer = show.request(api, Method::PUT, &path, Some(change)).await?.1;
    }
    let server = &succeeded(answer)?["server"];
    check(server["needsCredentials"] == json!([KEY]), || {
        format!("the server should need {KEY}: {}", error_text(server))
    })?;
    show.result(&format!(
        "{SERVER} has no process yet, because each user needs a process with a {KEY} of their own"
    ));
    Ok(())
}

async fn set_keys(api: &ApiClient, show: &Show) -> Result<(), ClientError> {
    show.step("Store the key of ana, and another key of ben");
    for (user, key) in KEYS {
        let secret = json!({ "username": user, "serverName": SERVER, "secretName": KEY, "secretValue": key });
        let path = "/secrets/set";
        let stored = show.request(api, Method::POST, path, Some(secret)).await?;
        succeeded(stored.1)?;
    }
    show.result("sealed; a process gets the key of its user when the user calls");
    Ok(())
}

async fn call(api: &ApiClient, show: &Show) -> Result<(), ClientError> {
    show.step(&format!(
        "Search as ana, as ben, and as {USER_WITHOUT_KEY} without a key"
    ));
    for (user, key) in KEYS {
        let answer = succeeded(search(api, show, user).await?)?;
        let text = answer["data"]["content"].as_str().unwrap_or_default();
        let received = format!("the API received {key}");
        check(text.contains(&received), || {
            format!("the API should receive the key of {user}, but: {text}")
        })?;
        show.result(&format!("in a process of {user}, {received}"));
    }
    let refused = search(api, show, USER_WITHOUT_KEY).await?;
    check(refused["code"] == "credential_required", || {
        format!("a call without a key should be refused, but: {refused}")
    })?;
    show.result(&error_text(&refused));
    Ok(())
}

async fn search(api: &ApiClient, show: &Show, user: &str) -> Result<Value, ClientError> {
    let body = json!({ "username": user, "serverName": SERVER, "methodName": TOOL, "args": { "query": "mcp" } });
    let answer = show.request(api, Method::POST, "/mcp/tool/call", Some(body));
    Ok(answer.await?.1)
}
