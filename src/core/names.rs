//! The names that users, servers and packages have. Each name is checked once, where it enters the program.

use std::borrow::Borrow;
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Says why a text is not a name. The sentence states the rule and never repeats the text,
/// because a caller may have put a secret into the wrong field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadName(&'static str);

impl BadName {
    /// `rule` completes the sentence "<field> …", such as "must be the id of a job".
    pub(in crate::core) const fn new(rule: &'static str) -> Self {
        Self(rule)
    }
}

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
            fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
                input.deserialize_str(NameVisitor(PhantomData))
            }
        }
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }
    };
}

/// Parses a name from a borrowed text, without a copy of that text.
struct NameVisitor<T>(PhantomData<T>);

impl<T: FromStr<Err = BadName>> serde::de::Visitor<'_> for NameVisitor<T> {
    type Value = T;
    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a string")
    }
    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

fn as_text<S: serde::Serializer>(text: &Arc<str>, output: S) -> Result<S::Ok, S::Error> {
    output.serialize_str(text)
}

name!(
    /// Names a server: `[A-Za-z0-9][A-Za-z0-9._-]{0,63}`, safe in a URL and in a file name.
    ServerName, check_server_name
);
name!(
    /// Names a user: 1 to 256 characters, without control characters.
    UserName, check_text_name
);
name!(
    /// Names a secret and the argument that it fills: 1 to 256 characters, without control characters.
    SecretName, check_text_name
);
name!(
    /// Names a tool, as its server does: 1 to 256 characters, without control characters.
    ToolName, check_text_name
);

name!(
    /// Names a package of npm (with its scope) or PyPI, never an option, a path or a URL.
    PackageName, check_package_name
);
name!(
    /// Names a version or a tag such as `latest`, never a range.
    VersionTag, check_version_tag
);

impl UserName {
    /// Acts when a request names no user.
    pub const DEFAULT: &'static str = "default";
}

impl Default for UserName {
    fn default() -> Self {
        Self(Self::DEFAULT.into())
    }
}

fn check_server_name(text: &str) -> Result<(), BadName> {
    let starts_well = text
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric());
    let all_allowed = text
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
    if starts_well && all_allowed && text.len() <= 64 {
        return Ok(());
    }
    Err(BadName(
        "must be 1 to 64 letters, digits, '.', '_' or '-', starting with a letter or a digit",
    ))
}

fn check_package_name(text: &str) -> Result<(), BadName> {
    let is_part = |part: &str| {
        part.starts_with(|character: char| character.is_ascii_alphanumeric())
            && part.bytes().all(|byte| {
                byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'~')
            })
    };
    let is_name = match text.strip_prefix('@') {
        Some(scoped) => scoped
            .split_once('/')
            .is_some_and(|(scope, name)| is_part(scope) && is_part(name)),
        None => is_part(text),
    };
    if is_name && text.len() <= 214 {
        return Ok(());
    }
    if text.contains('[') {
        return Err(BadName(
            "must be without extras; write the name alone, and the name with its extras into pipDependencies, such as [\"mcp[cli]\"]",
        ));
    }
    Err(BadName(
        "must be the name of a package, such as mcp-server-time or @modelcontextprotocol/server-memory",
    ))
}

fn check_version_tag(text: &str) -> Result<(), BadName> {
    let starts_well = text
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric());
    let all_allowed = text.bytes().all(|byte| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'+' | b'!')
    });
    if starts_well && all_allowed && text.len() <= 128 {
        return Ok(());
    }
    Err(BadName("must be a version such as 1.2.3, or latest"))
}

fn check_text_name(text: &str) -> Result<(), BadName> {
    // 256 characters have at most 1,024 bytes, so a longer text is refused before its characters are counted.
    let is_short = text.len() <= 1024 && text.chars().count() <= 256;
    if is_short && !text.is_empty() && !text.chars().any(char::is_control) {
        return Ok(());
    }
    Err(BadName(
        "must be 1 to 256 characters without control characters",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_name_is_safe_in_urls_and_files() {
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
    fn the_length_of_a_text_name_counts_characters() {
        assert!("ü".repeat(256).parse::<UserName>().is_ok());
        assert!("😀".repeat(256).parse::<UserName>().is_ok());
        for bad in ["", "a\nb", "a\u{7f}", "\u{85}", &"ü".repeat(257)] {
            assert!(bad.parse::<SecretName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn package_names_and_versions_are_never_options_paths_or_urls() {
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
    fn deserializing_checks_a_name_again() {
        assert!(serde_json::from_str::<ServerName>("\"ok\"").is_ok());
        assert!(serde_json::from_str::<ServerName>("\"not ok\"").is_err());
    }
}
