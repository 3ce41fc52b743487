//! Parses the messages of producers. A message that fails here becomes a dead letter.

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::arguments::check_args;
use super::failure::Failure;

/// The number of characters of a producer's text that a failure repeats.
const MAX_REPEATED_CHARACTERS: usize = 64;

/// Parses a tool call of a producer. `call` holds the fields of the call (the header `Mcp-Call`), and `body` holds its
/// arguments. `expected_command` is the only command that a producer may send as a job.
///
/// # Errors
/// The failure says what is wrong and never repeats `call` or `body`, because they may hold a secret.
pub fn parse_producer_message<Call: DeserializeOwned>(
    expected_command: &str,
    command: &str,
    call: Option<&str>,
    body: &[u8],
) -> Result<(Call, Box<RawValue>), Failure> {
    if command != expected_command {
        let command: String = command
            .chars()
            .filter(|character| !character.is_control())
            .take(MAX_REPEATED_CHARACTERS)
            .collect();
        return Err(Failure::invalid(format!(
            "A job cannot have the command {command:?}; send {expected_command}"
        )));
    }
    let call = call.ok_or_else(|| Failure::invalid("The header Mcp-Call is missing"))?;
    let call = serde_json::from_str(call).map_err(|error| {
        let column = error.column();
        Failure::invalid(format!(
            r#"The header Mcp-Call must be the JSON of {{"user", "server", "tool", "timeoutMs"?}}; it is wrong at character {column}"#
        ))
    })?;
    let args: Box<RawValue> = serde_json::from_slice(body).map_err(|error| {
        let row = error.line();
        let column = error.column();
        Failure::invalid(format!(
            "The body must be JSON, the args of the tool; it is wrong at line {row}, character {column}"
        ))
    })?;
    check_args(&args)?;
    Ok((call, args))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::failure::Code;

    /// The fields of a call, as strict as the real fields.
    #[derive(Debug, serde::Deserialize)]
    struct Call {
        tool: crate::core::names::ToolName,
        #[serde(rename = "server")]
        _server: crate::core::names::ServerName,
        #[serde(rename = "user")]
        _user: crate::core::names::UserName,
    }

    fn parse(
        command: &str,
        call: Option<&str>,
        body: &str,
    ) -> Result<(Call, Box<RawValue>), Failure> {
        parse_producer_message("tools.call", command, call, body.as_bytes())
    }

    const CALL: &str = r#"{"user":"ana","server":"s","tool":"t"}"#;

    #[test]
    fn a_call_keeps_the_spelling_of_its_arguments() {
        let (call, args) = parse("tools.call", Some(CALL), r#" {"a": 1} "#).expect("a call");
        assert_eq!((call.tool.as_str(), args.get()), ("t", r#"{"a": 1}"#));
    }

    #[test]
    fn a_failure_names_the_problem_and_repeats_no_secret() {
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
            let failure = parse(command, call, body).expect_err(named);
            assert_eq!(failure.code, Code::InvalidRequest);
            assert!(
                failure.message.contains(named) && !failure.message.contains("s3cret"),
                "{failure}"
            );
        }
    }

    #[test]
    fn a_failure_repeats_a_short_part_of_the_command() {
        let failure = parse(&"x".repeat(1000), Some(CALL), "{}").expect_err("a long command");
        assert!(failure.message.len() < 200, "{failure}");
    }
}
