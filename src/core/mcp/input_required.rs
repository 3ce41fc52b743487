//! Results with which a server of 2026-07-28 asks the client for input before it answers (MCP 2026-07-28, Multi Round-Trip
//! Requests).

use memchr::memmem;
use serde_json::value::RawValue;

use super::capabilities::ClientCapabilities;
use super::client::McpClient;
use super::version::Era;
use crate::core::arguments::is_deep;
use crate::core::failure::{Code, Failure};
use crate::core::json_object::{Members, ObjectWriter, text_of};

/// The result type of such a result.
pub const INPUT_REQUIRED: &str = "input_required";
/// The most requests of one result.
const MAX_REQUESTS: usize = 8;

/// A result that asks for input. It has requests, a state, or both.
#[derive(Debug)]
pub struct InputRequired<'a> {
    pub requests: Vec<InputRequest<'a>>,
    /// The state that the next request must repeat: a JSON string.
    pub state: Option<&'a RawValue>,
}

/// One request for input.
#[derive(Debug)]
pub struct InputRequest<'a> {
    /// The JSON string that names the answer.
    pub key: &'a RawValue,
    pub method: ClientMethod,
    /// A JSON object.
    pub params: Option<&'a RawValue>,
}

/// The notification that an elicitation in URL mode has ended (MCP 2025-11-25, Elicitation).
pub const ELICITATION_COMPLETED: &str = "notifications/elicitation/complete";

/// The longest parameters of a request to the client of a call, in bytes.
const MAX_QUESTION: usize = 64 * 1024;

/// Returns whether the parameters of a request to a client are an object that every client can parse.
pub fn is_question(params: &RawValue) -> bool {
    let text = params.get();
    text.starts_with('{') && text.len() <= MAX_QUESTION && !is_deep(text.as_bytes())
}

/// The methods with which a server asks a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientMethod {
    Elicit,
    Sample,
    ListRoots,
}

impl ClientMethod {
    pub fn parse(method: &str) -> Option<Self> {
        match method {
            "elicitation/create" => Some(Self::Elicit),
            "sampling/createMessage" => Some(Self::Sample),
            "roots/list" => Some(Self::ListRoots),
            _ => None,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Elicit => "elicitation/create",
            Self::Sample => "sampling/createMessage",
            Self::ListRoots => "roots/list",
        }
    }

    /// Returns the capabilities that a client must have declared for a request. If a member stands twice, the client may read
    /// either, so both count.
    pub fn needs(self, params: Option<&RawValue>) -> ClientCapabilities {
        let members = params.and_then(|params| Members::parse(params.get()));
        let members = members.unwrap_or_default();
        let values = |name: &'static str| {
            let named = members.0.iter();
            named.filter(move |(key, _)| text_of(key).is_some_and(|key| key == name))
        };
        match self {
            Self::Elicit => {
                let modes: Vec<_> = values("mode").map(|(_, mode)| text_of(mode)).collect();
                let is_url = |mode: &Option<_>| mode.as_deref() == Some("url");
                let url = modes.iter().any(is_url);
                let form = modes.is_empty() || !modes.iter().all(is_url);
                [
                    (url, ClientCapabilities::ELICITATION_URL),
                    (form, ClientCapabilities::ELICITATION_FORM),
                ]
                .into_iter()
                .filter(|(is_needed, _)| *is_needed)
                .fold(ClientCapabilities::default(), |all, (_, one)| all.and(one))
            }
            Self::Sample if values("tools").chain(values("toolChoice")).next().is_some() => {
                ClientCapabilities::SAMPLING.and(ClientCapabilities::SAMPLING_TOOLS)
            }
            Self::Sample => ClientCapabilities::SAMPLING,
            Self::ListRoots => ClientCapabilities::ROOTS,
        }
    }
}

impl<'a> InputRequired<'a> {
    /// Returns the requests of a result, or `None` if the result does not ask for input.
    ///
    /// # Errors
    /// `upstream_error` if the result asks in a form that no client can answer. The tool may have run.
    pub fn parse(result: &'a [u8]) -> Result<Option<Self>, Failure> {
        // JSON may write each letter as an escape.
        let may_ask = |part: &str| memmem::find(result, part.as_bytes()).is_some();
        if !may_ask(INPUT_REQUIRED) && !may_ask("\\u") {
            return Ok(None);
        }
        let members = std::str::from_utf8(result).ok().and_then(Members::parse);
        let Some(members) = members.filter(|members| members.is_text("resultType", INPUT_REQUIRED))
        else {
            return Ok(None);
        };
        let state = members
            .get("requestState")
            .filter(|state| state.get() != "null");
        let requests = match members.get("inputRequests") {
            Some(requests) => parse_requests(requests).ok_or_else(unusable)?,
            None => vec![],
        };
        let is_usable = state.is_none_or(|state| text_of(state).is_some())
            && requests.len() <= MAX_REQUESTS
            && requests
                .iter()
                .all(|request| !request.params.is_some_and(is_deep_value))
            && (state.is_some() || !requests.is_empty());
        is_usable
            .then_some(Some(Self { requests, state }))
            .ok_or_else(unusable)
    }

    /// Checks that the client can be asked for all inputs.
    ///
    /// # Errors
    /// `upstream_error` if there is no client, or if it has not declared a capability. The tool may have run.
    pub fn check_client(&self, client: Option<McpClient>) -> Result<(), Failure> {
        let declared = client.map(|client| client.capabilities).unwrap_or_default();
        let refused = self.requests.iter().find(|request| {
            let needed = request.method.needs(request.params);
            !declared.has(needed)
        });
        refused.map_or(Ok(()), |request| Err(not_available(request.method, client)))
    }

    /// Returns the members with which the next request answers: the state, and the inputs if there are any.
    pub fn answer(&self, inputs: &[(&RawValue, String)]) -> String {
        let mut writer = ObjectWriter::with_capacity(256);
        if !inputs.is_empty() {
            let mut responses = ObjectWriter::with_capacity(256);
            for (key, input) in inputs {
                responses.member(key, input);
            }
            writer.raw("inputResponses", &responses.finish());
        }
        if let Some(state) = self.state {
            writer.raw("requestState", state.get());
        }
        let object = writer.finish();
        object[1..object.len() - 1].to_owned()
    }
}

/// Returns whether a value can be the member `inputResponses` of a request: an object of objects, not nested too deeply.
pub fn are_input_responses(responses: &RawValue) -> bool {
    !is_deep_value(responses)
        && Members::parse(responses.get()).is_some_and(|members| {
            let mut values = members.0.iter();
            values.all(|(_, value)| value.get().starts_with('{'))
        })
}

fn parse_requests<'a>(requests: &'a RawValue) -> Option<Vec<InputRequest<'a>>> {
    let requests = Members::parse(requests.get())?;
    let parse = |(key, request): (&'a RawValue, &'a RawValue)| {
        let members = Members::parse(request.get())?;
        let params = members
            .get("params")
            .filter(|params| params.get() != "null");
        if params.is_some_and(|params| !params.get().starts_with('{')) {
            return None;
        }
        let method = ClientMethod::parse(&text_of(members.get("method")?)?)?;
        Some(InputRequest {
            key,
            method,
            params,
        })
    };
    requests.0.into_iter().map(parse).collect()
}

fn is_deep_value(value: &RawValue) -> bool {
    is_deep(value.get().as_bytes())
}

fn unusable() -> Failure {
    let sentence = "The MCP server asks for input in a form that no client can answer";
    Failure::new(Code::UpstreamError, sentence).maybe_run()
}

fn not_available(method: ClientMethod, client: Option<McpClient>) -> Failure {
    let method = method.as_str();
    let sentence = match client.map(|client| client.era) {
        Some(Era::Modern | Era::Legacy) => format!(
            "The MCP server asks for input ({method}), and the client has not declared that it can answer"
        ),
        None => format!(
            "The MCP server asks for input ({method}); call the tool with an MCP client that can answer, at /mcp"
        ),
    };
    Failure::new(Code::UpstreamError, sentence).maybe_run()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(result: &str) -> Result<Option<InputRequired<'_>>, Failure> {
        InputRequired::parse(result.as_bytes())
    }

    #[test]
    fn a_result_without_the_type_asks_for_nothing() {
        for result in [
            "{}",
            r#"{"content":[{"text":"input_required"}]}"#,
            r#"{"resultType":"complete","x":"input_required"}"#,
            r#"["input_required"]"#,
        ] {
            assert!(parse(result).expect("a result").is_none(), "{result}");
        }
    }

    #[test]
    fn responses_are_an_object_of_objects() {
        let accepted = |text: &str| {
            are_input_responses(&RawValue::from_string(text.to_owned()).expect("JSON"))
        };
        assert!(accepted("{}") && accepted(r#"{"a":{"action":"accept"}}"#));
        assert!(!accepted("[]") && !accepted(r#"{"a":1}"#) && !accepted("null"));
        assert!(!accepted(&format!(
            r#"{{"a":{{"b":{}{}}}}}"#,
            "[".repeat(200),
            "]".repeat(200)
        )));
    }

    #[test]
    fn escapes_hide_no_request_for_input() {
        let result = r#"{"result\u0054ype":"input\u005frequired","requestState":"s"}"#;
        assert!(parse(result).expect("a result").is_some());
    }

    #[test]
    fn a_result_asks_with_requests_a_state_or_both() {
        let both = r#"{"resultType":"input_required","requestState":"s","inputRequests":{
            "a":{"method":"elicitation/create","params":{"message":"m"}},"b":{"method":"roots/list"}}}"#;
        let both = parse(both).expect("a result").expect("input");
        let methods: Vec<_> = both.requests.iter().map(|request| request.method).collect();
        assert_eq!(methods, [ClientMethod::Elicit, ClientMethod::ListRoots]);
        let answer = both.answer(&[
            (both.requests[0].key, r#"{"action":"accept"}"#.to_owned()),
            (both.requests[1].key, r#"{"roots":[]}"#.to_owned()),
        ]);
        assert_eq!(
            answer,
            r#""inputResponses":{"a":{"action":"accept"},"b":{"roots":[]}},"requestState":"s""#
        );
        let state = r#"{"resultType":"input_required","requestState":"s"}"#;
        let state = parse(state).expect("a result").expect("input");
        assert_eq!(state.answer(&[]), r#""requestState":"s""#);
    }

    #[test]
    fn a_result_that_cannot_be_answered_is_an_error() {
        let many: Vec<_> = (0..9)
            .map(|n| format!(r#""{n}":{{"method":"roots/list"}}"#))
            .collect();
        let many = format!("{{{}}}", many.join(","));
        for requests in [
            "{}",
            "[]",
            r#"{"a":1}"#,
            r#"{"a":{}}"#,
            r#"{"a":{"method":"tools/list"}}"#,
            r#"{"a":{"method":"roots/list","params":[]}}"#,
            many.as_str(),
        ] {
            let result = format!(r#"{{"resultType":"input_required","inputRequests":{requests}}}"#);
            let failure = parse(&result).expect_err(&result);
            assert!(failure.may_have_run);
        }
        assert!(parse(r#"{"resultType":"input_required","requestState":1}"#).is_err());
    }

    #[test]
    fn a_client_answers_only_requests_of_its_capabilities() {
        let result = |request: &str| {
            format!(r#"{{"resultType":"input_required","inputRequests":{{"a":{request}}}}}"#)
        };
        let form = r#"{"method":"elicitation/create","params":{"mode":"form"}}"#;
        let url = r#"{"method":"elicitation/create","params":{"mode":"url"}}"#;
        let sample = r#"{"method":"sampling/createMessage","params":{}}"#;
        let tools = r#"{"method":"sampling/createMessage","params":{"tools":[]}}"#;
        let roots = r#"{"method":"roots/list"}"#;
        let both = r#"{"method":"elicitation/create","params":{"mode":"form","mode":"url"}}"#;
        for (request, bits) in [
            (form, 1),
            (url, 2),
            (both, 3),
            (sample, 4),
            (tools, 12),
            (roots, 16),
        ] {
            let result = result(request);
            let input = parse(&result).expect("a result").expect("input");
            let client = |bits| McpClient {
                era: Era::Modern,
                capabilities: ClientCapabilities::from_bits(bits),
                progress: false,
            };
            assert!(input.check_client(Some(client(bits))).is_ok(), "{request}");
            assert!(
                input.check_client(Some(client(31 - bits))).is_err(),
                "{request}"
            );
            assert!(input.check_client(None).is_err(), "{request}");
        }
    }
}
