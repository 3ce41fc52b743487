//! Requests of servers to the client of a call in the legacy era, and the client's answers.
//!
//! A request travels on the stream of the call. The client may post its answer to any facade: the id of the request names
//! the worker that waits. A signature binds the id to the user and the endpoint, so no other user can answer.

use std::sync::Arc;
use std::time::Duration;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD as URL_SAFE, Engine as _};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::answer::event;
use super::dispatch::Reply;
use super::endpoint::Exchange;
use super::error::RpcError;
use super::sign_in::facade_request;
use crate::core::arguments::is_deep;
use crate::core::json_object::{JsonText, Members, ObjectWriter, text_of};
use crate::core::mcp::input_required::ELICITATION_COMPLETED;
use crate::core::model::server_request::{AnswerRequest, RequestAddress, ServerRequest};
use crate::crypto::seal::Sealer;
use crate::ports::bus::Target;

/// The purpose of the signature.
const PURPOSE: &str = "mcp server request";
/// The beginning of the ids of such requests.
const ID_START: &str = "s.";
/// The longest time for which a facade passes an answer on to the worker.
const DELIVERY_LIMIT: Duration = Duration::from_secs(5);

/// Returns a request of a server as an event, or `None` if it cannot be signed or read.
pub(super) fn request_event(exchange: &Exchange, request: &Bytes) -> Option<Bytes> {
    let request: ServerRequest = serde_json::from_slice(request).ok()?;
    if request.method == ELICITATION_COMPLETED {
        return Some(notification_event(&request));
    }
    let id = signed_id(exchange.state.sealer(), request.address, &scope(exchange))?;
    let mut writer = ObjectWriter::with_capacity(512);
    writer.text("jsonrpc", "2.0");
    writer.text("id", &id);
    writer.text("method", &request.method);
    if let Some(params) = &request.params {
        writer.raw("params", &with_elicitation_id(params, request.address));
    }
    Some(event(writer.finish().as_bytes()))
}

fn notification_event(notification: &ServerRequest) -> Bytes {
    let mut writer = ObjectWriter::with_capacity(256);
    writer.text("jsonrpc", "2.0");
    writer.text("method", &notification.method);
    if let Some(params) = &notification.params {
        writer.raw("params", params.get());
    }
    event(writer.finish().as_bytes())
}

/// Adds the id that MCP 2025-11-25 requires of an elicitation in URL mode, and that 2026-07-28 does not have.
fn with_elicitation_id(params: &RawValue, address: RequestAddress) -> String {
    let text = params.get();
    let Some(members) = Members::parse(text) else {
        return text.to_owned();
    };
    if !members.is_text("mode", "url") || members.get("elicitationId").is_some() {
        return text.to_owned();
    }
    let mut writer = ObjectWriter::with_capacity(text.len() + 64);
    for (key, value) in &members.0 {
        writer.member(key, value.get());
    }
    let id = format!("{}.{}", address.call.simple(), address.number);
    writer.text("elicitationId", &id);
    writer.finish()
}

/// Passes the answer of a client on to the call that waits for it. An answer to an unknown request has no effect.
///
/// # Errors
/// -32600 if the id was not given to this user at this endpoint, or if the answer is nested too deeply.
pub(super) fn read_answer(
    exchange: &Arc<Exchange>,
    id: &RawValue,
    result: Option<&RawValue>,
    error: Option<&RawValue>,
) -> Result<Reply, RpcError> {
    let Some(id) = text_of(id).filter(|id| id.starts_with(ID_START)) else {
        return Ok(Reply::Accepted);
    };
    let foreign = || RpcError::invalid_request("The response answers no request of this session");
    let address = verify_id(exchange.state.sealer(), &id, &scope(exchange)).ok_or_else(foreign)?;
    let is_object =
        |value: &&RawValue| value.get().starts_with('{') && !is_deep(value.get().as_bytes());
    let is_error = |value: &&RawValue| {
        is_object(value) && serde_json::from_str::<ClientError<'_>>(value.get()).is_ok()
    };
    let answer = AnswerRequest {
        address,
        user: exchange.user.clone(),
        result: result.filter(is_object).map(ToOwned::to_owned),
        error: error.filter(is_error).map(ToOwned::to_owned),
    };
    if answer.result.is_none() && answer.error.is_none() {
        let sentence =
            "result must be an object, or error an object with an integer code and a message";
        return Err(RpcError::invalid_request(sentence));
    }
    if let Some(request) = facade_request(address) {
        let result = answer.result.as_deref().map(RawValue::get);
        let result = result.and_then(Members::parse);
        if !result.is_some_and(|result| result.is_text("action", "accept")) {
            exchange.cancel_call(request);
        }
        return Ok(Reply::Accepted);
    }
    let exchange = exchange.clone();
    Ok(Reply::Answering(Box::pin(async move {
        let worker = Target::Worker(answer.address.worker);
        let delivery = exchange.state.send_once(worker, &answer, DELIVERY_LIMIT);
        // If the call has ended or its worker has died, no call waits for the answer, and the client needs no error.
        let _ = delivery.await;
    })))
}

/// The members that an error must have (JSON-RPC 2.0, section 5.1).
#[derive(Deserialize)]
struct ClientError<'a> {
    #[serde(rename = "code")]
    _code: i64,
    #[serde(borrow, rename = "message")]
    _message: JsonText<'a>,
}

/// The user and the endpoint that an id belongs to.
fn scope(exchange: &Exchange) -> String {
    format!("{}\n{}", exchange.user, exchange.endpoint.route())
}

fn signed_id(sealer: &Sealer, address: RequestAddress, scope: &str) -> Option<String> {
    let mac = sealer.sign(PURPOSE, &format!("{address}\n{scope}")).ok()?;
    Some(format!("{ID_START}{address}.{}", URL_SAFE.encode(mac)))
}

fn verify_id(sealer: &Sealer, id: &str, scope: &str) -> Option<RequestAddress> {
    let (address, mac) = id.strip_prefix(ID_START)?.rsplit_once('.')?;
    let mac = URL_SAFE.decode(mac).ok()?;
    sealer
        .is_signed(PURPOSE, &format!("{address}\n{scope}"), &mac)
        .then(|| address.parse().ok())?
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::core::ids::WorkerId;
    use crate::http::mcp::testing::sealer;

    fn address() -> RequestAddress {
        RequestAddress {
            worker: WorkerId(Uuid::from_u128(1)),
            call: Uuid::from_u128(2),
            number: 3,
        }
    }

    #[test]
    fn an_id_is_valid_for_its_user_and_endpoint_and_in_one_spelling() {
        let sealer = sealer();
        let id = signed_id(&sealer, address(), "ana\n/mcp").expect("an id");
        assert_eq!(verify_id(&sealer, &id, "ana\n/mcp"), Some(address()));
        assert_eq!(verify_id(&sealer, &id, "ben\n/mcp"), None);
        assert_eq!(verify_id(&sealer, &id, "ana\n/mcp/servers/a/mcp"), None);
        for index in 0..id.len() {
            let mut changed = id.clone().into_bytes();
            changed[index] = if changed[index] == b'1' { b'2' } else { b'1' };
            let changed = String::from_utf8(changed).expect("UTF-8");
            assert_eq!(verify_id(&sealer, &changed, "ana\n/mcp"), None, "{index}");
        }
    }

    #[test]
    fn only_an_elicitation_in_url_mode_gets_an_id() {
        let added = |params: &str| {
            let params = RawValue::from_string(params.to_owned()).expect("JSON");
            with_elicitation_id(&params, address()) != params.get()
        };
        assert!(added(r#"{"mode":"url","url":"https://a.example"}"#));
        assert!(!added(r#"{"mode":"url","elicitationId":"x"}"#));
        assert!(!added(r#"{"mode":"form"}"#) && !added("{}"));
    }
}
