//! Requests of users that are no tool calls: prompts, resources and completion. They take the way of a tool call.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::context::Context;
use super::handler::HandlerError;
use super::input_rounds::input_members;
use super::tools::{CallRequest, Operation, checked_meta, run};
use crate::core::arguments::{check_args_text, is_traceparent};
use crate::core::command::Command as _;
use crate::core::failure::Failure;
use crate::core::model::caller::{is_reserved, reserved_user};
use crate::core::model::upstream_request::{RequestMethod, SendRequest};
use crate::ports::bus::Ask;
use crate::time::clock::monotonic;

/// The parameters of `prompts/get`.
#[derive(Deserialize)]
struct PromptParams<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
    #[serde(borrow, rename = "inputResponses")]
    input_responses: Option<&'a RawValue>,
    #[serde(borrow, rename = "requestState")]
    request_state: Option<&'a RawValue>,
}

/// The parameters of `resources/read`.
#[derive(Deserialize)]
struct ResourceParams<'a> {
    #[serde(borrow)]
    uri: Cow<'a, str>,
}

/// Sends a request for an ask. Returns the untouched result.
///
/// # Errors
/// `Busy` without a permit, and the failure of the request.
pub(super) async fn send(context: &Arc<Context>, ask: Ask) -> Result<Bytes, HandlerError> {
    let start = monotonic();
    let command: SendRequest = serde_json::from_slice(&ask.body).map_err(|error| {
        Failure::invalid(format!(
            "The message cannot be parsed as the command {}: {error}",
            SendRequest::NAME
        ))
    })?;
    if is_reserved(&command.user) {
        return Err(reserved_user().into());
    }
    let params = command.params.get();
    if !context.manager.alone {
        // Any client of the bus may have sent the parameters, and the server gets them as they are.
        check_args_text(params.as_bytes())?;
    }
    let server = context
        .projection
        .catalog()
        .server(command.server.as_str())
        .cloned()
        .ok_or_else(|| Failure::server_not_found(&command.server))?;
    let meta = checked_meta(ask.meta.as_deref());
    let traceparent = ask.traceparent.as_deref();
    let prompt;
    let resource;
    // Other methods have the input among their members.
    let mut input = String::new();
    let operation = match command.method {
        RequestMethod::GetPrompt => {
            prompt = parse_params::<PromptParams<'_>>(params)?;
            let args = prompt.arguments.map_or("{}", RawValue::get);
            if !args.starts_with('{') {
                return Err(Failure::invalid("arguments must be an object").into());
            }
            input = input_members(prompt.input_responses, prompt.request_state)?;
            Operation::Prompt {
                name: &prompt.name,
                args,
            }
        }
        RequestMethod::ReadResource => {
            resource = parse_params::<ResourceParams<'_>>(params)?;
            other(command.method, params, Some(&resource.uri))?
        }
        method => other(method, params, None)?,
    };
    let request = CallRequest {
        server: &server,
        user: &command.user,
        operation,
        timeout_ms: None,
        traceparent: traceparent.filter(|text| is_traceparent(text)),
        meta: meta.as_deref(),
        client: ask.client,
        input: &input,
        interim: ask.interim.as_ref(),
        start,
    };
    run(context, &request).await
}

fn other<'a>(
    method: RequestMethod,
    params: &'a str,
    name: Option<&'a str>,
) -> Result<Operation<'a>, Failure> {
    let members = params
        .trim()
        .strip_prefix('{')
        .and_then(|params| params.strip_suffix('}'))
        .ok_or_else(|| Failure::invalid("params must be an object"))?;
    Ok(Operation::Other {
        method,
        members,
        name,
    })
}

fn parse_params<'a, T: Deserialize<'a>>(params: &'a str) -> Result<T, Failure> {
    serde_json::from_str(params)
        .map_err(|error| Failure::invalid(format!("params do not fit the method: {error}")))
}
