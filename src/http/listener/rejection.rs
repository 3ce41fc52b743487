//! Answers to connections that send no complete, valid request, with the JSON envelope of all
//! failures.

use crate::core::failure::Failure;
use crate::views::failure::ErrorBody;

/// The reason why a connection is closed without a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rejection {
    Malformed,
    HeadTimeout,
    TargetTooLong,
    HeadersTooLarge,
    TooManyConnections,
}

/// hyper answers a head that it cannot parse by itself, with these status lines and no body.
const HYPER_REJECTIONS: [Rejection; 3] = [
    Rejection::Malformed,
    Rejection::TargetTooLong,
    Rejection::HeadersTooLarge,
];
/// hyper's own answer has a status line and few headers.
const HYPER_ANSWER_LENGTH: usize = 256;

impl Rejection {
    fn status(self) -> &'static str {
        match self {
            Self::Malformed => "400 Bad Request",
            Self::HeadTimeout => "408 Request Timeout",
            Self::TargetTooLong => "414 URI Too Long",
            Self::HeadersTooLarge => "431 Request Header Fields Too Large",
            Self::TooManyConnections => "503 Service Unavailable",
        }
    }

    fn failure(self) -> Failure {
        match self {
            Self::Malformed => Failure::invalid(
                "The request is not valid HTTP/1.1; check the request line and the headers",
            ),
            Self::HeadTimeout => Failure::invalid(
                "The head of the request did not arrive in time; send the whole head at once",
            ),
            Self::TargetTooLong => {
                Failure::invalid("The URL is longer than 64 KiB; send a shorter URL")
            }
            Self::HeadersTooLarge => Failure::invalid(
                "The headers are larger than 64 KiB or more than 100; send fewer or shorter headers",
            ),
            Self::TooManyConnections => Failure::unavailable(
                "Too many connections are open (MAX_CONNECTIONS); retry in a moment",
            ),
        }
    }

    /// Returns the whole response.
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let failure = self.failure();
        // The body of a failure is always valid JSON.
        let body = serde_json::to_string(&ErrorBody::from_failure(&failure)).unwrap_or_default();
        let retry_after = failure.retry_after.map_or(String::new(), |seconds| {
            format!("retry-after: {seconds}\r\n")
        });
        format!(
            "HTTP/1.1 {}\r\ncontent-type: application/json\r\n{retry_after}content-length: {}\r\nconnection: close\r\n\r\n{body}",
            self.status(),
            body.len()
        )
        .into_bytes()
    }

    /// Returns the rejection if these bytes are an answer that hyper has made by itself. The API
    /// answers none of these statuses without a body.
    pub(super) fn from_hyper_answer(answer: &[u8]) -> Option<Self> {
        if answer.len() > HYPER_ANSWER_LENGTH || !answer.ends_with(b"\r\n\r\n") {
            return None;
        }
        let status_and_headers = answer.strip_prefix(b"HTTP/1.1 ")?;
        let rejection = HYPER_REJECTIONS
            .into_iter()
            .find(|rejection| status_and_headers.starts_with(rejection.status().as_bytes()))?;
        memchr::memmem::find(status_and_headers, b"\r\ncontent-length: 0\r\n")?;
        Some(rejection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejection_has_the_envelope_of_all_failures() {
        let text = String::from_utf8(Rejection::HeadTimeout.to_bytes()).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        assert!(
            head.starts_with("HTTP/1.1 408 Request Timeout\r\n"),
            "{head}"
        );
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())));
        let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(body["success"], false);
        assert_eq!(body["code"], "invalid_request");
    }

    #[test]
    fn only_an_answer_of_hyper_itself_is_replaced() {
        let hyper = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\ndate: x\r\n\r\n";
        assert_eq!(
            Rejection::from_hyper_answer(hyper),
            Some(Rejection::Malformed)
        );
        for other in [
            &b"HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n{}"[..],
            b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            b"",
        ] {
            assert_eq!(Rejection::from_hyper_answer(other), None);
        }
    }
}
