//! Escapes of JSON, JavaScript, Python and C, percent-encoding, and the entities of HTML.

/// The longest escape that is decoded, in bytes.
pub(super) const MAX_ESCAPE: usize = 16;

/// The readings of characters that have two meanings.
#[derive(Clone, Copy)]
pub(super) struct Readings {
    /// `+` is a blank, as in forms.
    pub(super) is_form: bool,
    /// `\xNN` above 7f is a byte and not a character. Python writes both alike.
    has_bytes: bool,
}

impl Readings {
    pub(super) const fn new(is_form: bool, has_bytes: bool) -> Self {
        Self { is_form, has_bytes }
    }

    /// Whether the text has the characters whose other reading this is. Without them, another view is the same.
    pub(super) fn fits(self, text: &[u8]) -> bool {
        (!self.is_form || memchr::memchr(b'+', text).is_some())
            && (!self.has_bytes || memchr::memmem::find(text, b"\\x").is_some())
    }
}

/// An escape at the beginning of a text.
pub(super) struct Escape {
    content: [u8; 4],
    /// Bytes of the content.
    bytes: u8,
    /// Bytes of the escape in the text.
    pub(super) length: usize,
}

impl Escape {
    pub(super) fn content(&self) -> &[u8] {
        &self.content[..usize::from(self.bytes)]
    }

    fn of_byte(byte: u8, length: usize) -> Self {
        Self {
            content: [byte, 0, 0, 0],
            bytes: 1,
            length,
        }
    }

    fn of_character(character: char, length: usize) -> Self {
        let mut content = [0; 4];
        let bytes = character.encode_utf8(&mut content).len() as u8;
        Self {
            content,
            bytes,
            length,
        }
    }
}

/// Reads a backslash escape.
pub(super) fn escape(text: &[u8], readings: Readings) -> Option<Escape> {
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
            return Some(if readings.has_bytes {
                Escape::of_byte(byte, 4)
            } else {
                Escape::of_character(char::from(byte), 4)
            });
        }
        b'u' => return unicode_escape(rest),
        b'U' => {
            let character = char::from_u32(hex_number(rest.get(..8)?)?)?;
            return Some(Escape::of_character(character, 10));
        }
        b'0'..=b'3' => {
            let digits = text.get(1..4)?;
            let byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()?;
            return Some(Escape::of_byte(byte, 4));
        }
        _ => return None,
    };
    Some(Escape::of_byte(single, 2))
}

/// Reads what follows `\u`: four digits, a pair of surrogates, or digits in braces.
fn unicode_escape(rest: &[u8]) -> Option<Escape> {
    if let Some(braced) = rest.strip_prefix(b"{") {
        let digits = memchr::memchr(b'}', &braced[..braced.len().min(7)])?;
        let character = char::from_u32(hex_number(&braced[..digits])?)?;
        return Some(Escape::of_character(character, digits + 4));
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
    Some(Escape::of_character(char::from_u32(character)?, length))
}

/// Reads `%NN`, `%uNNNN`, or `+` as a blank if the text is a form.
pub(super) fn percent(text: &[u8], readings: Readings) -> Option<Escape> {
    match text {
        [b'%', b'u', rest @ ..] => unicode_escape(rest),
        [b'%', rest @ ..] => {
            let byte = hex_number(rest.get(..2)?)? as u8;
            Some(Escape::of_byte(byte, 3))
        }
        [b'+', ..] if readings.is_form => Some(Escape::of_byte(b' ', 1)),
        _ => None,
    }
}

/// Reads an entity of HTML.
pub(super) fn entity(text: &[u8]) -> Option<Escape> {
    let rest = text.strip_prefix(b"&")?;
    let end = memchr::memchr(b';', &rest[..rest.len().min(MAX_ESCAPE)])?;
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
                Some(digits) => u32::from_str_radix(digits, 16).ok()?,
                None => number.parse().ok()?,
            };
            char::from_u32(number)?
        }
    };
    Some(Escape::of_character(character, end + 2))
}

fn hex_number(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}
