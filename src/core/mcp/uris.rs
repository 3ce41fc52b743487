//! The URIs under which the endpoint of all servers shows their resources: `<prefix>+<uri>`.
//!
//! A prefix depends on its server alone. It is a URI scheme (RFC 3986, section 3.1) without `+`, so the first `+` ends it.

use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::core::json_object::{Members, ObjectWriter, push_json_text, text_of};

/// The text between the prefix and the URI of the server.
const SEPARATOR: char = '+';
/// The hex digits of the hash in a prefix.
const DIGITS: usize = 6;

/// Returns the prefix of a server: its name, if it is a scheme in small letters. Any other name gets a hash.
pub fn uri_prefix(server: &str) -> String {
    let is_scheme_byte = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.')
    };
    let starts_well = server.starts_with(|letter: char| letter.is_ascii_lowercase());
    if starts_well && server.bytes().all(is_scheme_byte) && !ends_like_a_hash(server) {
        return server.to_owned();
    }
    let hash = hex::encode(Sha256::digest(server));
    let plain: String = server
        .bytes()
        .map(|byte| byte.to_ascii_lowercase())
        .map(|byte| {
            if is_scheme_byte(byte) {
                char::from(byte)
            } else {
                '-'
            }
        })
        .collect();
    let start = if plain.starts_with(|letter: char| letter.is_ascii_lowercase()) {
        ""
    } else {
        "s"
    };
    format!("{start}{plain}-{}", &hash[..DIGITS])
}

/// Returns whether a name ends as a hashed prefix does, so that no server takes the prefix of another server.
fn ends_like_a_hash(server: &str) -> bool {
    server.rsplit_once('-').is_some_and(|(_, end)| {
        end.len() == DIGITS && end.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

/// Returns the prefix and the URI of the server.
pub fn split_uri(uri: &str) -> Option<(&str, &str)> {
    uri.split_once(SEPARATOR)
}

/// Returns an entry of a list whose member `name` (`uri`, `uriTemplate`) has the prefix. `None`: the entry has no such text.
pub fn with_prefix(entry: &str, name: &str, prefix: &str) -> Option<String> {
    with_text(entry, name, |uri| format!("{prefix}{SEPARATOR}{uri}"))
}

/// Returns an object with another text in one of its members. `None`: it is no object, or it has no such text.
pub fn with_text(object: &str, name: &str, change: impl Fn(&str) -> String) -> Option<String> {
    let members = Members::parse(object)?;
    let old = members.get(name).and_then(text_of)?;
    let mut json = String::new();
    push_json_text(&mut json, &change(&old));
    Some(with_member(&members, name, &json))
}

fn with_member(members: &Members<'_>, name: &str, json: &str) -> String {
    let mut writer = ObjectWriter::with_capacity(256);
    for (key, value) in &members.0 {
        let is_changed = text_of(key).is_some_and(|key| key == name);
        writer.member(key, if is_changed { json } else { value.get() });
    }
    writer.finish()
}

/// Adds the prefix to the URIs of a result: of `contents` (resources/read), of `content` (tools/call) and of `messages`
/// (prompts/get). A result without URIs keeps its text.
pub fn prefix_result(result: &str, prefix: &str) -> Option<String> {
    memchr::memmem::find(result.as_bytes(), b"\"uri\"")?;
    let members = Members::parse(result)?;
    let mut writer = ObjectWriter::with_capacity(result.len() + 64);
    for (key, value) in &members.0 {
        let changed = match text_of(key).as_deref() {
            Some("contents") => map_array(value, |entry| with_prefix(entry, "uri", prefix)),
            Some("content") => prefix_content(value, prefix),
            Some("messages") => map_array(value, |message| prefix_message(message, prefix)),
            _ => None,
        };
        writer.member(key, changed.as_deref().unwrap_or_else(|| value.get()));
    }
    Some(writer.finish())
}

fn prefix_message(message: &str, prefix: &str) -> Option<String> {
    let members = Members::parse(message)?;
    let content = prefix_content(members.get("content")?, prefix)?;
    Some(with_member(&members, "content", &content))
}

/// Adds the prefix to one block of content or to a list of blocks.
fn prefix_content(content: &RawValue, prefix: &str) -> Option<String> {
    if content.get().starts_with('[') {
        map_array(content, |block| prefix_block(block, prefix))
    } else {
        prefix_block(content.get(), prefix)
    }
}

/// Adds the prefix to the URI of a resource link or of an embedded resource.
fn prefix_block(block: &str, prefix: &str) -> Option<String> {
    let members = Members::parse(block)?;
    if members.is_text("type", "resource_link") {
        return with_prefix(block, "uri", prefix);
    }
    if !members.is_text("type", "resource") {
        return None;
    }
    let resource = with_prefix(members.get("resource")?.get(), "uri", prefix)?;
    Some(with_member(&members, "resource", &resource))
}

/// Changes the entries of an array. An entry without a change keeps its text.
fn map_array(array: &RawValue, change: impl Fn(&str) -> Option<String>) -> Option<String> {
    let entries: Vec<&RawValue> = serde_json::from_str(array.get()).ok()?;
    let mut json = String::with_capacity(array.get().len() + 64);
    json.push('[');
    for (index, entry) in entries.iter().enumerate() {
        if index > 0 {
            json.push(',');
        }
        json.push_str(
            change(entry.get())
                .as_deref()
                .unwrap_or_else(|| entry.get()),
        );
    }
    json.push(']');
    Some(json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_a_scheme_and_depends_on_its_server_alone() {
        assert_eq!(uri_prefix("git-hub.2"), "git-hub.2");
        for server in ["GitHub", "a_b", "2fa", "name-abc123", "Ä"] {
            let prefix = uri_prefix(server);
            assert!(
                prefix.starts_with(|letter: char| letter.is_ascii_lowercase()),
                "{prefix}"
            );
            assert!(
                prefix
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte))
            );
            assert!(ends_like_a_hash(&prefix) && prefix != server, "{prefix}");
        }
        assert!(uri_prefix("GitHub") != uri_prefix("GITHUB"));
        let exposed = with_prefix(r#"{"uri":"a:b+c"}"#, "uri", "x").expect("an object");
        assert_eq!(exposed, r#"{"uri":"x+a:b+c"}"#);
        assert_eq!(split_uri("x+a:b+c"), Some(("x", "a:b+c")));
    }

    #[test]
    fn every_uri_of_a_result_gets_the_prefix_and_all_other_text_stays() {
        for (result, expected) in [
            (
                r#"{"contents":[{"uri":"a:b","text":"uri"}],"n":1.0}"#,
                r#"{"contents":[{"uri":"s+a:b","text":"uri"}],"n":1.0}"#,
            ),
            (
                r#"{"content":[{"type":"text","text":"\"uri\""},{"type":"resource_link","uri":"a:b"},{"type":"resource","resource":{"uri":"c:d"}}],"structuredContent":{"uri":"e:f"}}"#,
                r#"{"content":[{"type":"text","text":"\"uri\""},{"type":"resource_link","uri":"s+a:b"},{"type":"resource","resource":{"uri":"s+c:d"}}],"structuredContent":{"uri":"e:f"}}"#,
            ),
            (
                r#"{"messages":[{"role":"user","content":{"type":"resource","resource":{"uri":"a:b"}}}]}"#,
                r#"{"messages":[{"role":"user","content":{"type":"resource","resource":{"uri":"s+a:b"}}}]}"#,
            ),
        ] {
            assert_eq!(prefix_result(result, "s").as_deref(), Some(expected));
        }
        assert_eq!(prefix_result(r#"{"content":[]}"#, "s"), None);
    }
}
