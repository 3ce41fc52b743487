//! Adds a user's secrets to the arguments of a tool call.

use crate::core::json_object::{Members, text_of};

/// An opened secret that one call gets as an argument.
pub struct SecretArgument<'a> {
    pub name: &'a str,
    pub value: &'a str,
    pub form: ArgumentForm,
}

/// The form of a secret as an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArgumentForm {
    /// The value becomes a JSON string.
    Text,
    /// The value is checked JSON and stays as it is.
    Json,
}

/// Appends `args` to `output`, with the secrets as members at the top level. A secret replaces every argument of the same
/// name, in any JSON spelling of that name.
///
/// `args` must be a checked JSON object. The result has no line break outside strings, so it fits into one line.
pub fn merge_arguments(output: &mut Vec<u8>, args: &str, secrets: &[SecretArgument<'_>]) {
    if secrets.is_empty() {
        return append_without_line_breaks(output, args.as_bytes());
    }
    output.push(b'{');
    for (index, secret) in secrets.iter().enumerate() {
        if index > 0 {
            output.push(b',');
        }
        append_json_string(output, secret.name);
        output.push(b':');
        match secret.form {
            ArgumentForm::Text => append_json_string(output, secret.value),
            ArgumentForm::Json => append_without_line_breaks(output, secret.value.as_bytes()),
        }
    }
    // The fast path: if no key can be the name of a secret, the caller's object follows unchanged.
    let bytes = args.as_bytes();
    let may_name_a_secret = memchr::memchr(b'\\', bytes).is_some()
        || secrets
            .iter()
            .any(|secret| memchr::memmem::find(bytes, secret.name.as_bytes()).is_some());
    let members = if may_name_a_secret {
        None
    } else {
        args.trim_start().strip_prefix('{')
    };
    match members {
        Some(members) => {
            if !members.trim_start().starts_with('}') {
                output.push(b',');
            }
            append_without_line_breaks(output, members.as_bytes());
        }
        None => {
            append_other_members(output, args, secrets);
            output.push(b'}');
        }
    }
}

/// Appends the caller's arguments one by one, without those that a secret replaces. This is the slow path.
fn append_other_members(output: &mut Vec<u8>, args: &str, secrets: &[SecretArgument<'_>]) {
    // The arguments were checked before. If they are no object after all, none of them passes.
    let Ok(Members(members)) = serde_json::from_str(args) else {
        return;
    };
    for (key, value) in members {
        // A key that is no Unicode text, such as "\ud800", is no name of a secret and passes unchanged.
        let decoded = text_of(key);
        if decoded.is_some_and(|key| secrets.iter().any(|secret| secret.name == key)) {
            continue;
        }
        output.push(b',');
        output.extend_from_slice(key.get().as_bytes());
        output.push(b':');
        append_without_line_breaks(output, value.get().as_bytes());
    }
}

/// Appends a JSON string.
pub fn append_json_string(output: &mut Vec<u8>, text: &str) {
    // Writing to a Vec cannot fail.
    let _ = serde_json::to_writer(&mut *output, text);
}

/// Appends JSON and replaces line breaks by spaces. In valid JSON a raw line break stands outside strings only.
pub fn append_without_line_breaks(output: &mut Vec<u8>, json: &[u8]) {
    let start = output.len();
    output.extend_from_slice(json);
    if memchr::memchr2(b'\n', b'\r', json).is_some() {
        for byte in &mut output[start..] {
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
        let mut output = Vec::new();
        merge_arguments(&mut output, args, &opened);
        assert!(!output.contains(&b'\n') && !output.contains(&b'\r'));
        serde_json::from_slice(&output).expect("merged arguments are JSON")
    }

    #[test]
    fn arguments_without_secrets_pass_on_one_line() {
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
    fn a_secret_replaces_an_argument_in_every_spelling() {
        for args in [
            r#"{"github_pat":"mine","a":1}"#,
            r#"{"a":1,"github\u005fpat":"mine"}"#,
            r#"{"github_pat":"x","a":1,"github_pat":"y","\u0067ithub_pat":{}}"#,
        ] {
            let mut output = Vec::new();
            merge_arguments(&mut output, args, &[text("github_pat", "stored")]);
            let text = String::from_utf8(output).expect("UTF-8");
            assert_eq!(text, r#"{"github_pat":"stored","a":1}"#, "{args}");
        }
    }

    #[test]
    fn a_json_value_keeps_its_spelling() {
        let mut output = Vec::new();
        let tokens = SecretArgument {
            name: "t",
            value: "{\n\"a\": [1]}",
            form: ArgumentForm::Json,
        };
        merge_arguments(
            &mut output,
            r#"{"\u0074":{"a":2},"b":3}"#,
            &[tokens, text("s", "{}")],
        );
        assert_eq!(
            String::from_utf8_lossy(&output),
            r#"{"t":{ "a": [1]},"s":"{}","b":3}"#
        );
    }

    #[test]
    fn a_secret_name_inside_a_value_stays() {
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
    fn a_secret_name_with_escapes_is_found() {
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
    fn a_key_that_is_no_unicode_text_passes() {
        let mut output = Vec::new();
        merge_arguments(
            &mut output,
            r#"{"\ud800":1,"a":2,"\u006b":3}"#,
            &[text("k", "s")],
        );
        assert_eq!(
            String::from_utf8_lossy(&output),
            r#"{"k":"s","\ud800":1,"a":2}"#
        );
    }
}
