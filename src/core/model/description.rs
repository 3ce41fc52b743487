//! The description that a server gives of itself when a connection opens.

use std::borrow::Cow;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::core::json_object::Members;

/// A JSON object in the spelling of its server.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RawObject(Arc<RawValue>);

impl RawObject {
    /// Returns the object, or `None` if the text is no JSON object.
    pub fn parse(text: String) -> Option<Self> {
        let raw = RawValue::from_string(text).ok()?;
        raw.get().starts_with('{').then(|| Self(raw.into()))
    }

    pub fn raw(&self) -> &RawValue {
        &self.0
    }
}

impl PartialEq for RawObject {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

impl JsonSchema for RawObject {
    fn schema_name() -> Cow<'static, str> {
        "RawObject".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "object" })
    }
}

/// The description that a server gives of itself, without secrets, and its digest. A part that the server leaves out
/// is absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerDescription {
    pub digest: String,
    /// The `capabilities` of the server.
    pub capabilities: Option<RawObject>,
    /// The `serverInfo` of the server.
    pub server_info: Option<RawObject>,
    pub instructions: Option<String>,
    /// The protocol version that the server and the worker speak.
    pub protocol_version: Option<String>,
}

impl ServerDescription {
    /// Returns whether the server has declared a capability.
    pub fn declares(&self, capability: &str) -> bool {
        let capabilities = self.capabilities.as_ref();
        let members =
            capabilities.and_then(|capabilities| Members::parse(capabilities.raw().get()));
        let declared = members.as_ref().and_then(|members| members.get(capability));
        declared.is_some_and(|declared| declared.get().starts_with('{'))
    }

    /// Returns whether a capability has a feature whose value is `true`, such as `subscribe` of `resources`.
    pub fn declares_feature(&self, capability: &str, feature: &str) -> bool {
        let member = |object: &'_ RawValue, name: &str| {
            let members = Members::parse(object.get())?;
            members.get(name).map(ToOwned::to_owned)
        };
        let capabilities = self.capabilities.as_ref().map(RawObject::raw);
        let declared = capabilities.and_then(|capabilities| member(capabilities, capability));
        let value = declared.and_then(|declared| member(&declared, feature));
        value.is_some_and(|value| value.get() == "true")
    }

    /// Computes the digest of a description.
    pub fn new(
        capabilities: Option<RawObject>,
        server_info: Option<RawObject>,
        instructions: Option<String>,
        protocol_version: Option<String>,
    ) -> Self {
        let parts = [
            capabilities.as_ref().map(canonical_text),
            server_info.as_ref().map(canonical_text),
            instructions.as_deref().map(Cow::Borrowed),
            protocol_version.as_deref().map(Cow::Borrowed),
        ];
        let mut hash = Sha256::new();
        for part in parts {
            hash.update([u8::from(part.is_some())]);
            let text = part.unwrap_or_default();
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text.as_bytes());
        }
        Self {
            digest: hex::encode(hash.finalize()),
            capabilities,
            server_info,
            instructions,
            protocol_version,
        }
    }
}

/// Returns an object with sorted keys and without blanks, because a stored handshake has another spelling.
fn canonical_text(object: &RawObject) -> Cow<'_, str> {
    let text = object.raw().get();
    match serde_json::from_str::<Value>(text) {
        Ok(mut value) => {
            value.sort_all_objects();
            Cow::Owned(value.to_string())
        }
        Err(_) => Cow::Borrowed(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feature_is_declared_with_true_alone() {
        let declares = |capabilities: &str| {
            let capabilities = RawObject::parse(capabilities.to_owned());
            ServerDescription::new(capabilities, None, None, None)
                .declares_feature("resources", "subscribe")
        };
        assert!(declares(
            r#"{"resources":{"listChanged":false,"subscribe":true}}"#
        ));
        for capabilities in [
            "{}",
            r#"{"resources":true}"#,
            r#"{"resources":{"subscribe":false}}"#,
            r#"{"resources":{"subscribe":"true"}}"#,
            r#"{"prompts":{"subscribe":true}}"#,
        ] {
            assert!(!declares(capabilities), "{capabilities}");
        }
    }

    fn digest_of(server_info: Option<&str>, instructions: Option<&str>) -> String {
        let server_info = server_info.map(|text| RawObject::parse(text.into()).expect("an object"));
        let instructions = instructions.map(str::to_owned);
        ServerDescription::new(None, server_info, instructions, None).digest
    }

    #[test]
    fn the_digest_ignores_the_spelling_of_objects() {
        assert_eq!(
            digest_of(Some(r#"{ "name":"a", "version":"\u0031" }"#), None),
            digest_of(Some(r#"{"version":"1","name":"a"}"#), None)
        );
    }

    #[test]
    fn the_digest_depends_on_every_part() {
        let digests = [
            digest_of(None, None),
            digest_of(None, Some("")),
            digest_of(None, Some("{}")),
            digest_of(Some("{}"), None),
            digest_of(Some(r#"{"name":"a"}"#), None),
        ];
        for (index, digest) in digests.iter().enumerate() {
            assert!(!digests[..index].contains(digest), "{index}");
        }
    }

    #[test]
    fn only_an_object_is_an_object() {
        for text in ["[]", "1", "{", "\"{\""] {
            assert!(RawObject::parse(text.into()).is_none(), "{text}");
        }
    }
}
