//! Unit tests of snapshots.

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

#[test]
fn a_text_that_is_no_part_is_refused() {
    for text in [&b"{"[..], b"{}", br#"{"server":{}}"#] {
        assert!(Catalog::default().restore_part(text).is_err());
    }
}
