//! The query of a server's URL. Its values can be credentials, so a shown URL has `***` instead of them.

use percent_encoding::percent_decode_str;

use super::remote::HIDDEN;
use crate::core::failure::Failure;
use crate::core::ids::ValueId;

/// Parameters whose values are no credentials. The program seals the values of all other parameters.
const HARMLESS_PARAMETERS: [&str; 14] = [
    "features",
    "format",
    "lang",
    "language",
    "limit",
    "locale",
    "mode",
    "readonly",
    "region",
    "tools",
    "toolsets",
    "transport",
    "v",
    "version",
];

/// A value of a query that a shown URL hides.
#[derive(PartialEq, Eq)]
#[cfg_attr(test, derive(Debug))]
pub struct HiddenValue {
    /// The name as the URL spells it. It is empty if the parameter is a text without `=`.
    pub name: String,
    /// The value as the URL spells it.
    pub value: String,
}

/// Returns the URL with `***` instead of the values that can be credentials, and these values in their order. A value
/// that is `***` already is returned too.
pub fn hide_query(url: &str) -> (String, Vec<HiddenValue>) {
    let mut hidden = Vec::new();
    let shown = map_values(url, |name, value| {
        hidden.push(HiddenValue {
            name: name.to_owned(),
            value: value.to_owned(),
        });
        Some(HIDDEN.to_owned())
    });
    (shown, hidden)
}

/// Returns the URL as a response may show it.
pub fn shown_url(url: &str) -> String {
    hide_query(url).0
}

/// Returns the names of the parameters with a hidden value, in their order.
pub fn hidden_names(url: &str) -> Vec<String> {
    let (_, values) = hide_query(url);
    let hidden = values.into_iter().filter(|value| value.value == HIDDEN);
    hidden.map(|value| value.name).collect()
}

/// Puts values in the place of the hidden ones, in their order. `None` leaves a value hidden.
pub fn fill_query<'a>(url: &str, values: impl IntoIterator<Item = Option<&'a str>>) -> String {
    let mut values = values.into_iter();
    map_values(url, |_, value| {
        if value == HIDDEN {
            values.next().flatten().map(str::to_owned)
        } else {
            None
        }
    })
}

/// Returns whether the query of a URL has a parameter with this name.
pub fn has_parameter(url: &str, name: &str) -> bool {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    url::form_urlencoded::parse(query.as_bytes()).any(|(found, _)| found == name)
}

/// Returns the URL without the parameters whose values can be credentials.
pub fn without_credentials(url: &str) -> String {
    let Some((before, query)) = url.split_once('?') else {
        return url.to_owned();
    };
    let harmless: Vec<_> = query
        .split('&')
        .filter(|parameter| !is_credential(parameter))
        .collect();
    if harmless.is_empty() {
        before.to_owned()
    } else {
        format!("{before}?{}", harmless.join("&"))
    }
}

/// Returns a new URL and the ids of its sealed values, in the order of its `***`. `update` has the new ids in this order.
/// A hidden value without an id is the value that the stored URL has for the parameter with the same name, or for the
/// second one with that name, and so on.
///
/// # Errors
/// Fails if the stored URL has no such value.
pub fn merge_query(
    stored_url: &str,
    stored: &[ValueId],
    url: &str,
    update: &[Option<ValueId>],
) -> Result<(String, Vec<ValueId>), Failure> {
    let mut stored = stored_values(stored_url, stored);
    let mut sealed = Vec::new();
    let mut plain = Vec::new();
    for (index, name) in hidden_names(url).into_iter().enumerate() {
        let value = match update.get(index).copied().flatten() {
            Some(value) => StoredValue::Sealed(value),
            None => take_first(&mut stored, &name).ok_or_else(|| {
                Failure::invalid(format!(
                    "{} is ***, but no value of it is stored; replace *** with the value",
                    parameter(&name)
                ))
            })?,
        };
        match value {
            StoredValue::Sealed(value) => {
                sealed.push(value);
                plain.push(None);
            }
            StoredValue::Plain(value) => plain.push(Some(value)),
        }
    }
    let plain = plain.iter().map(Option::as_deref);
    Ok((fill_query(url, plain), sealed))
}

/// Names the hidden parameters of a URL that have no new id.
pub fn kept_parameters(url: &str, update: &[Option<ValueId>]) -> Vec<String> {
    hidden_names(url)
        .iter()
        .enumerate()
        .filter(|(index, _)| update.get(*index).copied().flatten().is_none())
        .map(|(_, name)| parameter(name))
        .collect()
}

/// The stored value of a parameter.
enum StoredValue {
    Sealed(ValueId),
    /// Earlier versions stored some credentials in plain text.
    Plain(String),
}

/// Returns the names and the values of the parameters that can be credentials.
fn stored_values(url: &str, sealed: &[ValueId]) -> Vec<(String, StoredValue)> {
    let mut sealed = sealed.iter().copied();
    let (_, values) = hide_query(url);
    values
        .into_iter()
        .map(|parameter| {
            let sealed = sealed.by_ref();
            let id = (parameter.value == HIDDEN).then(|| sealed.next()).flatten();
            let value = id.map_or(StoredValue::Plain(parameter.value), StoredValue::Sealed);
            (parameter.name, value)
        })
        .collect()
}

fn take_first(stored: &mut Vec<(String, StoredValue)>, name: &str) -> Option<StoredValue> {
    let index = stored
        .iter()
        .position(|(stored_name, _)| stored_name == name)?;
    Some(stored.remove(index).1)
}

/// Names a parameter in a failure.
fn parameter(name: &str) -> String {
    if name.is_empty() {
        "the value without a name in the query of url".to_owned()
    } else {
        format!("the parameter {name} in the query of url")
    }
}

/// Replaces the values that can be credentials. `replace` gets the name and the value.
fn map_values(url: &str, mut replace: impl FnMut(&str, &str) -> Option<String>) -> String {
    let Some((before, query)) = url.split_once('?') else {
        return url.to_owned();
    };
    let parameters: Vec<_> = query
        .split('&')
        .map(|parameter| {
            if !is_credential(parameter) {
                return parameter.to_owned();
            }
            let (name, value) = split_parameter(parameter);
            let replaced = replace(name, value).unwrap_or_else(|| value.to_owned());
            let start = &parameter[..parameter.len() - value.len()];
            format!("{start}{replaced}")
        })
        .collect();
    format!("{before}?{}", parameters.join("&"))
}

/// Returns the name and the value. A text without `=` is a value, because some servers want their key alone.
fn split_parameter(parameter: &str) -> (&str, &str) {
    parameter.split_once('=').unwrap_or(("", parameter))
}

fn is_credential(parameter: &str) -> bool {
    let (name, value) = split_parameter(parameter);
    if value.is_empty() {
        return false;
    }
    let name = percent_decode_str(name).decode_utf8_lossy();
    !HARMLESS_PARAMETERS
        .iter()
        .any(|harmless| name.eq_ignore_ascii_case(harmless))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hide(url: &str) -> (String, Vec<(String, String)>) {
        let (shown, hidden) = hide_query(url);
        let hidden = hidden.into_iter().map(|value| (value.name, value.value));
        (shown, hidden.collect())
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn only_values_of_harmless_parameters_are_shown() {
        assert_eq!(
            hide("https://h/mcp?v=2&api_key=k1&empty=&Tools=a,b&config=e30=&k1&api_key=k2"),
            (
                "https://h/mcp?v=2&api_key=***&empty=&Tools=a,b&config=***&***&api_key=***".into(),
                vec![
                    pair("api_key", "k1"),
                    pair("config", "e30="),
                    pair("", "k1"),
                    pair("api_key", "k2"),
                ]
            )
        );
    }

    #[test]
    fn a_url_without_a_value_stays_as_it_is() {
        for url in ["https://h/mcp", "https://h/mcp?", "https://h/?v=1&mode=&&"] {
            assert_eq!(hide(url), (url.to_owned(), vec![]));
            assert_eq!(
                without_credentials(url.trim_end_matches('?')),
                url.trim_end_matches('?')
            );
        }
    }

    #[test]
    fn an_encoded_name_is_compared_by_its_meaning() {
        assert_eq!(hide("https://h/?%76=1").1, vec![]);
        assert_eq!(hide("https://h/?vv=1").1, [pair("vv", "1")]);
    }

    #[test]
    fn hidden_values_are_put_back_in_their_order() {
        let (shown, hidden) = hide_query("https://h/?a=1&v=***&b=%20&1");
        let values = hidden.iter().map(|value| Some(value.value.as_str()));
        assert_eq!(fill_query(&shown, values), "https://h/?a=1&v=***&b=%20&1");
        assert_eq!(
            fill_query("https://h/?a=***&b=***", [None, Some("2")]),
            "https://h/?a=***&b=2"
        );
    }

    #[test]
    fn a_plain_value_of_an_earlier_version_takes_no_value() {
        assert_eq!(hidden_names("https://h/?a=plain&b=***"), ["b"]);
        assert_eq!(
            fill_query("https://h/?a=plain&b=***", [Some("2")]),
            "https://h/?a=plain&b=2"
        );
    }

    #[test]
    fn a_url_for_others_has_no_credentials() {
        assert_eq!(
            without_credentials("https://h/mcp?api_key=***&v=1&x=plain"),
            "https://h/mcp?v=1"
        );
        assert_eq!(without_credentials("https://h/mcp?***"), "https://h/mcp");
    }
}
