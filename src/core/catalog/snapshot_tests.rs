//! Unit tests of snapshots.

use serde_json::Value;
use uuid::Uuid;

use super::tests::{disabled, full_catalog, job_finished, job_started, updated};
use super::*;
use crate::core::ids::Digest;
use crate::core::model::job::JobState;

fn snapshot(catalog: &Catalog) -> Vec<Vec<u8>> {
    catalog
        .snapshot()
        .collect::<Result<_, _>>()
        .expect("a snapshot")
}

#[test]
fn a_snapshot_restores_the_same_catalog() {
    let catalog = full_catalog();
    let parts = snapshot(&catalog);
    let mut restored = Catalog::default();
    let is_last: Vec<_> = parts
        .iter()
        .map(|part| restored.restore_part(part).expect("a part"))
        .collect();
    assert_eq!(is_last.iter().position(|last| *last), Some(parts.len() - 1));
    assert_eq!(snapshot(&restored), parts);
    assert_eq!(restored.values(), catalog.values());
    assert_eq!(restored.position, catalog.position);
    assert_eq!((restored.jobs.waiting(), restored.jobs.running()), (1, 1));
    let key = restored.jobs.find_by_key(Digest(Uuid::from_u128(3)));
    assert_eq!(key.map(|job| job.state()), Some(JobState::Succeeded));
    assert_eq!(restored.jobs.expired(1000, 9).len(), 1);
    assert_eq!(restored.dead_letters.len(), 1);
    assert_eq!(restored.idempotency.all().count(), 1);
}

#[test]
fn a_catalog_goes_on_after_a_snapshot_as_without_it() {
    let mut restored = Catalog::default();
    for part in snapshot(&full_catalog()) {
        restored.restore_part(&part).expect("a part");
    }
    let mut original = full_catalog();
    for event in [
        job_finished(2),
        job_started(1),
        disabled(),
        updated("https://x/"),
    ] {
        for catalog in [&mut original, &mut restored] {
            catalog.position = catalog.position.next();
            catalog.apply(&event);
        }
    }
    assert_eq!(snapshot(&restored), snapshot(&original));
}

/// The parts of the beginnings that each fold version stored, each on one line. A shortened log has no entries
/// that could replace a beginning, so a sample is never edited. A new fold version gets another
/// sample, and the earlier ones must still restore.
const BEGINNINGS: [&str; 4] = [
    include_str!("beginning.v10.jsonl"),
    include_str!("beginning.v11.jsonl"),
    include_str!("beginning.v12.jsonl"),
    include_str!("beginning.v13.jsonl"),
];

/// Returns whether a value has everything that the other value has.
fn includes(value: &Value, part: &Value) -> bool {
    match (value, part) {
        (Value::Object(fields), Value::Object(parts)) => parts
            .iter()
            .all(|(name, part)| fields.get(name).is_some_and(|field| includes(field, part))),
        (Value::Array(values), Value::Array(parts)) => {
            values.len() == parts.len()
                && values
                    .iter()
                    .zip(parts)
                    .all(|(value, part)| includes(value, part))
        }
        _ => value == part,
    }
}

/// Restores the lines and stores the catalog again. Every part of the sample must be there.
fn assert_restored(beginning: &str, lines: impl Iterator<Item = String>) {
    let mut restored = Catalog::default();
    for line in lines {
        restored.restore_part(line.as_bytes()).expect("a part");
    }
    let stored: Vec<Value> = snapshot(&restored)
        .iter()
        .map(|part| serde_json::from_slice(part).expect("JSON"))
        .collect();
    for line in beginning.lines() {
        let part: Value = serde_json::from_str(line).expect("JSON");
        let is_stored = stored.iter().any(|stored| includes(stored, &part));
        assert!(is_stored, "the catalog has lost {part}");
    }
}

#[test]
fn a_stored_beginning_restores_after_every_change_of_the_catalog() {
    for beginning in BEGINNINGS {
        assert_restored(beginning, beginning.lines().map(str::to_owned));
    }
    let message = "add a sample of the new version, with each optional part, beside this sample";
    assert_eq!(FOLD_VERSION, 13, "{message}");
}

#[test]
fn a_beginning_with_unknown_fields_restores() {
    for beginning in BEGINNINGS {
        let lines = beginning.lines();
        let lines = lines.map(|line| line.replacen(":{", r#":{"unknown":[1],"#, 1));
        assert_restored(beginning, lines);
    }
}

#[test]
fn a_text_that_is_no_part_is_refused() {
    for text in [&b"{"[..], b"{}", br#"{"server":{}}"#] {
        assert!(Catalog::default().restore_part(text).is_err());
    }
}
