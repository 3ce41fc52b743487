//! Masks JSON. Values without a secret keep their text, so that no number loses digits.

use serde_json::value::RawValue;
use serde_json::{Number, Value};

use super::Redactor;
use super::off_runtime::off_runtime;
use crate::core::json_object::{Members, append_member, text_of};

impl Redactor {
    /// Returns JSON with `***` in place of every value, however its strings are escaped. The result is JSON. A text that
    /// is no JSON is masked as a text.
    pub fn mask_json(&self, json: &str) -> String {
        if self.index.load().is_empty() {
            return json.to_owned();
        }
        off_runtime(json.len(), || self.mask_values(json))
    }

    fn mask_values(&self, json: &str) -> String {
        // The parser of a `Value` limits the depth, which `mask_raw` relies on.
        if serde_json::from_str::<Value>(json).is_err() {
            return self.mask_whole(json);
        }
        match serde_json::from_str::<&RawValue>(json) {
            Ok(value) => self.mask_raw(value).unwrap_or_else(|| json.to_owned()),
            Err(_) => self.mask_whole(json),
        }
    }

    /// Masks a JSON value. Returns `None` if it has no secret value.
    fn mask_raw(&self, value: &RawValue) -> Option<String> {
        let text = value.get();
        match text.as_bytes().first()? {
            b'{' => self.mask_object(text),
            b'[' => self.mask_array(text),
            b'"' => self.mask_string(text),
            b't' | b'f' | b'n' => None,
            _ => self.mask_number(text),
        }
    }

    fn mask_object(&self, text: &str) -> Option<String> {
        let Members(members) = serde_json::from_str(text).ok()?;
        let masked: Vec<_> = members
            .iter()
            .map(|(key, value)| (self.mask_key(key), self.mask_raw(value)))
            .collect();
        if masked.iter().all(|member| *member == (None, None)) {
            return None;
        }
        let mut object = String::from("{");
        for ((key, value), (masked_key, masked_value)) in members.iter().zip(&masked) {
            let key = masked_key.as_deref().unwrap_or_else(|| key.get());
            let value = masked_value.as_deref().unwrap_or_else(|| value.get());
            append_member(&mut object, key, value);
        }
        object.push('}');
        Some(object)
    }

    fn mask_array(&self, text: &str) -> Option<String> {
        let values: Vec<&RawValue> = serde_json::from_str(text).ok()?;
        let masked: Vec<_> = values.iter().map(|value| self.mask_raw(value)).collect();
        if masked.iter().all(Option::is_none) {
            return None;
        }
        let texts: Vec<&str> = values
            .iter()
            .zip(&masked)
            .map(|(value, masked)| masked.as_deref().unwrap_or_else(|| value.get()))
            .collect();
        Some(format!("[{}]", texts.join(",")))
    }

    fn mask_string(&self, text: &str) -> Option<String> {
        let plain: String = serde_json::from_str(text).ok()?;
        self.mask_plain(&plain)
    }

    fn mask_key(&self, key: &RawValue) -> Option<String> {
        self.mask_plain(&text_of(key)?)
    }

    /// A secret number may be written in another way than the number here, for example with an exponent.
    fn mask_number(&self, text: &str) -> Option<String> {
        let number: Number = serde_json::from_str(text).ok()?;
        self.mask_plain(text)
            .or_else(|| self.mask_plain(&number.to_string()))
    }

    /// Returns a masked text as a JSON string. Returns `None` if the text has no secret value.
    fn mask_plain(&self, plain: &str) -> Option<String> {
        let masked = self.mask_whole(plain);
        (masked != plain).then(|| Value::String(masked).to_string())
    }
}
