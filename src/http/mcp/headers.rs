//! The request headers of the modern era, which repeat parts of the body (MCP 2026-07-28, Streamable HTTP).

use std::borrow::Cow;

use axum::http::{HeaderMap, HeaderName};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::Value;

use super::error::RpcError;

pub(super) static PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
pub(super) static SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
pub(super) static METHOD: HeaderName = HeaderName::from_static("mcp-method");
pub(super) static NAME: HeaderName = HeaderName::from_static("mcp-name");
/// Names the user for callers who act for any user.
pub(super) static USER: HeaderName = HeaderName::from_static("mcp-api-user");
/// The prefix of the headers that repeat arguments.
const PARAM_PREFIX: &str = "mcp-param-";
/// The member of a property's schema that names its header.
const HEADER_MARK: &str = "x-mcp-header";
/// The deepest nesting of properties with a header.
const MAX_DEPTH: usize = 32;

/// Returns the only value of a header, without blanks around it.
///
/// # Errors
/// -32020 if the header stands twice or is not visible ASCII.
pub(super) fn single<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'a str>, RpcError> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(RpcError::header_mismatch(format!(
            "The header {name} must stand once"
        )));
    }
    let value = value.to_str().map_err(|_| {
        RpcError::header_mismatch(format!("The header {name} must be visible ASCII"))
    })?;
    Ok(Some(value.trim_matches([' ', '\t'])))
}

/// Checks that a header repeats a text of the body.
///
/// # Errors
/// -32020 if the header is missing or differs.
pub(super) fn check_text(
    headers: &HeaderMap,
    name: &HeaderName,
    expected: &str,
) -> Result<(), RpcError> {
    let value = single(headers, name)?;
    let decoded = value.map(|value| decode(name, value)).transpose()?;
    if decoded.as_deref() == Some(expected) {
        return Ok(());
    }
    Err(RpcError::header_mismatch(format!(
        "The header {name} must repeat the value of the body"
    )))
}

/// Decodes `=?base64?…?=` (MCP 2026-07-28, Value Encoding). Any other value is literal.
pub(super) fn decode<'a>(name: &HeaderName, value: &'a str) -> Result<Cow<'a, str>, RpcError> {
    let encoded = value
        .strip_prefix("=?base64?")
        .and_then(|rest| rest.strip_suffix("?="));
    let Some(encoded) = encoded else {
        return Ok(Cow::Borrowed(value));
    };
    BASE64_STANDARD
        .decode(encoded)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .map(Cow::Owned)
        .ok_or_else(|| {
            RpcError::header_mismatch(format!(
                "The header {name} must be base64 of UTF-8 between =?base64? and ?="
            ))
        })
}

/// Checks the headers that repeat arguments of a tool, as the tool's input schema names them.
///
/// # Errors
/// -32020 if a header is missing, differs, or repeats no argument.
pub(super) fn check_arguments(
    headers: &HeaderMap,
    schema: &Value,
    hidden: &[&str],
    arguments: &Value,
) -> Result<(), RpcError> {
    let mut marks = Vec::new();
    collect_marks(schema, hidden, &mut Vec::new(), &mut marks);
    for (path, name) in marks {
        let argument = path
            .iter()
            .try_fold(arguments, |value, key| value.get(key.as_str()))
            .filter(|value| !value.is_null());
        let value = single(headers, &name)?;
        let matches = match (argument, value) {
            (None, None) => true,
            (Some(argument), Some(value)) => equals(argument, &decode(&name, value)?),
            _ => false,
        };
        if !matches {
            return Err(RpcError::header_mismatch(format!(
                "The header {name} must repeat the argument {}",
                path.join(".")
            )));
        }
    }
    Ok(())
}

/// Collects the paths of properties with a header, and the names of the headers.
fn collect_marks(
    schema: &Value,
    hidden: &[&str],
    path: &mut Vec<String>,
    marks: &mut Vec<(Vec<String>, HeaderName)>,
) {
    let properties = schema.get("properties").and_then(Value::as_object);
    for (key, property) in properties.into_iter().flatten() {
        if path.is_empty() && hidden.contains(&key.as_str()) || path.len() >= MAX_DEPTH {
            continue;
        }
        path.push(key.clone());
        if let Some(header) = property.get(HEADER_MARK).and_then(Value::as_str)
            && is_plain(property)
            && let Some(name) = argument_header(header)
        {
            marks.push((path.clone(), name));
        }
        collect_marks(property, &[], path, marks);
        path.pop();
    }
}

fn argument_header(mark: &str) -> Option<HeaderName> {
    let name = format!("{PARAM_PREFIX}{mark}");
    HeaderName::from_bytes(name.as_bytes())
        .ok()
        .filter(|_| !mark.is_empty())
}

fn is_plain(property: &Value) -> bool {
    let kind = property.get("type").and_then(Value::as_str);
    matches!(kind, Some("string" | "integer" | "boolean"))
}

/// Returns whether a header repeats an argument. Integers are compared as numbers.
fn equals(argument: &Value, header: &str) -> bool {
    match argument {
        Value::String(text) => text == header,
        Value::Bool(flag) => header == if *flag { "true" } else { "false" },
        Value::Number(number) => header
            .parse::<serde_json::Number>()
            .is_ok_and(|given| given == *number || given.as_f64() == number.as_f64()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use serde_json::json;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn a_header_repeats_a_text_plainly_or_in_base64() {
        for (value, expected, is_right) in [
            ("search", "search", true),
            ("  search\t", "search", true),
            ("Search", "search", false),
            ("=?base64?w7xiZXI=?=", "über", true),
            ("=?base64?w7xiZXI?=", "über", false),
            ("=?base64?!!!?=", "x", false),
            ("=?base64?/w==?=", "x", false),
            ("=?base64x", "=?base64x", true),
        ] {
            let headers = headers(&[("mcp-name", value)]);
            assert_eq!(
                check_text(&headers, &NAME, expected).is_ok(),
                is_right,
                "{value}"
            );
        }
        assert!(check_text(&HeaderMap::new(), &NAME, "x").is_err());
        assert!(
            check_text(
                &headers(&[("mcp-name", "x"), ("mcp-name", "x")]),
                &NAME,
                "x"
            )
            .is_err()
        );
    }

    fn check(pairs: &[(&'static str, &'static str)], hidden: &[&str], arguments: Value) -> bool {
        let schema = json!({ "type": "object", "properties": {
            "region": { "type": "string", "x-mcp-header": "Region" },
            "count": { "type": "integer", "x-mcp-header": "Count" },
            "deep": { "type": "object", "properties": {
                "flag": { "type": "boolean", "x-mcp-header": "Flag" },
            }},
            "list": { "type": "array", "x-mcp-header": "List" },
            "odd": { "type": "string", "x-mcp-header": "no header" },
            "empty": { "type": "string", "x-mcp-header": "" },
        }});
        check_arguments(&headers(pairs), &schema, hidden, &arguments).is_ok()
    }

    #[test]
    fn headers_repeat_the_marked_arguments() {
        let region = ("mcp-param-region", "eu");
        assert!(check(&[region], &[], json!({ "region": "eu" })));
        assert!(!check(&[region], &[], json!({ "region": "us" })));
        assert!(!check(&[], &[], json!({ "region": "eu" })));
        assert!(!check(&[region], &[], json!({})));
        assert!(check(
            &[],
            &[],
            json!({ "region": null, "list": [1], "odd": "x", "empty": "x" })
        ));
        assert!(check(
            &[("mcp-param-count", "7")],
            &[],
            json!({ "count": 7 })
        ));
        assert!(check(
            &[("mcp-param-count", "7.0")],
            &[],
            json!({ "count": 7 })
        ));
        assert!(!check(
            &[("mcp-param-count", "8")],
            &[],
            json!({ "count": 7 })
        ));
        assert!(check(
            &[("mcp-param-flag", "true")],
            &[],
            json!({ "deep": { "flag": true } })
        ));
        assert!(!check(
            &[("mcp-param-flag", "True")],
            &[],
            json!({ "deep": { "flag": true } })
        ));
    }

    #[test]
    fn a_hidden_argument_has_no_header() {
        assert!(check(&[], &["region"], json!({ "region": "eu" })));
    }
}
