//! The revisions of the Model Context Protocol, and the era that each belongs to.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A revision of the protocol, in the order of their dates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProtocolVersion {
    V2024_11_05,
    V2025_03_26,
    V2025_06_18,
    V2025_11_25,
    V2026_07_28,
}

impl ProtocolVersion {
    /// All revisions, the newest first.
    pub const ALL: [Self; 5] = [
        Self::V2026_07_28,
        Self::V2025_11_25,
        Self::V2025_06_18,
        Self::V2025_03_26,
        Self::V2024_11_05,
    ];
    /// The newest revision with `initialize`.
    pub const NEWEST_LEGACY: Self = Self::V2025_11_25;

    pub fn as_str(self) -> &'static str {
        match self {
            Self::V2024_11_05 => "2024-11-05",
            Self::V2025_03_26 => "2025-03-26",
            Self::V2025_06_18 => "2025-06-18",
            Self::V2025_11_25 => "2025-11-25",
            Self::V2026_07_28 => "2026-07-28",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|version| version.as_str() == text)
    }

    pub fn era(self) -> Era {
        if self >= Self::V2026_07_28 {
            Era::Modern
        } else {
            Era::Legacy
        }
    }

    /// Returns the revision that a server answers to `initialize`: the requested one if it is legacy, else the newest
    /// legacy one (MCP 2025-11-25, Lifecycle, Version Negotiation).
    pub fn negotiate(requested: &str) -> Self {
        Self::parse(requested)
            .filter(|version| version.era() == Era::Legacy)
            .unwrap_or(Self::NEWEST_LEGACY)
    }

    /// Returns the number of a legacy revision in a session id.
    pub fn number(self) -> u8 {
        self as u8
    }

    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|version| version.number() == number)
    }
}

/// The two families of revisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Era {
    /// 2024-11-05 to 2025-11-25: `initialize` begins a session.
    Legacy,
    /// 2026-07-28: every request stands alone.
    Modern,
}

impl Era {
    /// Returns the value of the label `era` in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Modern => "modern",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_parsed_from_its_text_and_from_its_number() {
        for version in ProtocolVersion::ALL {
            assert_eq!(ProtocolVersion::parse(version.as_str()), Some(version));
            assert_eq!(
                ProtocolVersion::from_number(version.number()),
                Some(version)
            );
        }
        assert_eq!(ProtocolVersion::parse("2025-11-26"), None);
        assert_eq!(ProtocolVersion::from_number(9), None);
    }

    #[test]
    fn initialize_negotiates_a_legacy_version() {
        for (requested, expected) in [
            ("2024-11-05", ProtocolVersion::V2024_11_05),
            ("2025-06-18", ProtocolVersion::V2025_06_18),
            ("2025-11-25", ProtocolVersion::V2025_11_25),
            ("2026-07-28", ProtocolVersion::V2025_11_25),
            ("1999-01-01", ProtocolVersion::V2025_11_25),
            ("", ProtocolVersion::V2025_11_25),
        ] {
            assert_eq!(
                ProtocolVersion::negotiate(requested),
                expected,
                "{requested}"
            );
        }
    }
}
