//! Carries an import out, by requests that anybody could make.

use std::time::Duration;

use futures::stream;
use futures::stream::StreamExt;
use serde_json::{Value, json};
use uuid::Uuid;

use super::packages::PackageImport;
use super::plan::{ImportPlan, SecretImport};
use crate::cli::call::error_text;
use crate::cli::client::{ApiClient, send, send_later};
use crate::cli::install::follow;

/// Servers registered at once: each is started, and may take its time.
const SERVERS: usize = 8;
/// Packages installed at once: npm and pip have the network and the disks of workers to themselves for a while.
const PACKAGES: usize = 2;
const SECRETS: usize = 32;
/// How long one package is waited for: workers end what takes longer themselves, unless none is there.
const INSTALLS: Duration = Duration::from_secs(1200);
/// How often a request is made again that could not be carried out.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_secs(1);

/// Has the API check the servers as it would when they are registered.
pub async fn check_servers(api: &ApiClient, plan: &mut ImportPlan) -> Result<(), String> {
    register(api, plan, "/mcp/servers?dryRun=true").await
}

pub async fn servers(api: &ApiClient, plan: &mut ImportPlan) -> Result<(), String> {
    register(api, plan, "/mcp/servers").await
}

async fn register(api: &ApiClient, plan: &mut ImportPlan, path: &str) -> Result<(), String> {
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
            (_, answer) => plan.refuse(&name, &error_text(&answer)),
        }
    }
    Ok(())
}

/// Has the API check the packages, without looking for them at their registries.
pub async fn check_packages(api: &ApiClient, plan: &mut ImportPlan) -> Result<(), String> {
    for package in std::mem::take(&mut plan.packages) {
        match ask(api, "/packages/install?dryRun=true", package.body.clone()).await? {
            (200, _) => plan.packages.push(package),
            (_, answer) => plan.refuse_package(&package, &error_text(&answer)),
        }
    }
    Ok(())
}

/// Tells of each as it goes. One that fails stops no other.
pub async fn packages(api: &ApiClient, plan: &mut ImportPlan) {
    let packages = std::mem::take(&mut plan.packages);
    let mut ends = stream::iter(packages)
        .map(async |package| {
            println!("installing {package} …");
            let end = install(api, &package).await;
            (package, end)
        })
        .buffer_unordered(PACKAGES);
    while let Some((package, end)) = ends.next().await {
        match end {
            Ok(version) => {
                println!("installed {package}: {version}");
                plan.packages.push(package);
            }
            Err(why) => {
                println!("not installed: {package}");
                plan.refuse_package(&package, &why);
            }
        }
    }
}

/// Gives the version that was installed. What was accepted goes on also where nobody waits: hence a job, and a key.
async fn install(api: &ApiClient, package: &PackageImport) -> Result<String, String> {
    let key = Uuid::now_v7().to_string();
    let accept = async || {
        send_later(
            api,
            "POST",
            "/packages/install",
            package.body.clone(),
            Some(&key),
        )
        .await
    };
    let (_, accepted) = persist(accept).await?;
    let Some(job) = accepted["jobId"].as_str() else {
        return Err(error_text(&accepted));
    };
    let followed = persist(async || follow(api, job, |_| {}).await.map(|answer| (200, answer)));
    let unknown = |why: String| format!("{why}; GET /jobs/{job} tells what becomes of it");
    let followed = tokio::time::timeout(INSTALLS, followed).await;
    let (_, answer) = followed
        .map_err(|_| {
            unknown(format!(
                "it has not ended within {} minutes",
                INSTALLS.as_secs() / 60
            ))
        })?
        .map_err(unknown)?;
    match answer["package"]["version"].as_str() {
        Some(version) => Ok(version.to_owned()),
        None => Err(error_text(&answer)),
    }
}

/// A value that is there already is newer than the original's, and stays.
pub async fn secrets(api: &ApiClient, plan: &mut ImportPlan) -> Result<(), String> {
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
            (_, answer) => {
                plan.not_taken
                    .push(format!("{}: {}", secret.called(), error_text(&answer)))
            }
        }
    }
    Ok(())
}

/// Tokens that are there already may have been refreshed since: then the original's would end them all.
pub async fn grants(api: &ApiClient, plan: &mut ImportPlan) -> Result<(), String> {
    for grant in std::mem::take(&mut plan.grants) {
        let path = format!("/mcp/servers/{}/oauth", grant.server);
        match ask(api, &path, grant.body.clone()).await? {
            (200, _) => plan.grants.push(grant),
            (409, answer) if answer["code"] == "conflict" => plan.grants_there += 1,
            (_, answer) => {
                plan.not_taken
                    .push(format!("{}: {}", grant.called, error_text(&answer)))
            }
        }
    }
    Ok(())
}

fn body(
    SecretImport {
        user,
        server,
        name,
        value,
    }: &SecretImport,
) -> Value {
    let value = value.expose().unwrap_or_default();
    json!({ "username": user, "serverName": server, "secretName": name, "secretValue": value, "ifAbsent": true })
}

async fn ask(api: &ApiClient, path: &str, body: Value) -> Result<(u16, Value), String> {
    persist(async || send(api, "POST", path, Some(body.clone())).await).await
}

/// Asks until there is an answer that will stay the same.
async fn persist(
    ask: impl AsyncFn() -> Result<(u16, Value), String>,
) -> Result<(u16, Value), String> {
    for _ in 1..TRIES {
        match ask().await {
            Ok((429 | 503, _)) | Err(_) => tokio::time::sleep(PAUSE).await,
            Ok(answer) => return Ok(answer),
        }
    }
    ask().await
}
