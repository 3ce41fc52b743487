//! Unit tests of the fold.

use uuid::Uuid;

use super::*;
use crate::core::event::{
    Actor, Commit, DeadLetterStored, GoogleConnected, GrantRefreshStarted, IdempotencyRecorded,
    JobAccepted, JobFinished, JobStarted, PackageInstalled, PackageLatestFound, PackageUpgraded,
    SecretDeleted, SecretSet, ServerDeleted, ServerDescribed, ServerDisabled, ServerEnabled,
    ServerProtocolDetected, ServerSessionEnded, ServerSessionOpened, ServerToolsDiscovered,
    ServerUpdated, StoredEvent,
};
use crate::core::ids::{CommandId, Digest, JobId, WorkerId};
use crate::core::model::dead_letter::DeadLetter;
use crate::core::model::description::RawObject;
use crate::core::model::grant::GrantTokens;
use crate::core::model::idempotency::{IdempotencyKey, IdempotencyRecord};
use crate::core::model::job::JobState;
use crate::core::model::package::{Package, Source};
use crate::core::model::remote::ProtocolMode;
use crate::core::model::server::Transport;
use crate::core::model::tool::Tool;

const SERVER: ServerId = ServerId(Uuid::from_u128(1));

fn value(number: u128) -> ValueId {
    ValueId(Uuid::from_u128(number))
}

fn parse<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("a name")
}

fn name() -> ServerName {
    parse("memory")
}

fn remote_config(url: &str) -> ServerConfig {
    ServerConfig::new(Transport::StreamableHttp(Remote::new(url)))
}

pub(super) fn registered() -> Event {
    ServerRegistered {
        server: SERVER,
        name: name(),
        config: remote_config("https://h/mcp"),
        enabled: true,
    }
    .into()
}

pub(super) fn updated(url: &str) -> Event {
    ServerUpdated {
        server: SERVER,
        name: name(),
        config: remote_config(url),
    }
    .into()
}

fn enabled() -> Event {
    ServerEnabled {
        server: SERVER,
        name: name(),
    }
    .into()
}

pub(super) fn disabled() -> Event {
    ServerDisabled {
        server: SERVER,
        name: name(),
    }
    .into()
}

fn protocol_detected() -> Event {
    ServerProtocolDetected {
        server: SERVER,
        name: name(),
        protocol: ProtocolMode::Session,
        fencing_token: None,
    }
    .into()
}

fn session_opened(number: u128) -> Event {
    ServerSessionOpened {
        server: SERVER,
        name: name(),
        value: value(number),
        fencing_token: None,
    }
    .into()
}

fn session_ended(number: u128) -> Event {
    ServerSessionEnded {
        server: SERVER,
        name: name(),
        value: value(number),
        fencing_token: None,
    }
    .into()
}

fn grant_stored(user: Option<&str>, access: u128) -> Event {
    GrantStored {
        server: SERVER,
        server_name: name(),
        user: user.map(parse),
        tokens: GrantTokens::new(value(access), value(access + 1), true, 0, Some(60)),
    }
    .into()
}

fn secret_set(user: &str, secret: &str, number: u128) -> Event {
    SecretSet {
        server: SERVER,
        server_name: name(),
        user: Some(parse(user)),
        name: parse(secret),
        value: value(number),
    }
    .into()
}

fn tools_discovered() -> Event {
    let raw = serde_json::value::RawValue::from_string("{ \"name\" : \"a\" }".into());
    let tools = Tools::new(vec![Tool::from(raw.expect("JSON"))]);
    ServerToolsDiscovered {
        server: SERVER,
        name: name(),
        digest: tools.digest,
        tools: tools.tools,
        fencing_token: None,
    }
    .into()
}

pub(super) fn described() -> Event {
    let object = |text: &str| RawObject::parse(text.into());
    ServerDescribed {
        server: SERVER,
        name: name(),
        digest: "d1".into(),
        capabilities: object("{ \"tools\" : {} }"),
        server_info: object("{\"name\":\"memory\"}"),
        instructions: Some("Read first".into()),
        protocol_version: Some("2025-11-25".into()),
        fencing_token: Some(3),
    }
    .into()
}

fn package(version: &str) -> Package {
    Package {
        name: parse("mcp-memory"),
        version: version.into(),
        source: Source::Node,
        recipe: None,
    }
}

fn job_accepted(number: u128) -> Event {
    JobAccepted {
        job: JobId(Uuid::from_u128(number)),
        user: parse("ana"),
        command: "tools.call".into(),
        server: Some(name()),
        tool: Some(parse("a")),
        arguments: value(100 + number),
        token: None,
        key: Some(
            IdempotencyKey {
                scope: Digest(Uuid::from_u128(number)),
                body: Digest(Uuid::from_u128(7)),
                user: None,
            }
            .into(),
        ),
    }
    .into()
}

pub(super) fn job_started(number: u128) -> Event {
    JobStarted {
        job: JobId(Uuid::from_u128(number)),
        attempt: 1,
        worker: WorkerId(Uuid::from_u128(9)),
    }
    .into()
}

pub(super) fn job_finished(number: u128) -> Event {
    JobFinished {
        job: JobId(Uuid::from_u128(number)),
        state: JobState::Succeeded,
        answer: Some(value(200 + number)),
        until: 1000,
    }
    .into()
}

/// Folds the events, each at a position of its own.
pub(super) fn catalog(events: impl IntoIterator<Item = Event>) -> Catalog {
    let mut catalog = Catalog::default();
    for event in events {
        catalog.position = catalog.position.next();
        catalog.apply(&event);
    }
    catalog
}

pub(super) fn server(catalog: &Catalog) -> &Server {
    catalog.server("memory").expect("a server")
}

/// Returns a catalog with a value of every kind.
pub(super) fn full_catalog() -> Catalog {
    let installed = PackageInstalled {
        server: SERVER,
        name: name(),
        package: package("1.0.0"),
        at: 5,
    };
    let connected = GoogleConnected {
        server: SERVER,
        server_name: name(),
        user: parse("ana"),
        value: value(30),
    };
    let dead_letter = DeadLetter {
        dead_letter: value(40),
        id: "1".into(),
        command: "tools.dance".into(),
        reason: "The command is unknown".into(),
        size: 2,
        until: 9,
    };
    let record = IdempotencyRecord {
        scope: Digest(Uuid::from_u128(50)),
        body: Digest(Uuid::from_u128(51)),
        command: CommandId(Uuid::from_u128(52)),
        until: 53,
        user: None,
    };
    catalog([
        registered(),
        installed.into(),
        protocol_detected(),
        grant_stored(None, 10),
        grant_stored(Some("ana"), 12),
        session_opened(14),
        tools_discovered(),
        described(),
        secret_set("ana", "TOKEN", 20),
        secret_set("ben", "TOKEN", 21),
        connected.into(),
        job_accepted(1),
        job_accepted(2),
        job_started(2),
        job_accepted(3),
        job_started(3),
        job_finished(3),
        DeadLetterStored { dead_letter }.into(),
        IdempotencyRecorded { request: record }.into(),
    ])
}

#[test]
fn a_server_is_found_by_its_name_and_by_its_id() {
    let catalog = catalog([registered()]);
    assert_eq!(server(&catalog).id, SERVER);
    let by_id = catalog.server_by_id(SERVER).expect("a server");
    assert_eq!(by_id.name, name());
    assert!(catalog.is_enabled(SERVER) && catalog.server("time").is_none());
}

#[test]
fn an_update_restarts_the_server_and_a_finding_does_not() {
    let catalog = catalog([
        registered(),
        updated("https://h/mcp"),
        protocol_detected(),
        session_opened(1),
        secret_set("ana", "TOKEN", 2),
    ]);
    assert_eq!(server(&catalog).changed, Position(2));
    assert_eq!(catalog.servers_changed, Position(2));
    assert_eq!(catalog.position, Position(5));
}

#[test]
fn another_url_ends_the_session_and_forgets_the_protocol() {
    let catalog = catalog([
        registered(),
        protocol_detected(),
        session_opened(1),
        grant_stored(Some("ana"), 10),
        updated("https://h/other"),
    ]);
    let server = server(&catalog);
    assert_eq!((server.protocol, server.session), (None, None));
    assert!(server.grant(Some(&parse("ana"))).is_some());
}

#[test]
fn another_origin_ends_all_grants() {
    let catalog = catalog([
        registered(),
        grant_stored(None, 10),
        grant_stored(Some("ana"), 12),
        updated("https://other/mcp"),
    ]);
    let server = server(&catalog);
    assert!(server.grant.is_none() && server.user_grants.is_empty());
    assert!(catalog.values().is_empty());
}

#[test]
fn an_update_of_the_same_url_keeps_session_protocol_and_grants() {
    let catalog = catalog([
        registered(),
        protocol_detected(),
        grant_stored(None, 10),
        session_opened(1),
        updated("https://h/mcp"),
    ]);
    let server = server(&catalog);
    assert_eq!(server.session, Some(value(1)));
    assert!(server.protocol.is_some() && server.grant.is_some());
}

#[test]
fn a_new_grant_for_all_users_ends_the_session() {
    let catalog = catalog([registered(), session_opened(1), grant_stored(None, 10)]);
    assert_eq!(server(&catalog).session, None);
}

#[test]
fn only_the_end_of_the_current_session_ends_it() {
    let catalog = catalog([
        registered(),
        session_opened(1),
        session_opened(2),
        session_ended(1),
    ]);
    assert_eq!(server(&catalog).session, Some(value(2)));
}

#[test]
fn the_start_of_an_earlier_refresh_does_not_touch_new_tokens() {
    let started = GrantRefreshStarted {
        server: SERVER,
        server_name: name(),
        user: None,
        access: value(10),
    };
    let catalog = catalog([
        registered(),
        grant_stored(None, 10),
        grant_stored(None, 12),
        started.into(),
    ]);
    let grant = server(&catalog).grant.expect("a grant");
    assert_eq!(grant.state, GrantState::Good);
}

#[test]
fn enabling_disabling_and_new_tools_change_the_tool_list() {
    for (event, restarts) in [
        (enabled(), true),
        (disabled(), true),
        (tools_discovered(), false),
    ] {
        let catalog = catalog([registered(), event]);
        assert_eq!(catalog.tools_changed, Position(2));
        assert_eq!(catalog.servers_changed == Position(2), restarts);
    }
}

#[test]
fn the_last_secret_of_a_user_leaves_no_entry() {
    let deleted = SecretDeleted {
        server: SERVER,
        server_name: name(),
        user: Some(parse("ana")),
        name: parse("TOKEN"),
        value: value(2),
    };
    let catalog = catalog([registered(), secret_set("ana", "TOKEN", 2), deleted.into()]);
    assert!(server(&catalog).secrets.is_empty());
}

#[test]
fn an_upgrade_keeps_the_time_of_the_installation() {
    let installed = PackageInstalled {
        server: SERVER,
        name: name(),
        package: package("1.0.0"),
        at: 5,
    };
    let latest = PackageLatestFound {
        server: SERVER,
        name: name(),
        latest: "2.0.0".into(),
    };
    let upgraded = PackageUpgraded {
        server: SERVER,
        name: name(),
        package: package("2.0.0"),
        at: 9,
    };
    let catalog = catalog([
        registered(),
        installed.into(),
        latest.into(),
        upgraded.into(),
    ]);
    let package = server(&catalog).package.clone().expect("a package");
    assert_eq!((package.installed, package.upgraded), (5, Some(9)));
    assert!(!package.update_available());
}

#[test]
fn a_deleted_server_leaves_nothing() {
    let deleted = ServerDeleted {
        server: SERVER,
        name: name(),
    };
    let catalog = catalog([
        registered(),
        grant_stored(None, 10),
        secret_set("ana", "TOKEN", 20),
        deleted.into(),
    ]);
    assert!(catalog.servers().is_empty() && catalog.values().is_empty());
    assert!(catalog.server_by_id(SERVER).is_none());
}

#[test]
fn the_vault_keeps_every_value_that_the_catalog_names() {
    let mut values: Vec<_> = full_catalog()
        .values()
        .iter()
        .map(|value| value.0.as_u128())
        .collect();
    values.sort_unstable();
    // Grants, session, secrets, Google tokens, dead letter, arguments of jobs 1 and 2, answer of job 3.
    assert_eq!(values, [10, 11, 12, 13, 14, 20, 21, 30, 40, 101, 102, 203]);
}

#[test]
fn the_job_table_counts_waiting_and_running_jobs() {
    let catalog = full_catalog();
    assert_eq!((catalog.jobs.waiting(), catalog.jobs.running()), (1, 1));
    let worker = WorkerId(Uuid::from_u128(9));
    let running: Vec<_> = catalog.jobs.running_on(worker).map(|job| job.id).collect();
    assert_eq!(running, [JobId(Uuid::from_u128(2))]);
    assert_eq!(catalog.jobs.newest_first().count(), 3);
    let before = catalog.jobs.before(JobId(Uuid::from_u128(2)));
    assert_eq!(before.count(), 1);
}

#[test]
fn an_unknown_event_leaves_the_catalog_unchanged() {
    let unknown = StoredEvent {
        type_name: "server.danced".into(),
        v: 1,
        subject: "server/memory".into(),
        data: serde_json::value::RawValue::from_string("{}".into()).expect("JSON"),
    };
    let known = registered().encode().expect("an event");
    let entry = Entry {
        position: Position(1),
        at: 0,
        commits: vec![Commit {
            command_id: CommandId(Uuid::nil()),
            actor: Actor::default(),
            events: vec![known, unknown],
        }],
    };
    let mut catalog = Catalog::default();
    assert!(catalog.fold(&entry).is_err());
    assert_eq!(catalog.position, Position(0));
    assert!(catalog.servers().is_empty());
}

#[test]
fn an_event_about_an_unknown_server_changes_nothing() {
    let catalog = catalog([enabled(), session_opened(1), secret_set("ana", "TOKEN", 2)]);
    assert!(catalog.servers().is_empty() && catalog.values().is_empty());
}
