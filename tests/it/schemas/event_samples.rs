//! The samples of current events in `schemas/samples`: for every type, one sample with all optional fields and one sample
//! with none. A sparse sample contains an optional part that omits its own optional fields.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{names_in, read};
use mcp_api::core::event;
use mcp_api::core::event::{Event, StoredEvent};

/// The optional fields of one event type that its samples contain or omit. A field is `<type>.<name>`.
#[derive(Default)]
struct OptionalFields {
    present: BTreeSet<String>,
    absent: BTreeSet<String>,
}

/// The JSON Schema of one event type.
struct Schema {
    root: Value,
}

impl Schema {
    fn definition(&self, reference: &str) -> &Value {
        let pointer = reference.strip_prefix('#').expect("a local reference");
        self.root.pointer(pointer).expect("a definition")
    }

    /// Returns whether a value is valid for a part of the schema.
    fn accepts(&self, part: &Value, value: &Value) -> bool {
        let mut part = part.clone();
        part["$defs"] = self.root["$defs"].clone();
        jsonschema::validator_for(&part)
            .expect("a schema")
            .is_valid(value)
    }

    /// Collects the optional fields of a value that are present or absent. `owner` names the part of the schema.
    fn collect(&self, part: &Value, owner: &str, value: &Value, found: &mut OptionalFields) {
        if let Some(reference) = part["$ref"].as_str() {
            let name = reference.rsplit('/').next().unwrap_or_default();
            self.collect(self.definition(reference), name, value, found);
        }
        for alternatives in ["oneOf", "anyOf", "allOf"] {
            for part in part[alternatives].as_array().into_iter().flatten() {
                if self.accepts(part, value) {
                    self.collect(part, owner, value, found);
                }
            }
        }
        if let Some(items) = value.as_array() {
            for item in items {
                self.collect(&part["items"], owner, item, found);
            }
        }
        if let Some(fields) = value.as_object() {
            self.collect_fields(part, owner, fields, found);
        }
    }

    fn collect_fields(
        &self,
        part: &Value,
        owner: &str,
        fields: &Map<String, Value>,
        found: &mut OptionalFields,
    ) {
        let required: Vec<_> = part["required"].as_array().into_iter().flatten().collect();
        for (name, schema) in part["properties"].as_object().into_iter().flatten() {
            let is_optional = !required.iter().any(|required| *required == name);
            if let Some(value) = fields.get(name) {
                self.collect(schema, owner, value, found);
            }
            if is_optional {
                let list = if fields.contains_key(name) {
                    &mut found.present
                } else {
                    &mut found.absent
                };
                list.insert(format!("{owner}.{name}"));
            }
        }
        for value in fields.values() {
            self.collect(&part["additionalProperties"], owner, value, found);
        }
    }

    /// Returns all optional fields of all reachable parts.
    fn all_optional_fields(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let title = self.root["title"].as_str().unwrap_or_default();
        list_optional(&self.root, title, &mut found);
        for (name, part) in self.root["$defs"].as_object().into_iter().flatten() {
            list_optional(part, name, &mut found);
        }
        found
    }
}

/// Adds the optional fields of one part and its alternatives.
fn list_optional(part: &Value, owner: &str, found: &mut BTreeSet<String>) {
    let required = part["required"].as_array();
    for (name, _) in part["properties"].as_object().into_iter().flatten() {
        if !required.is_some_and(|required| required.iter().any(|field| field == name)) {
            found.insert(format!("{owner}.{name}"));
        }
    }
    for alternatives in ["oneOf", "anyOf", "allOf"] {
        for part in part[alternatives].as_array().into_iter().flatten() {
            list_optional(part, owner, found);
        }
    }
}

/// Returns the optional fields of one sample.
fn optional_fields(schema: &Schema, sample: &Value) -> OptionalFields {
    let title = schema.root["title"].as_str().unwrap_or_default();
    let mut found = OptionalFields::default();
    schema.collect(&schema.root, title, &sample["data"], &mut found);
    found
}

/// Returns what is missing in the samples of one type. A sample is a label, such as `full`, and the stored event.
fn sample_faults(schema: &Schema, samples: &[(String, Value)]) -> Vec<String> {
    let mut faults = Vec::new();
    let optional = schema.all_optional_fields();
    let mut present = BTreeSet::new();
    let mut absent = BTreeSet::new();
    for (label, sample) in samples {
        let fields = optional_fields(schema, sample);
        if label.starts_with("full") {
            for field in &fields.absent {
                faults.push(format!("{label} has no {field}"));
            }
        } else if label.starts_with("minimal") {
            for field in &fields.present {
                faults.push(format!("{label} has {field}"));
            }
        } else if !label.starts_with("sparse") {
            faults.push(format!("{label} is neither full nor minimal nor sparse"));
        }
        present.extend(fields.present);
        absent.extend(fields.absent);
    }
    for field in optional.difference(&present) {
        faults.push(format!("no full sample has {field}"));
    }
    for field in optional.difference(&absent) {
        faults.push(format!("no sample omits {field}"));
    }
    if samples.is_empty() {
        faults.push("there is no sample".to_owned());
    }
    faults
}

/// Returns the labels and the samples of a type, such as `full` and `full_stdio`.
fn samples_of(type_name: &str, files: &BTreeSet<String>) -> Vec<(String, Value)> {
    let prefix = format!("{type_name}.");
    let labels = files.iter().filter_map(|file| file.strip_prefix(&prefix));
    let sample = |label: &str| {
        let text = read(&format!("schemas/samples/{prefix}{label}.json"));
        (label.to_owned(), serde_json::from_str(&text).expect("JSON"))
    };
    labels.map(sample).collect()
}

#[test]
fn every_event_type_has_a_sample_with_all_optional_fields_and_a_sample_with_none() {
    let files = names_in("schemas/samples");
    let mut faults = Vec::new();
    let mut known = 0;
    for (name, version, schema) in event::schemas() {
        let type_name = format!("{name}.v{version}");
        let schema = Schema {
            root: serde_json::to_value(schema).expect("JSON"),
        };
        let samples = samples_of(&type_name, &files);
        known += samples.len();
        for fault in sample_faults(&schema, &samples) {
            faults.push(format!("schemas/samples/{type_name}: {fault}"));
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
    assert_eq!(known, files.len(), "a sample belongs to no current type");
}

#[test]
fn every_sample_is_valid_and_keeps_its_fields() {
    for (name, version, schema) in event::schemas() {
        let type_name = format!("{name}.v{version}");
        let schema = serde_json::to_value(schema).expect("JSON");
        let validator = jsonschema::validator_for(&schema).expect("a schema");
        for (label, sample) in samples_of(&type_name, &names_in("schemas/samples")) {
            let stored: StoredEvent = serde_json::from_value(sample.clone()).expect("an event");
            let decoded = Event::decode(&stored)
                .unwrap_or_else(|error| panic!("{type_name}.{label}: {error}"));
            assert!(
                validator.is_valid(&sample["data"]),
                "{type_name}.{label} does not match its schema"
            );
            let encoded = decoded.encode().expect("an event");
            assert_eq!(encoded.subject, stored.subject, "{type_name}.{label}");
            let encoded = serde_json::to_value(encoded).expect("JSON");
            if label.starts_with("full") {
                assert_eq!(encoded, sample, "{type_name}.{label}");
            }
        }
    }
}

#[test]
fn every_rule_for_samples_can_fail() {
    let schema = Schema {
        root: json!({
            "title": "Stored",
            "properties": { "name": {}, "tokens": { "$ref": "#/$defs/Tokens" } },
            "required": ["tokens"],
            "$defs": { "Tokens": { "properties": { "expires": {} } } },
        }),
    };
    let sample = |label: &str, data: Value| (label.to_owned(), json!({ "data": data }));
    let full = sample("full", json!({ "name": 1, "tokens": { "expires": 1 } }));
    let minimal = sample("minimal", json!({ "tokens": {} }));
    let faults = |samples: &[_]| sample_faults(&schema, samples).join("\n");
    let sparse = sample("sparse", json!({ "name": 1, "tokens": {} }));
    assert_eq!(faults(&[full.clone(), minimal.clone()]), "");
    assert_eq!(faults(&[full.clone(), minimal.clone(), sparse]), "");
    assert!(faults(&[]).contains("there is no sample"));
    assert!(faults(&[minimal]).contains("no full sample has Tokens.expires"));
    assert!(faults(std::slice::from_ref(&full)).contains("no sample omits Stored.name"));
    let half = json!({ "name": 1, "tokens": {} });
    assert!(faults(&[sample("full", half.clone())]).contains("full has no Tokens.expires"));
    assert!(faults(&[sample("minimal", half)]).contains("minimal has Stored.name"));
    assert!(
        faults(&[full, sample("other", json!({}))]).contains("neither full nor minimal nor sparse")
    );
}
