//! Carries an import out, by requests that anybody could make.

use std::time::Duration;

use futures::stream::{self, StreamExt};
use serde_json::{Value, json};

use super::plan::{Plan, Secret};
use crate::cli::call::sentence;
use crate::cli::client::{Api, send};

/// Servers registered at once: each is started, and may take its time.
const SERVERS: usize = 8;
const SECRETS: usize = 32;
/// How often a request is made again that could not be carried out.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_secs(1);

/// Has the API check the servers as it would when they are registered.
pub async fn check_servers(api: &Api, plan: &mut Plan) -> Result<(), String> {
    register(api, plan, "/mcp/servers?dryRun=true").await
}

pub async fn servers(api: &Api, plan: &mut Plan) -> Result<(), String> {
    register(api, plan, "/mcp/servers").await
}

async fn register(api: &Api, plan: &mut Plan, path: &str) -> Result<(), String> {
    let bodies = plan.servers.clone();
    let mut answers = stream::iter(bodies)
        .map(async |body| {
            let name = body["name"].as_str().unwrap_or_default().to_owned();
            (name, ask(api, path, body).await)
        })
        .buffer_unordered(SERVERS);
    while let Some((name, answer)) = answers.next().await {
        match answer? {
            (200, _) => {}
            (_, answer) => plan.refuse(&name, &sentence(&answer)),
        }
    }
    Ok(())
}

/// A value that is there already is newer than the original's, and stays.
pub async fn secrets(api: &Api, plan: &mut Plan) -> Result<(), String> {
    let secrets = std::mem::take(&mut plan.secrets);
    let mut answers = stream::iter(secrets)
        .map(async |secret| {
            let body = body(&secret);
            (secret, ask(api, "/secrets/set", body).await)
        })
        .buffer_unordered(SECRETS);
    while let Some((secret, answer)) = answers.next().await {
        match answer? {
            (200, _) => plan.secrets.push(secret),
            (409, answer) if answer["code"] == "conflict" => plan.secrets_there += 1,
            (_, answer) => plan.not_taken.push(format!("{}: {}", secret.called(), sentence(&answer))),
        }
    }
    Ok(())
}

/// Tokens that are there already may have been refreshed since: then the original's would end them all.
pub async fn grants(api: &Api, plan: &mut Plan) -> Result<(), String> {
    for grant in std::mem::take(&mut plan.grants) {
        let path = format!("/mcp/servers/{}/oauth", grant.server);
        match ask(api, &path, grant.body.clone()).await? {
            (200, _) => plan.grants.push(grant),
            (409, answer) if answer["code"] == "conflict" => plan.grants_there += 1,
            (_, answer) => plan.not_taken.push(format!("{}: {}", grant.called, sentence(&answer))),
        }
    }
    Ok(())
}

fn body(Secret { user, server, name, value }: &Secret) -> Value {
    let value = value.expose().unwrap_or_default();
    json!({ "username": user, "serverName": server, "secretName": name, "secretValue": value, "ifAbsent": true })
}

/// Asks until there is an answer that will stay the same.
async fn ask(api: &Api, path: &str, body: Value) -> Result<(u16, Value), String> {
    for _ in 1..TRIES {
        match send(api, "POST", path, Some(body.clone())).await {
            Ok((429 | 503, _)) | Err(_) => tokio::time::sleep(PAUSE).await,
            Ok(answer) => return Ok(answer),
        }
    }
    send(api, "POST", path, Some(body)).await
}
