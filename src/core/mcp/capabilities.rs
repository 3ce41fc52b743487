//! The capabilities that a client declares in `initialize`, as bits. A session id carries the bits, so every facade knows
//! them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::version::ProtocolVersion;
use crate::core::json_object::{Members, append_member};

/// The capabilities of a client that a server may use. A bit never changes its meaning, because sessions of earlier
/// versions of the program hold it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct ClientCapabilities(u16);

impl ClientCapabilities {
    pub const ELICITATION_FORM: Self = Self(1);
    pub const ELICITATION_URL: Self = Self(1 << 1);
    pub const SAMPLING: Self = Self(1 << 2);
    pub const SAMPLING_TOOLS: Self = Self(1 << 3);
    pub const ROOTS: Self = Self(1 << 4);
    /// The extension `io.modelcontextprotocol/ui`.
    pub const UI: Self = Self(1 << 5);
    /// Reserved: no session has it yet.
    pub const TASKS: Self = Self(1 << 6);

    /// Reads the object `capabilities` of `initialize`. Capabilities that the negotiated version does not have are left
    /// out, and so is a member that is no object.
    pub fn read(capabilities: &RawValue, version: ProtocolVersion) -> Self {
        let declared = object(capabilities);
        let elicitation = part(&declared, "elicitation");
        let sampling = part(&declared, "sampling");
        let url = part(&elicitation, "url").is_some();
        // An empty object declares the form mode (MCP 2025-11-25, Elicitation, Capabilities).
        let form = part(&elicitation, "form").is_some() || (elicitation.is_some() && !url);
        let extensions = part(&declared, "extensions");
        [
            (form, Self::ELICITATION_FORM, ProtocolVersion::V2025_06_18),
            (url, Self::ELICITATION_URL, ProtocolVersion::V2025_11_25),
            (
                sampling.is_some(),
                Self::SAMPLING,
                ProtocolVersion::V2024_11_05,
            ),
            (
                part(&sampling, "tools").is_some(),
                Self::SAMPLING_TOOLS,
                ProtocolVersion::V2025_11_25,
            ),
            (
                part(&declared, "roots").is_some(),
                Self::ROOTS,
                ProtocolVersion::V2024_11_05,
            ),
            (
                part(&extensions, "io.modelcontextprotocol/ui").is_some(),
                Self::UI,
                ProtocolVersion::V2024_11_05,
            ),
        ]
        .into_iter()
        .filter(|(is_declared, _, since)| *is_declared && version >= *since)
        .fold(Self::default(), |found, (_, bit, _)| Self(found.0 | bit.0))
    }

    pub fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    pub fn bits(self) -> u16 {
        self.0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns the capabilities with which a server can ask the client for something.
    pub fn of_questions(self) -> Self {
        let questions = Self::ELICITATION_FORM.0
            | Self::ELICITATION_URL.0
            | Self::SAMPLING.0
            | Self::SAMPLING_TOOLS.0
            | Self::ROOTS.0;
        Self(self.0 & questions)
    }

    /// Returns these capabilities and others.
    pub fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// Returns the JSON object that declares the capabilities to a server.
    pub fn declaration(self) -> String {
        let mut declared = String::from("{");
        let modes = [
            (Self::ELICITATION_FORM, r#""form":{}"#),
            (Self::ELICITATION_URL, r#""url":{}"#),
        ];
        let modes: Vec<_> = modes
            .into_iter()
            .filter(|(mode, _)| self.has(*mode))
            .map(|(_, member)| member)
            .collect();
        if !modes.is_empty() {
            append_member(
                &mut declared,
                r#""elicitation""#,
                &format!("{{{}}}", modes.join(",")),
            );
        }
        if self.has(Self::SAMPLING) {
            let tools = self.has(Self::SAMPLING_TOOLS);
            let members = if tools { r#"{"tools":{}}"# } else { "{}" };
            append_member(&mut declared, r#""sampling""#, members);
        }
        if self.has(Self::ROOTS) {
            append_member(&mut declared, r#""roots""#, "{}");
        }
        declared.push('}');
        declared
    }

    /// Returns whether the client has declared all of these capabilities.
    pub fn has(self, capabilities: Self) -> bool {
        self.0 & capabilities.0 == capabilities.0
    }
}

fn object(value: &RawValue) -> Option<Members<'_>> {
    Members::parse(value.get())
}

/// Returns a member that is an object.
fn part<'a>(parent: &Option<Members<'a>>, name: &str) -> Option<Members<'a>> {
    parent.as_ref()?.get(name).and_then(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEWEST: ProtocolVersion = ProtocolVersion::V2025_11_25;

    fn read(capabilities: &str, version: ProtocolVersion) -> u16 {
        let raw = RawValue::from_string(capabilities.to_owned()).expect("JSON");
        ClientCapabilities::read(&raw, version).bits()
    }

    #[test]
    fn each_declared_capability_has_its_own_bit() {
        for (capabilities, expected) in [
            ("{}", 0),
            ("[]", 0),
            ("null", 0),
            (r#"{"elicitation":{}}"#, 1),
            (r#"{"elicitation":{"form":{}}}"#, 1),
            (r#"{"elicitation":{"url":{}}}"#, 2),
            (r#"{"elicitation":{"form":{},"url":{}}}"#, 3),
            (r#"{"elicitation":true,"sampling":null,"roots":[]}"#, 0),
            (r#"{"sampling":{}}"#, 4),
            (r#"{"sampling":{"tools":{},"context":{}}}"#, 12),
            (r#"{"roots":{"listChanged":true}}"#, 16),
            (
                r#"{"extensions":{"io.modelcontextprotocol/ui":{"mimeTypes":[]},"a.b/c":{}}}"#,
                32,
            ),
            (
                r#"{"tasks":{"list":{}},"experimental":{"elicitation":{}}}"#,
                0,
            ),
        ] {
            assert_eq!(read(capabilities, NEWEST), expected, "{capabilities}");
        }
    }

    #[test]
    fn a_capability_of_a_later_version_is_left_out() {
        let all = r#"{"elicitation":{"form":{},"url":{}},"sampling":{"tools":{}},"roots":{}}"#;
        for (version, expected) in [
            (ProtocolVersion::V2024_11_05, 4 + 16),
            (ProtocolVersion::V2025_03_26, 4 + 16),
            (ProtocolVersion::V2025_06_18, 1 + 4 + 16),
            (ProtocolVersion::V2025_11_25, 1 + 2 + 4 + 8 + 16),
        ] {
            assert_eq!(read(all, version), expected, "{}", version.as_str());
        }
    }

    #[test]
    fn a_declaration_declares_the_same_capabilities() {
        for bits in 0..32 {
            let capabilities = ClientCapabilities::from_bits(bits);
            if capabilities.has(ClientCapabilities::SAMPLING_TOOLS)
                && !capabilities.has(ClientCapabilities::SAMPLING)
            {
                continue;
            }
            assert_eq!(read(&capabilities.declaration(), NEWEST), bits);
        }
    }

    #[test]
    fn a_client_has_a_set_of_capabilities_only_as_a_whole() {
        let both = ClientCapabilities::from_bits(1 | 16);
        assert!(both.has(ClientCapabilities::ELICITATION_FORM) && both.has(both));
        assert!(!ClientCapabilities::ROOTS.has(both));
        assert!(!both.has(ClientCapabilities::TASKS));
    }
}
