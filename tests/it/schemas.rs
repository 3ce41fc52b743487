//! What is committed for readers outside: schemas, samples of every stored event, `example.env`.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::samples::snapshot;
use mcp_api::cli::schemas::files;
use mcp_api::config::{ClientConfig, Config, Env, ImportConfig, variables};
use mcp_api::core::catalog::Catalog;
use mcp_api::core::event;
use mcp_api::core::event::{Event, StoredEvent, upcast};

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
];

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

fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The names of a folder's files, without their ending.
fn names_in(folder: &str) -> BTreeSet<String> {
    let names = fs::read_dir(root().join(folder))
        .expect("a folder")
        .map(|entry| {
            let name = entry
                .expect("an entry")
                .file_name()
                .into_string()
                .expect("UTF-8");
            name.strip_suffix(".json")
                .unwrap_or_else(|| panic!("{folder}/{name} is not JSON"))
                .to_owned()
        });
    names.collect()
}

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
fn the_committed_files_match_the_types() {
    let stale: Vec<_> = files()
        .into_iter()
        .filter(|(path, text)| fs::read_to_string(root().join(path)).ok().as_ref() != Some(text))
        .map(|(path, _)| path.display().to_string())
        .collect();
    assert!(
        stale.is_empty(),
        "run `cargo run -- schemas .` and commit: {}",
        stale.join(", ")
    );
}

#[test]
fn nothing_is_committed_that_no_type_says() {
    let made: BTreeSet<_> = files().into_iter().map(|(path, _)| path).collect();
    for folder in ["schemas/commands", "schemas/events"] {
        for name in names_in(folder) {
            let path = PathBuf::from(format!("{folder}/{name}.json"));
            assert!(
                made.contains(&path),
                "{} is of no type any more; delete it",
                path.display()
            );
            jsonschema::validator_for(
                &serde_json::from_str(&read(path.to_str().expect("UTF-8"))).expect("JSON"),
            )
            .unwrap_or_else(|error| panic!("{} is no JSON Schema: {error}", path.display()));
        }
    }
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
fn every_sample_still_means_something() {
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
            assert!(!validator.is_valid(&missing), "{name} needs no {field}");
            assert!(
                !validator.is_valid(&other),
                "{name} takes another type for {field}"
            );
        }
    }
}

type Pairs = &'static [(&'static str, &'static str)];

/// Another value of every variable, and what else must be set for the difference to be seen.
const SERVICES: Pairs = &[
    ("NATS_URL", "nats://h"),
    ("MONGO_URL", "mongodb://h"),
    ("SECRETS_KEY", "k"),
];
const OTHER_VALUES: &[(&str, &str, Pairs)] = &[
    ("HOST", "127.0.0.2", &[]),
    ("PORT", "9999", &[]),
    ("PUBLIC_URL", "https://mcp.example.com", &[]),
    ("DATA_DIR", "/elsewhere", &[]),
    ("ROLES", "api", SERVICES),
    ("POOLS", "packages,tokens", SERVICES),
    ("NATS_URL", "nats://elsewhere", SERVICES),
    ("NATS_CREDS", "/dev/null", SERVICES),
    ("NATS_CA", "/dev/null", SERVICES),
    ("MONGO_URL", "mongodb://elsewhere", SERVICES),
    ("MONGO_HOST", "elsewhere", &[("SECRETS_KEY", "k")]),
    (
        "MONGO_USER",
        "u",
        &[
            ("SECRETS_KEY", "k"),
            ("MONGO_HOST", "h"),
            ("MONGO_PASS", "p"),
        ],
    ),
    (
        "MONGO_PASS",
        "p",
        &[
            ("SECRETS_KEY", "k"),
            ("MONGO_HOST", "h"),
            ("MONGO_USER", "u"),
        ],
    ),
    ("MONGO_DBNAME", "other", SERVICES),
    (
        "MONGO_REPLICASET",
        "rs0",
        &[("SECRETS_KEY", "k"), ("MONGO_HOST", "h")],
    ),
    ("SECRETS_DBNAME", "other", SERVICES),
    ("ADMIN_TOKEN", "0123456789abcdef", &[]),
    ("ALLOW_UNAUTHENTICATED", "true", &[("HOST", "0.0.0.0")]),
    ("ALLOWED_HOSTS", "mcp.example.com", &[]),
    ("SECRETS_KEY", "a passphrase", &[]),
    ("SECRETS_KEYS_OLD", "one, another", &[]),
    ("PAYLOAD_LIMIT", "7mb", &[]),
    ("RESULT_LIMIT", "7mb", &[]),
    ("MAX_CALLS", "7", &[]),
    ("MAX_CALLS_PER_SERVER", "7", &[]),
    ("MAX_CALLS_PER_USER", "7", &[]),
    ("MAX_CONNECTIONS", "77", &[]),
    ("MAX_WAITING_JOBS", "7", &[]),
    ("JOB_RESULT_TTL", "7s", &[]),
    ("LEASE_TTL", "7s", &[]),
    ("DRAIN_TIMEOUT", "7s", &[]),
    (
        "GOOGLE_OAUTH_CREDENTIALS",
        r#"{"web":{"client_id":"i"}}"#,
        &[],
    ),
    ("PACKAGES_DIR", "/elsewhere", &[]),
    ("PYTHON_BIN", "/usr/bin/python3", &[]),
    ("PYTHON_VENV_DIR", "/elsewhere", &[]),
    ("PIP_INDEX_URL", "https://pypi.example.com/simple", &[]),
    (
        "PIP_EXTRA_INDEX_URL",
        "https://pypi.example.com/simple",
        &[],
    ),
    ("INSTALL_ON_START", "a|b", &[]),
    ("LOG_FORMAT", "pretty", &[]),
    ("RUST_LOG", "trace", &[]),
    (
        "IMPORT_MONGO_URL",
        "mongodb://h/db",
        &[("SECRETS_KEY", "k")],
    ),
    (
        "IMPORT_SECRETS_KEY",
        "k",
        &[("IMPORT_MONGO_URL", "mongodb://h/db")],
    ),
    ("MCP_API_URL", "http://127.0.0.1:9999", &[]),
];

#[test]
fn every_variable_of_example_env_is_read() {
    let named: BTreeSet<String> = read("example.env")
        .lines()
        .filter_map(|line| line.strip_prefix("# ")?.split_once('='))
        .filter(|(name, _)| name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'))
        .map(|(name, _)| name.to_owned())
        .collect();
    let page = read("docs/operations.md");
    for name in &named {
        assert!(
            page.contains(&format!("| `{name}` |")),
            "docs/operations.md does not list {name}"
        );
    }
    assert_eq!(
        named,
        OTHER_VALUES
            .iter()
            .map(|(name, ..)| (*name).to_owned())
            .collect(),
        "give it another value here"
    );
    for (name, other, needs) in OTHER_VALUES {
        let config = |pairs: &[(&str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            let env = Env::from_pairs(pairs);
            format!(
                "{:?} {:?} {:?}",
                Config::read(&env),
                ClientConfig::read(&env),
                ImportConfig::read(&env)
            )
        };
        let with = [*needs, &[(name, other)]].concat();
        assert_ne!(config(needs), config(&with), "{name} is not read");
    }
}

#[test]
fn example_env_contains_every_default() {
    let defaults = format!(
        "{:?}",
        Config::read(&Env::default()).expect("a configuration")
    );
    let of_a_variable = |line: &&str| {
        variables()
            .iter()
            .any(|v| line.starts_with(&format!("{}=", v.name)))
    };
    let example = read("example.env");
    let uncommented: Vec<_> = example
        .lines()
        .filter_map(|line| line.strip_prefix("# "))
        .filter(of_a_variable)
        .collect();
    assert_eq!(uncommented.len(), variables().len());
    let written =
        Config::read(&Env::from_text(uncommented.join("\n").as_bytes()).expect("a .env file"));
    assert_eq!(format!("{:?}", written.expect("a configuration")), defaults);
}

#[test]
fn every_variable_that_is_read_is_in_example_env() {
    let example = read("example.env");
    let mut found = 0;
    for entry in fs::read_dir(root().join("src/config")).expect("a folder") {
        let text = fs::read_to_string(entry.expect("an entry").path()).expect("a source");
        // `name: "NAME"` of a `Variable`, written in one line or in several.
        for name in text
            .split("name: \"")
            .skip(1)
            .filter_map(|rest| rest.split('"').next())
        {
            found += 1;
            assert!(
                example.contains(&format!("\n# {name}=")),
                "{name} is not in VARIABLES of its file"
            );
        }
    }
    assert_eq!(found, variables().len());
}

/// What tools that read OpenAPI rely on, and what its validators complain of.
#[test]
fn the_api_says_enough_about_itself() {
    let api: Value = serde_json::from_str(&read("schemas/openapi.json")).expect("JSON");
    let mut ids = BTreeSet::new();
    let operations = api["paths"].as_object().expect("paths").iter();
    for (path, operation) in operations.flat_map(|(path, item)| {
        item.as_object()
            .expect("a path")
            .values()
            .map(move |o| (path, o))
    }) {
        let id = operation["operationId"].as_str().expect("an operationId");
        assert!(ids.insert(id.to_owned()), "{id} twice");
        for (status, response) in operation["responses"].as_object().expect("responses") {
            assert!(
                response["description"]
                    .as_str()
                    .is_some_and(|text| !text.is_empty()),
                "{id} {status}"
            );
        }
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let name = parameter["name"].as_str().expect("a name");
            let in_path = path.contains(&format!("{{{name}}}"));
            let location = match name {
                "Idempotency-Key" | "Prefer" => "header",
                _ if in_path => "path",
                _ => "query",
            };
            assert_eq!(parameter["in"], location, "{id} {name}");
        }
    }
}
