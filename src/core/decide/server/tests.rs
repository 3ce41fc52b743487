//! Unit tests of the decisions about servers.

use super::*;
use crate::core::decide::testing::given;
use crate::core::decide::testing::samples::*;
use crate::core::event::{PackageRemoved, ServerSessionEnded};
use crate::core::ids::ServerId;
use crate::core::model::description::ServerDescription;
use crate::core::model::remote::{HeaderValue, Remote};
use crate::core::model::server::{Replicas, ServerChange, ServerConfig, Transport};

fn register(server: &str, config: ServerConfig) -> RegisterServer {
    RegisterServer {
        origin: origin(1),
        server: server_id(server),
        name: name(server),
        config,
        enabled: true,
        session: None,
        sealed: vec![],
    }
}

fn update(server: &str, change: &str) -> UpdateServer {
    let change: ServerChange = serde_json::from_str(change).expect("an update");
    UpdateServer {
        origin: origin(1),
        name: name(server),
        change,
        server: None,
        sealed: vec![],
    }
}

fn updated(server: &str, config: ServerConfig) -> Event {
    ServerUpdated {
        server: server_id(server),
        name: name(server),
        config,
    }
    .into()
}

fn enabled(server: &str) -> Event {
    ServerEnabled {
        server: server_id(server),
        name: name(server),
    }
    .into()
}

fn disabled(server: &str) -> Event {
    ServerDisabled {
        server: server_id(server),
        name: name(server),
    }
    .into()
}

fn deleted(server: &str) -> Event {
    ServerDeleted {
        server: server_id(server),
        name: name(server),
    }
    .into()
}

fn opened(server: &str, number: u128) -> Event {
    ServerSessionOpened {
        server: server_id(server),
        name: name(server),
        value: value(number),
        fencing_token: None,
    }
    .into()
}

fn ended(server: &str, number: u128) -> Event {
    ServerSessionEnded {
        server: server_id(server),
        name: name(server),
        value: value(number),
        fencing_token: None,
    }
    .into()
}

/// Returns an endpoint with a sealed header (7) and a sealed user info (8).
fn with_credentials(url: &str) -> ServerConfig {
    let mut remote = Remote::new(url);
    remote.user_info = Some(value(8));
    remote
        .headers
        .insert("X-Key".into(), HeaderValue::Sealed { sealed: value(7) });
    ServerConfig::new(Transport::StreamableHttp(remote))
}

#[test]
fn a_new_server_is_registered() {
    let catalog = given([])
        .when(|catalog| register_server(catalog, &register("memory", stdio_config("npx"))))
        .then([server_registered("memory")]);
    let server = catalog.server("memory").expect("a server");
    assert!(server.enabled && server.id == server_id("memory"));
}

#[test]
fn a_server_can_be_registered_with_a_session() {
    let command = RegisterServer {
        session: Some(value(5)),
        ..register("memory", remote_config(URL))
    };
    let catalog = given([])
        .when(|catalog| register_server(catalog, &command))
        .then([remote_registered("memory"), opened("memory", 5)]);
    let server = catalog.server("memory").expect("a server");
    assert_eq!(server.session, Some(value(5)));
}

#[test]
fn a_second_server_of_the_same_name_is_a_conflict() {
    given([server_registered("memory")])
        .when(|catalog| register_server(catalog, &register("memory", stdio_config("npx"))))
        .then_fails_with(Code::ServerAlreadyExists);
}

#[test]
fn a_server_with_a_bad_configuration_is_refused() {
    for config in [
        stdio_config(" "),
        remote_config("ftp://h"),
        ServerConfig {
            tool_timeout: Some(0),
            ..stdio_config("npx")
        },
    ] {
        given([])
            .when(|catalog| register_server(catalog, &register("memory", config)))
            .then_fails_with(Code::InvalidRequest);
    }
}

#[test]
fn an_update_replaces_the_configuration() {
    let config = ServerConfig {
        replicas: Replicas::Each,
        ..stdio_config("uvx")
    };
    let change = r#"{"command":"uvx","replicas":"each"}"#;
    let catalog = given([server_registered("memory")])
        .when(|catalog| update_server(catalog, &update("memory", change)))
        .then([updated("memory", config)]);
    let server = catalog.server("memory").expect("a server");
    assert_eq!(server.exclusive_id(), None);
}

#[test]
fn a_repeated_update_changes_nothing() {
    for change in ["{}", r#"{"command":"npx"}"#, r#"{"enabled":true}"#] {
        given([server_registered("memory")])
            .when(|catalog| update_server(catalog, &update("memory", change)))
            .then_nothing();
    }
}

#[test]
fn an_update_of_an_unknown_server_fails() {
    given([])
        .when(|catalog| update_server(catalog, &update("memory", "{}")))
        .then_fails_with(Code::ServerNotFound);
}

#[test]
fn an_update_that_breaks_a_rule_is_refused() {
    for change in [
        r#"{"command":""}"#,
        r#"{"toolTimeout":0}"#,
        r#"{"url":"https://h/"}"#,
    ] {
        given([server_registered("memory")])
            .when(|catalog| update_server(catalog, &update("memory", change)))
            .then_fails_with(Code::InvalidRequest);
    }
}

#[test]
fn credentials_of_an_earlier_registration_are_a_conflict() {
    let command = UpdateServer {
        server: Some(ServerId(uuid(99))),
        ..update("memory", r#"{"command":"uvx"}"#)
    };
    given([server_registered("memory")])
        .when(|catalog| update_server(catalog, &command))
        .then_fails_with(Code::Conflict);
}

#[test]
fn an_update_enables_and_disables_a_server() {
    given([server_registered("memory"), disabled("memory")])
        .when(|catalog| update_server(catalog, &update("memory", r#"{"enabled":true}"#)))
        .then([enabled("memory")]);
    given([server_registered("memory")])
        .when(|catalog| update_server(catalog, &update("memory", r#"{"enabled":false}"#)))
        .then([disabled("memory")]);
}

#[test]
fn a_new_session_restarts_the_server() {
    let change = format!(r#"{{"session":"{}"}}"#, value(6));
    given([remote_registered("memory"), opened("memory", 5)])
        .when(|catalog| update_server(catalog, &update("memory", &change)))
        .then([updated("memory", remote_config(URL)), opened("memory", 6)]);
}

#[test]
fn null_ends_the_session() {
    given([remote_registered("memory"), opened("memory", 5)])
        .when(|catalog| update_server(catalog, &update("memory", r#"{"session":null}"#)))
        .then([updated("memory", remote_config(URL)), ended("memory", 5)]);
    given([remote_registered("memory")])
        .when(|catalog| update_server(catalog, &update("memory", r#"{"session":null}"#)))
        .then_nothing();
}

#[test]
fn another_origin_gets_no_stored_credential() {
    let failure = given([registered("memory", with_credentials("https://***@h/mcp"))])
        .when(|catalog| {
            let change = r#"{"url":"https://***@evil/mcp"}"#;
            update_server(catalog, &update("memory", change))
        })
        .then_fails_with(Code::InvalidRequest);
    assert!(failure.message.contains("headers.X-Key"), "{failure}");
    assert!(failure.message.contains("user info"), "{failure}");
}

#[test]
fn another_origin_gets_the_credentials_of_the_same_update() {
    let change = format!(
        r#"{{"url":"https://***@new/","userInfo":"{}","headers":{{"X-Key":{{"sealed":"{}"}}}}}}"#,
        value(10),
        value(9)
    );
    let catalog = given([registered("memory", with_credentials("https://***@h/mcp"))])
        .when(|catalog| update_server(catalog, &update("memory", &change)));
    let mut remote = Remote::new("https://***@new/");
    remote.user_info = Some(value(10));
    remote
        .headers
        .insert("X-Key".into(), HeaderValue::Sealed { sealed: value(9) });
    let config = ServerConfig::new(Transport::StreamableHttp(remote));
    let catalog = catalog.then([updated("memory", config)]);
    assert!(!catalog.values().contains(&value(7)));
}

#[test]
fn another_path_of_the_same_origin_keeps_credentials() {
    let change = r#"{"url":"https://***@h/other"}"#;
    given([registered("memory", with_credentials("https://***@h/mcp"))])
        .when(|catalog| update_server(catalog, &update("memory", change)))
        .then([updated("memory", with_credentials("https://***@h/other"))]);
}

#[test]
fn enabling_an_enabled_server_restarts_it() {
    let command = EnableServer {
        origin: origin(1),
        name: name("memory"),
    };
    let catalog = given([server_registered("memory")])
        .when(|catalog| enable_server(catalog, &command))
        .then([enabled("memory")]);
    let server = catalog.server("memory").expect("a server");
    assert_eq!(server.changed, catalog.position);
    given([])
        .when(|catalog| enable_server(catalog, &command))
        .then_fails_with(Code::ServerNotFound);
}

#[test]
fn a_disabled_server_is_disabled_once() {
    let command = DisableServer {
        origin: origin(1),
        name: name("memory"),
    };
    given([server_registered("memory")])
        .when(|catalog| disable_server(catalog, &command))
        .then([disabled("memory")]);
    given([server_registered("memory"), disabled("memory")])
        .when(|catalog| disable_server(catalog, &command))
        .then_nothing();
    given([])
        .when(|catalog| disable_server(catalog, &command))
        .then_fails_with(Code::ServerNotFound);
}

fn delete(server: &str) -> DeleteServer {
    DeleteServer {
        origin: origin(1),
        name: name(server),
    }
}

#[test]
fn a_deleted_server_leaves_no_value() {
    let catalog = given([
        server_registered("memory"),
        secret_set("memory", "ana", "TOKEN", 4),
    ])
    .when(|catalog| delete_server(catalog, &delete("memory")))
    .then([deleted("memory")]);
    assert!(catalog.server("memory").is_none() && catalog.values().is_empty());
}

#[test]
fn a_deleted_server_takes_its_package_with_it() {
    let removed = PackageRemoved {
        server: server_id("memory"),
        name: name("memory"),
    };
    given([
        server_registered("memory"),
        package_installed("memory", "1.0.0"),
    ])
    .when(|catalog| delete_server(catalog, &delete("memory")))
    .then([removed.into(), deleted("memory")]);
}

#[test]
fn an_unknown_server_cannot_be_deleted() {
    given([server_registered("memory")])
        .when(|catalog| delete_server(catalog, &delete("time")))
        .then_fails_with(Code::ServerNotFound);
}

#[test]
fn a_new_registration_inherits_nothing() {
    let command = RegisterServer {
        server: ServerId(uuid(99)),
        ..register("memory", stdio_config("npx"))
    };
    let event = ServerRegistered {
        server: ServerId(uuid(99)),
        name: name("memory"),
        config: stdio_config("npx"),
        enabled: true,
    };
    let catalog = given([
        server_registered("memory"),
        secret_set("memory", "ana", "TOKEN", 4),
        deleted("memory"),
    ])
    .when(|catalog| register_server(catalog, &command))
    .then([event.into()]);
    let server = catalog.server("memory").expect("a server");
    assert!(server.secrets_of("ana").is_empty());
    assert!(catalog.server_by_id(server_id("memory")).is_none());
}

fn record(server: &str, texts: &[&str]) -> RecordTools {
    RecordTools {
        server: server_id(server),
        tools: tools(texts),
        fencing_token: None,
    }
}

/// Returns the tools that the owner with this fencing token has listed.
fn record_as(texts: &[&str], token: u64) -> RecordTools {
    RecordTools {
        fencing_token: Some(token),
        ..record("memory", texts)
    }
}

#[test]
fn a_former_owner_records_no_tools() {
    let first = [r#"{"name":"a"}"#];
    let second = [r#"{"name":"b"}"#];
    let catalog = given([server_registered("memory")]).catalog;
    let events = record_tools(&catalog, &record_as(&first, 7));
    let catalog = given([server_registered("memory")].into_iter().chain(events)).catalog;
    assert!(record_tools(&catalog, &record_as(&second, 6)).is_empty());
    assert_eq!(record_tools(&catalog, &record_as(&second, 7)).len(), 1);
    assert_eq!(record_tools(&catalog, &record("memory", &second)).len(), 1);
}

#[test]
fn new_tools_are_recorded() {
    let tools = [r#"{"name":"a"}"#];
    given([server_registered("memory")])
        .when(|catalog| record_tools(catalog, &record("memory", &tools)))
        .then([tools_discovered("memory", &tools)]);
}

#[test]
fn the_same_tools_in_another_order_change_nothing() {
    let recorded = [r#"{"name":"a"}"#, r#"{"name":"b"}"#];
    let reported = [r#"{"name":"b"}"#, r#"{"name":"a"}"#];
    given([
        server_registered("memory"),
        tools_discovered("memory", &recorded),
    ])
    .when(|catalog| record_tools(catalog, &record("memory", &reported)))
    .then_nothing();
}

#[test]
fn the_tools_of_a_deleted_server_are_not_recorded() {
    given([server_registered("memory"), deleted("memory")])
        .when(|catalog| record_tools(catalog, &record("memory", &[r#"{"name":"a"}"#])))
        .then_nothing();
}

fn describe(server: &str, instructions: Option<&str>, token: Option<u64>) -> RecordDescription {
    let instructions = instructions.map(str::to_owned);
    RecordDescription {
        server: server_id(server),
        description: ServerDescription::new(None, None, instructions, Some("2025-11-25".into())),
        fencing_token: token,
    }
}

fn described(server: &str, instructions: Option<&str>) -> Event {
    let description = describe(server, instructions, None).description;
    ServerDescribed {
        server: server_id(server),
        name: name(server),
        digest: description.digest,
        capabilities: None,
        server_info: None,
        instructions: description.instructions,
        protocol_version: description.protocol_version,
        fencing_token: None,
    }
    .into()
}

#[test]
fn a_description_is_recorded_once() {
    let command = describe("memory", Some("Read first"), None);
    let catalog = given([server_registered("memory")])
        .when(|catalog| record_description(catalog, &command))
        .then([described("memory", Some("Read first"))]);
    let server = catalog.server("memory").expect("a server");
    let recorded = server.description.as_deref().expect("a description");
    assert_eq!(*recorded, command.description);
    assert!(record_description(&catalog, &command).is_empty());
}

#[test]
fn another_description_replaces_the_recorded_one() {
    given([
        server_registered("memory"),
        described("memory", Some("Read first")),
    ])
    .when(|catalog| record_description(catalog, &describe("memory", None, None)))
    .then([described("memory", None)]);
}

#[test]
fn a_former_owner_records_no_description() {
    let catalog = given([server_registered("memory")]).catalog;
    let events = record_description(&catalog, &describe("memory", Some("a"), Some(7)));
    let catalog = given([server_registered("memory")].into_iter().chain(events)).catalog;
    for (token, count) in [(Some(6), 0), (Some(7), 1), (None, 1)] {
        let command = describe("memory", Some("b"), token);
        assert_eq!(record_description(&catalog, &command).len(), count);
    }
}

#[test]
fn the_description_of_a_deleted_server_is_not_recorded() {
    given([server_registered("memory"), deleted("memory")])
        .when(|catalog| record_description(catalog, &describe("memory", None, None)))
        .then_nothing();
}
