//! The committed files for other programs: schemas, samples of stored events, and `example.env`.

mod event_samples;
mod example_env;
pub mod history;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use mcp_api::cli::schemas::files;

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
fn every_committed_schema_belongs_to_a_type() {
    let made: BTreeSet<_> = files().into_iter().map(|(path, _)| path).collect();
    for folder in ["schemas/commands", "schemas/events"] {
        for name in names_in(folder) {
            let path = PathBuf::from(format!("{folder}/{name}.json"));
            assert!(
                made.contains(&path),
                "{} belongs to no type; delete it",
                path.display()
            );
            jsonschema::validator_for(
                &serde_json::from_str(&read(path.to_str().expect("UTF-8"))).expect("JSON"),
            )
            .unwrap_or_else(|error| panic!("{} is no JSON Schema: {error}", path.display()));
        }
    }
}

/// Checks the properties that readers and validators of OpenAPI need.
#[test]
fn the_openapi_document_describes_every_operation() {
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
