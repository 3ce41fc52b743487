//! The steps of the demo. Every step checks its own claim.

use std::fs;

use hyper::Method;
use serde_json::{Value, json};

use super::FOLDER;
use super::keys;
use super::keys::KEYS;
use super::show::{Show, curl, program};
use crate::cli::client::{ApiClient, ClientError, error_text};
use crate::config::ClientConfig;
use crate::time::clock::monotonic;
use crate::time::rfc3339::format_seconds;
use crate::workers::guard::PASSED_ON;

const PACKAGE: &str = "@modelcontextprotocol/server-everything";
const VERSION: &str = "2026.8.31";
const SERVER: &str = "everything";
/// The users with a secret, and the secrets.
const SECRETS: [(&str, &str); 2] = [
    ("ana", "only-ana-knows-this"),
    ("ben", "only-ben-knows-this"),
];
/// A user without a secret.
const USER_WITHOUT_SECRET: &str = "cem";
/// The number of events that the demo shows.
const SHOWN_EVENTS: usize = 8;

pub(super) async fn run(api: &ApiClient, show: &Show) -> Result<(), ClientError> {
    install(api, show).await?;
    store_secrets(api, show).await?;
    call(api, show).await?;
    environment(api, show).await?;
    keys::run(api, show).await?;
    events(api, show).await?;
    search_database(show)?;
    next_steps(api, show);
    Ok(())
}

async fn install(api: &ApiClient, show: &Show) -> Result<(), ClientError> {
    show.step("Install a real MCP server from npm");
    let began = monotonic();
    let package = json!({ "name": PACKAGE, "version": VERSION, "serverName": SERVER });
    let (status, mut answer) = show
        .request(api, Method::POST, "/packages/install", Some(package))
        .await?;
    if status == 409 {
        show.result("the package is installed already; the next request enables it");
        answer = show
            .request(
                api,
                Method::PUT,
                &format!("/packages/{SERVER}/enable"),
                None,
            )
            .await?
            .1;
    } else if status == 200 {
        show.result(&format!(
            "installed and started in {:.1} s",
            began.elapsed().as_secs_f64()
        ));
    }
    let server = &succeeded(answer)?["server"];
    if server["status"] != "connected" {
        let why = error_text(server);
        return Err(failed(format!("the server did not start: {why}")));
    }
    let tools = server["toolsList"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let names: Vec<_> = tools
        .iter()
        .filter_map(|tool| tool["name"].as_str())
        .take(4)
        .collect();
    show.result(&format!(
        "{SERVER} is connected and has {} tools: {}, …",
        tools.len(),
        names.join(", ")
    ));
    Ok(())
}

async fn store_secrets(api: &ApiClient, show: &Show) -> Result<(), ClientError> {
    show.step("Store a secret named message for ana, and another secret for ben");
    for (user, value) in SECRETS {
        let secret = json!({ "username": user, "serverName": SERVER, "secretName": "message", "secretValue": value });
        succeeded(
            show.request(api, Method::POST, "/secrets/set", Some(secret))
                .await?
                .1,
        )?;
        show.result(&format!(
            "sealed; {SERVER} receives the secret in each call of {user}"
        ));
    }
    Ok(())
}

async fn call(api: &ApiClient, show: &Show) -> Result<(), ClientError> {
    show.step(&format!(
        "Call echo with the same arguments as ana, as ben, and as {USER_WITHOUT_SECRET} without a secret"
    ));
    let args = json!({ "message": "hello" });
    for (user, own) in SECRETS.into_iter().chain([(USER_WITHOUT_SECRET, "hello")]) {
        let body =
            json!({ "username": user, "serverName": SERVER, "methodName": "echo", "args": args });
        let answer = succeeded(
            show.request(api, Method::POST, "/mcp/tool/call", Some(body))
                .await?
                .1,
        )?;
        let text = answer["data"]["content"].as_str().unwrap_or_default();
        check(text == format!("Echo: {own}"), || {
            format!("{user} should receive {own}, but received {text}")
        })?;
        show.result(&format!("{user} receives: {text}"));
    }
    Ok(())
}

async fn environment(api: &ApiClient, show: &Show) -> Result<(), ClientError> {
    show.step("Ask the server which variables of this process it sees");
    let body = json!({ "serverName": SERVER, "methodName": "get-env", "args": {} });
    let answer = succeeded(
        show.request(api, Method::POST, "/mcp/tool/call", Some(body))
            .await?
            .1,
    )?;
    let seen: Value = serde_json::from_str(answer["data"]["content"].as_str().unwrap_or_default())
        .map_err(|error| failed(format!("get-env returned no JSON: {error}")))?;
    let all: Vec<_> = std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .collect();
    let mut seen: Vec<_> = all
        .iter()
        .filter(|name| seen.get(name).is_some())
        .map(String::as_str)
        .collect();
    seen.sort_unstable();
    let leaked = seen.iter().find(|name| !PASSED_ON.contains(name));
    check(leaked.is_none(), || format!("the server sees {leaked:?}"))?;
    show.result(&format!(
        "it sees {} of {}: {}",
        seen.len(),
        all.len(),
        seen.join(", ")
    ));
    Ok(())
}

async fn events(api: &ApiClient, show: &Show) -> Result<(), ClientError> {
    show.step("Read the log: it contains the changes and no secret value");
    let answer = succeeded(
        show.request(api, Method::GET, "/events?limit=1000", None)
            .await?
            .1,
    )?;
    let events = answer["events"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let is_registered = events
        .iter()
        .any(|event| event["type"] == "server.registered");
    check(is_registered, || {
        "the log does not contain the registration".into()
    })?;
    let text = answer.to_string();
    let is_hidden = values().all(|value| !text.contains(value));
    check(is_hidden, || "the log contains a secret".into())?;
    for event in &events[events.len().saturating_sub(SHOWN_EVENTS)..] {
        show.result(&event_line(event));
    }
    Ok(())
}

fn event_line(event: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let time = format_seconds(event["at"].as_u64().unwrap_or_default());
    let user = event["data"]["user"]
        .as_str()
        .map(|user| format!(", user {user}"))
        .unwrap_or_default();
    let id = text(&event["id"]);
    let kind = text(&event["type"]);
    let subject = text(&event["subject"]);
    format!("{id:>5}  {time}  {kind:24}  {subject}{user}")
}

/// Returns the secrets of both servers.
fn values() -> impl Iterator<Item = &'static str> {
    SECRETS.into_iter().chain(KEYS).map(|(_, value)| value)
}

/// Searches all secrets in the files of the database. The search must find the name of the server, because a search
/// that finds nothing proves nothing.
fn search_database(show: &Show) -> Result<(), ClientError> {
    show.step("Search all secrets in the database");
    let patterns: String = values().map(|value| format!("-e {value} ")).collect();
    show.command(&format!("grep -a -c {patterns}{FOLDER}/mcp-api.sqlite*"));
    let mut bytes = Vec::new();
    let files =
        fs::read_dir(FOLDER).map_err(|error| failed(format!("cannot read {FOLDER}: {error}")))?;
    for file in files.flatten().filter(|file| {
        file.file_name()
            .to_string_lossy()
            .starts_with("mcp-api.sqlite")
    }) {
        let path = file.path();
        bytes.extend(
            fs::read(&path)
                .map_err(|error| failed(format!("cannot read {}: {error}", path.display())))?,
        );
    }
    let found = |text: &str| memchr::memmem::find_iter(&bytes, text).count();
    let secrets: usize = values().map(found).sum();
    let names = found(SERVER);
    check(secrets == 0, || "the database contains a secret".into())?;
    check(names > 0, || {
        format!("the database does not contain the name {SERVER}")
    })?;
    show.result(&format!(
        "found {secrets} times in {} kB (the name {SERVER}, which is no secret: {names} times)",
        bytes.len() / 1000
    ));
    Ok(())
}

fn next_steps(api: &ApiClient, show: &Show) {
    let option = if api.url == ClientConfig::DEFAULT_URL {
        String::new()
    } else {
        format!(" --url {}", api.url)
    };
    let program = program();
    show.line("", "");
    show.title("mcp-api runs until Ctrl-C. Try these commands in another terminal:");
    show.result(&curl(api, &Method::GET, "/mcp/tools", None));
    show.result(&format!("{program} servers{option}"));
    show.result(&format!(
        r#"{program} call {SERVER} echo '{{"message":"hi"}}' --user ana{option}"#
    ));
    show.result(&format!("{}/docs shows the whole API", api.url));
}

pub(super) fn failed(sentence: String) -> ClientError {
    ClientError::Refused(sentence)
}

pub(super) fn succeeded(answer: Value) -> Result<Value, ClientError> {
    if answer["success"] == true {
        Ok(answer)
    } else {
        Err(failed(error_text(&answer)))
    }
}

pub(super) fn check(is_true: bool, failure: impl FnOnce() -> String) -> Result<(), ClientError> {
    if is_true {
        Ok(())
    } else {
        Err(failed(format!("the demo failed: {}", failure())))
    }
}
