//! Events and commits as tests need them.

use serde_json::json;
use uuid::Uuid;

use mcp_api::core::catalog::Catalog;
use mcp_api::core::event::{
    Actor, Commit, Entry, Event, SecretSet, ServerDisabled, ServerEnabled, ServerRegistered,
};
use mcp_api::core::ids::{CommandId, Position, ServerId, ValueId};
use mcp_api::core::model::server::ServerConfig;

pub fn command_id() -> CommandId {
    CommandId(Uuid::now_v7())
}

pub fn value_id() -> ValueId {
    ValueId(Uuid::now_v7())
}

/// All of a catalogue, as it is stored.
pub fn snapshot(catalog: &Catalog) -> Vec<u8> {
    catalog
        .snapshot()
        .map(|text| text.expect("a text"))
        .collect::<Vec<_>>()
        .join(&0x1e)
}

/// A catalogue that was stored so.
pub fn restored(snapshot: &[u8]) -> Result<Catalog, serde_json::Error> {
    let mut catalog = Catalog::default();
    for text in snapshot.split(|byte| *byte == 0x1e) {
        catalog.restore_part(text)?;
    }
    Ok(catalog)
}

/// A server whose id follows from its number, called `server-<number>`.
pub fn server_id(number: usize) -> ServerId {
    ServerId(Uuid::from_u128(1 + number as u128))
}

pub fn config() -> ServerConfig {
    serde_json::from_value(json!({ "transportType": "stdio", "command": "true" }))
        .expect("a configuration")
}

pub fn registered(number: usize) -> Event {
    let name = format!("server-{number}").parse().expect("a name");
    ServerRegistered {
        server: server_id(number),
        name,
        config: config(),
        enabled: true,
    }
    .into()
}

pub fn enabled(number: usize, yes: bool) -> Event {
    let (server, name) = (
        server_id(number),
        format!("server-{number}").parse().expect("a name"),
    );
    if yes {
        ServerEnabled { server, name }.into()
    } else {
        ServerDisabled { server, name }.into()
    }
}

pub fn secret_set(number: usize, user: &str, name: &str) -> Event {
    SecretSet {
        server: server_id(number),
        server_name: format!("server-{number}").parse().expect("a name"),
        user: Some(user.parse().expect("a name")),
        name: name.parse().expect("a name"),
        value: value_id(),
    }
    .into()
}

/// One command's commit of these events.
pub fn commit(id: CommandId, events: &[Event]) -> Commit {
    let events = events
        .iter()
        .map(|event| event.encode().expect("an event"))
        .collect();
    Commit {
        command_id: id,
        actor: Actor::default(),
        events,
    }
}

pub fn entry(position: u64, commits: Vec<Commit>) -> Entry {
    Entry {
        position: Position(position),
        at: 1_700_000_000_000 + position,
        commits,
    }
}

/// An append of one command with one event.
pub fn small_entry(position: u64, id: CommandId) -> Entry {
    entry(position, vec![commit(id, &[registered(position as usize)])])
}
