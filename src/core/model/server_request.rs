//! Requests of an MCP server to the client whose call it executes: elicitation, sampling and roots.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::core::ids::WorkerId;
use crate::core::names::UserName;

/// Names one open request: the worker that waits, its call, and the number of the request in this call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct RequestAddress {
    pub worker: WorkerId,
    /// A random id of the call.
    #[schemars(with = "String")]
    pub call: Uuid,
    pub number: u32,
}

impl fmt::Display for RequestAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let worker = self.worker.0.simple();
        write!(formatter, "{worker}.{}.{}", self.call.simple(), self.number)
    }
}

impl FromStr for RequestAddress {
    type Err = ();

    /// Accepts exactly the form in which an address is displayed.
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('.');
        let mut next = || parts.next().ok_or(());
        let address = Self {
            worker: WorkerId(next()?.parse().map_err(|_| ())?),
            call: next()?.parse().map_err(|_| ())?,
            number: next()?.parse().map_err(|_| ())?,
        };
        (address.to_string() == text).then_some(address).ok_or(())
    }
}

/// A request of a server to the client of a call, or a notification to it, whose address has the number 0.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServerRequest {
    pub address: RequestAddress,
    pub method: String,
    /// A JSON object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub params: Option<Box<RawValue>>,
}

/// Gives the answer of an MCP client to the call that waits for it.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AnswerRequest {
    pub address: RequestAddress,
    /// The user of the client. The answer to a call of another user is not delivered.
    pub user: UserName,
    /// The member `result` of the client's response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Value>")]
    pub result: Option<Box<RawValue>>,
    /// The member `error` of the client's response, without a result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Value>")]
    pub error: Option<Box<RawValue>>,
}

/// Whether a call waited for the answer of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum AnswerDelivery {
    Taken,
    /// The call has ended, or it belongs to another user.
    Gone,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_one_spelling() {
        let address = RequestAddress {
            worker: WorkerId(Uuid::from_u128(7)),
            call: Uuid::from_u128(8),
            number: 3,
        };
        let text = address.to_string();
        assert_eq!(text.parse(), Ok(address));
        for wrong in [
            format!("{text}.1"),
            text.replace(".3", ".03"),
            text.to_uppercase().replace('0', "O"),
            String::new(),
        ] {
            assert_eq!(wrong.parse::<RequestAddress>(), Err(()), "{wrong}");
        }
    }
}
