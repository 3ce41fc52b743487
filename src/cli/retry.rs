//! The retry rule of all commands: a request is repeated while its failure is temporary (`ClientError::is_temporary`).

use std::cell::Cell;

use serde_json::Value;

use super::client::{ApiResponse, ClientError, failed_response, is_temporary_status};
use crate::telemetry::error::error_chain;
use crate::time::retry::API_REQUEST;

/// Reports the first of several failures in a row.
#[derive(Default)]
pub(super) struct Outage {
    is_reported: Cell<bool>,
}

impl Outage {
    pub(super) fn report(&self, error: &ClientError) {
        if !self.is_reported.replace(true) {
            eprintln!("mcp-api: {}; retrying", error_chain(error));
        }
    }

    /// Ends the outage: the next failure is reported again.
    pub(super) fn end(&self) {
        self.is_reported.set(false);
    }
}

/// Repeats a request that the API may receive twice, until its answer is final or the limit of `API_REQUEST` is reached.
/// `report` gets every temporary failure.
pub(super) async fn retry(
    request: impl AsyncFn() -> ApiResponse,
    report: impl Fn(&ClientError),
) -> ApiResponse {
    let mut attempts = API_REQUEST.start();
    loop {
        let response = request().await;
        match &response {
            Ok((status, body)) if is_temporary_status(*status) => {
                report(&failed_response(*status, body));
            }
            Err(error) if error.is_temporary() => report(error),
            _ => return response,
        }
        if !attempts.wait().await {
            return response;
        }
    }
}

/// Repeats a request as [`retry`] does, and returns the body of its success.
///
/// # Errors
/// Returns the last failure.
pub(super) async fn retry_for_success(
    request: impl AsyncFn() -> ApiResponse,
) -> Result<Value, ClientError> {
    let outage = Outage::default();
    let (status, body) = retry(request, |error| outage.report(error)).await?;
    if matches!(status, 200 | 202) {
        Ok(body)
    } else {
        Err(failed_response(status, &body))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Sends a request that fails this many times, and returns the number of attempts and the last answer.
    async fn attempts(failures: u32, failure: fn() -> ApiResponse) -> (u32, ApiResponse) {
        let sent = Cell::new(0);
        let request = async || {
            sent.set(sent.get() + 1);
            if sent.get() <= failures {
                failure()
            } else {
                Ok((200, json!({})))
            }
        };
        let response = retry(request, |_| {}).await;
        (sent.get(), response)
    }

    #[tokio::test(start_paused = true)]
    async fn a_temporary_failure_is_repeated_until_the_limit() {
        let busy: fn() -> ApiResponse = || Ok((503, json!({ "error": "busy" })));
        let unreachable: fn() -> ApiResponse = || {
            Err(ClientError::Unreachable {
                url: "http://h".into(),
                source: "refused".into(),
            })
        };
        for failure in [busy, unreachable] {
            let (count, response) = attempts(3, failure).await;
            assert_eq!(count, 4);
            assert!(matches!(response, Ok((200, _))));
            let (count, response) = attempts(u32::MAX, failure).await;
            assert!((10..100).contains(&count), "{count}");
            assert!(!matches!(response, Ok((200, _))));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_final_failure_is_not_repeated() {
        let failures: [fn() -> ApiResponse; 3] = [
            || Ok((409, json!({}))),
            || Err(ClientError::UserInUrl),
            || Err(ClientError::Refused("no".into())),
        ];
        for failure in failures {
            assert_eq!(attempts(1, failure).await.0, 1);
        }
    }
}
