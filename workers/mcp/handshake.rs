//! The description that a server gives of itself when a connection opens.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

/// The raw result of the handshake. It may repeat secrets.
#[derive(Clone)]
pub enum Handshake {
    /// The result of `initialize`.
    Initialize(Bytes),
    /// The result of `server/discover` (2026-07-28), and the version that the client uses.
    Discover(Bytes, &'static str),
}

/// The parts of a handshake. A part of another type than the protocol says counts as absent.
#[derive(Default)]
pub struct HandshakeParts<'a> {
    /// A JSON object.
    pub capabilities: Option<&'a RawValue>,
    /// A JSON object.
    pub server_info: Option<&'a RawValue>,
    pub instructions: Option<Cow<'a, str>>,
    pub protocol_version: Option<Cow<'a, str>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResultView<'a> {
    #[serde(borrow)]
    capabilities: Option<&'a RawValue>,
    #[serde(borrow)]
    server_info: Option<&'a RawValue>,
    #[serde(borrow)]
    instructions: Option<&'a RawValue>,
    #[serde(borrow)]
    protocol_version: Option<&'a RawValue>,
    #[serde(borrow, rename = "_meta")]
    meta: Option<&'a RawValue>,
}

/// The `_meta` of a result of 2026-07-28.
#[derive(Default, Deserialize)]
struct MetaView<'a> {
    #[serde(borrow, rename = "io.modelcontextprotocol/serverInfo")]
    server_info: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Handshake {
    /// Returns the parts of the handshake.
    pub fn parts(&self) -> HandshakeParts<'_> {
        let (Self::Initialize(result) | Self::Discover(result, _)) = self;
        let view: ResultView = serde_json::from_slice(result).unwrap_or_default();
        let parts = HandshakeParts {
            capabilities: view.capabilities.and_then(object),
            server_info: view.server_info.and_then(object),
            instructions: view.instructions.and_then(text),
            protocol_version: view.protocol_version.and_then(text),
        };
        match self {
            Self::Initialize(_) => parts,
            Self::Discover(_, version) => {
                let meta = view.meta.map(RawValue::get).unwrap_or_default();
                let meta: MetaView = serde_json::from_str(meta).unwrap_or_default();
                HandshakeParts {
                    server_info: meta.server_info.and_then(object).or(parts.server_info),
                    protocol_version: Some(Cow::Borrowed(version)),
                    ..parts
                }
            }
        }
    }
}

fn object(value: &RawValue) -> Option<&RawValue> {
    value.get().starts_with('{').then_some(value)
}

fn text(value: &RawValue) -> Option<Cow<'_, str>> {
    let Text(text) = serde_json::from_str(value.get()).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(handshake: &Handshake) -> [Option<String>; 4] {
        let parts = handshake.parts();
        let raw = |value: Option<&RawValue>| value.map(|value| value.get().to_owned());
        [
            raw(parts.capabilities),
            raw(parts.server_info),
            parts.instructions.map(Cow::into_owned),
            parts.protocol_version.map(Cow::into_owned),
        ]
    }

    #[test]
    fn the_result_of_initialize_keeps_the_text_of_its_objects() {
        let result = r#"{"protocolVersion":"2025-06-18","capabilities":{"tools":{ }},
            "serverInfo":{"version":"1","name":"n"},"instructions":"a\nb","_meta":{}}"#;
        assert_eq!(
            shown(&Handshake::Initialize(result.into())),
            [
                Some(r#"{"tools":{ }}"#.into()),
                Some(r#"{"version":"1","name":"n"}"#.into()),
                Some("a\nb".into()),
                Some("2025-06-18".into()),
            ]
        );
    }

    #[test]
    fn the_result_of_discover_names_the_server_in_its_metadata() {
        let result = r#"{"supportedVersions":["2026-07-28"],"capabilities":{},
            "_meta":{"io.modelcontextprotocol/serverInfo":{"name":"n"}}}"#;
        assert_eq!(
            shown(&Handshake::Discover(result.into(), "2026-07-28")),
            [
                Some("{}".into()),
                Some(r#"{"name":"n"}"#.into()),
                None,
                Some("2026-07-28".into()),
            ]
        );
    }

    #[test]
    fn a_part_of_another_type_is_absent() {
        let result =
            r#"{"protocolVersion":1,"capabilities":[],"serverInfo":null,"instructions":{}}"#;
        for result in [result, "null", "no JSON"] {
            assert_eq!(
                shown(&Handshake::Initialize(result.into())),
                [None, None, None, None]
            );
        }
    }
}
