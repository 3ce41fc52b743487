//! Secrets: deciding their changes, and placing opened values among a call's arguments.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

/// An opened secret on its way into one call.
pub struct SecretArgument<'a> {
    pub name: &'a str,
    pub value: &'a str,
    pub form: ArgumentForm,
}

/// What a value becomes as an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArgumentForm {
    /// A string.
    Text,
    /// What it is already: checked JSON.
    Json,
}

/// Writes `args` with the secrets at the top level to `line`. A secret wins over the caller's argument of
/// the same name, however that is spelled and however often it is there.
///
/// `args` must be a JSON object, already checked. The result has no line break outside strings,
/// so that it can be framed as one line.
pub fn merge_arguments(line: &mut Vec<u8>, args: &str, secrets: &[SecretArgument<'_>]) {
    if secrets.is_empty() {
        return append_without_line_breaks(line, args.as_bytes());
    }
    line.push(b'{');
    for (n, secret) in secrets.iter().enumerate() {
        if n > 0 {
            line.push(b',');
        }
        append_json_string(line, secret.name);
        line.push(b':');
        match secret.form {
            ArgumentForm::Text => append_json_string(line, secret.value),
            ArgumentForm::Json => append_without_line_breaks(line, secret.value.as_bytes()),
        }
    }
    // The quick way: where no key can be a secret's name in disguise, the caller's object follows as it is.
    let bytes = args.as_bytes();
    let disguised = memchr::memchr(b'\\', bytes).is_some()
        || secrets
            .iter()
            .any(|secret| memchr::memmem::find(bytes, secret.name.as_bytes()).is_some());
    let rest = if disguised {
        None
    } else {
        args.trim_start().strip_prefix('{')
    };
    match rest {
        Some(rest) => {
            if !rest.trim_start().starts_with('}') {
                line.push(b',');
            }
            append_without_line_breaks(line, rest.as_bytes());
        }
        None => {
            append_other_members(line, args, secrets);
            line.push(b'}');
        }
    }
}

/// The slow way: the caller's arguments one by one, without those that a secret replaces.
fn append_other_members(line: &mut Vec<u8>, args: &str, secrets: &[SecretArgument<'_>]) {
    // `args` was parsed at the door; a failure here could only mean that it was not, and then nothing of it passes.
    let Ok(Members(members)) = serde_json::from_str(args) else {
        return;
    };
    for (key, value) in members {
        // A key that is no Unicode text, such as "\ud800", is nobody's name; it passes as it was spelled.
        let decoded = serde_json::from_str::<Key>(key.get());
        if decoded.is_ok_and(|Key(key)| secrets.iter().any(|secret| secret.name == key)) {
            continue;
        }
        line.push(b',');
        line.extend_from_slice(key.get().as_bytes());
        line.push(b':');
        append_without_line_breaks(line, value.get().as_bytes());
    }
}

/// The top level of an object in its order, as it was spelled, repeated keys kept.
struct Members<'a>(Vec<(&'a RawValue, &'a RawValue)>);

/// A key decoded, without a copy where nothing in it is escaped.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        from.deserialize_map(Visitor)
    }
}

/// Appends a JSON string.
pub fn append_json_string(line: &mut Vec<u8>, text: &str) {
    // Writing to a Vec cannot fail.
    let _ = serde_json::to_writer(&mut *line, text);
}

/// In valid JSON a raw line break stands outside strings only, where a space means the same.
fn append_without_line_breaks(line: &mut Vec<u8>, json: &[u8]) {
    let start = line.len();
    line.extend_from_slice(json);
    if memchr::memchr2(b'\n', b'\r', json).is_some() {
        for byte in &mut line[start..] {
            if matches!(byte, b'\n' | b'\r') {
                *byte = b' ';
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn text<'a>(name: &'a str, value: &'a str) -> SecretArgument<'a> {
        SecretArgument {
            name,
            value,
            form: ArgumentForm::Text,
        }
    }

    fn merged(args: &str, secrets: &[(&str, &str)]) -> Value {
        let opened: Vec<_> = secrets
            .iter()
            .map(|&(name, value)| text(name, value))
            .collect();
        let mut line = Vec::new();
        merge_arguments(&mut line, args, &opened);
        assert!(!line.contains(&b'\n') && !line.contains(&b'\r'));
        serde_json::from_slice(&line).expect("merged arguments are JSON")
    }

    #[test]
    fn nothing_to_merge_is_passed_on() {
        assert_eq!(merged("{\n\"a\":\r1}", &[]), json!({"a":1}));
    }

    #[test]
    fn a_secret_is_added() {
        assert_eq!(merged("{}", &[("k", "v")]), json!({"k":"v"}));
        assert_eq!(merged(" { \n } ", &[("k", "v")]), json!({"k":"v"}));
        assert_eq!(
            merged(r#"{"a":{"b":1}}"#, &[("k", "v\"\n")]),
            json!({"a":{"b":1},"k":"v\"\n"})
        );
    }

    #[test]
    fn a_secret_wins_in_every_spelling() {
        for args in [
            r#"{"github_pat":"mine","a":1}"#,
            r#"{"a":1,"github\u005fpat":"mine"}"#,
            r#"{"github_pat":"x","a":1,"github_pat":"y","\u0067ithub_pat":{}}"#,
        ] {
            let mut line = Vec::new();
            merge_arguments(&mut line, args, &[text("github_pat", "stored")]);
            let text = String::from_utf8(line).expect("UTF-8");
            assert_eq!(text, r#"{"github_pat":"stored","a":1}"#, "{args}");
        }
    }

    #[test]
    fn json_stays_what_it_is() {
        let mut line = Vec::new();
        let tokens = SecretArgument {
            name: "t",
            value: "{\n\"a\": [1]}",
            form: ArgumentForm::Json,
        };
        merge_arguments(
            &mut line,
            r#"{"\u0074":{"a":2},"b":3}"#,
            &[tokens, text("s", "{}")],
        );
        assert_eq!(
            String::from_utf8_lossy(&line),
            r#"{"t":{ "a": [1]},"s":"{}","b":3}"#
        );
    }

    #[test]
    fn a_name_inside_a_value_stays() {
        let got = merged(
            r#"{"q":"about github_pat","n":{"github_pat":1}}"#,
            &[("github_pat", "s")],
        );
        assert_eq!(
            got,
            json!({"github_pat":"s","q":"about github_pat","n":{"github_pat":1}})
        );
    }

    #[test]
    fn names_that_need_escapes_are_found() {
        assert_eq!(
            merged(r#"{"a\"b":1}"#, &[("a\"b", "s")]),
            json!({"a\"b":"s"})
        );
        assert_eq!(
            merged(r#"{"ü":1,"z":2}"#, &[("ü", "s")]),
            json!({"ü":"s","z":2})
        );
    }

    #[test]
    fn a_key_that_is_no_text_takes_nothing_with_it() {
        let mut line = Vec::new();
        merge_arguments(
            &mut line,
            r#"{"\ud800":1,"a":2,"\u006b":3}"#,
            &[text("k", "s")],
        );
        assert_eq!(
            String::from_utf8_lossy(&line),
            r#"{"k":"s","\ud800":1,"a":2}"#
        );
    }
}
