//! The answer of a job: the status and body that the synchronous request would have had.
//!
//! A worker seals its JSON in the Vault: `{status, retryAfter?, detailsForAdmins?, body}`. These field names never change.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::failure::ErrorBody;
use crate::core::failure::{Code, Failure};
use crate::core::model::job::{JobState, StoredJobAnswer, failure_without_answer};

/// The answer of a job.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobAnswer {
    /// The HTTP status (RFC 9110, section 15).
    pub status: u16,
    /// The time after which a retry makes sense, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u16>,
    /// Only administrators see the `details` of the body.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub details_for_admins: bool,
    pub body: Box<RawValue>,
}

impl JobAnswer {
    /// Parses the stored form of an answer.
    ///
    /// # Errors
    /// Fails if the JSON has another form.
    pub fn parse(stored: &StoredJobAnswer) -> Result<Self, serde_json::Error> {
        serde_json::from_str(stored.get())
    }

    /// Returns the answer of a successful job.
    ///
    /// # Errors
    /// Fails if `body` is no JSON.
    pub fn done(body: Bytes) -> Result<Self, serde_json::Error> {
        let body = RawValue::from_string(String::from_utf8_lossy(&body).into_owned())?;
        Ok(Self {
            status: 200,
            retry_after: None,
            details_for_admins: false,
            body,
        })
    }

    /// Returns the answer of a failed job.
    pub fn failed(failure: &Failure) -> Self {
        let body = to_raw_value(&ErrorBody::from_failure(failure)).unwrap_or_default();
        Self {
            status: failure.code.status(),
            retry_after: failure.retry_after,
            details_for_admins: failure.details_for_admins,
            body,
        }
    }

    /// Returns the answer of a job that has ended without a stored answer.
    pub fn missing(state: JobState) -> Self {
        Self::failed(&failure_without_answer(state))
    }

    /// Removes the details that only administrators see.
    ///
    /// # Errors
    /// Fails if the body is no JSON object.
    pub fn without_details_for_admins(self) -> Result<Self, serde_json::Error> {
        if !self.details_for_admins {
            return Ok(self);
        }
        let mut body: BTreeMap<&str, &RawValue> = serde_json::from_str(self.body.get())?;
        body.remove("details");
        Ok(Self {
            details_for_admins: false,
            body: to_raw_value(&body)?,
            ..self
        })
    }

    /// Returns the code of the failure, if the job failed and the program knows the code.
    pub fn code(&self) -> Option<Code> {
        #[derive(Deserialize)]
        struct CodeField {
            code: Code,
        }
        if self.status == 200 {
            return None;
        }
        let parsed = serde_json::from_str::<CodeField>(self.body.get());
        parsed.ok().map(|body| body.code)
    }

    /// Sets a text field of the body.
    ///
    /// # Errors
    /// Fails if the body is no JSON object.
    pub fn with_text(self, name: &str, text: &str) -> Result<Self, serde_json::Error> {
        let mut body: BTreeMap<&str, &RawValue> = serde_json::from_str(self.body.get())?;
        let text = to_raw_value(text)?;
        body.insert(name, &text);
        Ok(Self {
            body: to_raw_value(&body)?,
            ..self
        })
    }

    /// Returns the error sentence, if the job failed.
    pub fn error(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct ErrorField {
            error: String,
        }
        if self.status == 200 {
            return None;
        }
        let parsed = serde_json::from_str::<ErrorField>(self.body.get());
        Some(parsed.map_or(String::new(), |body| body.error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_form_has_status_retry_time_and_body() {
        let done = JobAnswer::done(Bytes::from_static(br#"{"success":true}"#)).expect("JSON");
        assert_eq!(
            serde_json::to_string(&done).expect("JSON"),
            r#"{"status":200,"body":{"success":true}}"#
        );
        let failed = JobAnswer::failed(&Failure::unavailable("The store is unavailable"));
        assert_eq!(
            serde_json::to_string(&failed).expect("JSON"),
            r#"{"status":503,"retryAfter":1,"body":{"success":false,"error":"The store is unavailable","code":"unavailable"}}"#
        );
    }

    #[test]
    fn a_stored_answer_is_parsed_again() {
        let failed = JobAnswer::failed(&Failure::new(Code::Timeout, "Too slow"));
        let stored = serde_json::value::to_raw_value(&failed).expect("JSON");
        let parsed = JobAnswer::parse(&stored).expect("an answer");
        assert_eq!(
            (parsed.status, parsed.error().as_deref()),
            (504, Some("Too slow"))
        );
    }

    #[test]
    fn only_a_failure_has_a_code() {
        let done = JobAnswer::done(Bytes::from_static(br#"{"code":"timeout"}"#)).expect("JSON");
        assert_eq!(done.code(), None);
        let failed = JobAnswer::failed(&Failure::new(Code::CredentialRequired, "Set it"));
        assert_eq!(failed.code(), Some(Code::CredentialRequired));
        let body = RawValue::from_string(r#"{"code":"of_a_later_version"}"#.into()).expect("JSON");
        let unknown = JobAnswer { body, ..failed };
        assert_eq!(unknown.code(), None);
    }

    #[test]
    fn a_text_field_joins_the_body() {
        let failed = JobAnswer::failed(&Failure::new(Code::Timeout, "Too slow"));
        let answer = failed.with_text("connectUrl", "http://h/\"").expect("JSON");
        let body: serde_json::Value = serde_json::from_str(answer.body.get()).expect("JSON");
        let expected = serde_json::json!({
            "success": false, "error": "Too slow", "code": "timeout", "connectUrl": "http://h/\"",
        });
        assert_eq!(body, expected);
    }

    #[test]
    fn details_for_admins_are_removed_from_the_body() {
        let lines = || Some("a line".to_owned());
        let failure = Failure::new(Code::UpstreamError, "It ended").maybe_run();
        let for_admins = JobAnswer::failed(&failure.clone().with_details_for_admins(lines()));
        assert!(for_admins.body.get().contains("a line"));
        let stored = to_raw_value(&for_admins).expect("JSON");
        let parsed = JobAnswer::parse(&stored).expect("an answer");
        let shown = parsed.without_details_for_admins().expect("JSON");
        let body: serde_json::Value = serde_json::from_str(shown.body.get()).expect("JSON");
        let expected = serde_json::json!({
            "success": false, "error": "It ended", "code": "upstream_error", "mayHaveRun": true,
        });
        assert_eq!(body, expected);
        let for_all = JobAnswer::failed(&failure.with_details(lines()));
        let shown = for_all.without_details_for_admins().expect("JSON");
        assert!(shown.body.get().contains("a line"));
    }

    #[test]
    fn a_job_without_an_answer_may_have_run() {
        let answer = JobAnswer::missing(JobState::Unknown);
        assert_eq!(answer.status, 502);
        assert!(answer.body.get().contains(r#""mayHaveRun":true"#));
        assert_eq!(JobAnswer::missing(JobState::Cancelled).status, 409);
    }

    #[test]
    fn a_body_that_is_no_json_is_refused() {
        assert!(JobAnswer::done(Bytes::from_static(b"{")).is_err());
    }
}
