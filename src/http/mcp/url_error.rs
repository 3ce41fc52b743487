//! The error with which a server of 2025-11-25 asks for pages that its user must open first.
//!
//! Only clients of this revision with URL elicitation know the code. Every other client gets the URLs in the sentence of the
//! failure.

use serde::Deserialize;

use crate::core::failure::{Code, Failure};
use crate::core::mcp::capabilities::ClientCapabilities;
use crate::core::mcp::client::McpClient;
use crate::core::mcp::version::Era;

/// MCP 2025-11-25: URL elicitation is required. 2026-07-28 has no such code.
const URL_ELICITATION_REQUIRED: i64 = -32042;
/// The most URLs in a sentence.
const MAX_URLS: usize = 8;

#[derive(Deserialize)]
struct UrlError {
    code: i64,
    #[serde(default)]
    data: Pages,
}

#[derive(Default, Deserialize)]
struct Pages {
    #[serde(default)]
    elicitations: Vec<PageToOpen>,
}

#[derive(Deserialize)]
struct PageToOpen {
    url: String,
}

/// Returns the failure as a client can understand it.
pub(super) fn for_client(failure: Failure, client: Option<McpClient>) -> Failure {
    let knows_the_code = client.is_some_and(|client| {
        client.era == Era::Legacy && client.capabilities.has(ClientCapabilities::ELICITATION_URL)
    });
    if knows_the_code {
        return failure;
    }
    let error = failure.mcp_error.as_deref();
    let error = error.and_then(|error| serde_json::from_str::<UrlError>(error.get()).ok());
    let Some(error) = error.filter(|error| error.code == URL_ELICITATION_REQUIRED) else {
        return failure;
    };
    let urls = error.data.elicitations.iter().take(MAX_URLS);
    let urls: Vec<_> = urls.map(|page| page.url.as_str()).collect();
    let sentence = format!("{}. Open this first: {}", failure.message, urls.join(" "));
    Failure {
        mcp_error: None,
        message: sentence,
        code: Code::UpstreamError,
        ..failure
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn failed(code: i64) -> Failure {
        let error = json!({
            "code": code, "message": "m",
            "data": { "elicitations": [{ "mode": "url", "elicitationId": "1", "url": "https://a.example/x" }] },
        });
        Failure {
            mcp_error: serde_json::value::to_raw_value(&error).ok(),
            ..Failure::new(Code::UpstreamError, "Server a refused the call: m")
        }
    }

    fn client(era: Era, bits: u16) -> Option<McpClient> {
        Some(McpClient {
            era,
            capabilities: ClientCapabilities::from_bits(bits),
            progress: false,
        })
    }

    #[test]
    fn only_a_session_with_url_elicitation_gets_the_code() {
        let kept = for_client(failed(-32042), client(Era::Legacy, 2));
        assert!(kept.mcp_error.is_some());
        for other in [client(Era::Legacy, 1), client(Era::Modern, 3), None] {
            let failure = for_client(failed(-32042), other);
            assert!(failure.mcp_error.is_none());
            assert!(
                failure
                    .message
                    .ends_with("Open this first: https://a.example/x")
            );
        }
        assert!(for_client(failed(-32000), None).mcp_error.is_some());
    }
}
