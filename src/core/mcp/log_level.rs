//! The levels of log lines (RFC 5424), and which lines of a server a client takes.

use serde::{Deserialize, Serialize};

/// The severity of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    Debug,
    Info,
    Notice,
    Warning,
    Error,
    Critical,
    Alert,
    Emergency,
}

impl LogLevel {
    pub const ALL: [Self; 8] = [
        Self::Debug,
        Self::Info,
        Self::Notice,
        Self::Warning,
        Self::Error,
        Self::Critical,
        Self::Alert,
        Self::Emergency,
    ];

    /// Returns the level with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.as_str() == name)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
            Self::Alert => "alert",
            Self::Emergency => "emergency",
        }
    }
}

/// The log lines that a client takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WantedLog {
    /// The client has named no level. It gets lines from `info` on, and servers keep their own level.
    Default,
    /// The client has named the least severe level.
    From(LogLevel),
}

impl WantedLog {
    /// Returns the least severe level that the client takes.
    pub fn level(self) -> LogLevel {
        match self {
            Self::Default => LogLevel::Info,
            Self::From(level) => level,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_have_names_and_an_order() {
        for level in LogLevel::ALL {
            assert_eq!(LogLevel::parse(level.as_str()), Some(level));
            let json = serde_json::to_string(&level).expect("JSON");
            assert_eq!(json, format!("\"{}\"", level.as_str()));
        }
        assert_eq!(LogLevel::parse("Info"), None);
        assert!(LogLevel::ALL.is_sorted());
        assert_eq!(WantedLog::Default.level(), LogLevel::Info);
    }
}
