//! Reads the JSON of authorization servers leniently: `null` and empty text mean absent, a number may
//! be written as text, and a list of words may be written as one text.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use zeroize::Zeroizing;

/// A value as text, if it can be read as text. The text is wiped when it is dropped.
#[derive(Default)]
pub(super) struct LenientText(Option<Zeroizing<String>>);

impl LenientText {
    pub(super) fn into_text(self) -> Option<Zeroizing<String>> {
        self.0
    }

    pub(super) fn as_str(&self) -> Option<&str> {
        self.0.as_ref().map(|text| text.as_str())
    }
}

impl<'de> Deserialize<'de> for LenientText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor).map(Self)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Option<Zeroizing<String>>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any value")
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok((!text.is_empty()).then(|| Zeroizing::new(text.to_owned())))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Some(Zeroizing::new(number.to_string())))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
        Ok(Some(Zeroizing::new(number.to_string())))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
        Ok(Some(Zeroizing::new(number.to_string())))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    /// Joins the entries with spaces.
    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut joined = Zeroizing::new(String::new());
        while let Some(LenientText(entry)) = entries.next_element()? {
            let Some(entry) = entry else { continue };
            if !joined.is_empty() {
                joined.push(' ');
            }
            joined.push_str(&entry);
        }
        Ok((!joined.is_empty()).then_some(joined))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        while fields.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

/// Returns a text field of a document.
pub(super) fn text_field(document: &Value, name: &str) -> Option<String> {
    let text = document[name].as_str()?;
    (!text.is_empty()).then(|| text.to_owned())
}

/// Returns a list field of a document. Entries that are not text are left out. The field is absent
/// if it is no list.
pub(super) fn list_field(document: &Value, name: &str) -> Option<Vec<String>> {
    let entries = document[name].as_array()?;
    let texts: Vec<_> = entries
        .iter()
        .filter_map(|entry| entry.as_str().map(str::to_owned))
        .collect();
    if texts.len() < entries.len() {
        tracing::warn!(
            field = name,
            "an OAuth metadata list has entries that are not text"
        );
    }
    Some(texts)
}

/// Returns whether a field of a document is `true`.
pub(super) fn flag_field(document: &Value, name: &str) -> bool {
    document[name].as_bool().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_value_is_read_as_text_or_absent() {
        for (json, text) in [
            (r#""a""#, Some("a")),
            (r#""""#, None),
            ("null", None),
            ("true", None),
            ("5250", Some("5250")),
            ("-1", Some("-1")),
            ("1.5", Some("1.5")),
            (r#"["a",null,"b c",7]"#, Some("a b c 7")),
            ("[]", None),
            (r#"{"a":{"b":1}}"#, None),
        ] {
            let read: LenientText = serde_json::from_str(json).expect("a value");
            assert_eq!(read.as_str(), text, "{json}");
        }
    }
}
