//! The three states of an optional field in an update: the request omits it, clears it or sets it.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Says how an update changes one optional value.
///
/// In JSON an absent field is [`Update::Keep`], `null` is [`Update::Clear`], and any other value is [`Update::Set`].
/// A field of this type needs `#[serde(default, skip_serializing_if = "Update::is_keep")]`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Update<T> {
    #[default]
    Keep,
    Clear,
    Set(T),
}

impl<T> Update<T> {
    pub fn is_keep(&self) -> bool {
        matches!(self, Self::Keep)
    }

    /// Returns the new value of a field that has the value `current`.
    pub fn apply_to(self, current: Option<T>) -> Option<T> {
        match self {
            Self::Keep => current,
            Self::Clear => None,
            Self::Set(value) => Some(value),
        }
    }

    /// Converts the new value, if there is one.
    ///
    /// # Errors
    /// Returns the error of `convert`.
    pub fn try_map<U, E>(self, convert: impl FnOnce(T) -> Result<U, E>) -> Result<Update<U>, E> {
        Ok(match self {
            Self::Keep => Update::Keep,
            Self::Clear => Update::Clear,
            Self::Set(value) => Update::Set(convert(value)?),
        })
    }
}

impl<T: Serialize> Serialize for Update<T> {
    fn serialize<S: Serializer>(&self, output: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Set(value) => output.serialize_some(value),
            Self::Keep | Self::Clear => output.serialize_none(),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Update<T> {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let value = Option::deserialize(input)?;
        Ok(value.map_or(Self::Clear, Self::Set))
    }
}

impl<T: JsonSchema> JsonSchema for Update<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        Option::<T>::schema_name()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        Option::<T>::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default)]
    struct Patch {
        #[serde(skip_serializing_if = "Update::is_keep")]
        timeout: Update<u64>,
    }

    #[test]
    fn absent_keeps_null_clears_and_a_value_sets() {
        for (text, timeout) in [
            (json!({}), Update::Keep),
            (json!({ "timeout": null }), Update::Clear),
            (json!({ "timeout": 7 }), Update::Set(7)),
        ] {
            let patch: Patch = serde_json::from_value(text.clone()).expect("a patch");
            assert_eq!(patch, Patch { timeout });
            assert_eq!(serde_json::to_value(patch).expect("JSON"), text);
        }
    }

    #[test]
    fn an_update_changes_the_current_value() {
        assert_eq!(Update::Keep.apply_to(Some(1)), Some(1));
        assert_eq!(Update::Clear.apply_to(Some(1)), None);
        assert_eq!(Update::Set(2).apply_to(Some(1)), Some(2));
        assert_eq!(Update::Set(2).apply_to(None), Some(2));
    }
}
