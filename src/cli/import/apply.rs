//! Executes an import with requests that any client of the API can send.

use std::time::Duration;

use futures::stream;
use futures::stream::StreamExt;
use hyper::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::packages::PackageImport;
use super::plan::{ImportPlan, SecretImport};
use crate::cli::client::{ApiClient, ApiResponse, ClientError, error_text, send, send_as_job};
use crate::cli::install::follow;
use crate::cli::output::print_line;
use crate::cli::retry::retry;
use crate::telemetry::error::error_chain;

/// The number of servers that are registered at once. The API starts each server.
const PARALLEL_SERVERS: usize = 8;
/// The number of packages that are installed at once, because npm and pip use the network and the disks of workers.
const PARALLEL_PACKAGES: usize = 2;
const PARALLEL_SECRETS: usize = 32;
/// The longest wait for one package. Workers end a longer installation themselves, unless no worker exists.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(1200);

/// Lets the API check the servers as it does when it registers them.
pub(super) async fn check_servers(
    api: &ApiClient,
    plan: &mut ImportPlan,
) -> Result<(), ClientError> {
    register(api, plan, "/mcp/servers?dryRun=true").await
}

/// Registers the servers.
pub(super) async fn register_servers(
    api: &ApiClient,
    plan: &mut ImportPlan,
) -> Result<(), ClientError> {
    register(api, plan, "/mcp/servers").await
}

async fn register(api: &ApiClient, plan: &mut ImportPlan, path: &str) -> Result<(), ClientError> {
    let bodies = plan.servers.clone();
    let mut responses = stream::iter(bodies)
        .map(async |body| {
            let name = body["name"].as_str().unwrap_or_default().to_owned();
            (name, post(api, path, &body).await)
        })
        .buffer_unordered(PARALLEL_SERVERS);
    while let Some((name, response)) = responses.next().await {
        let (status, body) = response?;
        if status != 200 {
            plan.refuse_server(&name, &error_text(&body));
        }
    }
    Ok(())
}

/// Lets the API check the packages. The API does not ask the registries.
pub(super) async fn check_packages(
    api: &ApiClient,
    plan: &mut ImportPlan,
) -> Result<(), ClientError> {
    for package in std::mem::take(&mut plan.packages) {
        match post(api, "/packages/install?dryRun=true", &package.body).await? {
            (200, _) => plan.packages.push(package),
            (_, body) => plan.refuse_package(&package, &error_text(&body)),
        }
    }
    Ok(())
}

/// Installs the packages and prints the progress. A failed package does not stop the other packages.
pub(super) async fn install_packages(api: &ApiClient, plan: &mut ImportPlan) {
    let packages = std::mem::take(&mut plan.packages);
    let mut results = stream::iter(packages)
        .map(async |package| {
            print_line(format_args!("installing {package} …"));
            let result = install(api, &package).await;
            (package, result)
        })
        .buffer_unordered(PARALLEL_PACKAGES);
    while let Some((package, result)) = results.next().await {
        match result {
            Ok(version) => {
                print_line(format_args!("installed {package}: {version}"));
                plan.packages.push(package);
            }
            Err(error) => {
                print_line(format_args!("not installed: {package}"));
                plan.refuse_package(&package, &error_chain(&error));
            }
        }
    }
}

/// Installs a package and returns its version. The installation is a job with an idempotency key, because an accepted
/// installation continues when the command ends.
async fn install(api: &ApiClient, package: &PackageImport) -> Result<String, ClientError> {
    let key = Uuid::now_v7().to_string();
    let submit = async || send_as_job(api, "/packages/install", &package.body, Some(&key)).await;
    let (_, accepted) = retry(submit, |_| {}).await?;
    let Some(job) = accepted["jobId"].as_str() else {
        return Err(ClientError::Refused(error_text(&accepted)));
    };
    let unknown = |why: String| {
        ClientError::Refused(format!(
            "{why}; GET /jobs/{job} shows the result of the job"
        ))
    };
    let read = async || {
        let answer = follow(api, job, |_| {}).await?;
        Ok((200, answer))
    };
    let followed = retry(read, |_| {});
    let followed = tokio::time::timeout(INSTALL_TIMEOUT, followed).await;
    let minutes = INSTALL_TIMEOUT.as_secs() / 60;
    let followed =
        followed.map_err(|_| unknown(format!("the job has not ended within {minutes} minutes")))?;
    let (_, answer) = followed.map_err(|error| unknown(error_chain(&error)))?;
    match answer["package"]["version"].as_str() {
        Some(version) => Ok(version.to_owned()),
        None => Err(ClientError::Refused(error_text(&answer))),
    }
}

/// Stores the secrets. An existing secret stays, because it is newer than the one of the predecessor.
pub(super) async fn store_secrets(
    api: &ApiClient,
    plan: &mut ImportPlan,
) -> Result<(), ClientError> {
    let secrets = std::mem::take(&mut plan.secrets);
    let mut responses = stream::iter(secrets)
        .map(async |secret| {
            let body = secret_body(&secret);
            (secret, post(api, "/secrets/set", &body).await)
        })
        .buffer_unordered(PARALLEL_SECRETS);
    while let Some((secret, response)) = responses.next().await {
        match response? {
            (200, _) => plan.secrets.push(secret),
            (409, body) if body["code"] == "conflict" => plan.existing_secrets += 1,
            (_, body) => {
                let why = error_text(&body);
                plan.skipped
                    .push(format!("{}: {why}", secret.description()));
            }
        }
    }
    Ok(())
}

/// Stores the OAuth tokens. Existing tokens stay, because they may have been refreshed since, and the refresh token of
/// the predecessor would then end them.
pub(super) async fn store_grants(
    api: &ApiClient,
    plan: &mut ImportPlan,
) -> Result<(), ClientError> {
    for grant in std::mem::take(&mut plan.grants) {
        let path = format!("/mcp/servers/{}/oauth", grant.server);
        match post(api, &path, &grant.body).await? {
            (200, _) => plan.grants.push(grant),
            (409, body) if body["code"] == "conflict" => plan.existing_grants += 1,
            (_, body) => {
                let why = error_text(&body);
                plan.skipped.push(format!("{}: {why}", grant.description));
            }
        }
    }
    Ok(())
}

fn secret_body(secret: &SecretImport) -> Value {
    let value = secret.value.expose().unwrap_or_default();
    json!({
        "username": secret.user, "serverName": secret.server, "secretName": secret.name,
        "secretValue": value, "ifAbsent": true,
    })
}

async fn post(api: &ApiClient, path: &str, body: &Value) -> ApiResponse {
    let request = async || send(api, Method::POST, path, Some(body)).await;
    retry(request, |_| {}).await
}
