//! Input that a server of 2026-07-28 asks a client of the same revision for, and that the client sends with its next request
//! (MCP 2026-07-28, Multi Round-Trip Requests).
//!
//! Users share the connection to a server, so a state of one user must not be of use to another one. The client therefore
//! gets the state of the server inside a signed text. It is valid for ten minutes, for the same user, endpoint and request.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use super::call::upstream_era;
use super::endpoint::Exchange;
use super::envelope::Params;
use super::error::RpcError;
use super::sign_in::{AccessNeed, SIGN_IN_KEY};
use crate::core::catalog::server::Server;
use crate::core::failure::Failure;
use crate::core::json_object::{Members, ObjectWriter, push_json_text, text_of};
use crate::core::mcp::canonical::canonical;
use crate::core::mcp::input_required::are_input_responses;
use crate::core::mcp::version::Era;
use crate::crypto::seal::Sealer;
use crate::telemetry::error::internal_error;
use crate::time::clock::now_seconds;

/// The purpose of the signature.
const PURPOSE: &str = "mcp request state";
/// How long a client may take for its next request.
const LIFETIME_SECONDS: u64 = 600;

/// The members `inputResponses` and `requestState` of a request.
#[derive(Default)]
pub(super) struct ClientInput {
    pub responses: Option<Box<RawValue>>,
    pub state: Option<Box<RawValue>>,
}

impl ClientInput {
    /// Reads the input of a request.
    ///
    /// # Errors
    /// -32602 if a member has the wrong form, or if the client belongs to an era without such input.
    pub(super) fn read(params: &Params<'_>, era: Era) -> Result<Self, RpcError> {
        let is_present = params.input_responses.is_some() || params.request_state.is_some();
        if is_present && era == Era::Legacy {
            return Err(RpcError::wrong_params(
                "inputResponses and requestState belong to 2026-07-28; a session answers requests on their stream",
            ));
        }
        let responses = params.input_responses;
        if !responses.is_none_or(are_input_responses) {
            return Err(RpcError::wrong_params(
                "inputResponses must be an object of objects",
            ));
        }
        Ok(Self {
            responses: responses.map(ToOwned::to_owned),
            state: params.request_state.map(ToOwned::to_owned),
        })
    }

    /// Returns the input as the server receives it, or what the user has done on a page of this program.
    ///
    /// # Errors
    /// -32602 if the state does not belong to this request, or if it is too old.
    pub(super) fn open<'a>(
        &self,
        exchange: &Exchange,
        server: &Server,
        scope: impl FnOnce() -> StateScope<'a>,
    ) -> Result<OpenedInput, RpcError> {
        if self.is_empty() {
            return Ok(OpenedInput::None);
        }
        let wrong = || {
            RpcError::wrong_params(
                "requestState does not belong to this request, or it is older than ten minutes; send the request without it",
            )
        };
        let state = match self.state.as_deref() {
            None => None,
            Some(state) => {
                let signed = text_of(state).ok_or_else(wrong)?;
                let scope = scope().digest(exchange, server);
                let sealer = exchange.state.sealer();
                let opened = open_state(sealer, &signed, &scope, now_seconds());
                Some(opened.ok_or_else(wrong)?)
            }
        };
        match state {
            Some(StateOrigin::Program { need }) => Ok(OpenedInput::SignIn {
                need,
                is_accepted: self.accepts_sign_in(),
            }),
            // Such a server has given no state, and asks for no input in results.
            Some(_) if upstream_era(server) == Era::Legacy => Err(wrong()),
            None if upstream_era(server) == Era::Legacy => Ok(OpenedInput::None),
            state => {
                let state = match state {
                    Some(StateOrigin::Server { state }) => {
                        Some(json_text(&state).ok_or_else(wrong)?)
                    }
                    _ => None,
                };
                Ok(OpenedInput::Server(Self {
                    responses: self.responses.clone(),
                    state,
                }))
            }
        }
    }

    /// Whether the user has agreed to open the page. An absent answer counts as a refusal.
    fn accepts_sign_in(&self) -> bool {
        let responses = self.responses.as_deref().map(RawValue::get);
        let responses = responses.and_then(Members::parse);
        let answer = responses.and_then(|responses| responses.get(SIGN_IN_KEY));
        answer
            .and_then(|answer| Members::parse(answer.get()))
            .is_some_and(|answer| answer.is_text("action", "accept"))
    }

    fn is_empty(&self) -> bool {
        self.responses.is_none() && self.state.is_none()
    }
}

/// The input of a request after its state was checked.
pub(super) enum OpenedInput {
    None,
    /// The server has asked for it.
    Server(ClientInput),
    /// This program has asked the user to open a page.
    SignIn {
        /// The access that the call did not have when the program asked the user.
        need: AccessNeed,
        is_accepted: bool,
    },
}

/// The request that a state belongs to, apart from its user and its endpoint.
pub(super) struct StateScope<'a> {
    pub method: &'a str,
    /// The tool, the prompt or the URI, as the client names it.
    pub name: Cow<'a, str>,
    /// The arguments of the client: JSON.
    pub arguments: &'a str,
}

impl StateScope<'_> {
    fn digest(&self, exchange: &Exchange, server: &Server) -> String {
        // The order of members and the blanks between them may differ in the next request.
        let arguments = canonical(self.arguments);
        let server = server.id.to_string();
        let route = exchange.endpoint.route();
        let parts = [
            exchange.user.as_str(),
            &route,
            &server,
            self.method,
            &self.name,
            &arguments,
        ];
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hex::encode(hash.finalize())
    }
}

/// The signed content of a state.
#[derive(Serialize, Deserialize)]
struct SignedState {
    /// Seconds since 1970.
    expires: u64,
    scope: String,
    origin: StateOrigin,
}

/// The asker: the MCP server, or this program.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum StateOrigin {
    Server { state: String },
    Program { need: AccessNeed },
}

fn open_state(sealer: &Sealer, signed: &str, scope: &str, now: u64) -> Option<StateOrigin> {
    let content: SignedState = sealer.verify_text(PURPOSE, signed)?;
    (content.scope == scope && now < content.expires).then_some(content.origin)
}

fn sign_state(
    sealer: &Sealer,
    origin: StateOrigin,
    scope: String,
    now: u64,
) -> Result<String, Failure> {
    let content = SignedState {
        expires: now + LIFETIME_SECONDS,
        scope,
        origin,
    };
    sealer.sign_text(PURPOSE, &content).map_err(internal_error)
}

/// Returns the state of a request of this program itself.
///
/// # Errors
/// `internal` if the key cannot be used.
pub(super) fn sign_in_state(
    exchange: &Exchange,
    server: &Server,
    scope: &StateScope<'_>,
    need: AccessNeed,
) -> Result<String, Failure> {
    let origin = StateOrigin::Program { need };
    let scope = scope.digest(exchange, server);
    sign_state(exchange.state.sealer(), origin, scope, now_seconds())
}

/// Returns a result that asks for input, with the state of the server inside a signed text.
///
/// # Errors
/// `internal` if the key cannot be used.
pub(super) fn with_signed_state(
    exchange: &Exchange,
    server: &Server,
    scope: &StateScope<'_>,
    result: &Bytes,
) -> Result<Bytes, Failure> {
    let text = std::str::from_utf8(result).map_err(internal_error)?;
    let members = Members::parse(text).unwrap_or_default();
    let mut writer = ObjectWriter::with_capacity(text.len() + 512);
    for (key, value) in &members.0 {
        let state = text_of(value).filter(|_| is_named(key, "requestState"));
        match state {
            None => writer.member(key, value.get()),
            Some(state) => {
                let scope = scope.digest(exchange, server);
                let sealer = exchange.state.sealer();
                let origin = StateOrigin::Server {
                    state: state.into_owned(),
                };
                let signed = sign_state(sealer, origin, scope, now_seconds())?;
                writer.text("requestState", &signed);
            }
        }
    }
    Ok(writer.finish().into())
}

fn is_named(key: &RawValue, name: &str) -> bool {
    text_of(key).is_some_and(|key| key == name)
}

fn json_text(text: &str) -> Option<Box<RawValue>> {
    let mut json = String::with_capacity(text.len() + 2);
    push_json_text(&mut json, text);
    RawValue::from_string(json).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::mcp::testing::sealer;

    #[test]
    fn a_state_is_valid_for_its_request_until_it_expires() {
        let sealer = sealer();
        let origin = || StateOrigin::Server {
            state: "of the server".to_owned(),
        };
        let signed = sign_state(&sealer, origin(), "a".into(), 1000).expect("signed");
        let opened = |signed: &str, scope, now| open_state(&sealer, signed, scope, now);
        assert_eq!(opened(&signed, "a", 1599), Some(origin()));
        assert_eq!(opened(&signed, "a", 1600), None);
        assert_eq!(opened(&signed, "b", 1000), None);
        for index in 0..signed.len() {
            let mut changed = signed.clone().into_bytes();
            changed[index] = if changed[index] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).expect("UTF-8");
            assert_eq!(opened(&changed, "a", 1000), None, "{index}");
        }
    }
}
