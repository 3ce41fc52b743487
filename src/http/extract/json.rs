//! Request bodies and queries: JSON within the limit, with errors that name the field.

use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use bytes::Bytes;
use serde::Deserialize;

use crate::core::failure::{Code, Failure};

/// How long a body may take to arrive.
const ARRIVES: Duration = Duration::from_secs(30);

/// The same where a body may be missing, its type too.
pub async fn read_optional_json(request: Request, limit: usize) -> Result<Bytes, Failure> {
    let empty = request
        .headers()
        .get(CONTENT_LENGTH)
        .is_none_or(|length| length == "0");
    let chunked = request.headers().contains_key(TRANSFER_ENCODING);
    if empty && !chunked {
        Ok(Bytes::new())
    } else {
        read_json(request, limit).await
    }
}

/// Reads a JSON body of at most `limit` bytes.
pub async fn read_json(request: Request, limit: usize) -> Result<Bytes, Failure> {
    let headers = request.headers();
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        let wanted = "The body must be JSON, with the header Content-Type: application/json";
        return Err(Failure::new(Code::UnsupportedMediaType, wanted));
    }
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let too_large = || {
        Failure::new(
            Code::PayloadTooLarge,
            format!("The body is larger than PAYLOAD_LIMIT ({limit} bytes)"),
        )
    };
    if announced.is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    match tokio::time::timeout(ARRIVES, to_bytes(request.into_body(), limit)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error)) if is_limit(&error) => Err(too_large()),
        Ok(Err(_)) => Err(Failure::invalid(
            "The body ended early, or its chunks are not as HTTP has them",
        )),
        Err(_) => Err(Failure::invalid(format!(
            "The body did not arrive within {} seconds",
            ARRIVES.as_secs()
        ))),
    }
}

fn is_limit(error: &axum::Error) -> bool {
    error.to_string().contains("length limit")
}

/// Parses a body. Only where that fails is it parsed again, to find which field is wrong.
pub fn parse_json<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Failure> {
    // serde would also take an array, as the fields in their order.
    if body.trim_ascii_start().starts_with(b"[") {
        return Err(Failure::invalid(
            "The body must be a JSON object, not an array",
        ));
    }
    serde_json::from_slice(body).map_err(|error| {
        if error.is_syntax() || error.is_eof() {
            return Failure::invalid(format!("The body is not JSON: {}", quoteless(&error)));
        }
        let mut again = serde_json::Deserializer::from_slice(body);
        match serde_path_to_error::deserialize::<_, T>(&mut again) {
            Err(error) => {
                let path = error.path().to_string();
                let field = if path == "." {
                    String::new()
                } else {
                    format!("{path}: ")
                };
                Failure::invalid(format!("{field}{}", quoteless(error.inner())))
            }
            Ok(_) => Failure::invalid(quoteless(&error)),
        }
    })
}

/// serde's sentence without the value it found: that may be a secret in the wrong field.
fn quoteless(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let text = text
        .rsplit_once(" at line ")
        .map_or(text.as_str(), |(before, _)| before);
    for kind in ["string", "integer", "floating point", "boolean"] {
        let found = format!("invalid type: {kind} ");
        if let Some(rest) = text.strip_prefix(&found) {
            let wanted = rest
                .rsplit_once(", expected ")
                .map_or("something else", |(_, wanted)| wanted);
            let article = if kind == "integer" { "an" } else { "a" };
            return format!("must be {}, not {article} {kind}", plain(wanted));
        }
    }
    if let Some(wanted) = text.strip_prefix("invalid type: null, expected ") {
        return format!("must be {}, not null", plain(wanted));
    }
    if text.starts_with("unknown variant") {
        let wanted = text
            .rsplit_once(", expected ")
            .map_or("another", |(_, wanted)| wanted);
        return format!("must be {wanted}");
    }
    if text.starts_with("invalid value") {
        let wanted = text
            .rsplit_once(", expected ")
            .map_or("another value", |(_, wanted)| wanted);
        return format!("must be {}", plain(wanted));
    }
    text.to_owned()
}

/// A type as people call it.
fn plain(wanted: &str) -> &str {
    match wanted {
        "u64" | "usize" => "a whole number, 0 or more",
        wanted if wanted.starts_with("struct ") => "an object",
        wanted => wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Body {
        name: crate::core::names::ServerName,
        #[serde(default)]
        limit: Option<u64>,
        #[serde(default)]
        args: Vec<String>,
    }

    fn sentence(body: &str) -> String {
        parse_json::<Body>(body.as_bytes())
            .expect_err("it is wrong")
            .message
    }

    #[test]
    fn errors_name_the_field_and_not_the_value() {
        assert_eq!(
            sentence(r#"{"name":"a","limit":"s3cret"}"#),
            "limit: must be a whole number, 0 or more, not a string"
        );
        assert_eq!(
            sentence(r#"{"name":"a","args":["x",7]}"#),
            "args[1]: must be a string, not an integer"
        );
        assert_eq!(sentence("{}"), "missing field `name`");
        assert!(
            sentence(r#"{"name":"a","nmae":1}"#)
                .starts_with("nmae: unknown field `nmae`, expected one of")
        );
        assert!(sentence(r#"{"name":"a b"}"#).starts_with("name: must be 1 to 64 letters"));
        assert_eq!(
            sentence(r#"["a",1,[]]"#),
            "The body must be a JSON object, not an array"
        );
        assert!(sentence(r#"{"name":"#).starts_with("The body is not JSON"));
    }
}
