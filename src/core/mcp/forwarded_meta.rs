//! The members of a client's `_meta` that a server receives: the trace context and the members of vendors. All other
//! members belong to one hop (MCP 2026-07-28, Basic, `_meta`).

use serde_json::value::RawValue;

use crate::core::arguments::is_deep;
use crate::core::json_object::{Members, append_member, text_of};

/// The longest forwarded `_meta` in bytes. A member that does not fit is left out.
pub const MAX_META: usize = 2048;
/// The longest `tracestate` that a server must take (W3C Trace Context, section 3.3.1.5).
const MAX_TRACESTATE: usize = 512;

/// Returns the forwarded members as a JSON object on one line of ASCII, or `None` without such members. Of members with
/// the same name, the first one counts.
pub fn forwarded_meta(meta: &Members<'_>) -> Option<String> {
    if meta.0.is_empty() {
        return None;
    }
    let mut object = String::from("{");
    let mut names = Vec::new();
    for (key, value) in &meta.0 {
        let Some(name) = text_of(key).filter(|name| !names.contains(name)) else {
            continue;
        };
        if !is_forwarded(&name, value) {
            continue;
        }
        let value = ascii_line(value.get());
        // Two quotes, a colon, a comma and the last brace. Such names contain no character to escape.
        if object.len() + name.len() + value.len() + 5 <= MAX_META {
            append_member(&mut object, &format!("\"{name}\""), &value);
            names.push(name);
        }
    }
    object.push('}');
    (!names.is_empty()).then_some(object)
}

fn is_forwarded(name: &str, value: &RawValue) -> bool {
    match name {
        "tracestate" => is_list_header(value, MAX_TRACESTATE),
        "baggage" => is_list_header(value, MAX_META),
        _ => is_vendor_name(name) && !is_deep(value.get().as_bytes()),
    }
}

/// Returns whether a value is the text of a header with a list: visible ASCII and blanks.
fn is_list_header(value: &RawValue, limit: usize) -> bool {
    let is_allowed = |byte: u8| matches!(byte, b'\t' | b' '..=b'~');
    text_of(value)
        .is_some_and(|text| (1..=limit).contains(&text.len()) && text.bytes().all(is_allowed))
}

/// Returns whether a name has a prefix of a vendor, such as `com.example/`. A name without a prefix belongs to the
/// protocol, and some prefixes are reserved for it.
fn is_vendor_name(name: &str) -> bool {
    let Some((prefix, name)) = name.split_once('/') else {
        return false;
    };
    let labels: Vec<_> = prefix.split('.').collect();
    labels.iter().all(|label| is_label(label)) && is_name(name) && !is_reserved(&labels)
}

/// MCP 2025-11-25 and later reserve the prefixes whose second label is one of the protocol's names. MCP 2025-06-18
/// reserves the prefixes with such a label before the last one. `mcp-api/` is the prefix of this program.
fn is_reserved(labels: &[&str]) -> bool {
    let is_own = |label: &&str| {
        label.eq_ignore_ascii_case("mcp") || label.eq_ignore_ascii_case("modelcontextprotocol")
    };
    let (before_last, second) = (&labels[..labels.len() - 1], labels.get(1));
    before_last.iter().any(is_own) || second.is_some_and(is_own) || labels == ["mcp-api"]
}

fn is_label(label: &str) -> bool {
    let bytes = label.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
}

fn is_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    let is_inner = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let ends = [bytes.first(), bytes.last()];
    ends.into_iter().flatten().all(u8::is_ascii_alphanumeric) && bytes.iter().all(is_inner)
}

/// Returns valid JSON without blanks between its parts, and with escapes in place of all characters outside of ASCII.
fn ascii_line(json: &str) -> String {
    let mut line = String::with_capacity(json.len());
    let mut in_text = false;
    let mut is_escaped = false;
    for character in json.chars() {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = in_text,
            '"' => in_text = !in_text,
            ' ' | '\t' | '\r' | '\n' if !in_text => continue,
            _ => {}
        }
        if character.is_ascii() {
            line.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                line.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn forwarded(meta: &str) -> Option<String> {
        forwarded_meta(&Members::parse(meta).expect("an object"))
    }

    #[test]
    fn members_of_vendors_are_forwarded_and_reserved_members_are_not() {
        for name in [
            "com.example/key",
            "com.example.mcp/key",
            "openai/userAgent",
            "claudecode/toolUseId",
            "a-b.c1/a_b.c-d",
            "com.example/",
        ] {
            let meta = format!(r#"{{"{name}":{{"a": 1.50}}}}"#);
            assert_eq!(
                forwarded(&meta),
                Some(format!(r#"{{"{name}":{{"a":1.50}}}}"#))
            );
        }
        for name in [
            "key",
            "progressToken",
            "traceparent",
            "io.modelcontextprotocol/protocolVersion",
            "dev.mcp/key",
            "org.modelcontextprotocol.api/key",
            "com.mcp.tools/key",
            "mcp.dev/key",
            "IO.ModelContextProtocol/key",
            "a.b.mcp.c/key",
            "mcp-api/failure",
            "/key",
            "1a/key",
            "a-/key",
            "a..b/key",
            "com.example/-",
            "com.example/a/b",
            "com.example/a b",
            "com.exämple/key",
        ] {
            assert_eq!(forwarded(&format!(r#"{{"{name}":1}}"#)), None, "{name}");
        }
    }

    #[test]
    fn a_trace_context_is_forwarded_if_it_is_a_header() {
        let both = r#"{"tracestate":"vendor=1,b=2","baggage":"userId=alice"}"#;
        assert_eq!(forwarded(both).as_deref(), Some(both));
        for wrong in ["1", r#""""#, r#""a\nb""#, r#""ä""#, "{}", "null"] {
            let meta = format!(r#"{{"tracestate":{wrong},"baggage":{wrong}}}"#);
            assert_eq!(forwarded(&meta), None, "{wrong}");
        }
        let long = format!(r#"{{"tracestate":"{}"}}"#, "a".repeat(MAX_TRACESTATE + 1));
        assert_eq!(forwarded(&long), None);
    }

    #[test]
    fn a_forwarded_meta_is_one_line_of_ascii_with_the_same_content() {
        let meta = "{ \"a.b/c\" :\n[ \"ä 𝄞 \\\" \\u00e4 \\\\\", {\"é\": 1e3} ] }";
        let line = forwarded(meta).expect("a member");
        assert!(line.is_ascii() && !line.contains('\n'), "{line}");
        let parse = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
        assert_eq!(parse(&line), parse(meta));
        assert_eq!(forwarded(&line), Some(line.clone()));
    }

    #[test]
    fn a_member_that_is_repeated_too_deep_or_too_long_is_left_out() {
        let long = "x".repeat(MAX_META);
        let deep = "[".repeat(200) + &"]".repeat(200);
        let meta =
            format!(r#"{{"a.b/deep":{deep},"a.b/long":"{long}","a.b/c":1,"a.b\/c":2,"a.b/d":3}}"#);
        assert_eq!(
            forwarded(&meta).as_deref(),
            Some(r#"{"a.b/c":1,"a.b/d":3}"#)
        );
        for length in MAX_META - 30..MAX_META {
            let meta = format!(r#"{{"a.b/c":"{}"}}"#, "x".repeat(length));
            assert!(forwarded(&meta).is_none_or(|line| line.len() <= MAX_META));
        }
    }
}
