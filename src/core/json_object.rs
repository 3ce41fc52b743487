//! JSON objects whose members keep their order and their spelling.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

/// The members of an object in their order and spelling. Repeated keys stay.
pub struct Members<'a>(pub Vec<(&'a RawValue, &'a RawValue)>);

/// A decoded key. A key without escapes needs no copy.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// Returns the text of a key, or `None` if the key is no Unicode text, such as `"\ud800"`.
pub fn decode_key(key: &RawValue) -> Option<Cow<'_, str>> {
    serde_json::from_str::<Key>(key.get())
        .ok()
        .map(|Key(key)| key)
}

/// Returns the object without the members of this name, in any JSON spelling of that name. All other members keep their
/// text. Returns `None` if the value is no object.
pub fn without_member(object: &RawValue, name: &str) -> Option<String> {
    let Members(members) = serde_json::from_str(object.get()).ok()?;
    let mut text = String::with_capacity(object.get().len());
    text.push('{');
    for (key, value) in members {
        if decode_key(key).is_some_and(|key| key == name) {
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
