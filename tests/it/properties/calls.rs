//! Arguments and results of tool calls: a secret replaces an argument, and everything else stays unchanged.

use proptest::prelude::*;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{cases, json, nearly_json};
use mcp_api::core::arguments::merge::{ArgumentForm, SecretArgument, merge_arguments};
use mcp_api::core::tool_result::shape_tool_result;

/// Returns the members of an object in their order, repeated members included.
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Members;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        from.deserialize_map(Each)
    }
}

/// A few names that contain each other, with all characters that JSON can spell in two ways.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(vec!["k", "kk", "github_pat", "a/b", "ü", "😀", "a\"b", "a\\b", "\u{2028}"])
            .prop_map(str::to_owned),
        1 => "[^\\p{Cc}]{1,8}",
    ]
}

/// A string as JSON, with each character plain or escaped.
fn spelled(text: &str, escaped: &[bool]) -> String {
    let mut json = String::from("\"");
    for (c, escape) in text.chars().zip(escaped.iter().cycle()) {
        match c {
            '"' | '\\' if !escape => json.extend(['\\', c]),
            '/' if *escape && text.len().is_multiple_of(2) => json.push_str("\\/"),
            c if *escape || c < ' ' => {
                let mut units = [0; 2];
                c.encode_utf16(&mut units)
                    .iter()
                    .for_each(|unit| json.push_str(&format!("\\u{unit:04X}")));
            }
            c => json.push(c),
        }
    }
    json + "\""
}

/// An object with repeated and escaped keys and any spaces.
fn args() -> impl Strategy<Value = (String, Vec<(String, Value)>)> {
    let escaped =
        prop_oneof![3 => Just(vec![false]), 1 => prop::collection::vec(any::<bool>(), 1..6)];
    let member = (name(), escaped, json());
    (prop::collection::vec(member, 0..6), "[ \n\r\t]{0,3}").prop_map(|(members, space)| {
        let texts: Vec<_> = members
            .iter()
            .map(|(name, escaped, value)| {
                format!(
                    "{space}{}{space}:{space}{value:#}{space}",
                    spelled(name, escaped)
                )
            })
            .collect();
        let text = format!("{space}{{{space}{}}}{space}", texts.join(","));
        (
            text,
            members
                .into_iter()
                .map(|(name, _, value)| (name, value))
                .collect(),
        )
    })
}

proptest! {
    #![proptest_config(cases(1024))]

    #[test]
    fn every_secret_replaces_its_argument_once_and_other_arguments_stay(
        (args, members) in args(),
        secrets in prop::collection::btree_map(name(), ".{0,12}|[\\x00-\\x1f\"\\\\]{0,4}", 0..4),
    ) {
        let opened: Vec<_> = secrets.iter().map(|(name, value)| SecretArgument { name, value, form: ArgumentForm::Text }).collect();
        let mut line = b"before".to_vec();
        merge_arguments(&mut line, &args, &opened);
        let line = line.strip_prefix(b"before").expect("what was there stays");
        prop_assert!(!line.contains(&b'\n') && !line.contains(&b'\r'), "a line break");
        let text = std::str::from_utf8(line).expect("UTF-8");
        let Members(merged) = serde_json::from_str(text)
            .map_err(|error| TestCaseError::fail(format!("{error}: {text}")))?;
        let others = members.into_iter().filter(|(name, _)| !secrets.contains_key(name));
        let wanted: Vec<_> = secrets.iter().map(|(name, value)| (name.clone(), json!(value))).chain(others).collect();
        prop_assert_eq!(merged, wanted, "{}", text);
    }

    #[test]
    fn any_object_of_a_request_stays_json(bytes in nearly_json(), name in name(), value in ".{0,8}") {
        // HTTP accepts any JSON that begins like an object, with any strings.
        let Ok(args) = serde_json::from_slice::<&RawValue>(&bytes) else { return Ok(()) };
        if !args.get().starts_with('{') {
            return Ok(());
        }
        let mut line = Vec::new();
        merge_arguments(&mut line, args.get(), &[SecretArgument { name: &name, value: &value, form: ArgumentForm::Text }]);
        prop_assert!(serde_json::from_slice::<&RawValue>(&line).is_ok(), "{}", String::from_utf8_lossy(&line));
    }

    #[test]
    fn any_bytes_are_an_answer_or_a_failure(result in nearly_json(), raw: bool) {
        // The receiver of a result checks UTF-8. Other bytes must not cause a panic.
        if let Ok(answer) = shape_tool_result(&result, raw) && std::str::from_utf8(&result).is_ok() {
            let body = serde_json::from_slice::<&RawValue>(&answer.body);
            prop_assert!(body.is_ok(), "{}", String::from_utf8_lossy(&answer.body));
        }
    }

    #[test]
    fn a_result_of_any_blocks_is_passed_on(
        blocks in prop::collection::vec(block(), 0..4),
        structured in prop::option::of(json()),
        meta in prop::option::of(json()),
        is_error: bool,
    ) {
        let mut result = json!({ "content": blocks, "isError": is_error, "more": 1 });
        let members = [("structuredContent", &structured), ("_meta", &meta)];
        for (name, value) in members {
            value.iter().for_each(|value| result[name] = (*value).clone());
        }
        let text = result.to_string();

        let raw = shape_tool_result(text.as_bytes(), true).expect("an answer");
        prop_assert_eq!(String::from_utf8(raw.body).expect("UTF-8"), format!("{{\"success\":true,\"data\":{text}}}"));
        prop_assert_eq!(raw.is_error, is_error);

        let shaped = shape_tool_result(text.as_bytes(), false).expect("an answer");
        prop_assert_eq!(shaped.is_error, is_error);
        let shaped: Value = serde_json::from_slice(&shaped.body).expect("JSON");
        let data = &shaped["data"];
        prop_assert_eq!(&data["isError"], is_error);
        // A member that is `null` counts as absent.
        let or_null = |value: Option<Value>| value.unwrap_or_default();
        prop_assert_eq!(data["structuredContent"].clone(), or_null(structured.clone()));
        prop_assert_eq!(data["meta"].clone(), or_null(meta));
        let content = &data["content"];
        match (blocks.as_slice(), &structured) {
            ([block], _) => {
                let known = [&block["text"], &block["data"], &json!([block])];
                prop_assert!(known.contains(&content), "{}", content);
            }
            ([], Some(structured)) if !structured.is_null() => prop_assert_eq!(content, structured),
            (blocks, _) => prop_assert_eq!(content, &json!(blocks)),
        }
    }
}

/// A content block of a known or unknown kind, with members in all forms.
fn block() -> impl Strategy<Value = Value> {
    let kind = prop::sample::select(vec![
        "text",
        "image",
        "audio",
        "resource",
        "resource_link",
        "hologram",
    ]);
    let text = prop_oneof![3 => ".{0,12}".prop_map(Value::from), 1 => json()];
    (
        kind,
        prop::option::of(text.clone()),
        prop::option::of(text),
        prop::option::of(".{0,8}"),
    )
        .prop_map(|(kind, text, data, mime)| {
            let mut block = json!({ "type": kind });
            text.into_iter().for_each(|text| block["text"] = text);
            data.into_iter().for_each(|data| block["data"] = data);
            mime.into_iter()
                .for_each(|mime| block["mimeType"] = mime.into());
            block
        })
}
