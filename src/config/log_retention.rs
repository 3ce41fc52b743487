//! How long the event log keeps its entries.

use std::path::PathBuf;
use std::time::Duration;

use super::data_dir::DataDir;
use super::env::{BadConfig, Env, Variable};

const LOG_RETENTION: Variable = Variable {
    name: "LOG_RETENTION",
    default: "",
    about: "The time for which the event log keeps its events, such as 90d, at least 1d. A worker archives older events once a day. Empty: the log keeps everything.",
};

pub(super) const VARIABLES: &[&Variable] = &[&LOG_RETENTION];

/// The shortest time for which the log keeps its events. Idempotency keys live as long.
const SHORTEST_RETENTION: Duration = Duration::from_secs(86_400);
const LONGEST_RETENTION: Duration = Duration::from_secs(100 * 365 * 86_400);

#[derive(Debug, Clone)]
pub struct LogRetention {
    /// The time for which the log keeps its events, or `None` without a limit.
    pub keep: Option<Duration>,
    /// The folder of the archives.
    pub archive: PathBuf,
}

impl LogRetention {
    pub fn read(env: &Env, data_dir: &DataDir) -> Result<Self, BadConfig> {
        let keep = match env.text(&LOG_RETENTION) {
            Some(text) => Some(
                parse_retention(&text).map_err(|why| BadConfig::new(LOG_RETENTION.name, why))?,
            ),
            None => None,
        };
        Ok(Self {
            keep,
            archive: data_dir.path.join("archive"),
        })
    }
}

/// Parses a time for which the log keeps its events.
///
/// # Errors
/// Returns the reason why the text cannot be used, without a subject.
pub fn parse_retention(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .ok()
        .filter(|keep| (SHORTEST_RETENTION..=LONGEST_RETENTION).contains(keep))
        .ok_or_else(|| "must be a duration such as 90d, from 1d to 100 years".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retention_is_at_least_one_day() {
        let days = |days: u64| Some(Duration::from_secs(days * 86_400));
        assert_eq!(parse_retention("90d").ok(), days(90));
        assert_eq!(parse_retention("24h").ok(), days(1));
        for text in ["23h", "0", "", "ninety days", "-1d", "200years"] {
            assert!(parse_retention(text).is_err(), "{text}");
        }
    }
}
