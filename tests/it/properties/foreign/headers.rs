//! Headers of servers behind a URL, and the headers that their tools ask for.

use hyper::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use proptest::prelude::*;
use serde_json::json;
use serde_json::value::RawValue;

use super::{check, like, within_memory};
use mcp_api::core::model::tool::{Tool, Tools};
use mcp_api::workers::mcp::http::param_headers::ParamHeaders;
use mcp_api::workers::oauth::client::www_authenticate::Challenges;

const CHALLENGES: &[&str] = &[
    "Bearer realm=\"x\", error=\"invalid_token\", error_description=\"it \\\"expired\\\"\"",
    "Bearer resource_metadata=https://h/.well-known/oauth-protected-resource, scope=\"a b\"",
    "Basic realm=x, Bearer error=insufficient_scope scope=\"a\"",
    "Negotiate, DPoP algs=\"ES256\"",
];

#[test]
fn any_challenges_are_read() {
    let lines = || prop::collection::vec(like(CHALLENGES), 1..4);
    check(lines, |lines: Vec<Vec<u8>>| {
        let mut headers = HeaderMap::new();
        for line in &lines {
            // Other bytes cannot be in a header.
            if let Ok(value) = HeaderValue::from_bytes(line) {
                headers.append(WWW_AUTHENTICATE, value);
            }
        }
        let input: usize = lines.iter().map(Vec::len).sum();
        within_memory(input, 200, || {
            let challenges = Challenges::from_headers(&headers);
            for name in ["resource_metadata", "scope", "error", ""] {
                let length = challenges.parameter(name).map_or(0, str::len);
                assert!(length <= 4 * input, "{length} bytes of {name}");
            }
            let _ = challenges.bearer_with_error("insufficient_scope");
        });
    });
}

const SCHEMAS: &[&str] = &[
    r#"{"name":"t","inputSchema":{"type":"object","properties":{"a":{"type":"string","x-mcp-header":"A"}}}}"#,
    r#"{"name":"t","inputSchema":{"properties":{"o":{"properties":{"b":{"x-mcp-header":"X-B"}}}}}}"#,
    r#"{"name":"t","inputSchema":{"properties":{"a":{"x-mcp-header":null},"c":{"x-mcp-header":"a b"}}}}"#,
];

#[test]
fn any_annotated_schema_makes_valid_headers() {
    check(
        || (like(SCHEMAS), super::super::json()),
        |(schema, argument): (Vec<u8>, serde_json::Value)| {
            let Ok(raw) = serde_json::from_slice::<Box<RawValue>>(&schema) else {
                return;
            };
            let tools = Tools::new(vec![Tool::from(raw)]);
            let headers = ParamHeaders::from_tools(&tools);
            let message =
                json!({ "params": { "arguments": { "a": argument, "o": { "b": argument } } } });
            let _ = headers.headers("t", message.to_string().as_bytes());
        },
    );
}
