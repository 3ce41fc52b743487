//! Jobs as producers write them: what is read of a message, and what makes it unreadable.

use serde_json::value::RawValue;

use super::arguments::check_args;
use super::command::Command;
use super::failure::Failure;
use super::model::tool_call::CallTool;

/// Characters of a producer's words that are repeated.
const WORDS: usize = 64;

/// Reads a message: `call` are the fields of a tool call, the body its arguments. What is wrong is said without
/// the words it was said in: a secret may be among them.
pub fn parse_producer_message(
    command: &str,
    call: Option<&str>,
    body: &[u8],
) -> Result<(CallTool, Box<RawValue>), Failure> {
    if command != CallTool::NAME {
        let command: String = command
            .chars()
            .filter(|c| !c.is_control())
            .take(WORDS)
            .collect();
        return Err(Failure::invalid(format!(
            "The command {command:?} is not taken as a job; tools.call is"
        )));
    }
    let call = call.ok_or_else(|| Failure::invalid("The header Mcp-Call is missing"))?;
    let call: CallTool = serde_json::from_str(call).map_err(|error| {
        let at = error.column();
        Failure::invalid(format!(
            r#"The header Mcp-Call must be the JSON of {{"user", "server", "tool", "timeoutMs"?}}; it is wrong at character {at}"#
        ))
    })?;
    let args: Box<RawValue> = serde_json::from_slice(body).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        Failure::invalid(format!(
            "The body must be JSON, the tool's args; it is not at line {line}, character {column}"
        ))
    })?;
    check_args(&args)?;
    Ok((call, args))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: &str = r#"{"user":"ana","server":"s","tool":"t"}"#;

    #[test]
    fn a_call_is_read_with_its_arguments() {
        let (call, args) =
            parse_producer_message("tools.call", Some(CALL), br#" {"a": 1} "#).expect("a call");
        assert_eq!((call.tool.as_str(), args.get()), ("t", r#"{"a": 1}"#));
    }

    #[test]
    fn what_is_wrong_is_named_and_not_repeated() {
        let secret = r#"{"user":"s3cret\u0000","server":"s","tool":"t"}"#;
        for (command, call, body, named) in [
            ("tools.dance", Some(CALL), "{}", "tools.dance"),
            ("tools.call", None, "{}", "Mcp-Call is missing"),
            ("tools.call", Some(secret), "{}", "Mcp-Call must be"),
            (
                "tools.call",
                Some(r#"{"user":"a","server":"s3cret/","tool":"t"}"#),
                "{}",
                "Mcp-Call must be",
            ),
            (
                "tools.call",
                Some(CALL),
                r#"{"s3cret": }"#,
                "The body must be JSON",
            ),
            (
                "tools.call",
                Some(CALL),
                r#"["s3cret"]"#,
                "args must be an object",
            ),
        ] {
            let failure =
                parse_producer_message(command, call, body.as_bytes()).expect_err("it is wrong");
            assert!(
                failure.message.contains(named) && !failure.message.contains("s3cret"),
                "{failure}"
            );
        }
    }
}
