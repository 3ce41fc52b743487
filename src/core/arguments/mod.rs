//! What a tool call may carry, whoever sends it.

pub mod merge;

use serde_json::value::RawValue;

use super::failure::Failure;

/// Levels of a call's arguments. Many a JSON reader ends with its whole server a little further down, and that
/// server is there for others too.
const DEPTH: usize = 128;

/// Arguments are an object that a server can be expected to read.
pub fn check_args(args: &RawValue) -> Result<(), Failure> {
    if !args.get().trim_start().starts_with('{') {
        return Err(Failure::invalid("args must be an object"));
    }
    if is_deep(args.get().as_bytes()) {
        return Err(Failure::invalid(format!(
            "args must not be nested deeper than {DEPTH} levels"
        )));
    }
    Ok(())
}

/// The same of a text that nobody has parsed yet.
pub fn check_args_text(args: &[u8]) -> Result<(), Failure> {
    let args: &RawValue = serde_json::from_slice(args)
        .map_err(|error| Failure::invalid(format!("args must be JSON: {error}")))?;
    check_args(args)
}

/// Whether valid JSON is nested deeper than servers can be expected to read.
fn is_deep(json: &[u8]) -> bool {
    // Nearly always there are not even so many brackets.
    if memchr::memchr2_iter(b'{', b'[', json).nth(DEPTH).is_none() {
        return false;
    }
    let (mut depth, mut in_text, mut escaped) = (0usize, false, false);
    json.iter().any(|byte| {
        match (byte, in_text) {
            _ if escaped => escaped = false,
            (b'\\', true) => escaped = true,
            (b'"', _) => in_text = !in_text,
            (b'{' | b'[', false) => depth += 1,
            (b'}' | b']', false) => depth -= 1,
            _ => {}
        }
        depth > DEPTH
    })
}

/// Whether it is a trace context, version 00 (W3C Trace Context, section 3.2); anything else is as good as none.
pub fn is_traceparent(text: &str) -> bool {
    let mut parts = text.split('-');
    let hex = |part: Option<&str>, length: usize| {
        part.is_some_and(|p| {
            p.len() == length && p.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        })
    };
    let valid = parts.next() == Some("00")
        && hex(parts.next(), 32)
        && hex(parts.next(), 16)
        && hex(parts.next(), 2);
    valid && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_of_brackets_outside_texts() {
        let nested = |levels: usize| [b"[".repeat(levels), b"]".repeat(levels)].concat();
        assert!(!is_deep(&nested(DEPTH)) && is_deep(&nested(DEPTH + 1)));
        let flat = |text: &str| format!("{{\"a\":[{}1]}}", text.repeat(200));
        assert!(!is_deep(flat(r#"{},[],"{[\"[","#).as_bytes()));
    }

    #[test]
    fn only_one_whole_object_is_arguments() {
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
    fn only_a_whole_trace_context_is_handed_on() {
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
