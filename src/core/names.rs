//! Names and ids, parsed once at the door: inside, a value of these types is a good one.

use std::borrow::Borrow;
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Why a text is not a name. Its sentence says what would be right, never the text itself:
/// somebody may have put a secret into the wrong field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadName(&'static str);

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $check:path) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
        #[schemars(with = "String")]
        pub struct $name(#[serde(serialize_with = "as_text")] Arc<str>);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = BadName;
            fn from_str(text: &str) -> Result<Self, BadName> {
                $check(text)?;
                Ok(Self(text.into()))
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                from.deserialize_str(Text(PhantomData))
            }
        }
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

/// Reads a name from a text without keeping a copy of that.
struct Text<T>(PhantomData<T>);

impl<T: FromStr<Err = BadName>> serde::de::Visitor<'_> for Text<T> {
    type Value = T;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }
    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

fn as_text<S: serde::Serializer>(text: &Arc<str>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(text)
}

name!(
    /// A server's name: `[A-Za-z0-9][A-Za-z0-9._-]{0,63}`, safe in a URL and in a file name.
    ServerName, server_name
);
name!(
    /// A user's name: 1 to 256 characters, none of them a control character.
    UserName, text_name
);
name!(
    /// A secret's name, which is the argument it becomes: 1 to 256 characters, no control characters.
    SecretName, text_name
);
name!(
    /// A tool's name as its server gives it: 1 to 256 characters, no control characters.
    ToolName, text_name
);

name!(
    /// A package's name at npm or PyPI, a scope included; never an option, a path or a URL.
    PackageName, package_name
);
name!(
    /// A version or a tag such as `latest`; no range.
    VersionTag, version_tag
);

impl UserName {
    /// Who acts where nobody is named.
    pub const DEFAULT: &'static str = "default";
}

impl Default for UserName {
    fn default() -> Self {
        Self(Self::DEFAULT.into())
    }
}

fn server_name(text: &str) -> Result<(), BadName> {
    let first = text
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if first && rest && text.len() <= 64 {
        return Ok(());
    }
    Err(BadName(
        "must be 1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or a digit",
    ))
}

fn package_name(text: &str) -> Result<(), BadName> {
    let part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'~'))
    };
    let good = match text.strip_prefix('@') {
        Some(scoped) => scoped
            .split_once('/')
            .is_some_and(|(scope, name)| part(scope) && part(name)),
        None => part(text),
    };
    if good && text.len() <= 214 {
        return Ok(());
    }
    Err(BadName(
        "must be a package's name, such as mcp-server-time or @modelcontextprotocol/server-memory",
    ))
}

fn version_tag(text: &str) -> Result<(), BadName> {
    let first = text
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'+' | b'!'));
    if first && rest && text.len() <= 128 {
        return Ok(());
    }
    Err(BadName("must be a version such as 1.2.3, or latest"))
}

fn text_name(text: &str) -> Result<(), BadName> {
    // At most 256 characters are at most 1,024 bytes: count only what can still be right.
    let short = text.len() <= 1024 && text.chars().count() <= 256;
    if short && !text.is_empty() && !text.chars().any(char::is_control) {
        return Ok(());
    }
    Err(BadName(
        "must be 1 to 256 characters without control characters",
    ))
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(transparent)]
        #[schemars(with = "String")]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// One registration of a server. A name registered again gets a new id and inherits nothing.
    ServerId
);
id!(
    /// What one worker at a time may do: run a server, have its own jobs, refresh a grant.
    LeaseId
);
id!(
    /// One sealed value in the Vault. Values never change: a new value has a new id.
    ValueId
);
id!(
    /// One intended change. The same id twice is the same change, made once.
    CommandId
);
id!(
    /// One job. Ids are ordered by the time at which they were made (UUID version 7).
    JobId
);
id!(
    /// 128 bits of a keyed digest, written like an id.
    Digest
);
id!(
    /// One running worker; a restarted one is another.
    WorkerId
);

impl JobId {
    /// Milliseconds since 1970, where the id is one of version 7 (RFC 9562, section 5.7).
    pub fn made_at(self) -> Option<u64> {
        let (seconds, nanos) = self.0.get_timestamp()?.to_unix();
        Some(seconds * 1000 + u64::from(nanos) / 1_000_000)
    }
}

impl FromStr for JobId {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Self, BadName> {
        text.parse()
            .map(Self)
            .map_err(|_| BadName("must be the id of a job"))
    }
}

impl From<ServerId> for LeaseId {
    fn from(ServerId(id): ServerId) -> Self {
        Self(id)
    }
}

impl From<JobId> for LeaseId {
    fn from(JobId(id): JobId) -> Self {
        Self(id)
    }
}

impl From<WorkerId> for LeaseId {
    fn from(WorkerId(id): WorkerId) -> Self {
        Self(id)
    }
}

/// How many appends the log holds up to and including this one. The first is 1; 0 is the empty log.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(transparent)]
pub struct Position(pub u64);

impl Position {
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_names_are_safe_in_urls_and_files() {
        for good in ["a", "7", "mcp-github", "a.b_c-d", &"x".repeat(64)] {
            assert!(good.parse::<ServerName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "-x",
            "_x",
            "a/b",
            "a b",
            "ä",
            "a\0",
            &"x".repeat(65),
        ] {
            assert!(bad.parse::<ServerName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn text_names_are_counted_in_characters() {
        assert!("ü".repeat(256).parse::<UserName>().is_ok());
        assert!("😀".repeat(256).parse::<UserName>().is_ok());
        for bad in ["", "a\nb", "a\u{7f}", "\u{85}", &"ü".repeat(257)] {
            assert!(bad.parse::<SecretName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn packages_and_versions_are_no_options_paths_or_urls() {
        for good in ["a", "mcp-server-time", "@scope/a.b_c", "7zip", "A"] {
            assert!(good.parse::<PackageName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "-g",
            "@-a/b",
            "@a/-b",
            "@a",
            "@a/b/c",
            "a/b",
            "../a",
            ".a",
            "a b",
            "a@1",
            "https://h",
            "git+ssh://h",
            "a\0",
        ] {
            assert!(bad.parse::<PackageName>().is_err(), "{bad:?}");
        }
        for good in ["latest", "1.2.3", "2026.1.26", "1.0.0-beta.1+x", "1!2.0"] {
            assert!(good.parse::<VersionTag>().is_ok(), "{good}");
        }
        for bad in [
            "", "-1", "^1", ">=1", "1 || 2", "file:x", "npm:a@1", "*", "a/b",
        ] {
            assert!(bad.parse::<VersionTag>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_stored_name_is_checked_again() {
        assert!(serde_json::from_str::<ServerName>("\"ok\"").is_ok());
        assert!(serde_json::from_str::<ServerName>("\"not ok\"").is_err());
    }
}
