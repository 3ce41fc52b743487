//! Bodies of responses: their type, their encoding and their bytes.

use bytes::Bytes;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE};

use crate::http_client::{BodyError, StreamedResponse};

/// The type of a body, as far as the client reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ContentKind {
    EventStream,
    /// JSON, or a body whose type is missing or says only that it is text.
    Json,
    /// A type that cannot hold a message.
    Other(String),
}

impl ContentKind {
    pub(super) fn from_response(response: &StreamedResponse) -> Self {
        let header = response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        Self::parse(header)
    }

    fn parse(header: &str) -> Self {
        let essence = header.split(';').next().unwrap_or_default().trim();
        match essence.to_ascii_lowercase().as_str() {
            "text/event-stream" => Self::EventStream,
            "" | "text/plain" | "application/octet-stream" => Self::Json,
            other if other.ends_with("json") || other.starts_with("application/json") => Self::Json,
            other => Self::Other(other.to_owned()),
        }
    }
}

/// Returns the encoding of a body that the client cannot read. The client asks for `identity`.
pub(super) fn unreadable_encoding(response: &StreamedResponse) -> Option<String> {
    let encodings = response.headers().get_all(CONTENT_ENCODING).iter();
    let encodings: Vec<_> = encodings
        .map(|value| {
            String::from_utf8_lossy(value.as_bytes())
                .trim()
                .to_ascii_lowercase()
        })
        .filter(|encoding| !encoding.is_empty() && encoding != "identity")
        .collect();
    (!encodings.is_empty()).then(|| encodings.join(", "))
}

/// Returns a whole body, or `None` if it has more than `limit` bytes.
pub(super) async fn read_body(
    response: &mut StreamedResponse,
    limit: usize,
) -> Result<Option<Bytes>, BodyError> {
    if response
        .length()
        .is_some_and(|length| length > limit as u64)
    {
        return Ok(None);
    }
    let mut first = Bytes::new();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if first.len() + body.len() + chunk.len() > limit {
            return Ok(None);
        }
        if first.is_empty() && body.is_empty() {
            // Most bodies have one chunk, which is not copied.
            first = chunk;
        } else {
            body.extend_from_slice(&first);
            first = Bytes::new();
            body.extend_from_slice(&chunk);
        }
    }
    Ok(Some(if body.is_empty() { first } else { body.into() }))
}

/// Returns the first `limit` bytes of a body, and an empty body if it cannot be read.
pub(super) async fn read_beginning(response: &mut StreamedResponse, limit: usize) -> Bytes {
    let mut body = Vec::new();
    while body.len() < limit
        && let Ok(Some(chunk)) = response.chunk().await
    {
        body.extend_from_slice(&chunk);
    }
    body.truncate(limit);
    body.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_type_counts_as_json_and_html_does_not() {
        for header in [
            "",
            "application/json; charset=utf-8",
            "application/problem+json",
            "text/plain",
        ] {
            assert_eq!(ContentKind::parse(header), ContentKind::Json, "{header}");
        }
        assert_eq!(
            ContentKind::parse("Text/Event-Stream;charset=utf-8"),
            ContentKind::EventStream
        );
        assert_eq!(
            ContentKind::parse("text/html"),
            ContentKind::Other("text/html".into())
        );
    }
}
