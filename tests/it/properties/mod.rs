//! Properties that hold for every input: of HTTP, of the log, of tool calls and of other people's programs.

mod callers;
mod calls;
mod config;
mod foreign;
mod log;
mod names;

use proptest::prelude::*;
use serde_json::Value;

/// Returns the number of inputs for a property.
pub fn cases(count: u32) -> ProptestConfig {
    // A failure prints its input, so that no file with inputs is needed.
    ProptestConfig {
        cases: count,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// Any JSON value of `serde_json`.
pub fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1e9..1e9).prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::hash_map(".{0,6}", inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Any JSON text, almost valid JSON, and other texts.
pub fn nearly_json() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => json().prop_map(|value| value.to_string().into_bytes()),
        2 => (json(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(value, at, byte)| {
            let mut text = value.to_string().into_bytes();
            let at = at.index(text.len());
            text[at] = byte;
            text
        }),
        1 => prop::collection::vec(any::<u8>(), 0..64),
    ]
}
