//! Hides the values that were injected into running calls, in whatever a server prints or answers
//! as an error. A value is remembered while a call has it and for ten seconds more, because
//! servers print late.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use zeroize::Zeroizing;

use crate::core::ids::ValueId;

const KEEP: Duration = Duration::from_secs(10);
/// Lines of a value that are long enough to be looked for alone.
const LINE: usize = 8;
const MASK: &[u8] = b"***";

#[derive(Default)]
pub struct Redactor(Mutex<HashMap<ValueId, Masked>>);

struct Masked {
    /// The value as it is, and as JSON encoders write it; the longest first.
    forms: Vec<Zeroizing<Vec<u8>>>,
    calls: usize,
    last: Instant,
}

impl Redactor {
    /// Hides a value from now on. [`Redactor::release`] must follow.
    pub fn hold(&self, id: ValueId, value: &str) {
        self.hold_with(id, || forms(value));
    }

    /// Hides a value that has parts which may be shown alone.
    pub fn hold_all(&self, id: ValueId, values: &[Zeroizing<String>]) {
        self.hold_with(id, || {
            values.iter().flat_map(|value| forms(value)).collect()
        });
    }

    /// Hides the secret parts of a value, which are looked for only where that is not held already.
    pub fn hold_parts(&self, id: ValueId, parts: impl FnOnce() -> Vec<Zeroizing<String>>) {
        self.hold_with(id, || parts().iter().flat_map(|part| forms(part)).collect());
    }

    fn hold_with(&self, id: ValueId, forms: impl FnOnce() -> Vec<Zeroizing<Vec<u8>>>) {
        let mut held = self.lock();
        let masked = held.entry(id).or_insert_with(|| Masked {
            forms: forms(),
            calls: 0,
            last: Instant::now(),
        });
        masked.calls += 1;
    }

    /// The call that had the value has ended.
    pub fn release(&self, id: ValueId) {
        if let Some(masked) = self.lock().get_mut(&id) {
            masked.calls -= 1;
            masked.last = Instant::now();
        }
    }

    /// Forgets what is not needed any more. To be called now and then.
    pub fn forget(&self) {
        self.lock()
            .retain(|_, masked| masked.calls > 0 || masked.last.elapsed() < KEEP);
    }

    /// The text with every value hidden.
    pub fn mask(&self, text: &str) -> String {
        let held = self.lock();
        if held.is_empty() {
            return text.to_owned();
        }
        let mut bytes = text.as_bytes().to_vec();
        let mut forms: Vec<_> = held.values().flat_map(|masked| &masked.forms).collect();
        forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
        for form in forms {
            bytes = replace(bytes, form);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The text with every value hidden, also one that it was cut off in.
    pub fn mask_cut(&self, cut: &[u8]) -> String {
        let end = {
            let held = self.lock();
            let forms = held.values().flat_map(|masked| &masked.forms);
            let begun = forms
                .filter_map(|form| (1..=form.len()).rev().find(|n| cut.ends_with(&form[..*n])));
            cut.len() - begun.max().unwrap_or(0)
        };
        self.mask(&String::from_utf8_lossy(&cut[..end]))
    }

    /// JSON with every value hidden, however its strings are escaped. It stays JSON, so it can be shown
    /// as such.
    pub fn mask_json(&self, json: &str) -> String {
        let Ok(mut value) = serde_json::from_str::<Value>(json) else {
            return self.mask(json);
        };
        if self.mask_within(&mut value) {
            value.to_string()
        } else {
            json.to_owned()
        }
    }

    /// Whether there was something to hide.
    fn mask_within(&self, value: &mut Value) -> bool {
        match value {
            Value::Null | Value::Bool(_) => false,
            Value::Number(number) => {
                let (shown, masked) = (number.to_string(), self.mask(&number.to_string()));
                let hidden = shown != masked;
                if hidden {
                    *value = Value::String(masked);
                }
                hidden
            }
            Value::String(text) => {
                let masked = self.mask(text);
                std::mem::replace(text, masked) != *text
            }
            Value::Array(values) => values
                .iter_mut()
                .fold(false, |hidden, value| self.mask_within(value) | hidden),
            Value::Object(members) => {
                let mut hidden = false;
                for (key, mut value) in std::mem::take(members) {
                    let masked = self.mask(&key);
                    hidden |= self.mask_within(&mut value) | (masked != key);
                    members.insert(masked, value);
                }
                hidden
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ValueId, Masked>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn forms(value: &str) -> Vec<Zeroizing<Vec<u8>>> {
    let json = Zeroizing::new(serde_json::to_string(value).unwrap_or_default());
    let json = json.trim_matches('"');
    let ascii = ascii_json(json);
    let mut forms = vec![
        value.to_owned(),
        json.to_owned(),
        html_json(json),
        html_json(&ascii),
        ascii,
    ];
    // Standard error comes line by line, and so does a key of many lines.
    forms.extend(
        value
            .lines()
            .map(str::trim)
            .filter(|line| line.len() >= LINE)
            .map(str::to_owned),
    );
    forms.sort();
    forms.dedup();
    forms
        .into_iter()
        .filter(|form| !form.is_empty())
        .map(|form| Zeroizing::new(form.into_bytes()))
        .collect()
}

/// As encoders write it that escape whatever is not ASCII, Python's among them.
fn ascii_json(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() {
            text.push(c);
        } else {
            let mut units = [0u16; 2];
            c.encode_utf16(&mut units)
                .iter()
                .for_each(|unit| text.push_str(&format!("\\u{unit:04x}")));
        }
    }
    text
}

/// As encoders write it that make JSON safe within HTML, Go's among them.
fn html_json(json: &str) -> String {
    json.replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
}

fn replace(bytes: Vec<u8>, form: &[u8]) -> Vec<u8> {
    let mut found = memchr::memmem::find_iter(&bytes, form).peekable();
    if found.peek().is_none() {
        return bytes;
    }
    let mut masked = Vec::with_capacity(bytes.len());
    let mut from = 0;
    for at in found {
        masked.extend_from_slice(&bytes[from..at]);
        masked.extend_from_slice(MASK);
        from = at + form.len();
    }
    masked.extend_from_slice(&bytes[from..]);
    masked
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn masked(value: &str, text: &str) -> String {
        let redactor = Redactor::default();
        redactor.hold(ValueId(Uuid::nil()), value);
        redactor.mask(text)
    }

    #[test]
    fn values_are_hidden_in_every_form() {
        assert_eq!(masked("ghp_x", "token ghp_x, ghp_x!"), "token ***, ***!");
        assert_eq!(masked("a\"b\nc", r#"{"k":"a\"b\nc"}"#), r#"{"k":"***"}"#);
        assert_eq!(
            masked("pässwörd", r#"{"k": "p\u00e4ssw\u00f6rd"}"#),
            r#"{"k": "***"}"#
        );
        assert_eq!(
            masked("a&b<c>", r#"{"k":"a\u0026b\u003cc\u003e"}"#),
            r#"{"k":"***"}"#
        );
        assert_eq!(
            masked("-----BEGIN-----\nabcdefghij\nklm\n", "read abcdefghij"),
            "read ***"
        );
        assert_eq!(masked("x", "nothing to hide"), "nothing to hide");
    }

    #[test]
    fn json_is_masked_in_every_spelling_and_stays_json() {
        let redactor = Redactor::default();
        redactor.hold(ValueId(Uuid::nil()), "a<b>/1234");
        redactor.hold(ValueId(Uuid::max()), "5678");
        let spelled = r#"{"x a\u003Cb\u003e\/1234":["\u0061<b>/1234",5678,{"n":1.0}]}"#;
        assert_eq!(
            redactor.mask_json(spelled),
            r#"{"x ***":["***","***",{"n":1.0}]}"#
        );
        assert_eq!(
            redactor.mask_json(r#"{ "untouched": 1.00 }"#),
            r#"{ "untouched": 1.00 }"#
        );
        assert_eq!(redactor.mask_json("cut off: a<b>/1234"), "cut off: ***");
    }

    #[test]
    fn a_value_that_is_cut_off_is_hidden() {
        let redactor = Redactor::default();
        redactor.hold(ValueId(Uuid::nil()), "pässword");
        assert_eq!(
            redactor.mask_cut(&"pässword, then pä".as_bytes()[..17]),
            "***, then "
        );
        assert_eq!(redactor.mask_cut(b"nothing"), "nothing");
    }

    #[test]
    fn a_longer_value_goes_before_one_inside_it() {
        let redactor = Redactor::default();
        redactor.hold(ValueId(Uuid::nil()), "abc");
        redactor.hold(ValueId(Uuid::max()), "abcdef");
        assert_eq!(redactor.mask("abcdef abc"), "*** ***");
    }

    #[test]
    fn a_value_is_hidden_for_a_while_after_its_call() {
        let (redactor, id) = (Redactor::default(), ValueId(Uuid::nil()));
        redactor.hold(id, "abc");
        redactor.release(id);
        redactor.forget();
        assert_eq!(redactor.mask("abc"), "***");
        redactor
            .lock()
            .values_mut()
            .for_each(|masked| masked.last -= KEEP);
        redactor.forget();
        assert_eq!(redactor.mask("abc"), "abc");
    }
}
