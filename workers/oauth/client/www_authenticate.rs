//! What a server says with a 401 or 403 (RFC 9110, section 11.6.1; RFC 6750, section 3).

/// A parameter of a `WWW-Authenticate` header.
pub fn parameter(challenge: &str, name: &str) -> Option<String> {
    let mut rest = challenge;
    loop {
        let at = rest.find(['=', '"'])?;
        let (before, after) = (&rest[..at], &rest[at + 1..]);
        if rest.as_bytes()[at] == b'"' {
            // A quoted text without a name: nothing in it is a parameter.
            rest = quoted(after).1;
            continue;
        }
        let found = before
            .trim_end()
            .rsplit([' ', ',', '\t'])
            .next()
            .unwrap_or_default();
        let (value, next) = match after.trim_start().strip_prefix('"') {
            Some(after) => quoted(after),
            None => {
                let end = after.find([',', ' ', '\t']).unwrap_or(after.len());
                (after[..end].to_owned(), &after[end..])
            }
        };
        if found.eq_ignore_ascii_case(name) {
            return Some(value);
        }
        rest = next;
    }
}

/// A quoted text after its first quote, and what comes after it.
fn quoted(text: &str) -> (String, &str) {
    let (mut value, mut escaped) = (String::new(), false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => {
                value.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return (value, &text[at + 1..]),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::parameter;

    #[test]
    fn a_parameter_is_found_however_it_is_written() {
        let challenge = r#"Basic realm="scope=\"no\", x", Bearer error=invalid_token, Resource_Metadata = "https://h/m?a=b,c" ,scope="a b""#;
        let of = |name| parameter(challenge, name);
        assert_eq!(of("scope").as_deref(), Some("a b"));
        assert_eq!(of("error").as_deref(), Some("invalid_token"));
        assert_eq!(
            of("resource_metadata").as_deref(),
            Some("https://h/m?a=b,c")
        );
        assert_eq!(of("x"), None);
        for broken in [
            "",
            "Bearer",
            "Bearer scope",
            "Bearer x=\"",
            "=",
            "\"",
            "Bearer =",
        ] {
            assert_eq!(parameter(broken, "scope"), None, "{broken}");
        }
    }
}
