//! Unit tests of the stored values that requests carry, and of their removal.

use serde_json::{Value, json};

use super::*;
use crate::core::decide::testing::samples::*;
use crate::core::decide::testing::{Given, given};
use crate::core::event::{GoogleConnected, ServerRegistered, ServerUpdated};
use crate::core::model::grant::GrantTokens;
use crate::core::model::remote::Remote;
use crate::core::model::server::{ServerConfig, Transport};

fn config(url: &str, credentials: Value) -> ServerConfig {
    ServerConfig {
        credentials: serde_json::from_value(credentials).expect("credentials"),
        ..ServerConfig::new(Transport::StreamableHttp(Remote::new(url)))
    }
}

fn registered(credentials: Value) -> Event {
    ServerRegistered {
        server: server_id("crm"),
        name: name("crm"),
        config: config(URL, credentials),
        enabled: true,
    }
    .into()
}

fn shared_set(secret: &str, number: u128) -> Event {
    crate::core::event::SecretSet {
        server: server_id("crm"),
        server_name: name("crm"),
        user: None,
        name: name(secret),
        value: value(number),
    }
    .into()
}

fn ana() -> UserName {
    name("ana")
}

/// Returns `name=number` of each value that a request of ana carries.
fn carried(events: impl IntoIterator<Item = Event>) -> Result<Vec<String>, Failure> {
    let catalog = given(events).catalog;
    let server = catalog.server("crm").expect("a server");
    let stored = stored_credentials(server, Some(&ana()), |_| true)?;
    Ok(stored
        .iter()
        .map(|stored| format!("{}={}", stored.target(), stored.value.0.as_u128()))
        .collect())
}

#[test]
fn without_credentials_every_secret_of_the_user_is_an_argument() {
    let carried = carried([
        server_registered("crm"),
        secret_set("crm", "ana", "A", 2),
        secret_set("crm", "ben", "B", 3),
    ]);
    assert_eq!(carried.expect("values"), ["A=2"]);
}

#[test]
fn exactly_the_declared_values_are_carried() {
    let carried = carried([
        registered(json!([{"name": "A", "as": "x-a", "in": "header"}, {"name": "B"}])),
        secret_set("crm", "ana", "A", 2),
        secret_set("crm", "ana", "OTHER", 3),
        secret_set("crm", "ben", "B", 4),
    ]);
    assert_eq!(carried.expect("values"), ["x-a=2"]);
}

#[test]
fn a_shared_value_serves_all_users_and_replaces_no_value_of_a_user() {
    let credentials =
        json!([{"name": "ORG", "owner": "shared"}, {"name": "KEY", "required": true}]);
    let events = [
        registered(credentials),
        shared_set("ORG", 2),
        shared_set("KEY", 3),
    ];
    let failure = carried(events.clone()).expect_err("KEY of ana is missing");
    assert_eq!(failure.code, Code::CredentialRequired);
    assert_eq!(failure.missing_names(), [name::<SecretName>("KEY")]);
    let with_key = events
        .into_iter()
        .chain([secret_set("crm", "ana", "KEY", 4)]);
    assert_eq!(carried(with_key).expect("values"), ["ORG=2", "KEY=4"]);
}

#[test]
fn a_missing_shared_value_names_the_administrator() {
    let failure = carried([registered(
        json!([{"name": "ORG", "owner": "shared", "required": true}]),
    )])
    .expect_err("ORG is missing");
    assert_eq!(failure.missing_names(), [name::<SecretName>("ORG")]);
    assert!(failure.message.contains("administrator"), "{failure}");
}

#[test]
fn the_values_of_a_connection_change_with_a_new_value_and_not_with_an_argument() {
    let credentials = json!([
        {"name": "KEY", "in": "header"}, {"name": "ORG", "in": "query", "owner": "shared"}, {"name": "ARG"},
    ]);
    let with = |more: &[Event]| {
        let events = [
            registered(credentials.clone()),
            secret_set("crm", "ana", "KEY", 2),
        ];
        let catalog = given(events.into_iter().chain(more.iter().cloned())).catalog;
        connection_values(catalog.server("crm").expect("a server"), Some(&ana())).expect("values")
    };
    assert_eq!(with(&[]), [value(2)]);
    assert_eq!(with(&[secret_set("crm", "ana", "ARG", 3)]), with(&[]));
    assert_eq!(with(&[secret_set("crm", "ana", "KEY", 3)]), [value(3)]);
    assert_eq!(with(&[shared_set("ORG", 4)]), [value(2), value(4)]);
}

#[test]
fn a_missing_argument_does_not_keep_a_connection_from_its_start() {
    let credentials = json!([
        {"name": "ARG", "required": true},
        {"name": "SHARED_ARG", "required": true, "owner": "shared"},
        {"name": "KEY", "in": "header"},
    ]);
    let catalog = given([registered(credentials)]).catalog;
    let server = catalog.server("crm").expect("a server");
    for user in [None, Some(&ana())] {
        assert!(connection_values(server, user).expect("values").is_empty());
    }
    let failure = stored_credentials(server, Some(&ana()), |_| true).expect_err("ARG");
    assert_eq!(failure.missing_names(), [name::<SecretName>("ARG")]);
}

#[test]
fn a_server_needs_the_values_without_which_it_does_not_start() {
    let credentials = json!([
        {"name": "KEY", "in": "header", "required": true},
        {"name": "ARG", "required": true},
        {"name": "ORG", "owner": "shared", "required": true},
        {"name": "OPTIONAL", "in": "header"},
    ]);
    let needed = |more: &[Event]| {
        let catalog = given(
            [registered(credentials.clone())]
                .into_iter()
                .chain(more.iter().cloned()),
        )
        .catalog;
        let server = catalog.server("crm").expect("a server").clone();
        needed_credentials(&server)
            .into_iter()
            .map(|name| name.as_str().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(needed(&[]), ["KEY", "ORG"]);
    assert_eq!(needed(&[shared_set("ORG", 2)]), ["KEY"]);
}

#[test]
fn a_shared_value_of_a_connection_restarts_the_server() {
    for (place, restarts) in [("header", true), ("argument", false)] {
        let credentials = json!([{"name": "ORG", "in": place, "owner": "shared"}]);
        let before = given([registered(credentials.clone())]).catalog;
        let after = given([registered(credentials), shared_set("ORG", 2)]).catalog;
        let changed = |catalog: &Catalog| catalog.server("crm").expect("a server").changed;
        assert_eq!(changed(&before) != changed(&after), restarts, "{place}");
    }
}

#[test]
fn another_origin_never_gets_the_values_of_headers() {
    let credentials = json!([{"name": "KEY", "in": "header"}, {"name": "ARG"}]);
    let updated = |url: &str| {
        ServerUpdated {
            server: server_id("crm"),
            name: name("crm"),
            config: config(url, credentials.clone()),
        }
        .into()
    };
    let left = |url: &str| {
        carried([
            registered(credentials.clone()),
            secret_set("crm", "ana", "KEY", 2),
            secret_set("crm", "ana", "ARG", 3),
            updated(url),
        ])
        .expect("values")
    };
    assert_eq!(left("https://h/other"), ["KEY=2", "ARG=3"]);
    assert_eq!(left("https://elsewhere/mcp"), ["ARG=3"]);
}

#[test]
fn a_value_does_not_reach_another_origin_by_two_updates() {
    let key = || json!([{"name": "KEY", "in": "header"}]);
    let updated = |url: &str, credentials: Value| {
        ServerUpdated {
            server: server_id("crm"),
            name: name("crm"),
            config: config(url, credentials),
        }
        .into()
    };
    let other = "https://elsewhere/mcp";
    let as_argument = || json!([{"name": "KEY"}]);
    for updates in [
        vec![updated(other, json!([])), updated(other, key())],
        vec![updated(URL, json!([])), updated(other, key())],
        vec![updated(URL, as_argument()), updated(other, key())],
        vec![updated(other, as_argument())],
    ] {
        let before = [registered(key()), secret_set("crm", "ana", "KEY", 2)];
        let left = carried(before.into_iter().chain(updates)).expect("values");
        assert!(left.is_empty(), "{left:?}");
    }
}

fn command() -> Disconnect {
    Disconnect {
        origin: origin(1),
        server: server_id("crm"),
        server_name: name("crm"),
        user: ana(),
        part: None,
    }
}

fn tokens() -> GrantTokens {
    GrantTokens::new(value(5), value(6), true, 0, None)
}

fn granted(user: Option<UserName>) -> Event {
    crate::core::event::GrantStored {
        server: server_id("crm"),
        server_name: name("crm"),
        user,
        tokens: tokens(),
    }
    .into()
}

/// Returns a catalog in which two users have a secret, and ana has OAuth tokens and Google tokens.
fn given_connections() -> Given {
    let google = GoogleConnected {
        server: server_id("crm"),
        server_name: name("crm"),
        user: ana(),
        value: value(7),
    };
    given([
        registered(json!([])),
        secret_set("crm", "ana", "A", 2),
        secret_set("crm", "ben", "A", 3),
        granted(Some(ana())),
        google.into(),
    ])
}

fn grant_removed() -> Event {
    GrantRemoved {
        server: server_id("crm"),
        server_name: name("crm"),
        user: Some(ana()),
        tokens: tokens(),
    }
    .into()
}

fn google_disconnected() -> Event {
    GoogleDisconnected {
        server: server_id("crm"),
        server_name: name("crm"),
        user: ana(),
        value: value(7),
    }
    .into()
}

#[test]
fn a_disconnected_user_has_nothing_left() {
    let catalog = given_connections()
        .when(|catalog| disconnect(catalog, &command()))
        .then([
            SecretDeleted {
                server: server_id("crm"),
                server_name: name("crm"),
                user: Some(ana()),
                name: name("A"),
                value: value(2),
            }
            .into(),
            grant_removed(),
            google_disconnected(),
        ]);
    assert_eq!(catalog.values(), [value(3)].into());
}

#[test]
fn one_part_of_a_connection_is_removed_alone() {
    for (part, removed) in [
        (ConnectionPart::Oauth, grant_removed()),
        (ConnectionPart::Google, google_disconnected()),
    ] {
        let command = Disconnect {
            part: Some(part),
            ..command()
        };
        given_connections()
            .when(|catalog| disconnect(catalog, &command))
            .then([removed]);
    }
}

#[test]
fn a_user_without_values_is_disconnected_already() {
    given([registered(json!([]))])
        .when(|catalog| disconnect(catalog, &command()))
        .then_nothing();
    given([])
        .when(|catalog| disconnect(catalog, &command()))
        .then_fails_with(Code::ServerNotFound);
}

/// Returns whether a request of ana makes the server known that these events describe.
fn introduces(events: impl IntoIterator<Item = Event>) -> bool {
    let catalog = given(events).catalog;
    is_introduced_by(catalog.server("crm").expect("a server"), &ana())
}

fn needs_a_key() -> Event {
    registered(json!([{"name": "KEY", "as": "x-key", "in": "header", "required": true}]))
}

#[test]
fn a_user_with_all_values_introduces_a_server_that_only_users_start() {
    assert!(introduces([
        needs_a_key(),
        secret_set("crm", "ana", "KEY", 2)
    ]));
    assert!(!introduces([
        needs_a_key(),
        secret_set("crm", "ben", "KEY", 2)
    ]));
}

#[test]
fn a_user_with_a_grant_introduces_a_server() {
    assert!(introduces([registered(json!([])), granted(Some(ana()))]));
    assert!(!introduces([
        registered(json!([])),
        granted(Some(name("ben")))
    ]));
}

#[test]
fn no_user_introduces_a_server_that_starts_by_itself_or_is_known() {
    assert!(!introduces([registered(json!([]))]));
    let described = crate::core::event::ServerDescribed {
        server: server_id("crm"),
        name: name("crm"),
        digest: "a".to_owned(),
        capabilities: None,
        server_info: None,
        instructions: None,
        protocol_version: None,
        fencing_token: None,
    };
    assert!(!introduces([
        needs_a_key(),
        secret_set("crm", "ana", "KEY", 2),
        described.into(),
    ]));
}
