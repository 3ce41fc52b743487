//! The rules for the arguments of a tool call and for its trace context.

pub mod merge;

use serde_json::value::RawValue;

use super::failure::Failure;

/// The largest nesting depth of arguments. Some JSON parsers crash a little above it, and then other users lose the
/// server too.
const MAX_DEPTH: usize = 128;

/// Checks that arguments are an object and not nested too deeply.
///
/// # Errors
/// The failure names the rule.
pub fn check_args(args: &RawValue) -> Result<(), Failure> {
    if !args.get().trim_start().starts_with('{') {
        return Err(Failure::invalid("args must be an object"));
    }
    if is_deep(args.get().as_bytes()) {
        return Err(Failure::invalid(format!(
            "args must not be nested deeper than {MAX_DEPTH} levels"
        )));
    }
    Ok(())
}

/// Checks arguments that no process has parsed yet.
///
/// # Errors
/// Fails if the text is no JSON object, and if it is nested too deeply.
pub fn check_args_text(args: &[u8]) -> Result<(), Failure> {
    let args: &RawValue = serde_json::from_slice(args)
        .map_err(|error| Failure::invalid(format!("args must be JSON: {error}")))?;
    check_args(args)
}

/// Returns true if valid JSON is nested deeper than `MAX_DEPTH`.
pub fn is_deep(json: &[u8]) -> bool {
    // Most arguments have fewer brackets in total, and a search for brackets is fast.
    if memchr::memchr2_iter(b'{', b'[', json)
        .nth(MAX_DEPTH)
        .is_none()
    {
        return false;
    }
    let mut depth = 0usize;
    let mut in_text = false;
    let mut escaped = false;
    json.iter().any(|byte| {
        match (byte, in_text) {
            _ if escaped => escaped = false,
            (b'\\', true) => escaped = true,
            (b'"', _) => in_text = !in_text,
            (b'{' | b'[', false) => depth += 1,
            (b'}' | b']', false) => depth -= 1,
            _ => {}
        }
        depth > MAX_DEPTH
    })
}

/// Returns true if the text is a trace context of version 00 (W3C Trace Context, section 3.2). The program ignores any
/// other text.
pub fn is_traceparent(text: &str) -> bool {
    let mut parts = text.split('-');
    let is_hex = |part: Option<&str>, length: usize| {
        part.is_some_and(|part| {
            part.len() == length
                && part
                    .bytes()
                    .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        })
    };
    let has_four_fields = parts.next() == Some("00")
        && is_hex(parts.next(), 32)
        && is_hex(parts.next(), 16)
        && is_hex(parts.next(), 2);
    has_four_fields && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_in_texts_do_not_count_as_depth() {
        let nested = |levels: usize| [b"[".repeat(levels), b"]".repeat(levels)].concat();
        assert!(!is_deep(&nested(MAX_DEPTH)) && is_deep(&nested(MAX_DEPTH + 1)));
        let flat = |text: &str| format!("{{\"a\":[{}1]}}", text.repeat(200));
        assert!(!is_deep(flat(r#"{},[],"{[\"[","#).as_bytes()));
    }

    #[test]
    fn arguments_are_one_complete_object() {
        assert!(check_args_text(br#" {"a":1} "#).is_ok());
        for bad in [
            "",
            "[]",
            "1",
            "{",
            "{}{}",
            "{}\n{\"jsonrpc\":\"2.0\"}",
            "\u{feff}{}",
        ] {
            assert!(check_args_text(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_trace_context_has_four_fields_of_hexadecimal_digits() {
        assert!(is_traceparent(
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        ));
        for bad in [
            "",
            "00-xyz",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-\"},\"x\":\"-1-01",
        ] {
            assert!(!is_traceparent(bad), "{bad}");
        }
    }
}
