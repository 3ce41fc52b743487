//! The environment, and a `.env` file in the current folder.

use std::collections::HashMap;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

/// A variable: its name, its default as one would write it, and one sentence.
pub struct Variable {
    pub name: &'static str,
    pub default: &'static str,
    pub about: &'static str,
}

/// A variable that cannot be used. It names the variable and never repeats the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} {why}")]
pub struct BadConfig {
    pub name: String,
    pub why: String,
}

impl BadConfig {
    pub fn new(name: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            why: why.into(),
        }
    }
}

/// Where variables come from. An empty variable counts as absent.
#[derive(Default)]
pub struct Env(HashMap<String, String>);

impl Env {
    /// The process's environment, and of `.env` in the current folder what is not set there.
    pub fn of_process() -> Result<Self, BadConfig> {
        let mut env = Self::from_file(Path::new(".env"))?;
        env.0.extend(
            std::env::vars_os()
                .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))),
        );
        Ok(env)
    }

    pub fn from_pairs(pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(pairs.into_iter().collect())
    }

    fn from_file(path: &Path) -> Result<Self, BadConfig> {
        match std::fs::read(path) {
            Ok(text) => Self::from_text(&text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(BadConfig::new(".env", format!("cannot be read: {error}"))),
        }
    }

    /// Reads the text of a `.env` file. What is wrong with it is said without repeating it: the line
    /// may hold a secret.
    pub fn from_text(text: &[u8]) -> Result<Self, BadConfig> {
        let mut pairs = HashMap::new();
        for pair in dotenvy::from_read_iter(text) {
            let (name, value) = pair.map_err(|_| {
                let after = pairs.len();
                BadConfig::new(
                    ".env",
                    format!("has a line that is not NAME=value, after {after} good ones"),
                )
            })?;
            pairs.insert(name, value);
        }
        Ok(Self(pairs))
    }

    pub fn has(&self, name: &str) -> bool {
        self.raw(name).is_some()
    }

    /// All variables whose names begin with one of these, in any case.
    pub fn beginning_with(&self, beginnings: &[&str]) -> Vec<(String, String)> {
        let wanted = |name: &str| {
            let name = name.to_ascii_lowercase();
            beginnings
                .iter()
                .any(|beginning| name.starts_with(beginning))
        };
        let mut found: Vec<_> = self
            .0
            .iter()
            .filter(|(name, _)| wanted(name))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        found.sort();
        found
    }

    fn raw(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(|value| value.trim())
            .filter(|value| !value.is_empty())
    }

    pub fn text(&self, variable: &Variable) -> Option<String> {
        self.raw(variable.name).map(str::to_owned)
    }

    /// The value or the default, parsed by its type.
    pub fn parse<T: FromStr>(&self, variable: &Variable, what: &str) -> Result<T, BadConfig> {
        let text = self.raw(variable.name).unwrap_or(variable.default);
        text.parse().map_err(|_| {
            BadConfig::new(
                variable.name,
                format!("must be {what}, such as {}", variable.default),
            )
        })
    }

    /// A whole number in a range.
    pub fn number(
        &self,
        variable: &Variable,
        range: std::ops::RangeInclusive<usize>,
    ) -> Result<usize, BadConfig> {
        let what = format!("a number from {} to {}", range.start(), range.end());
        let number = self.parse(variable, &what)?;
        if range.contains(&number) {
            return Ok(number);
        }
        Err(BadConfig::new(variable.name, format!("must be {what}")))
    }

    /// A number of bytes such as `6mb`; mb is 1024².
    pub fn bytes(
        &self,
        variable: &Variable,
        range: std::ops::RangeInclusive<usize>,
    ) -> Result<usize, BadConfig> {
        let text = self.raw(variable.name).unwrap_or(variable.default);
        let bytes = parse_size::Config::new()
            .with_binary()
            .parse_size(text)
            .ok()
            .and_then(|n| usize::try_from(n).ok());
        bytes.filter(|bytes| range.contains(bytes)).ok_or_else(|| {
            let range = format!("{} to {} bytes", range.start(), range.end());
            BadConfig::new(
                variable.name,
                format!("must be a size such as {} ({range})", variable.default),
            )
        })
    }

    /// A length of time such as `30s`.
    pub fn duration(
        &self,
        variable: &Variable,
        range: std::ops::RangeInclusive<Duration>,
    ) -> Result<Duration, BadConfig> {
        let text = self.raw(variable.name).unwrap_or(variable.default);
        let duration = humantime::parse_duration(text)
            .ok()
            .filter(|duration| range.contains(duration));
        duration.ok_or_else(|| {
            let (from, to) = (
                humantime::format_duration(*range.start()),
                humantime::format_duration(*range.end()),
            );
            BadConfig::new(
                variable.name,
                format!(
                    "must be a length of time such as {}, from {from} to {to}",
                    variable.default
                ),
            )
        })
    }

    /// Comma-separated words of those that are known; at least one.
    pub fn list(&self, variable: &Variable, known: &[&str]) -> Result<Vec<String>, BadConfig> {
        let text = self.raw(variable.name).unwrap_or(variable.default);
        let words: Vec<_> = text
            .split(',')
            .map(str::trim)
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect();
        if !words.is_empty() && words.iter().all(|word| known.contains(&word.as_str())) {
            return Ok(words);
        }
        Err(BadConfig::new(
            variable.name,
            format!("must be some of {}, comma-separated", known.join(", ")),
        ))
    }

    pub fn flag(&self, variable: &Variable) -> Result<bool, BadConfig> {
        self.parse(variable, "true or false")
    }
}
