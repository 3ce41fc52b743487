//! What is shown once the program listens. Every step checks what it claims.

use std::fs;
use std::time::Instant;

use serde_json::{Value, json};

use super::FOLDER;
use super::show::{Show, curl, program};
use crate::cli::call::error_text;
use crate::cli::client::ApiClient;
use crate::config::ClientConfig;
use crate::time::rfc3339::format_seconds;
use crate::workers::guard::PASSED_ON;

const PACKAGE: &str = "@modelcontextprotocol/server-everything";
const VERSION: &str = "2026.8.31";
const SERVER: &str = "everything";
/// The users with a secret, and their secrets.
const SECRETS: [(&str, &str); 2] = [
    ("ana", "only-ana-knows-this"),
    ("ben", "only-ben-knows-this"),
];
/// Somebody without one.
const STRANGER: &str = "cem";
/// Events that are shown.
const EVENTS: usize = 8;

pub async fn tell(api: &ApiClient, show: &Show) -> Result<(), String> {
    install(api, show).await?;
    store(api, show).await?;
    call(api, show).await?;
    environment(api, show).await?;
    events(api, show).await?;
    look(show)?;
    what_next(api, show);
    Ok(())
}

async fn install(api: &ApiClient, show: &Show) -> Result<(), String> {
    show.step("Install a real MCP server from npm");
    let began = Instant::now();
    let package = json!({ "name": PACKAGE, "version": VERSION, "serverName": SERVER });
    let (status, mut answer) = show
        .ask(api, "POST", "/packages/install", Some(package))
        .await?;
    if status == 409 {
        show.result("it is there already; should it be disabled, it is enabled");
        answer = show
            .ask(api, "PUT", &format!("/packages/{SERVER}/enable"), None)
            .await?
            .1;
    } else if status == 200 {
        show.result(&format!(
            "installed and tried out in {:.1} s",
            began.elapsed().as_secs_f64()
        ));
    }
    let server = &succeeded(answer)?["server"];
    if server["status"] != "connected" {
        return Err(format!("the server did not start: {}", error_text(server)));
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

async fn store(api: &ApiClient, show: &Show) -> Result<(), String> {
    show.step("Store a secret named message for ana, and another one for ben");
    for (user, value) in SECRETS {
        let secret = json!({ "username": user, "serverName": SERVER, "secretName": "message", "secretValue": value });
        succeeded(show.ask(api, "POST", "/secrets/set", Some(secret)).await?.1)?;
        show.result(&format!(
            "sealed; {SERVER} will get it whenever {user} calls"
        ));
    }
    Ok(())
}

async fn call(api: &ApiClient, show: &Show) -> Result<(), String> {
    show.step(&format!(
        "Call echo with the same arguments as ana, as ben, and as {STRANGER}, who has no secret"
    ));
    let args = json!({ "message": "hello" });
    for (user, own) in SECRETS.into_iter().chain([(STRANGER, "hello")]) {
        let body =
            json!({ "username": user, "serverName": SERVER, "methodName": "echo", "args": args });
        let answer = succeeded(show.ask(api, "POST", "/mcp/tool/call", Some(body)).await?.1)?;
        let said = answer["data"]["content"].as_str().unwrap_or_default();
        holds(said == format!("Echo: {own}"), || {
            format!("{user} should have got {own}, and got {said}")
        })?;
        show.result(&format!("{user} gets: {said}"));
    }
    Ok(())
}

async fn environment(api: &ApiClient, show: &Show) -> Result<(), String> {
    show.step("Ask the server which variables of this process it can see");
    let body = json!({ "serverName": SERVER, "methodName": "get-env", "args": {} });
    let answer = succeeded(show.ask(api, "POST", "/mcp/tool/call", Some(body)).await?.1)?;
    let seen: Value = serde_json::from_str(answer["data"]["content"].as_str().unwrap_or_default())
        .map_err(|error| format!("get-env gave no JSON: {error}"))?;
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
    holds(leaked.is_none(), || {
        format!("the server can see {leaked:?}")
    })?;
    show.result(&format!(
        "it sees {} of {}: {}",
        seen.len(),
        all.len(),
        seen.join(", ")
    ));
    Ok(())
}

async fn events(api: &ApiClient, show: &Show) -> Result<(), String> {
    show.step("Read the log: what has changed, and none of the values");
    let answer = succeeded(show.ask(api, "GET", "/events?limit=1000", None).await?.1)?;
    let events = answer["events"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let registered = events
        .iter()
        .any(|event| event["type"] == "server.registered");
    holds(registered, || {
        "the log does not tell of the registration".into()
    })?;
    let hidden = SECRETS
        .iter()
        .all(|(_, value)| !answer.to_string().contains(value));
    holds(hidden, || "the log tells a secret".into())?;
    for event in &events[events.len().saturating_sub(EVENTS)..] {
        show.result(&event_line(event));
    }
    Ok(())
}

fn event_line(event: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let at = format_seconds(event["at"].as_u64().unwrap_or_default());
    let user = event["data"]["user"]
        .as_str()
        .map(|user| format!(", user {user}"))
        .unwrap_or_default();
    let (id, kind, subject) = (
        text(&event["id"]),
        text(&event["type"]),
        text(&event["subject"]),
    );
    format!("{id:>5}  {at}  {kind:24}  {subject}{user}")
}

/// The server's name must be found, or the search would prove nothing.
fn look(show: &Show) -> Result<(), String> {
    show.step("Look for both secrets in the database");
    let [(_, first), (_, second)] = SECRETS;
    show.command(&format!(
        "grep -a -c -e {first} -e {second} {FOLDER}/mcp-api.sqlite*"
    ));
    let mut bytes = Vec::new();
    let files =
        fs::read_dir(FOLDER).map_err(|error| format!("{FOLDER} cannot be read: {error}"))?;
    for file in files.flatten().filter(|file| {
        file.file_name()
            .to_string_lossy()
            .starts_with("mcp-api.sqlite")
    }) {
        let path = file.path();
        bytes.extend(
            fs::read(&path)
                .map_err(|error| format!("{} cannot be read: {error}", path.display()))?,
        );
    }
    let found = |text: &str| memchr::memmem::find_iter(&bytes, text).count();
    let (secrets, control) = (found(first) + found(second), found(SERVER));
    holds(secrets == 0, || "a secret lies open in the database".into())?;
    holds(control > 0, || {
        format!("not even the word {SERVER} was found")
    })?;
    show.result(&format!(
        "found {secrets} times in {} kB (the word {SERVER}, which is no secret: {control} times)",
        bytes.len() / 1000
    ));
    Ok(())
}

fn what_next(api: &ApiClient, show: &Show) {
    let at = if api.url == ClientConfig::DEFAULT_URL {
        String::new()
    } else {
        format!(" --url {}", api.url)
    };
    let program = program();
    show.line("", "");
    show.title("It stays up until Ctrl-C. Try next, in another terminal:");
    show.result(&curl(api, "GET", "/mcp/tools", None));
    show.result(&format!("{program} servers{at}"));
    show.result(&format!(
        r#"{program} call {SERVER} echo '{{"message":"hi"}}' --user ana{at}"#
    ));
    show.result(&format!("{}/docs shows the whole API", api.url));
}

fn succeeded(answer: Value) -> Result<Value, String> {
    if answer["success"] == true {
        Ok(answer)
    } else {
        Err(error_text(&answer))
    }
}

fn holds(true_: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if true_ {
        Ok(())
    } else {
        Err(format!("the demo went wrong: {}", otherwise()))
    }
}
