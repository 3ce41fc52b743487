//! JSON objects whose members keep their order and their spelling.

use std::borrow::Cow;

use memchr::memchr;
use serde::Deserialize;
use serde_json::value::RawValue;

/// The members of an object in their order and spelling, as keys and values. Repeated keys stay.
#[derive(Default)]
pub struct Members<'a>(pub Vec<(&'a RawValue, &'a RawValue)>);

impl<'a> Members<'a> {
    /// Returns the members of an object, or `None` if the JSON is no object.
    pub fn parse(json: &'a str) -> Option<Self> {
        serde_json::from_str(json).ok()
    }

    /// Returns the value of the first member of this name, in any JSON spelling of that name.
    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0
            .iter()
            .find(|(key, _)| text_of(key).is_some_and(|key| key == name))
            .map(|(_, value)| *value)
    }

    /// Returns whether a member is this text.
    pub fn is_text(&self, name: &str, expected: &str) -> bool {
        self.get(name)
            .and_then(text_of)
            .is_some_and(|text| text == expected)
    }
}

/// A JSON string. A string without escapes needs no copy.
#[derive(Deserialize)]
pub struct JsonText<'a>(#[serde(borrow)] pub Cow<'a, str>);

/// Returns the text of a JSON string, or `None` if the value is no Unicode text, such as `7` or `"\ud800"`.
pub fn text_of(value: &RawValue) -> Option<Cow<'_, str>> {
    let json = value.get();
    let quoted = json
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    if let Some(text) = quoted
        && memchr(b'\\', text.as_bytes()).is_none()
    {
        return Some(Cow::Borrowed(text));
    }
    serde_json::from_str::<JsonText>(value.get())
        .ok()
        .map(|JsonText(text)| text)
}

/// Writes a JSON object member by member.
pub struct ObjectWriter(String);

impl ObjectWriter {
    pub fn with_capacity(bytes: usize) -> Self {
        let mut text = String::with_capacity(bytes);
        text.push('{');
        Self(text)
    }

    /// Appends a member of another object in its spelling.
    pub fn member(&mut self, key: &RawValue, value: &str) {
        append_member(&mut self.0, key.get(), value);
    }

    /// Appends a member whose value is raw JSON.
    pub fn raw(&mut self, name: &str, value: &str) {
        let mut key = String::with_capacity(name.len() + 2);
        push_json_text(&mut key, name);
        append_member(&mut self.0, &key, value);
    }

    /// Appends a member whose value is a text.
    pub fn text(&mut self, name: &str, value: &str) {
        let mut json = String::with_capacity(value.len() + 2);
        push_json_text(&mut json, value);
        self.raw(name, &json);
    }

    pub fn finish(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

/// Appends a text as a JSON string.
pub fn push_json_text(json: &mut String, text: &str) {
    // A text always has a JSON form.
    json.push_str(&serde_json::to_string(text).unwrap_or_else(|_| "\"\"".to_owned()));
}

/// Returns the object without the members of this name, in any JSON spelling of that name. All other members keep their
/// text. Returns `None` if the value is no object.
pub fn without_member(object: &RawValue, name: &str) -> Option<String> {
    let Members(members) = serde_json::from_str(object.get()).ok()?;
    let mut text = String::with_capacity(object.get().len());
    text.push('{');
    for (key, value) in members {
        if text_of(key).is_some_and(|key| key == name) {
            continue;
        }
        append_member(&mut text, key.get(), value.get());
    }
    text.push('}');
    Some(text)
}

/// Appends a member to an unfinished object.
pub fn append_member(object: &mut String, key: &str, value: &str) {
    if !object.ends_with('{') {
        object.push(',');
    }
    object.push_str(key);
    object.push(':');
    object.push_str(value);
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Members<'de>;
            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("an object")
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
        input.deserialize_map(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_keep_their_order_and_their_text() {
        let json = r#"{"b": 1.50, "a\n":{"x": [ ]},"\ud800":null}"#;
        let members = Members::parse(json).expect("an object");
        let mut writer = ObjectWriter::with_capacity(json.len());
        for (key, value) in &members.0 {
            writer.member(key, value.get());
        }
        assert_eq!(
            writer.finish(),
            r#"{"b":1.50,"a\n":{"x": [ ]},"\ud800":null}"#
        );
        assert_eq!(members.get("b").map(RawValue::get), Some("1.50"));
        assert!(Members::parse("[1]").is_none() && Members::parse("1").is_none());
    }

    #[test]
    fn a_text_is_compared_after_its_escapes() {
        let members = Members::parse(r#"{"type":"ob\u006aect","n":1}"#).expect("an object");
        assert!(members.is_text("type", "object"));
        assert!(!members.is_text("n", "1") && !members.is_text("x", ""));
    }

    fn without_token(object: &str) -> Option<String> {
        let raw: &RawValue = serde_json::from_str(object).expect("JSON");
        without_member(raw, "token")
    }

    #[test]
    fn a_removed_member_leaves_the_text_of_the_others() {
        for (object, expected) in [
            (r#"{"token":1}"#, "{}"),
            (r#"{ "token" : 1, "n" : 1.00 }"#, r#"{"n":1.00}"#),
            (
                r#"{"a":1e400,"tok\u0065n":{"x":[]},"\ud800":12345678901234567890,"token":2}"#,
                r#"{"a":1e400,"\ud800":12345678901234567890}"#,
            ),
            (r#"{"b":{"token":1}}"#, r#"{"b":{"token":1}}"#),
        ] {
            assert_eq!(without_token(object).as_deref(), Some(expected));
        }
        assert_eq!(without_token("[1]"), None);
    }
}
