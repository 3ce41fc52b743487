//! Results of tools as a client of an era may receive them. In the same era, the bytes stay equal.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::input_required::INPUT_REQUIRED;
use super::version::Era;
use crate::core::failure::{Code, Failure};
use crate::core::json_object::{Members, ObjectWriter, text_of};

/// The members that only the era 2026-07-28 has.
const MODERN_FIELDS: [&str; 3] = ["resultType", "ttlMs", "cacheScope"];

/// A result for a client.
#[derive(Debug)]
pub struct ClientResult {
    /// The JSON object `result`.
    pub json: Bytes,
    /// The tool reports a failure.
    pub is_error: bool,
}

/// The members that decide the form of a result.
#[derive(Deserialize)]
struct ResultView<'a> {
    #[serde(borrow, rename = "resultType")]
    result_type: Option<&'a RawValue>,
    #[serde(borrow, rename = "ttlMs")]
    ttl_ms: Option<&'a RawValue>,
    #[serde(borrow, rename = "cacheScope")]
    cache_scope: Option<&'a RawValue>,
    #[serde(borrow, rename = "structuredContent")]
    structured: Option<&'a RawValue>,
    #[serde(rename = "isError")]
    is_error: Option<bool>,
}

impl ResultView<'_> {
    fn has_modern_fields(&self) -> bool {
        self.result_type.is_some() || self.ttl_ms.is_some() || self.cache_scope.is_some()
    }

    fn asks_for_input(&self) -> bool {
        self.result_type
            .and_then(text_of)
            .is_some_and(|result_type| result_type == INPUT_REQUIRED)
    }

    fn has_plain_structure(&self) -> bool {
        self.structured
            .is_some_and(|structured| !structured.get().starts_with('{'))
    }
}

/// Returns the result of a tool for a client of an era.
///
/// # Errors
/// `upstream_error` if the result is no tool result, or if the server asks for input. Then the tool may have run.
pub fn client_result(result: &Bytes, upstream: Era, client: Era) -> Result<ClientResult, Failure> {
    // serde also accepts an array, as the members in their order.
    if !result.trim_ascii_start().starts_with(b"{") {
        return Err(no_tool_result());
    }
    let view: ResultView = serde_json::from_slice(result).map_err(|_| no_tool_result())?;
    if upstream == Era::Modern && view.asks_for_input() {
        return Err(asks_for_input());
    }
    let is_error = view.is_error.unwrap_or(false);
    let drops_structure = client == Era::Legacy && view.has_plain_structure();
    let drops_modern = upstream != client && view.has_modern_fields();
    let is_complete = client == Era::Legacy || (upstream == client && view.result_type.is_some());
    let json = if drops_modern || drops_structure {
        rewrite(result, drops_modern, drops_structure, is_complete)?
    } else if is_complete {
        result.clone()
    } else {
        insert_result_type(result)?
    };
    Ok(ClientResult { json, is_error })
}

/// The longest time for which a client may keep a list or a resource, in milliseconds.
const MAX_TTL_MS: u64 = 60_000;

/// Returns the result of a request that is no tool call, for a client of an era. `is_cacheable` results get the hints that
/// the era 2026-07-28 requires (SEP-2549); they are private, because the result may depend on the user.
///
/// # Errors
/// `upstream_error` if the result is no object, or if the server asks for input.
pub fn request_result(
    result: &Bytes,
    upstream: Era,
    client: Era,
    is_cacheable: bool,
) -> Result<Bytes, Failure> {
    if upstream == Era::Legacy && client == Era::Legacy {
        let is_object = result.trim_ascii_start().starts_with(b"{");
        return if is_object {
            Ok(result.clone())
        } else {
            Err(no_result())
        };
    }
    let text = std::str::from_utf8(result).map_err(|_| no_result())?;
    let members = Members::parse(text).ok_or_else(no_result)?;
    let of_upstream = |name: &str| {
        let member = members.get(name).filter(|_| upstream == Era::Modern);
        member.map(RawValue::get)
    };
    if upstream == Era::Modern && members.is_text("resultType", INPUT_REQUIRED) {
        return Err(asks_for_input());
    }
    let mut writer = ObjectWriter::with_capacity(text.len() + 96);
    if client == Era::Modern {
        writer.raw(
            "resultType",
            of_upstream("resultType").unwrap_or(r#""complete""#),
        );
    }
    for (key, value) in &members.0 {
        let name = text_of(key).unwrap_or_default();
        if !MODERN_FIELDS.contains(&name.as_ref()) {
            writer.member(key, value.get());
        }
    }
    if client == Era::Modern && is_cacheable {
        let ttl = of_upstream("ttlMs").and_then(|ttl| ttl.parse().ok());
        let ttl = ttl.map_or(MAX_TTL_MS, |ttl: u64| ttl.min(MAX_TTL_MS));
        writer.raw("ttlMs", &ttl.to_string());
        writer.text("cacheScope", "private");
    }
    Ok(writer.finish().into())
}

fn no_result() -> Failure {
    Failure::new(
        Code::UpstreamError,
        "The MCP server answered with JSON that is no result",
    )
}

fn asks_for_input() -> Failure {
    Failure::new(
        Code::UpstreamError,
        "The MCP server asks for input from the client, which this endpoint does not support",
    )
    .maybe_run()
}

/// Removes members, and inserts `resultType` into a result that must have it.
fn rewrite(
    result: &[u8],
    drops_modern: bool,
    drops_structure: bool,
    is_complete: bool,
) -> Result<Bytes, Failure> {
    let text = std::str::from_utf8(result).map_err(|_| no_tool_result())?;
    let members = Members::parse(text).ok_or_else(no_tool_result)?;
    let mut writer = ObjectWriter::with_capacity(text.len() + 32);
    if !is_complete {
        writer.text("resultType", "complete");
    }
    for (key, value) in &members.0 {
        let name = text_of(key).unwrap_or_default();
        let is_dropped = drops_modern && MODERN_FIELDS.contains(&name.as_ref())
            || drops_structure && name == "structuredContent";
        if !is_dropped {
            writer.member(key, value.get());
        }
    }
    Ok(writer.finish().into())
}

/// Inserts `"resultType":"complete"` after the first brace.
fn insert_result_type(result: &[u8]) -> Result<Bytes, Failure> {
    let rest = result
        .trim_ascii_start()
        .strip_prefix(b"{")
        .ok_or_else(no_tool_result)?;
    let is_empty = rest.trim_ascii_start().starts_with(b"}");
    let separator: &[u8] = if is_empty { b"" } else { b"," };
    Ok([br#"{"resultType":"complete""#, separator, rest]
        .concat()
        .into())
}

fn no_tool_result() -> Failure {
    Failure::new(
        Code::UpstreamError,
        "The MCP server answered with JSON that is no tool result",
    )
    .maybe_run()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn shaped(result: &str, upstream: Era, client: Era) -> String {
        let result = Bytes::copy_from_slice(result.as_bytes());
        let shaped = client_result(&result, upstream, client).expect("a result");
        String::from_utf8(shaped.json.to_vec()).expect("UTF-8")
    }

    #[test]
    fn a_result_of_the_same_era_keeps_its_bytes() {
        let legacy = r#" {"content": [], "resultType":"x", "n": 1.0 }"#;
        assert_eq!(shaped(legacy, Era::Legacy, Era::Legacy), legacy);
        let modern = r#"{ "resultType" : "complete","content":[]}"#;
        assert_eq!(shaped(modern, Era::Modern, Era::Modern), modern);
    }

    #[test]
    fn a_legacy_result_becomes_complete_for_a_modern_client() {
        for (result, expected) in [
            (
                r#"{"content":[]}"#,
                r#"{"resultType":"complete","content":[]}"#,
            ),
            (r#"{ }"#, r#"{"resultType":"complete" }"#),
            (
                r#"{"resultType":"input_required","ttlMs":1,"content":[],"cacheScope":"public"}"#,
                r#"{"resultType":"complete","content":[]}"#,
            ),
        ] {
            assert_eq!(shaped(result, Era::Legacy, Era::Modern), expected);
        }
    }

    #[test]
    fn a_modern_result_loses_its_own_members_for_a_legacy_client() {
        let result =
            r#"{"resultType":"complete","content":[],"structuredContent":[1],"_meta":{"a":1}}"#;
        assert_eq!(
            shaped(result, Era::Modern, Era::Legacy),
            r#"{"content":[],"_meta":{"a":1}}"#
        );
    }

    #[test]
    fn a_structure_that_is_no_object_is_dropped_for_legacy_clients_only() {
        let result = r#"{"content":[],"structuredContent":"x"}"#;
        assert_eq!(
            shaped(result, Era::Legacy, Era::Legacy),
            r#"{"content":[]}"#
        );
        assert!(shaped(result, Era::Legacy, Era::Modern).contains("structuredContent"));
        let object = r#"{"content":[],"structuredContent":{"a":1}}"#;
        assert_eq!(shaped(object, Era::Legacy, Era::Legacy), object);
    }

    #[test]
    fn a_modern_result_without_its_type_gets_it() {
        assert_eq!(
            shaped(r#"{"content":[]}"#, Era::Modern, Era::Modern),
            r#"{"resultType":"complete","content":[]}"#
        );
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(2_500))]
        #[test]
        fn a_result_has_the_members_of_the_client_and_keeps_all_others(
            members in proptest::collection::btree_map("[a-e]|content|isError|_meta", 0..5u8, 0..6),
            modern in proptest::collection::btree_set(0..3usize, 0..4),
            structure in proptest::option::of(proptest::bool::ANY),
        ) {
            let mut result = serde_json::Map::new();
            for (key, value) in &members {
                let value = if key == "isError" { json!(value % 2 == 0) } else { json!({ "n": value }) };
                result.insert(key.clone(), value);
            }
            for index in &modern {
                result.insert(MODERN_FIELDS[*index].to_owned(), json!("complete"));
            }
            if let Some(is_object) = structure {
                let value = if is_object { json!({}) } else { json!([1]) };
                result.insert("structuredContent".to_owned(), value);
            }
            let text = Value::Object(result.clone()).to_string();
            for (upstream, client) in [
                (Era::Legacy, Era::Legacy), (Era::Legacy, Era::Modern),
                (Era::Modern, Era::Legacy), (Era::Modern, Era::Modern),
            ] {
                let shaped: Value = serde_json::from_str(&shaped(&text, upstream, client)).expect("JSON");
                let mut expected = result.clone();
                if upstream != client {
                    expected.retain(|key, _| !MODERN_FIELDS.contains(&key.as_str()));
                }
                if client == Era::Modern {
                    expected.entry("resultType").or_insert(json!("complete"));
                } else {
                    expected.retain(|key, value| key != "structuredContent" || value.is_object());
                }
                proptest::prop_assert_eq!(shaped, Value::Object(expected));
            }
        }
    }

    #[test]
    fn a_list_has_the_members_of_the_era_of_its_client() {
        let shaped = |result: &str, upstream, client| {
            let result = Bytes::copy_from_slice(result.as_bytes());
            let shaped = request_result(&result, upstream, client, true).expect("a result");
            String::from_utf8(shaped.to_vec()).expect("UTF-8")
        };
        let legacy = r#"{"prompts":[],"nextCursor":"a"}"#;
        let modern = r#"{"resultType":"complete","prompts":[],"ttlMs":5,"cacheScope":"public"}"#;
        assert_eq!(shaped(legacy, Era::Legacy, Era::Legacy), legacy);
        assert_eq!(
            shaped(legacy, Era::Legacy, Era::Modern),
            r#"{"resultType":"complete","prompts":[],"nextCursor":"a","ttlMs":60000,"cacheScope":"private"}"#
        );
        assert_eq!(
            shaped(modern, Era::Modern, Era::Legacy),
            r#"{"prompts":[]}"#
        );
        assert_eq!(
            shaped(modern, Era::Modern, Era::Modern),
            r#"{"resultType":"complete","prompts":[],"ttlMs":5,"cacheScope":"private"}"#
        );
        for wrong in ["[]", "1"] {
            let wrong = Bytes::copy_from_slice(wrong.as_bytes());
            for client in [Era::Modern, Era::Legacy] {
                assert!(request_result(&wrong, Era::Legacy, client, false).is_err());
            }
        }
    }

    #[test]
    fn a_request_for_input_is_an_upstream_error() {
        let result = Bytes::from_static(br#"{"resultType":"input_required"}"#);
        for client in [Era::Modern, Era::Legacy] {
            let failure = client_result(&result, Era::Modern, client).expect_err("refused");
            assert_eq!(failure.code, Code::UpstreamError);
            assert!(failure.may_have_run);
        }
    }

    #[test]
    fn a_tool_error_is_marked() {
        let result = Bytes::from_static(br#"{"isError":true,"content":[]}"#);
        let shaped = client_result(&result, Era::Legacy, Era::Legacy).expect("a result");
        assert!(shaped.is_error);
        assert!(client_result(&Bytes::from_static(b"[]"), Era::Legacy, Era::Legacy).is_err());
    }
}
