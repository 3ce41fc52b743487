//! Rounds of a request: a server of 2026-07-28 may ask for input instead of answering, and the request is then sent again
//! with the input (MCP 2026-07-28, Multi Round-Trip Requests).
//!
//! A client of the same revision receives the result that asks, and sends the next request itself. For all other callers, the
//! worker sends the next request.

use bytes::Bytes;
use serde_json::value::RawValue;

use super::redact::Redactor;
use super::upstream_call::{EndedCall, UpstreamCall};
use crate::core::failure::{Code, Failure};
use crate::core::json_object::{Members, ObjectWriter, text_of};
use crate::core::mcp::input_required::{ClientMethod, InputRequired, are_input_responses};
use crate::core::mcp::version::Era;

/// The most requests that the worker sends for one request of its caller.
const MAX_ROUNDS: usize = 10;

/// Sends a request, and answers each request of the server for input. Returns the untouched result, or a result that asks a
/// client of 2026-07-28 with masked requests.
///
/// # Errors
/// The failure of the connection. `upstream_error` if the server asks for input that the caller cannot give.
pub(super) async fn call_in_rounds(
    call: &UpstreamCall<'_>,
    redactor: impl FnOnce() -> Redactor,
) -> Result<Result<Bytes, EndedCall>, Failure> {
    let client = call.request.client;
    let mut input = call.request.input.to_owned();
    for _ in 0..MAX_ROUNDS {
        let answered = match call.send(&input).await? {
            Ok(answered) => answered,
            Err(ended) => return Ok(Err(ended)),
        };
        if !answered.is_modern {
            return Ok(Ok(answered.result));
        }
        let Some(required) = InputRequired::parse(&answered.result)? else {
            return Ok(Ok(answered.result));
        };
        required.check_client(client)?;
        if client.is_some_and(|client| client.era == Era::Modern) {
            return Ok(Ok(with_masked_requests(&answered.result, &redactor())));
        }
        let inputs = ask_client(call, &required).await?;
        input = required.answer(&inputs);
    }
    let sentence = format!("The MCP server asked for input more than {MAX_ROUNDS} times");
    Err(Failure::new(Code::UpstreamError, sentence).maybe_run())
}

/// Asks the client for all inputs at the same time. Returns the key and the answer of each.
async fn ask_client<'a>(
    call: &UpstreamCall<'_>,
    required: &InputRequired<'a>,
) -> Result<Vec<(&'a RawValue, String)>, Failure> {
    let failed = |method: ClientMethod, reason: &str| {
        let sentence = format!(
            "The MCP server asked for input ({}): {reason}",
            method.as_str()
        );
        Failure::new(Code::UpstreamError, sentence).maybe_run()
    };
    let answers = required.requests.iter().map(async |request| {
        let method = request.method;
        let client = call
            .client
            .ok_or_else(|| failed(method, "the client cannot be asked"))?;
        let answer = client
            .ask(method, request.params)
            .await
            .map_err(|refusal| failed(method, refusal.sentence))?;
        let result = answer
            .result
            .ok_or_else(|| failed(method, "the client answered with an error"))?;
        Ok((request.key, result.get().to_owned()))
    });
    futures::future::try_join_all(answers).await
}

/// Returns a result that asks for input, with masked requests. All other texts of a result belong to its user.
fn with_masked_requests(result: &Bytes, redactor: &Redactor) -> Bytes {
    let with_masked_params = |request: &RawValue| {
        with_changed_members(request.get(), |key, value| {
            (key == "params").then(|| redactor.mask_json(value.get()))
        })
    };
    let text = std::str::from_utf8(result).unwrap_or_default();
    let masked = with_changed_members(text, |key, value| {
        let is_requests = key == "inputRequests";
        let masked = || with_changed_members(value.get(), |_, request| with_masked_params(request));
        is_requests.then(masked).flatten()
    });
    masked.map_or_else(|| result.clone(), Bytes::from)
}

/// Returns an object with other values. A value for which `change` returns `None` keeps its text. Returns `None` if the text
/// is no object.
fn with_changed_members(
    object: &str,
    change: impl Fn(&str, &RawValue) -> Option<String>,
) -> Option<String> {
    let members = Members::parse(object)?;
    let mut writer = ObjectWriter::with_capacity(object.len());
    for (key, value) in &members.0 {
        let changed = text_of(key).and_then(|key| change(&key, value));
        writer.member(key, changed.as_deref().unwrap_or(value.get()));
    }
    Some(writer.finish())
}

/// Returns the members with which a request answers a server: `inputResponses` and `requestState`.
///
/// # Errors
/// `invalid_request` if the responses are no object of objects, or the state is no text.
pub(super) fn input_members(
    responses: Option<&RawValue>,
    state: Option<&RawValue>,
) -> Result<String, Failure> {
    let mut writer = ObjectWriter::with_capacity(256);
    if let Some(responses) = responses {
        if !are_input_responses(responses) {
            let sentence = "inputResponses must be an object of objects";
            return Err(Failure::invalid(sentence));
        }
        writer.raw("inputResponses", responses.get());
    }
    if let Some(state) = state {
        if text_of(state).is_none() {
            return Err(Failure::invalid("requestState must be a string"));
        }
        writer.raw("requestState", state.get());
    }
    let object = writer.finish();
    Ok(object[1..object.len() - 1].to_owned())
}
