//! What a request is answered with in the end: a status, and a body that is JSON already. Jobs keep it, so that
//! asking later gives what asking at once would have given.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::failure::ErrorBody;
use crate::core::failure::Failure;

/// A whole answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobAnswer {
    /// Of HTTP (RFC 9110, section 15).
    pub status: u16,
    /// Seconds after which asking again makes sense.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u32>,
    pub body: Box<RawValue>,
}

impl JobAnswer {
    /// `body` must be JSON.
    pub fn done(body: Bytes) -> Result<Self, serde_json::Error> {
        let body = RawValue::from_string(String::from_utf8_lossy(&body).into_owned())?;
        Ok(Self {
            status: 200,
            retry_after: None,
            body,
        })
    }

    /// What it says, where it is a failure.
    pub fn error(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Said {
            error: String,
        }
        (self.status != 200).then(|| {
            serde_json::from_str::<Said>(self.body.get()).map_or(String::new(), |said| said.error)
        })
    }

    pub fn failed(failure: &Failure) -> Self {
        let body = serde_json::value::to_raw_value(&ErrorBody::of(failure)).unwrap_or_default();
        Self {
            status: failure.code.status(),
            retry_after: failure.retry_after,
            body,
        }
    }
}
