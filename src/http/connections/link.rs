//! The URL of the page on which a user sets the missing credentials of a call.

use axum::http::HeaderValue;
use serde::Deserialize;

use crate::core::catalog::server::Server;
use crate::core::failure::{Code, Failure};
use crate::core::model::credential::CredentialOwner;
use crate::core::model::job::Job;
use crate::core::model::server::ServerConfig;
use crate::core::names::{SecretName, ServerName};
use crate::http::respond::html::public_url;
use crate::http::state::ApiState;
use crate::telemetry::error::internal_error;
use crate::views::job_answer::JobAnswer;

/// Adds the URL of the page to a call that failed because its user has not set a credential. Only an administrator sets a
/// shared value, so a failure for a shared value gets no URL.
pub(crate) fn add_connect_url(
    state: &ApiState,
    host: Option<&HeaderValue>,
    server: &Server,
    failure: Failure,
) -> Failure {
    if failure.code != Code::CredentialRequired
        || !user_sets(&server.config, failure.missing_names())
    {
        return failure;
    }
    let url = connect_url(state, host, &server.name);
    failure.with_connect_url(url)
}

/// Adds the URL of the page to the stored answer of a job.
///
/// # Errors
/// `internal` if the answer cannot be encoded.
pub(crate) fn add_connect_url_to_answer(
    state: &ApiState,
    job: &Job,
    answer: JobAnswer,
) -> Result<JobAnswer, Failure> {
    #[derive(Deserialize)]
    struct MissingField {
        #[serde(default)]
        missing: Vec<SecretName>,
    }
    if answer.code() != Some(Code::CredentialRequired) {
        return Ok(answer);
    }
    let parsed: Result<MissingField, _> = serde_json::from_str(answer.body.get());
    let missing = parsed.map_err(internal_error)?.missing;
    let catalog = state.catalog();
    let server = job
        .target
        .server
        .as_ref()
        .and_then(|name| catalog.server(name.as_str()))
        .filter(|server| user_sets(&server.config, &missing));
    let Some(server) = server else {
        return Ok(answer);
    };
    let url = connect_url(state, None, &server.name);
    answer.with_text("connectUrl", &url).map_err(internal_error)
}

/// Returns whether one of the missing credentials belongs to the user.
fn user_sets(config: &ServerConfig, missing: &[SecretName]) -> bool {
    missing
        .iter()
        .any(|name| config.credential(name, CredentialOwner::User).is_some())
}

/// Returns the URL of the page of one server. A server name needs no percent-encoding.
fn connect_url(state: &ApiState, host: Option<&HeaderValue>, server: &ServerName) -> String {
    public_url(state, host, &format!("/connect/{server}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::core::model::remote::Remote;
    use crate::core::model::server::Transport;

    #[test]
    fn only_a_credential_of_the_user_leads_to_the_page() {
        let credentials = json!([{"name": "KEY"}, {"name": "ORG", "owner": "shared"}]);
        let config = ServerConfig {
            credentials: serde_json::from_value(credentials).expect("credentials"),
            ..ServerConfig::new(Transport::StreamableHttp(Remote::new("https://h/mcp")))
        };
        let sets = |names: &[&str]| {
            let names: Vec<_> = names
                .iter()
                .map(|name| name.parse().expect("a name"))
                .collect();
            user_sets(&config, &names)
        };
        assert!(sets(&["KEY"]) && sets(&["ORG", "KEY"]));
        assert!(!sets(&["ORG"]) && !sets(&["OTHER"]) && !sets(&[]));
    }
}
