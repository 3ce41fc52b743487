//! Objects as their raw members, so that a change of one member keeps the text of all others.

use std::borrow::Cow;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// The members of a JSON object in their order, with their raw values.
pub struct Fields<'a>(pub Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Fields<'a> {
    /// Returns the members of an object, or `None` if the JSON is no object.
    pub fn parse(json: &'a str) -> Option<Self> {
        serde_json::from_str(json).ok()
    }

    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| *value)
    }

    /// Returns whether a member is the text `expected`.
    pub fn is_text(&self, name: &str, expected: &str) -> bool {
        self.get(name)
            .and_then(text_of)
            .is_some_and(|text| text == expected)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Vec<(Cow<'de, str>, &'de RawValue)>;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::with_capacity(8);
                while let Some(JsonText(key)) = map.next_key()? {
                    fields.push((key, map.next_value()?));
                }
                Ok(fields)
            }
        }
        input.deserialize_map(FieldsVisitor).map(Self)
    }
}

/// A JSON string that borrows its text where it has no escapes.
#[derive(Deserialize)]
pub struct JsonText<'a>(#[serde(borrow)] pub Cow<'a, str>);

/// Returns the text of a JSON string, or `None` for any other value.
pub fn text_of(value: &RawValue) -> Option<Cow<'_, str>> {
    serde_json::from_str::<JsonText<'_>>(value.get())
        .ok()
        .map(|text| text.0)
}

/// Writes a JSON object member by member.
pub struct ObjectWriter(String);

impl ObjectWriter {
    pub fn with_capacity(bytes: usize) -> Self {
        let mut text = String::with_capacity(bytes);
        text.push('{');
        Self(text)
    }

    /// Appends a member whose value is raw JSON.
    pub fn raw(&mut self, key: &str, value: &str) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        push_json_text(&mut self.0, key);
        self.0.push(':');
        self.0.push_str(value);
    }

    /// Appends a member whose value is a text.
    pub fn text(&mut self, key: &str, value: &str) {
        let mut json = String::with_capacity(value.len() + 2);
        push_json_text(&mut json, value);
        self.raw(key, &json);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_keep_their_order_and_their_text() {
        let json = r#"{"b": 1.50, "a\n":{"x": [ ]},"c":null}"#;
        let fields = Fields::parse(json).expect("an object");
        let mut writer = ObjectWriter::with_capacity(json.len());
        for (key, value) in &fields.0 {
            writer.raw(key, value.get());
        }
        assert_eq!(writer.finish(), r#"{"b":1.50,"a\n":{"x": [ ]},"c":null}"#);
        assert_eq!(fields.get("b").map(RawValue::get), Some("1.50"));
        assert!(Fields::parse("[1]").is_none() && Fields::parse("1").is_none());
    }

    #[test]
    fn a_text_is_compared_after_its_escapes() {
        let fields = Fields::parse(r#"{"type":"ob\u006aect","n":1}"#).expect("an object");
        assert!(fields.is_text("type", "object"));
        assert!(!fields.is_text("n", "1") && !fields.is_text("x", ""));
    }
}
