//! A form of JSON in which equal values have equal texts and different values have different texts.

use serde_json::value::RawValue;

use crate::core::json_object::{Members, push_json_text, text_of};

/// Returns JSON with sorted members and without blanks. Numbers keep their text, so `1` and `1.0` differ. Members with the
/// same name all stay, and a string that is no Unicode keeps its text. The nesting of the JSON must be limited.
pub fn canonical(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    append(&mut text, json.trim());
    text
}

fn append(text: &mut String, json: &str) {
    if let Some(members) = Members::parse(json) {
        let mut members: Vec<_> = members
            .0
            .iter()
            .map(|(key, value)| (canonical_text(key), value.get()))
            .collect();
        // A stable sort keeps the order of members with the same name.
        members.sort_by(|(first, _), (second, _)| first.cmp(second));
        text.push('{');
        for (key, value) in members {
            text.push_str(&key);
            text.push(':');
            append(text, value);
            text.push(',');
        }
        text.push('}');
    } else if let Ok(entries) = serde_json::from_str::<Vec<&RawValue>>(json) {
        text.push('[');
        for entry in entries {
            append(text, entry.get());
            text.push(',');
        }
        text.push(']');
    } else if let Ok(value) = serde_json::from_str::<&RawValue>(json) {
        text.push_str(&canonical_text(value));
    } else {
        text.push_str(json);
    }
}

fn canonical_text(value: &RawValue) -> String {
    let Some(decoded) = text_of(value) else {
        return value.get().to_owned();
    };
    let mut text = String::new();
    push_json_text(&mut text, &decoded);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_blanks_and_escapes_make_no_difference() {
        let first = r#"{"a":[1,{"x":"\u0041"}],"b":null}"#;
        let second = r#" { "b" : null , "a" : [ 1 , { "x" : "A" } ] } "#;
        assert_eq!(canonical(first), canonical(second));
    }

    #[test]
    fn different_values_have_different_texts() {
        let values = [
            "{}",
            "[]",
            "null",
            r#"{"z":1e400,"to":"bob"}"#,
            r#"{"z":1e400,"to":"mallory"}"#,
            r#"{"z":"\ud800","to":"bob"}"#,
            r#"{"z":"\ud800","to":"mallory"}"#,
            r#"{"n":36893488147419103232}"#,
            r#"{"n":36893488147419103233}"#,
            r#"{"a":1,"a":2}"#,
            r#"{"a":2,"a":1}"#,
            r#"{"a":2}"#,
        ];
        for (index, first) in values.iter().enumerate() {
            for second in &values[index + 1..] {
                assert_ne!(canonical(first), canonical(second), "{first} {second}");
            }
        }
    }
}
