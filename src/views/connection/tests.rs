//! Unit tests of the slots of a connection, and of the state of its tokens.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::core::catalog::Catalog;
use crate::core::event::{
    Event, GoogleConnected, GrantRefreshFailed, GrantStored, SecretSet, ServerRegistered,
};
use crate::core::ids::{ServerId, ValueId};
use crate::core::model::grant::GrantTokens;
use crate::core::model::remote::Remote;
use crate::core::model::server::{ServerConfig, Transport};

const NOW: u64 = 1_700_000_000_000;
const ID: ServerId = ServerId(Uuid::nil());

fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("a name")
}

/// Returns a value id whose time is 2024-05-02T21:22:07.293Z.
fn value() -> ValueId {
    ValueId(Uuid::parse_str("018f3b2f-9d3d-7000-8000-000000000000").expect("an id"))
}

fn behind_url() -> ServerConfig {
    ServerConfig::new(Transport::StreamableHttp(Remote::new("https://h/mcp")))
}

fn stdio(env: BTreeMap<String, String>) -> ServerConfig {
    ServerConfig::new(Transport::Stdio {
        command: "node".into(),
        args: vec![],
        env,
    })
}

fn secret_set(user: Option<&str>, secret: &str, value: ValueId) -> Event {
    SecretSet {
        server: ID,
        server_name: name("crm"),
        user: user.map(name),
        name: name(secret),
        value,
    }
    .into()
}

fn grant_stored(user: Option<&str>, refreshable: bool, expires_in: Option<u64>) -> Event {
    GrantStored {
        server: ID,
        server_name: name("crm"),
        user: user.map(name),
        tokens: GrantTokens::new(value(), value(), refreshable, NOW, expires_in),
    }
    .into()
}

/// Returns the connection of ana, one minute after the tokens of the events were stored.
fn connection(config: ServerConfig, events: impl IntoIterator<Item = Event>) -> Value {
    let mut catalog = Catalog::default();
    let registered = ServerRegistered {
        server: ID,
        name: name("crm"),
        config,
        enabled: true,
    };
    catalog.apply(&registered.into());
    for event in events {
        catalog.apply(&event);
    }
    let server: &Arc<Server> = catalog.server("crm").expect("a server");
    let view = ConnectionView::new(server, &name("ana"), NOW + 60_000);
    serde_json::to_value(view).expect("JSON")
}

#[test]
fn each_declared_credential_is_a_slot_with_its_owner_and_the_time_of_its_value() {
    let credentials = json!([
        {"name": "KEY", "in": "header", "required": true, "description": "A key"},
        {"name": "ORG", "owner": "shared"},
        {"name": "OTHER", "in": "query"},
    ]);
    let config = ServerConfig {
        credentials: serde_json::from_value(credentials).expect("credentials"),
        ..behind_url()
    };
    let old_id = ValueId(Uuid::from_u128(7));
    let view = connection(
        config,
        [
            secret_set(Some("ana"), "KEY", value()),
            secret_set(None, "ORG", old_id),
            secret_set(Some("ben"), "OTHER", value()),
            secret_set(Some("ana"), "UNUSED", value()),
        ],
    );
    assert_eq!(
        view,
        json!({
            "serverName": "crm",
            "slots": [
                {
                    "name": "KEY", "in": "header", "required": true, "owner": "user",
                    "description": "A key", "set": true, "setAt": "2024-05-02T21:22:07.293Z",
                },
                {
                    "name": "ORG", "in": "argument", "required": false, "owner": "shared",
                    "description": null, "set": true, "setAt": null,
                },
                {
                    "name": "OTHER", "in": "query", "required": false, "owner": "user",
                    "description": null, "set": false, "setAt": null,
                },
            ],
            "oauth": null,
            "google": null,
        })
    );
}

#[test]
fn a_shared_value_does_not_fill_the_slot_of_a_user() {
    let credentials = json!([{"name": "KEY"}, {"name": "ORG", "owner": "shared"}]);
    let config = ServerConfig {
        credentials: serde_json::from_value(credentials).expect("credentials"),
        ..behind_url()
    };
    let events = [
        secret_set(None, "KEY", value()),
        secret_set(Some("ana"), "ORG", value()),
    ];
    let view = connection(config, events);
    assert_eq!(view["slots"][0]["set"], false);
    assert_eq!(view["slots"][1]["set"], false);
}

#[test]
fn without_credentials_the_secret_names_or_else_the_secrets_of_the_user_are_slots() {
    let secrets = || {
        [
            secret_set(Some("ana"), "A", value()),
            secret_set(Some("ben"), "B", value()),
        ]
    };
    let slots = |view: Value| -> Vec<(String, bool)> {
        let slots = view["slots"].as_array().expect("slots");
        let of_slot = |slot: &Value| {
            assert_eq!(slot["in"], "argument");
            let name = slot["name"].as_str().expect("a name");
            (name.to_owned(), slot["set"] == true)
        };
        slots.iter().map(of_slot).collect()
    };
    let listed = ServerConfig {
        secret_names: vec![name("B"), name("A")],
        ..behind_url()
    };
    assert_eq!(
        slots(connection(listed, secrets())),
        [("B".to_owned(), false), ("A".to_owned(), true)]
    );
    assert_eq!(
        slots(connection(behind_url(), secrets())),
        [("A".to_owned(), true)]
    );
}

#[test]
fn the_own_grant_of_a_user_comes_before_the_grant_for_all_users() {
    let for_all = grant_stored(None, true, None);
    let own = grant_stored(Some("ana"), true, Some(3600));
    let view = connection(behind_url(), [for_all.clone()]);
    assert_eq!(
        view["oauth"],
        json!({
            "connected": true, "scopes": null, "expiresAt": null, "needsReauthorization": false,
        })
    );
    let view = connection(behind_url(), [for_all, own]);
    assert_eq!(view["oauth"]["expiresAt"], "2023-11-14T23:13:20.000Z");
}

#[test]
fn a_grant_of_another_user_shows_that_the_server_asks_for_an_authorization() {
    let view = connection(behind_url(), [grant_stored(Some("ben"), true, Some(3600))]);
    assert_eq!(
        view["oauth"],
        json!({
            "connected": false, "scopes": null, "expiresAt": null, "needsReauthorization": false,
        })
    );
}

#[test]
fn refused_and_expired_tokens_need_a_new_authorization() {
    let refused = GrantRefreshFailed {
        server: ID,
        server_name: name("crm"),
        user: Some(name("ana")),
        access: value(),
        refused: true,
    };
    let state = |events: Vec<Event>| {
        let oauth = &connection(behind_url(), events)["oauth"];
        (
            oauth["connected"] == true,
            oauth["needsReauthorization"] == true,
        )
    };
    let stored = |refreshable, life| grant_stored(Some("ana"), refreshable, Some(life));
    assert_eq!(
        state(vec![stored(true, 3600), refused.into()]),
        (false, true)
    );
    assert_eq!(state(vec![stored(false, 60)]), (false, true));
    assert_eq!(state(vec![stored(false, 61)]), (true, false));
    // A worker refreshes these tokens.
    assert_eq!(state(vec![stored(true, 60)]), (true, false));
}

#[test]
fn only_a_google_server_has_google_tokens() {
    let env = BTreeMap::from([(google::MARK.0.to_owned(), google::MARK.1.to_owned())]);
    let connected = GoogleConnected {
        server: ID,
        server_name: name("crm"),
        user: name("ana"),
        value: value(),
    };
    let view = connection(stdio(env.clone()), []);
    assert_eq!(
        view["google"],
        json!({
            "connected": false, "scopes": null, "expiresAt": null, "needsReauthorization": false,
        })
    );
    assert_eq!(view["oauth"], Value::Null);
    let view = connection(stdio(env), [connected.into()]);
    assert_eq!(view["google"]["connected"], true);
    assert_eq!(
        connection(stdio(BTreeMap::new()), [])["google"],
        Value::Null
    );
}
