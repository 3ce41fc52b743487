//! Unit tests of the rules for credentials.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::core::model::server::Transport;

fn with(transport: Transport, credentials: Value) -> ServerConfig {
    ServerConfig {
        credentials: serde_json::from_value(credentials).expect("credentials"),
        ..ServerConfig::new(transport)
    }
}

fn stdio(credentials: Value) -> ServerConfig {
    let env: BTreeMap<_, _> = [("SET".to_owned(), "1".to_owned())].into();
    let transport = Transport::Stdio {
        command: "npx".into(),
        args: vec![],
        env,
    };
    with(transport, credentials)
}

fn remote(credentials: Value) -> ServerConfig {
    let remote = Remote {
        headers: serde_json::from_value(json!({"X-Set": "1"})).expect("headers"),
        ..Remote::new("https://h/mcp?set=1")
    };
    with(Transport::StreamableHttp(remote), credentials)
}

fn refused(config: &ServerConfig) -> String {
    config.check().expect_err("the rule is broken").message
}

#[test]
fn a_credential_has_defaults() {
    let config = stdio(json!([{"name": "token"}]));
    config.check().expect("a configuration");
    let credential = &config.credentials[0];
    assert_eq!(credential.location, CredentialLocation::Argument);
    assert_eq!(credential.owner, CredentialOwner::User);
    assert_eq!(credential.target(), "token");
    assert!(!credential.required && credential.formatted("v").is_none());
}

#[test]
fn every_place_belongs_to_a_transport() {
    stdio(json!([{"name": "A", "in": "env"}]))
        .check()
        .expect("env");
    for place in ["header", "query"] {
        remote(json!([{"name": "A", "in": place}]))
            .check()
            .expect(place);
        let sentence = refused(&stdio(json!([{"name": "A", "in": place}])));
        assert!(
            sentence.contains(place) && sentence.contains("A:"),
            "{sentence}"
        );
    }
    let sentence = refused(&remote(json!([{"name": "A", "in": "env"}])));
    assert!(sentence.contains("no environment"), "{sentence}");
}

#[test]
fn a_process_for_each_user_excludes_a_process_for_each_worker() {
    let mut config = stdio(json!([{"name": "A", "in": "env"}]));
    config.replicas = Replicas::Each;
    assert!(refused(&config).contains("replicas"));
    config.credentials = serde_json::from_value(json!([{"name": "A"}])).expect("an argument");
    config
        .check()
        .expect("an argument needs no process of its own");
}

#[test]
fn credentials_and_secret_names_exclude_each_other() {
    let mut config = stdio(json!([{"name": "A"}]));
    config.secret_names = vec!["A".parse().expect("a name")];
    assert!(refused(&config).contains("secretNames"));
}

#[test]
fn two_credentials_never_share_a_name_or_a_place() {
    for (config, rule) in [
        (
            stdio(json!([{"name": "A"}, {"name": "A", "in": "env"}])),
            "twice",
        ),
        (
            stdio(json!([{"name": "A"}, {"name": "B", "as": "A"}])),
            "same place",
        ),
        (
            remote(json!([{"name": "A", "in": "header"}, {"name": "a", "in": "header"}])),
            "same place",
        ),
        (stdio(json!([{"name": "SET", "in": "env"}])), "`env` has"),
        (
            remote(json!([{"name": "x-set", "in": "header"}])),
            "`headers` has",
        ),
        (remote(json!([{"name": "set", "in": "query"}])), "`url` has"),
    ] {
        let sentence = refused(&config);
        assert!(sentence.contains(rule), "{sentence}");
    }
}

#[test]
fn a_name_that_the_place_cannot_have_is_refused() {
    for (config, rule) in [
        (
            stdio(json!([{"name": "A=B", "in": "env"}])),
            "name of a variable",
        ),
        (
            stdio(json!([{"name": "A", "in": "env", "as": "BASH_FUNC_date%%"}])),
            "name of a variable",
        ),
        (
            remote(json!([{"name": "a b", "in": "header"}])),
            "name of a header",
        ),
        (
            remote(json!([{"name": "Host", "in": "header"}])),
            "program itself",
        ),
        (
            remote(json!([{"name": "Mcp-Session-Id", "in": "header"}])),
            "program itself",
        ),
        (stdio(json!([{"name": "A", "as": ""}])), "`as`"),
        (stdio(json!([{"name": "A", "as": "x\ny"}])), "`as`"),
    ] {
        let sentence = refused(&config);
        assert!(sentence.contains(rule), "{sentence}");
    }
}

#[test]
fn a_user_cannot_set_a_variable_that_starts_other_programs() {
    for variable in [
        "LD_PRELOAD",
        "NODE_OPTIONS",
        "PATH",
        "node_options",
        "PIP_INDEX_URL",
        "GIT_ASKPASS",
        "PYTHONWARNINGS",
        "HTTPS_PROXY",
        "NODE_EXTRA_CA_CERTS",
    ] {
        let credential = json!([{"name": "A", "in": "env", "as": variable}]);
        let sentence = refused(&stdio(credential));
        assert!(sentence.contains(variable), "{sentence}");
        let shared = json!([{"name": "A", "in": "env", "as": variable, "owner": "shared"}]);
        stdio(shared).check().expect("an administrator sets it");
    }
}

#[test]
fn the_key_of_a_program_that_loads_code_is_allowed() {
    for variable in [
        "GIT_TOKEN",
        "NODE_AUTH_TOKEN",
        "GITHUB_PERSONAL_ACCESS_TOKEN",
        "API_KEY",
    ] {
        let credential = json!([{"name": "A", "in": "env", "as": variable}]);
        stdio(credential).check().expect(variable);
    }
}

#[test]
fn a_format_has_one_place_for_the_value() {
    for format in ["Bearer", "{value}{value}", "", "a\n{value}"] {
        let credential = json!([{"name": "A", "in": "header", "format": format}]);
        let sentence = refused(&remote(credential));
        assert!(sentence.contains("`format`"), "{sentence}");
    }
    let config = remote(json!([{"name": "A", "in": "header", "format": "Bearer {value}"}]));
    config.check().expect("a format");
    let formatted = config.credentials[0]
        .formatted("{value}")
        .expect("a format");
    assert_eq!(formatted.as_str(), "Bearer {value}");
}

#[test]
fn a_value_must_fit_its_place() {
    let config = remote(json!([{"name": "A", "in": "header"}, {"name": "B", "in": "query"}]));
    let [header, query] = &config.credentials[..] else {
        panic!("two credentials");
    };
    let variable = &stdio(json!([{"name": "C", "in": "env"}])).credentials[0];
    check_value(header, "s3cret value").expect("a header");
    check_value(query, "ü & =").expect("a parameter");
    check_value(variable, "two\nlines").expect("a variable");
    for (credential, value) in [
        (header, "a\nb"),
        (header, "ü"),
        (query, "\n"),
        (variable, "\0"),
    ] {
        let failure = check_value(credential, value).expect_err("a bad value");
        assert!(failure.message.starts_with("secretValue"), "{failure}");
        assert!(
            value.len() == 1 || !failure.message.contains(value),
            "{failure}"
        );
    }
}

#[test]
fn unknown_fields_and_places_are_refused() {
    for credential in [
        json!({"name": "A", "in": "cookie"}),
        json!({"name": "A", "value": "x"}),
    ] {
        assert!(serde_json::from_value::<Credential>(credential).is_err());
    }
}

#[test]
fn too_many_credentials_are_refused() {
    let many: Vec<_> = (0..=MAX_CREDENTIALS)
        .map(|number| json!({"name": format!("A{number}")}))
        .collect();
    assert!(refused(&stdio(many.into())).contains("at most"));
}
