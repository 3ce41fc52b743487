//! Parses `WWW-Authenticate` headers (RFC 9110, section 11.6.1; RFC 6750, section 3).
//!
//! The parser is lenient, because servers send unquoted URLs and other values that the grammar does
//! not allow. A strict parser would drop the whole header.

use hyper::header::{HeaderMap, WWW_AUTHENTICATE};

/// All challenges of a response, from all header lines.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Challenges(Vec<Challenge>);

/// One challenge: a scheme and its parameters.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Challenge {
    scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenges {
    /// Returns the challenges of all `WWW-Authenticate` lines.
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let values = headers.get_all(WWW_AUTHENTICATE).into_iter();
        let texts = values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        Self(texts.flat_map(|text| parse_header(&text)).collect())
    }

    /// Returns a parameter of a Bearer challenge. Without one, returns it from any other challenge,
    /// because some servers name another scheme.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let (bearer, other): (Vec<_>, Vec<_>) =
            self.0.iter().partition(|challenge| challenge.is_bearer());
        bearer
            .into_iter()
            .chain(other)
            .find_map(|challenge| challenge.parameter(name))
    }

    /// Returns the Bearer challenge with this error code.
    pub fn bearer_with_error(&self, error: &str) -> Option<&Challenge> {
        self.0
            .iter()
            .find(|challenge| challenge.is_bearer() && challenge.parameter("error") == Some(error))
    }
}

impl Challenge {
    /// Returns the first parameter of this name.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters
            .iter()
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    fn is_bearer(&self) -> bool {
        self.scheme.eq_ignore_ascii_case("bearer")
    }
}

/// Parses one header line. A word before `=` is a parameter, every other word begins a challenge.
fn parse_header(text: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',', '=']);
        if rest.is_empty() {
            return challenges;
        }
        if let Some(quoted) = rest.strip_prefix('"') {
            // A quoted text without a name is no parameter.
            rest = unquote(quoted).1;
            continue;
        }
        let end = rest.find([' ', '\t', ',', '=', '"']).unwrap_or(rest.len());
        let token = &rest[..end];
        let after = &rest[end..];
        match after.trim_start().strip_prefix('=') {
            Some(value) => {
                let (value, remaining) = parse_value(value.trim_start());
                rest = remaining;
                if challenges.is_empty() {
                    challenges.push(Challenge::default());
                }
                if let Some(challenge) = challenges.last_mut() {
                    challenge.parameters.push((token.to_owned(), value));
                }
            }
            None => {
                rest = after;
                challenges.push(Challenge {
                    scheme: token.to_owned(),
                    parameters: Vec::new(),
                });
            }
        }
    }
}

/// Returns a value and the text after it.
fn parse_value(text: &str) -> (String, &str) {
    if let Some(quoted) = text.strip_prefix('"') {
        return unquote(quoted);
    }
    let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
    (text[..end].to_owned(), &text[end..])
}

/// Returns the quoted text that follows the first quote, and the text after the last quote.
fn unquote(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut is_escaped = false;
    for (at, character) in text.char_indices() {
        match character {
            _ if is_escaped => {
                value.push(character);
                is_escaped = false;
            }
            '\\' => is_escaped = true,
            '"' => return (value, &text[at + 1..]),
            _ => value.push(character),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn challenges(lines: &[&'static str]) -> Challenges {
        let mut headers = HeaderMap::new();
        for value in lines {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(value));
        }
        Challenges::from_headers(&headers)
    }

    #[test]
    fn a_parameter_is_found_however_it_is_written() {
        let found = challenges(&[
            r#"Basic realm="scope=\"no\", x", Bearer error=invalid_token, Resource_Metadata = "https://h/m?a=b,c" ,scope="a b""#,
        ]);
        assert_eq!(found.parameter("scope"), Some("a b"));
        assert_eq!(found.parameter("error"), Some("invalid_token"));
        assert_eq!(
            found.parameter("resource_metadata"),
            Some("https://h/m?a=b,c")
        );
        assert_eq!(found.parameter("x"), None);
        let unquoted = challenges(&["Bearer resource_metadata=https://h/m, scope=a"]);
        assert_eq!(unquoted.parameter("resource_metadata"), Some("https://h/m"));
        for broken in [
            "",
            "Bearer",
            "Bearer scope",
            "Bearer x=\"",
            "=",
            "\"",
            "Bearer =",
            "Bearer x==,=",
        ] {
            assert_eq!(challenges(&[broken]).parameter("scope"), None, "{broken}");
        }
    }

    #[test]
    fn every_line_and_every_challenge_is_read() {
        let found = challenges(&[
            r#"Basic realm="a", DPoP algs="ES256", scope="of dpop""#,
            "Negotiate dG9rZW4=",
            r#"Bearer resource_metadata="https://h/m", scope="of bearer""#,
            r#"Bearer error="insufficient_scope", scope="more""#,
        ]);
        assert_eq!(found.parameter("resource_metadata"), Some("https://h/m"));
        assert_eq!(found.parameter("scope"), Some("of bearer"));
        assert_eq!(found.parameter("algs"), Some("ES256"));
        let insufficient = found.bearer_with_error("insufficient_scope");
        let scope = insufficient.and_then(|challenge| challenge.parameter("scope"));
        assert_eq!(scope, Some("more"));
        assert_eq!(found.bearer_with_error("invalid_token"), None);
    }
}
