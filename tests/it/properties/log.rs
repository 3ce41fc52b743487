//! Stored events: reading any entry of the log gives an event or an error.

use proptest::prelude::*;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{cases, json, nearly_json};
use crate::samples::{entry, restored, snapshot};
use crate::schemas::history::samples;
use mcp_api::core::catalog::Catalog;
use mcp_api::core::event::{Event, StoredEvent};

/// Decodes a commit, and folds and stores the decoded events again.
fn digest(stored: StoredEvent) {
    let Ok(event) = Event::decode(&stored) else {
        return;
    };
    let again = event.encode().expect("encoded");
    assert_eq!(
        Event::decode(&again).expect("what we write we can read"),
        event
    );
    let _ = (
        event.subject(),
        mcp_api::core::event::public::public_data(&stored),
    );
    let mut catalog = Catalog::default();
    let commit = crate::samples::commit(crate::samples::command_id(), &[event]);
    catalog.fold(&entry(1, vec![commit])).expect("folded");
    let stored = snapshot(&catalog);
    let restored = restored(&stored).expect("a catalogue");
    assert_eq!(snapshot(&restored), stored);
}

/// A sample in which one value is replaced or missing.
fn mutated() -> impl Strategy<Value = Value> {
    let stored: Vec<Value> = samples()
        .iter()
        .map(|event| serde_json::to_value(event).expect("JSON"))
        .collect();
    let change = prop::option::weighted(0.8, json());
    (
        prop::sample::select(stored),
        any::<prop::sample::Index>(),
        change,
    )
        .prop_map(|(mut stored, at, change)| {
            let mut paths = Vec::new();
            collect(&stored, String::new(), &mut paths);
            let path = at.get(&paths);
            match (change, path.rsplit_once('/')) {
                (Some(other), _) => *stored.pointer_mut(path).expect("a place") = other,
                (None, Some((above, name))) => match stored.pointer_mut(above) {
                    Some(Value::Object(map)) => drop(map.remove(name)),
                    Some(Value::Array(list)) => drop(list.pop()),
                    _ => {}
                },
                (None, None) => {}
            }
            stored
        })
}

fn collect(value: &Value, path: String, into: &mut Vec<String>) {
    match value {
        Value::Object(map) => map
            .iter()
            .for_each(|(name, value)| collect(value, format!("{path}/{name}"), into)),
        Value::Array(list) => list
            .iter()
            .enumerate()
            .for_each(|(n, v)| collect(v, format!("{path}/{n}"), into)),
        _ => {}
    }
    into.push(path);
}

proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn a_mutated_event_is_an_event_or_a_reason(event in mutated()) {
        if let Ok(stored) = serde_json::from_value::<StoredEvent>(event) {
            digest(stored);
        }
    }

    #[test]
    fn unknown_fields_are_ignored(event in prop::sample::select(samples()), more in json()) {
        // Compares the text, because the order of members belongs to the tool.
        let data = event.data.get().replacen('{', &format!("{{\"aFieldOfALaterVersion\":{more},"), 1);
        let data = RawValue::from_string(data).expect("JSON");
        let known = Event::decode(&event).expect("an event");
        prop_assert_eq!(Event::decode(&StoredEvent { data, ..event }).expect("still one"), known);
    }

    #[test]
    fn any_json_is_an_event_or_a_reason(event in prop::sample::select(samples()), data in json()) {
        digest(StoredEvent { data: serde_json::value::to_raw_value(&data).expect("JSON"), ..event });
    }

    #[test]
    fn any_bytes_are_a_snapshot_or_refused(bytes in nearly_json()) {
        let _ = restored(&bytes);
    }
}
