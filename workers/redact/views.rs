//! Readings of a text: each view decodes one notation and knows the source range of each decoded byte.
//!
//! A value can be written with escapes of JSON or Python, percent-encoded, as HTML entities or in base64, and a notation can
//! lie inside another. A search in the decoded views finds the value in every spelling of these notations.

use std::ops::Range;

/// Views of one text. More are not made, because each costs a search.
const MAX_VIEWS: usize = 32;
/// Bytes of all views of a short text together.
const MIN_BUDGET: usize = 1 << 20;
/// Bytes of all views of a long text together, for each byte of the text.
const BUDGET_PER_BYTE: usize = 16;
/// Notations that may lie inside each other, such as JSON in JSON.
const MAX_DEPTH: u8 = 3;
/// Characters of base64 that are worth decoding. Shorter runs are words.
const MIN_BASE64: usize = 12;

/// One reading of a text.
pub(super) struct View {
    pub(super) bytes: Vec<u8>,
    /// The source range of each byte. `None`: the view is the text itself.
    sources: Option<Vec<(u32, u32)>>,
    depth: u8,
}

/// How a decoder reads `\xNN` above 7f: Python writes bytes and characters alike.
#[derive(Clone, Copy, PartialEq, Eq)]
enum HexEscape {
    Character,
    Byte,
}

/// Returns the text and its decoded views. Views with few notations inside each other come first.
pub(super) fn views_of(text: &[u8]) -> Vec<View> {
    let budget = MIN_BUDGET.max(text.len() * BUDGET_PER_BYTE);
    let mut used = text.len();
    let mut views = vec![View {
        bytes: text.to_vec(),
        sources: None,
        depth: 0,
    }];
    let mut next = 0;
    while next < views.len() && views[next].depth < MAX_DEPTH {
        for view in views[next].decode() {
            if used > budget || views.len() == MAX_VIEWS {
                return views;
            }
            // The order in which two notations are decoded often makes no difference.
            if views.iter().all(|known| known.bytes != view.bytes) {
                used += view.bytes.len();
                views.push(view);
            }
        }
        next += 1;
    }
    views
}

impl View {
    /// Returns the range of the text that a range of this view was decoded from.
    pub(super) fn source(&self, range: Range<usize>) -> Range<usize> {
        match &self.sources {
            None => range,
            Some(sources) => sources[range.start].0 as usize..sources[range.end - 1].1 as usize,
        }
    }

    fn decode(&self) -> Vec<View> {
        let mut views = Vec::new();
        if memchr::memchr(b'\\', &self.bytes).is_some() {
            views.extend(self.without_escapes(HexEscape::Character));
            if memchr::memmem::find(&self.bytes, b"\\x").is_some() {
                views.extend(self.without_escapes(HexEscape::Byte));
            }
        }
        if memchr::memchr2(b'%', b'+', &self.bytes).is_some() {
            views.extend(self.without_percents(false));
            views.extend(self.without_percents(true));
        }
        if memchr::memchr(b'&', &self.bytes).is_some() {
            views.extend(self.without_entities());
        }
        views.extend(self.without_base64());
        views
    }

    fn builder(&self) -> ViewBuilder<'_> {
        ViewBuilder {
            parent: self,
            bytes: Vec::with_capacity(self.bytes.len()),
            sources: Vec::with_capacity(self.bytes.len()),
            decoded: false,
        }
    }

    /// Decodes backslash escapes of JSON, JavaScript, Python and C.
    fn without_escapes(&self, hex: HexEscape) -> Option<View> {
        let mut builder = self.builder();
        let mut at = 0;
        while at < self.bytes.len() {
            let rest = &self.bytes[at..];
            match escape(rest, hex) {
                Some((content, length)) => {
                    builder.decoded(&content, at..at + length);
                    at += length;
                }
                None => {
                    builder.copied(at);
                    at += 1;
                }
            }
        }
        builder.finish()
    }

    /// Decodes `%NN`, and `+` as a blank if the text is a form.
    fn without_percents(&self, is_form: bool) -> Option<View> {
        let mut builder = self.builder();
        let mut at = 0;
        let mut has_blank = false;
        while at < self.bytes.len() {
            let rest = &self.bytes[at..];
            match (rest[0], rest.get(1..3).and_then(hex_number)) {
                (b'%', Some(byte)) => {
                    builder.decoded(&[byte as u8], at..at + 3);
                    at += 3;
                }
                (b'+', _) if is_form => {
                    builder.decoded(b" ", at..at + 1);
                    has_blank = true;
                    at += 1;
                }
                _ => {
                    builder.copied(at);
                    at += 1;
                }
            }
        }
        // Without a plus sign the form is the same view as the one before.
        builder.finish().filter(|_| is_form == has_blank)
    }

    /// Decodes the entities of HTML that escape functions write.
    fn without_entities(&self) -> Option<View> {
        let mut builder = self.builder();
        let mut at = 0;
        while at < self.bytes.len() {
            match entity(&self.bytes[at..]) {
                Some((character, length)) => {
                    let mut buffer = [0; 4];
                    let content = character.encode_utf8(&mut buffer);
                    builder.decoded(content.as_bytes(), at..at + length);
                    at += length;
                }
                None => {
                    builder.copied(at);
                    at += 1;
                }
            }
        }
        builder.finish()
    }

    /// Decodes all runs of base64, each from its first four characters on, because one of these four offsets is right.
    fn without_base64(&self) -> Option<View> {
        let mut builder = self.builder();
        let mut run = Vec::new();
        let mut at = 0;
        while at < self.bytes.len() {
            at = self.read_base64(at, &mut run);
            if run.len() >= MIN_BASE64 {
                for offset in 0..4 {
                    builder.base64_run(&run[offset..]);
                }
            }
        }
        builder.finish()
    }

    /// Reads the run of base64 that begins at a byte: the places of its characters. Line breaks inside it do not end it.
    /// Returns where the search for the next run goes on.
    fn read_base64(&self, start: usize, run: &mut Vec<usize>) -> usize {
        run.clear();
        let mut at = start;
        while let Some(byte) = self.bytes.get(at) {
            if sextet(*byte).is_some() {
                run.push(at);
            } else if !matches!(byte, b'\r' | b'\n') {
                return at + 1;
            }
            at += 1;
        }
        at
    }
}

struct ViewBuilder<'a> {
    parent: &'a View,
    bytes: Vec<u8>,
    sources: Vec<(u32, u32)>,
    decoded: bool,
}

impl ViewBuilder<'_> {
    fn copied(&mut self, at: usize) {
        self.push(self.parent.bytes[at], at..at + 1);
    }

    /// Adds the content of one escape.
    fn decoded(&mut self, content: &[u8], source: Range<usize>) {
        self.decoded = true;
        for byte in content {
            self.push(*byte, source.clone());
        }
    }

    /// Adds the content of the characters at these places.
    fn base64_run(&mut self, places: &[usize]) {
        let mut bits = 0u32;
        for (count, at) in places.iter().enumerate() {
            bits = (bits << 6) | u32::from(sextet(self.parent.bytes[*at]).unwrap_or(0));
            // Four characters make three bytes: a byte is complete after every character but the first of four.
            let pending = match count % 4 {
                0 => continue,
                1 => 4,
                2 => 2,
                _ => 0,
            };
            self.decoded = true;
            self.push((bits >> pending) as u8, places[count - 1]..at + 1);
        }
        // No value reaches from one run into the next.
        let end = places.last().map_or(0, |last| last + 1);
        self.push(0, end..end);
    }

    fn push(&mut self, byte: u8, source: Range<usize>) {
        let source = if source.is_empty() {
            source
        } else {
            self.parent.source(source)
        };
        self.bytes.push(byte);
        self.sources.push((source.start as u32, source.end as u32));
    }

    fn finish(self) -> Option<View> {
        self.decoded.then_some(View {
            bytes: self.bytes,
            sources: Some(self.sources),
            depth: self.parent.depth + 1,
        })
    }
}

/// Returns the content of the escape at the beginning of a text, and the length of the escape in bytes.
fn escape(text: &[u8], hex: HexEscape) -> Option<(Vec<u8>, usize)> {
    let [b'\\', kind, rest @ ..] = text else {
        return None;
    };
    let single = match kind {
        b'n' => b'\n',
        b't' => b'\t',
        b'r' => b'\r',
        b'b' => 8,
        b'f' => 12,
        b'v' => 11,
        b'a' => 7,
        b'\\' | b'/' | b'\'' | b'"' | b'`' | b'$' => *kind,
        b'x' => {
            let byte = hex_number(rest.get(..2)?)? as u8;
            let content = match hex {
                HexEscape::Byte => vec![byte],
                HexEscape::Character => char::from(byte).to_string().into_bytes(),
            };
            return Some((content, 4));
        }
        b'u' => return unicode_escape(rest),
        b'U' => {
            let character = char::from_u32(hex_number(rest.get(..8)?)?)?;
            return Some((character.to_string().into_bytes(), 10));
        }
        b'0'..=b'3' => {
            let digits = text.get(1..4)?;
            let byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()?;
            return Some((vec![byte], 4));
        }
        _ => return None,
    };
    Some((vec![single], 2))
}

/// Decodes what follows `\u`: four digits, a pair of surrogates, or digits in braces.
fn unicode_escape(rest: &[u8]) -> Option<(Vec<u8>, usize)> {
    if let Some(braced) = rest.strip_prefix(b"{") {
        let digits = memchr::memchr(b'}', braced).filter(|digits| *digits <= 6)?;
        let character = char::from_u32(hex_number(&braced[..digits])?)?;
        return Some((character.to_string().into_bytes(), digits + 4));
    }
    let first = hex_number(rest.get(..4)?)?;
    let second = rest
        .get(4..10)
        .and_then(|pair| hex_number(pair.strip_prefix(b"\\u")?));
    let (character, length) = match (first, second) {
        (0xd800..=0xdbff, Some(low @ 0xdc00..=0xdfff)) => {
            (0x10000 + ((first - 0xd800) << 10) + (low - 0xdc00), 12)
        }
        _ => (first, 6),
    };
    Some((char::from_u32(character)?.to_string().into_bytes(), length))
}

fn entity(text: &[u8]) -> Option<(char, usize)> {
    let rest = text.strip_prefix(b"&")?;
    let end = memchr::memchr(b';', &rest[..rest.len().min(10)])?;
    let name = std::str::from_utf8(&rest[..end]).ok()?;
    let character = match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        _ => {
            let number = name.strip_prefix('#')?;
            let number = match number.strip_prefix(['x', 'X']) {
                Some(digits) => hex_number(digits.as_bytes())?,
                None => number.parse().ok()?,
            };
            char::from_u32(number)?
        }
    };
    Some((character, end + 2))
}

fn hex_number(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// The value of a character of base64, in the standard alphabet or in the one for URLs.
fn sextet(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' | b'-' => Some(62),
        b'/' | b'_' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_as(text: &str, content: &str) -> Option<String> {
        views_of(text.as_bytes()).iter().find_map(|view| {
            let at = memchr::memmem::find(&view.bytes, content.as_bytes())?;
            let source = view.source(at..at + content.len());
            Some(text[source].to_owned())
        })
    }

    #[test]
    fn a_view_knows_where_its_bytes_come_from() {
        for (text, content, source) in [
            (r"say a\u0041\/b now", "aA/b", r"a\u0041\/b"),
            (r"\uD83D\ude00!", "😀", r"\uD83D\ude00"),
            (r#"{\"k\":\"a\\\"b\"}"#, "a\"b", r#"a\\\"b"#),
            (r"b'sch\xc3\xb6n'", "schön", r"sch\xc3\xb6n"),
            (r"'sch\xf6n'", "schön", r"sch\xf6n"),
            ("q=a%20%C3%B6b&x=1", "a öb", "a%20%C3%B6b"),
            ("q=a+b%2Bc&x", "a b+c", "a+b%2Bc"),
            ("&lt;a&#39;b&#x3e;", "<a'b>", "&lt;a&#39;b&#x3e;"),
            ("Basic dXNlcjpwYXNzd29yZA==", "password", "pwYXNzd29yZA"),
            ("dXNlcjpw\r\nYXNzd29yZA==", "password", "pw\r\nYXNzd29yZA"),
            ("pre dSVDMyVCNnYgdyU=", "uöv w%", "dSVDMyVCNnYgdyU"),
        ] {
            assert_eq!(read_as(text, content).as_deref(), Some(source), "{text}");
        }
        assert_eq!(read_as(r"a\qb %zz &none; \u12", "absent"), None);
    }

    #[test]
    fn the_views_of_any_text_are_bounded() {
        // All notations at once, and base64 in base64, whose views grow.
        let noise = r"\n \x41 \xe9 a+b %20 &amp; dGhpcyBpcyBiYXNlNjQ ".repeat(100);
        let nested = "V1ZoV2QySXpTbXBpTWxKc1ZHNU9kVkpXYkVSYU0wSlA".repeat(6_000);
        for text in [noise, nested] {
            let views = views_of(text.as_bytes());
            let bytes: usize = views.iter().map(|view| view.bytes.len()).sum();
            assert!(views.len() <= MAX_VIEWS, "{}", views.len());
            // The last view may pass the budget.
            let most = MIN_BUDGET.max(text.len() * BUDGET_PER_BYTE) + 27 * text.len();
            assert!(bytes <= most, "{bytes} of {most}");
        }
    }
}
