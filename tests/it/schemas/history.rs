//! The samples of stored events: every type has a sample, and no sample is edited.

use std::collections::BTreeSet;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::samples::snapshot;
use mcp_api::core::catalog::Catalog;
use mcp_api::core::event;
use mcp_api::core::event::{Event, StoredEvent, upcast};

use super::{names_in, read};

/// The samples of `schemas/history`, in an order that folds, and the SHA-256 digests of their files.
/// A sample of a type that the upcast table converts is in [`EARLIER`].
const HISTORY: &[(&str, &str)] = &[
    (
        "server.registered.v1",
        "cd9507ea17da9bb23234ac8e8a772c6add820c8c097a55533480562d136b506d",
    ),
    (
        "server.updated.v1",
        "953b7a270de81a00428c5a3b66c741a314859af62a6decd821c9873da0f49803",
    ),
    (
        "server.tools_discovered.v1",
        "b1635db060df334e074a444b805d6498d1676eba81696640d6e463641cde1d39",
    ),
    (
        "server.described.v1",
        "3a1199a8e1ea76727a69fb4ed5b7742c349fbffd2aaca788a91c7c3424036a5d",
    ),
    (
        "server.protocol_detected.v1",
        "08549f84fd982814578505ed8d33a6e860c82e5f94856c9cd543175738eef774",
    ),
    (
        "server.session_opened.v1",
        "7ae2b10d657dfbbc2ca2826862a741ad75c48466166478dcb202ead9600e8127",
    ),
    (
        "server.session_ended.v1",
        "ad11500511e5e95a18b0e7ebb66963478bc86415327438015abdd417df5e3551",
    ),
    (
        "grant.stored.v1",
        "407bab7571dbbfe3a7b952a7f82a48aba527d46cc7d40a2b0edf5bf702507449",
    ),
    (
        "grant.refresh_started.v1",
        "1ae0cb01e008475524fca57357c3f3a9cb2d9237fced2efbd541a8b3b2641d2b",
    ),
    (
        "grant.refresh_failed.v1",
        "98dad40a37bfafe51f81480b288643573aed023216dea2e737f9583b54e5c20a",
    ),
    (
        "grant.refreshed.v1",
        "d2a4ab9a01bbd7f1082ab7ecbafabb2b7cd4961eb063185f624b3bfb37b8dc81",
    ),
    (
        "grant.removed.v1",
        "f5d6a01f62e8caec04a95289275db5e6886be2be407ed135700f3f4d83f76901",
    ),
    (
        "server.disabled.v1",
        "f8209f658e0e9a1f9f78c2449959d6b7c57d29cb34ccc991b7f38f6e4d6bdbcc",
    ),
    (
        "server.enabled.v1",
        "a161525714439392e476bc463cf42df51647b0d84280b4e822aacb3d37cc97be",
    ),
    (
        "secret.set.v1",
        "dbef0d2361c3c0ecba995feccb59f0f55611e0cb2636a43c0e595569c27574da",
    ),
    (
        "secret.deleted.v1",
        "1e04e9c443dc58ba6a2a6a3a37b8c72d29cdc157494c4634d66bf30e4271c0c0",
    ),
    (
        "job.accepted.v1",
        "2ebae92d6b494445abed414c19323ec81a9d435cd46b37457e500be9b65d98c3",
    ),
    (
        "job.started.v1",
        "601c0ac198fb87e8dcb85dd13d4d4c14451701ffe17ebcb104494cb9989d4ba0",
    ),
    (
        "job.progressed.v1",
        "e7bd32da19f02558dd70d9dbe9032fb4361bee37998972f115c49be9adf35c5e",
    ),
    (
        "job.cancel_requested.v1",
        "e99f5f9aaf1e11cd946c4ddb252c40cb93789731e0412abd0d4f45cdac187083",
    ),
    (
        "job.requeued.v1",
        "9ad30e0b4dde5f104899b3d0960d9f28fb2afd2d0acdff9edbd6ee8dcf854cb6",
    ),
    (
        "job.finished.v1",
        "eea6f6a5f122f85665705737ef5b82c17ab83abd811dcfcf9534bcedef2195da",
    ),
    (
        "job.expired.v1",
        "8f1bac0a6863777472db1f575b35c1d01b8082aef568729c3e0c490d4f3ae271",
    ),
    (
        "google.connected.v1",
        "8e812ff7782fd3f5a07079252186d518ad1f16e82d592b4e556838911e4b3d01",
    ),
    (
        "google.disconnected.v1",
        "1c5ad943402b4efaf50a7ae1288b340f60df335ec06c770ae88a4e85f2e351a1",
    ),
    (
        "dead_letter.stored.v1",
        "42e971dc8e83619b1bf0ad813b7291c778832bb0c371e2a7856e99a7d2ce7853",
    ),
    (
        "dead_letter.removed.v1",
        "08bca30aa79d360990f9e96e98a6c4aacf8a153759e81f579682cec0b6cfe963",
    ),
    (
        "idempotency.recorded.v1",
        "54c4248d8daabbfd15273beb5ad9b472c5316602098f695c029cb7155cada0da",
    ),
    (
        "idempotency.expired.v1",
        "a390ab896056b2e8925f0da46434651bbb4cb011b3717b4242ddec52a399bf3a",
    ),
    (
        "package.installed.v1",
        "0c2b2fed97fab76dc765100c96fff593891bb31aa00c14064cc18c77db7fae7c",
    ),
    (
        "package.upgraded.v1",
        "2dc289794e83667d2b7d953f2dcd033ece2ae1a28b84453ad3652c072d7ae2f8",
    ),
    (
        "package.latest_found.v1",
        "ae038e18ea0c358f5215d483aa5d921a771c7274af7daf721432b29b0b7db9e5",
    ),
    (
        "package.removed.v1",
        "5c52e415716f45df7849fd444f33c99acf9b88c425f2b1e3cb1d9c88a361b32e",
    ),
    (
        "server.deleted.v1",
        "57e7921fe0736d206229c3153869750554193df41d0fc43f7dd251f6e0dfb3a5",
    ),
    (
        "token.created.v1",
        "bf7e0c59ea31ec10b1878f04d3e36ef39bbb43a8f4c7829b06124691f9b24ad1",
    ),
    (
        "token.revoked.v1",
        "d648d8d81b2c798203ddca9c02a17d972986a9148a5509941b385a5f7694db93",
    ),
    (
        "token.removed.v1",
        "4a6a4b8b36dadeb94176f04cb00dd69bdd5fec7eaf056034386da1cf0bffff8b",
    ),
];

/// The fields that were required when their sample was stored, and that are optional now. A value without a user belongs
/// to all users.
const NOW_OPTIONAL: [(&str, &str); 2] = [("secret.set.v1", "user"), ("secret.deleted.v1", "user")];

/// The samples of types that the upcast table converts, each with the sample of its current form, and the digest.
const EARLIER: &[(&str, &str, &str)] = &[
    (
        "server.era_found.v1",
        "server.protocol_detected.v1",
        "8997a0d8e0fae151628d9bb485765dfdd38e8765ca15af394e744e46365b4239",
    ),
    (
        "grant.refreshing.v1",
        "grant.refresh_started.v1",
        "a42ccf7d652268f001a46c1c58e5634383e0c883c5c691694fcb3b73ccfbfedf",
    ),
    (
        "grant.not_refreshed.v1",
        "grant.refresh_failed.v1",
        "740bd1210df1673da8b8a0e8ef30962add43e41a3e8c3c1c07b82f13de67813a",
    ),
    (
        "job.returned.v1",
        "job.requeued.v1",
        "f0a2ae6f755f36419694dabfc03f54bde80b437329fa457eddec7652d8d39af4",
    ),
    (
        "job.forgotten.v1",
        "job.expired.v1",
        "cf2acffed9954906c85a7278c3692a894686e7625b635888e706d283450bf2aa",
    ),
    (
        "dead.kept.v1",
        "dead_letter.stored.v1",
        "e1bf4e4065c4ed3867d1a122a342a165dcbb260b3f3801f12a5af41d5ffe2d2e",
    ),
    (
        "dead.dropped.v1",
        "dead_letter.removed.v1",
        "f69d20f858243200ee6b9073c097253d3caeb782c2dfbe86630778ff06061aa9",
    ),
    (
        "request.kept.v1",
        "idempotency.recorded.v1",
        "3d4e5b36cfbc4ee5a738a5f6e80b7d3886ac11e8f98cd242cd8c5549a06fecd5",
    ),
    (
        "request.forgotten.v1",
        "idempotency.expired.v1",
        "54230ad1f750f650bc9966a46668a422c2f72c48ffe3055994471a21346327fe",
    ),
];

/// A stored sample.
pub fn sample(name: &str) -> StoredEvent {
    serde_json::from_str(&read(&format!("schemas/history/{name}.json"))).expect("a stored event")
}

pub fn samples() -> Vec<StoredEvent> {
    HISTORY.iter().map(|(name, _)| sample(name)).collect()
}

/// The validator of an event type's data, from the committed schema.
fn validator(name: &str) -> jsonschema::Validator {
    let schema: Value =
        serde_json::from_str(&read(&format!("schemas/events/{name}.json"))).expect("JSON");
    jsonschema::validator_for(&schema).expect("a schema")
}

fn data(event: &StoredEvent) -> Value {
    serde_json::from_str(event.data.get()).expect("JSON")
}

#[test]
fn every_version_of_every_event_has_a_sample() {
    let listed = |names: Vec<&str>| {
        names
            .into_iter()
            .map(str::to_owned)
            .collect::<BTreeSet<_>>()
    };
    let current: BTreeSet<_> = event::schemas()
        .iter()
        .map(|(name, version, _)| format!("{name}.v{version}"))
        .collect();
    let earlier: BTreeSet<_> = upcast::sources()
        .map(|(name, version)| format!("{name}.v{version}"))
        .collect();
    assert_eq!(
        listed(HISTORY.iter().map(|sample| sample.0).collect()),
        current
    );
    assert_eq!(
        listed(EARLIER.iter().map(|sample| sample.0).collect()),
        earlier
    );
    assert_eq!(names_in("schemas/history"), &current | &earlier);
}

#[test]
fn samples_are_never_edited() {
    let earlier = EARLIER.iter().map(|(name, _, digest)| (name, digest));
    let current = HISTORY.iter().map(|(name, digest)| (name, digest));
    for (name, digest) in earlier.chain(current) {
        let found = hex::encode(Sha256::digest(read(&format!(
            "schemas/history/{name}.json"
        ))));
        assert_eq!(
            &found, digest,
            "{name} was edited: a stored event never changes, a new shape is a new version"
        );
    }
}

#[test]
fn every_earlier_sample_upcasts_to_its_current_form() {
    for (earlier, current, _) in EARLIER {
        let stored = sample(earlier);
        let expected = sample(current);
        let found = upcast::current_form(&stored).expect("an event");
        assert_eq!(
            (&found.type_name, found.v, &found.subject, data(&found)),
            (
                &expected.type_name,
                expected.v,
                &expected.subject,
                data(&expected)
            ),
            "{earlier}"
        );
        assert_eq!(Event::decode(&stored), Event::decode(&expected));
    }
}

#[test]
fn every_sample_decodes_and_folds() {
    let mut catalog = Catalog::default();
    for stored in samples() {
        let name = format!("{}.v{}", stored.type_name, stored.v);
        let event = Event::decode(&stored).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(
            (event.type_name(), event.subject()),
            (stored.type_name.as_str(), stored.subject.clone())
        );
        let before = snapshot(&catalog);
        catalog.apply(&event);
        assert_ne!(snapshot(&catalog), before, "{name} changes nothing");
    }
    assert!(
        catalog.servers().is_empty(),
        "the last sample deletes the server"
    );
}

#[test]
fn samples_and_new_events_match_the_schemas() {
    for stored in samples() {
        let name = format!("{}.v{}", stored.type_name, stored.v);
        let today = Event::decode(&stored)
            .expect("an event")
            .encode()
            .expect("encoded");
        for (event, which) in [(&stored, "the sample"), (&today, "what is written today")] {
            let validator = validator(&format!("{}.v{}", event.type_name, event.v));
            let faults: Vec<_> = validator
                .iter_errors(&data(event))
                .map(|fault| fault.to_string())
                .collect();
            assert!(faults.is_empty(), "{name}, {which}: {faults:?}");
        }
        // And a schema says no where the type does: to a required field that is missing or of another type.
        let validator = validator(&name);
        for field in data(&stored).as_object().expect("an object").keys() {
            let (mut missing, mut other) = (data(&stored), data(&stored));
            missing.as_object_mut().expect("an object").remove(field);
            other[field] = if other[field].is_number() {
                "7".into()
            } else {
                7.into()
            };
            let is_optional = NOW_OPTIONAL.contains(&(name.as_str(), field.as_str()));
            assert_eq!(validator.is_valid(&missing), is_optional, "{name}: {field}");
            assert!(
                !validator.is_valid(&other),
                "{name} takes another type for {field}"
            );
        }
    }
}
