//! Authorization servers that answer anything.

use proptest::prelude::*;
use url::Url;

use super::http::AnyServer;
use super::{check, like, run_async};
use mcp_api::core::model::grant::{RefreshCredentials, TokenEndpoint};
use mcp_api::workers::oauth::client::{Fetcher, TokenOutcome, discover, refresh};

/// The longest sentence about an authorization server.
const SENTENCE_LIMIT: usize = 4096;

const METADATA: &[&str] = &[
    "HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Bearer resource_metadata=\"URL\", scope=\"a\"\r\n\r\n",
    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{\"resource\":\"URL\",\"authorization_servers\":[\"URL\"],\"scopes_supported\":[\"a\",null]}",
    "HTTP/1.1 200 OK\r\n\r\n{\"issuer\":\"URL\",\"authorization_endpoint\":\"URL\",\"token_endpoint\":\"URL\",\"code_challenge_methods_supported\":[\"S256\"]}",
    "HTTP/1.1 302 Found\r\nlocation: URL\r\n\r\n",
    "HTTP/1.1 404 Not Found\r\n\r\n",
    "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n\u{1f}\u{8b}\u{8}",
];

const TOKENS: &[&str] = &[
    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{\"access_token\":\"a\",\"token_type\":\"Bearer\",\"expires_in\":3600,\"refresh_token\":\"r\",\"scope\":\"a b\"}",
    "HTTP/1.1 200 OK\r\n\r\n{\"access_token\":\"a\",\"expires_in\":\"5250\",\"scope\":[\"a\",\"b\"],\"token_type\":null,\"refresh_token\":\"\"}",
    "HTTP/1.1 200 OK\r\n\r\n{\"error\":\"bad_refresh_token\",\"error_description\":\"used\"}",
    "HTTP/1.1 400 Bad Request\r\n\r\n{\"error\":\"invalid_target\"}",
    "HTTP/1.1 429 Too Many Requests\r\nretry-after: 99999999999999999999\r\n\r\n",
    "HTTP/1.1 500 Internal Server Error\r\n\r\n<html>",
];

#[test]
fn any_metadata_end_in_an_authorization_server_or_an_error() {
    let answers = || prop::collection::vec(like(METADATA), 1..6);
    check(answers, |answers: Vec<Vec<u8>>| {
        let server = AnyServer::start(answers);
        let url: Url = server.url.parse().expect("a URL");
        run_async(async {
            let fetcher = Fetcher::for_server(&url).await;
            if let Err(error) = discover(fetcher, &url).await {
                let sentence = error.to_string().len();
                assert!(sentence < SENTENCE_LIMIT, "{sentence} bytes in a sentence");
            }
        });
    });
}

#[test]
fn any_token_answers_are_tokens_or_a_refusal() {
    let answers = || prop::collection::vec(like(TOKENS), 1..3);
    check(answers, |answers: Vec<Vec<u8>>| {
        let server = AnyServer::start(answers);
        let url: Url = server.url.parse().expect("a URL");
        let mut endpoint: TokenEndpoint = serde_json::from_value(
            serde_json::json!({ "url": url.as_str(), "auth": "none", "resource": "r" }),
        )
        .expect("an endpoint");
        let credentials: RefreshCredentials = serde_json::from_value(serde_json::json!({
            "clientId": "c", "redirectUri": "http://127.0.0.1/", "refreshToken": "r",
        }))
        .expect("credentials");
        run_async(async {
            let fetcher = Fetcher::for_server(&url).await;
            match refresh(fetcher, &mut endpoint, &credentials).await {
                TokenOutcome::Refused { reason, .. } => {
                    assert!(
                        reason.len() < SENTENCE_LIMIT,
                        "{} bytes in a sentence",
                        reason.len()
                    );
                }
                TokenOutcome::Tokens(tokens) => {
                    // The header must be one that can be sent.
                    let header = tokens.authorization_header();
                    assert!(header.len() < 1 << 20, "{} bytes of a token", header.len());
                }
                _ => {}
            }
        });
    });
}
