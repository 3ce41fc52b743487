//! Reads the environment and a `.env` file in the current folder.

use std::collections::HashMap;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

/// A variable with its default, as a user writes it, and its description.
pub struct Variable {
    pub name: &'static str,
    pub default: &'static str,
    pub about: &'static str,
}

/// A variable whose value cannot be used. The error names the variable and never repeats the value.
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

/// The variables. An empty variable counts as absent.
#[derive(Default)]
pub struct Env(HashMap<String, String>);

impl Env {
    /// Reads the environment of the process and `.env` in the current folder. The environment wins.
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

    /// Parses the text of a `.env` file. An error does not repeat the line, because the line may hold a secret.
    pub fn from_text(text: &[u8]) -> Result<Self, BadConfig> {
        let mut pairs = HashMap::new();
        for pair in dotenvy::from_read_iter(text) {
            let (name, value) = pair.map_err(|_| {
                let count = pairs.len();
                BadConfig::new(
                    ".env",
                    format!("has a line that is not NAME=value, after {count} valid lines"),
                )
            })?;
            pairs.insert(name, value);
        }
        Ok(Self(pairs))
    }

    pub fn has(&self, name: &str) -> bool {
        self.raw(name).is_some()
    }

    /// Returns all variables whose names begin with one of these texts, in any case.
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

    /// Returns the value of a variable that the operating system defines, or of a variable of the program.
    pub(super) fn raw(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(|value| value.trim())
            .filter(|value| !value.is_empty())
    }

    pub fn text(&self, variable: &Variable) -> Option<String> {
        self.raw(variable.name).map(str::to_owned)
    }

    /// Parses the value or the default. `expected` describes a valid value in the error.
    pub fn parse<T: FromStr>(&self, variable: &Variable, expected: &str) -> Result<T, BadConfig> {
        let text = self.raw(variable.name).unwrap_or(variable.default);
        text.parse().map_err(|_| {
            BadConfig::new(
                variable.name,
                format!("must be {expected}, such as {}", variable.default),
            )
        })
    }

    /// Parses a whole number in a range.
    pub fn number(
        &self,
        variable: &Variable,
        range: std::ops::RangeInclusive<usize>,
    ) -> Result<usize, BadConfig> {
        let expected = format!("a number from {} to {}", range.start(), range.end());
        let number = self.parse(variable, &expected)?;
        if range.contains(&number) {
            return Ok(number);
        }
        Err(BadConfig::new(variable.name, format!("must be {expected}")))
    }

    /// Parses a number of bytes such as `6mb`; mb is 1024².
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

    /// Parses a duration such as `30s`.
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
            let from = humantime::format_duration(*range.start());
            let to = humantime::format_duration(*range.end());
            BadConfig::new(
                variable.name,
                format!(
                    "must be a duration such as {}, from {from} to {to}",
                    variable.default
                ),
            )
        })
    }

    /// Parses a comma-separated list of at least one known word.
    pub fn list(&self, variable: &Variable, known: &[&str]) -> Result<Vec<String>, BadConfig> {
        let text = self.raw(variable.name).unwrap_or(variable.default);
        let values: Vec<_> = text
            .split(',')
            .map(str::trim)
            .filter(|value| !value.is_empty())
            .map(str::to_owned)
            .collect();
        let is_known = |value: &String| known.contains(&value.as_str());
        if !values.is_empty() && values.iter().all(is_known) {
            return Ok(values);
        }
        Err(BadConfig::new(
            variable.name,
            format!(
                "must be one or more of {}, comma-separated",
                known.join(", ")
            ),
        ))
    }

    pub fn flag(&self, variable: &Variable) -> Result<bool, BadConfig> {
        self.parse(variable, "true or false")
    }
}
