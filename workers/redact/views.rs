//! Readings of a text: each view decodes notations and knows the source range of each decoded byte.
//!
//! A value can be written with escapes of JSON or Python, percent-encoded, as HTML entities or in base64, and a notation can
//! lie inside another. A search in the decoded views finds the value in every spelling of these notations.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

use super::escapes::{Escape, MAX_ESCAPE, Readings, entity, escape, percent};

/// Views of one text. More are not made, because each costs a search.
const MAX_VIEWS: usize = 64;
/// Bytes of all views of a short text together.
const MIN_BUDGET: usize = 1 << 20;
/// Bytes of all views of a long text together, for each byte of the text.
const BUDGET_PER_BYTE: usize = 32;
/// Notations that may lie inside each other, such as JSON in JSON.
const MAX_DEPTH: u8 = 3;
/// Characters of base64 that are worth decoding. Shorter runs are words.
const MIN_BASE64: usize = 12;

/// Decodings of all escapes at once, and base64. They follow most spellings that lie inside each other.
const COMBINED: [Notation; 5] = [
    Notation::Combined(Readings::new(false, false)),
    Notation::Base64,
    Notation::Combined(Readings::new(true, false)),
    Notation::Combined(Readings::new(false, true)),
    Notation::Combined(Readings::new(true, true)),
];
/// Decodings of one notation each. They find a value that itself looks like an escape of another notation.
const SINGLE: [Notation; 5] = [
    Notation::Escapes(Readings::new(false, false)),
    Notation::Escapes(Readings::new(false, true)),
    Notation::Percents(Readings::new(false, false)),
    Notation::Percents(Readings::new(true, false)),
    Notation::Entities,
];

/// One reading of a text.
#[derive(Clone)]
pub(super) struct View {
    pub(super) bytes: Vec<u8>,
    /// The source range of each byte. `None`: the view is the text itself.
    sources: Option<Vec<(u32, u32)>>,
    /// The parts whose end is the end of a cut text.
    pub(super) cut: Vec<Range<usize>>,
    depth: u8,
}

/// How a text is decoded.
#[derive(Clone, Copy)]
enum Notation {
    /// Escapes, percent-encoding and entities at once.
    Combined(Readings),
    /// Backslash escapes of JSON, JavaScript, Python and C.
    Escapes(Readings),
    /// `%NN` and `%uNNNN`.
    Percents(Readings),
    /// The entities of HTML that escape functions write.
    Entities,
    Base64,
}

/// Shows the text and its decoded views to `visit`, each content once. Views with few notations inside each other come first.
pub(super) fn visit_views(text: &[u8], is_cut: bool, mut visit: impl FnMut(&View)) {
    let root = View {
        bytes: text.to_vec(),
        sources: None,
        cut: is_cut.then_some(0..text.len()).into_iter().collect(),
        depth: 0,
    };
    visit(&root);
    let mut search = ViewSearch {
        state: RandomState::new(),
        visited: HashSet::new(),
        bytes_left: MIN_BUDGET.max(text.len() * BUDGET_PER_BYTE),
    };
    search.visited.insert(search.state.hash_one(&root.bytes));
    search.explore(root.clone(), &COMBINED, &mut visit);
    search.explore(root, &SINGLE, &mut visit);
}

/// The views of one text so far.
struct ViewSearch {
    state: RandomState,
    /// The hashes of the views. The order in which two notations are decoded often makes no difference.
    visited: HashSet<u64>,
    bytes_left: usize,
}

impl ViewSearch {
    /// Visits the views that these notations make of a view, of their views, and so on.
    fn explore(&mut self, root: View, notations: &[Notation], visit: &mut impl FnMut(&View)) {
        let mut queued = HashSet::new();
        let mut queue = VecDeque::from([root]);
        while let Some(parent) = queue.pop_front() {
            for notation in notations {
                if self.visited.len() >= MAX_VIEWS || self.bytes_left == 0 {
                    return;
                }
                let Some(view) = parent.decode(*notation) else {
                    continue;
                };
                self.bytes_left = self.bytes_left.saturating_sub(view.bytes.len());
                let hash = self.state.hash_one(&view.bytes);
                if self.visited.insert(hash) {
                    visit(&view);
                }
                if view.depth < MAX_DEPTH && queued.insert(hash) {
                    queue.push_back(view);
                }
            }
        }
    }
}

impl View {
    /// Returns the range of the text that a range of this view was decoded from.
    pub(super) fn source(&self, range: Range<usize>) -> Range<usize> {
        match &self.sources {
            None => range,
            Some(sources) => sources[range.start].0 as usize..sources[range.end - 1].1 as usize,
        }
    }

    /// Returns the decoded view. `None`: the notation does not occur, or the reading makes no difference.
    fn decode(&self, notation: Notation) -> Option<View> {
        let has = |byte: u8| memchr::memchr(byte, &self.bytes).is_some();
        match notation {
            Notation::Combined(readings) => {
                let may_decode = has(b'\\') || has(b'%') || has(b'&') || readings.is_form;
                (may_decode && readings.fits(&self.bytes)).then(|| {
                    self.with_escapes(|text| {
                        escape(text, readings)
                            .or_else(|| percent(text, readings))
                            .or_else(|| entity(text))
                    })
                })?
            }
            Notation::Escapes(readings) => (has(b'\\') && readings.fits(&self.bytes))
                .then(|| self.with_escapes(|text| escape(text, readings)))?,
            Notation::Percents(readings) => {
                let may_decode = has(b'%') || readings.is_form;
                (may_decode && readings.fits(&self.bytes))
                    .then(|| self.with_escapes(|text| percent(text, readings)))?
            }
            Notation::Entities => has(b'&').then(|| self.with_escapes(entity))?,
            Notation::Base64 => self.without_base64(),
        }
    }

    /// Returns the view in which each escape that `decode` knows stands as its content.
    fn with_escapes(&self, decode: impl Fn(&[u8]) -> Option<Escape>) -> Option<View> {
        let mut builder = ViewBuilder::new(self);
        for (piece, is_cut) in self.pieces() {
            let start = builder.bytes.len();
            let mut at = piece.start;
            while at < piece.end {
                match decode(&self.bytes[at..piece.end]) {
                    Some(escape) => {
                        builder.decoded(escape.content(), at..at + escape.length);
                        at += escape.length;
                    }
                    // The cut may have divided an escape.
                    None if is_cut && self.may_be_escape(at..piece.end) => break,
                    None => {
                        builder.push(self.bytes[at], at..at + 1);
                        at += 1;
                    }
                }
            }
            builder.end_piece(start, is_cut);
        }
        builder.finish()
    }

    /// Decodes all runs of base64, each from its first four characters on, because one of these four offsets is right.
    fn without_base64(&self) -> Option<View> {
        let mut builder = ViewBuilder::new(self);
        let mut run = Vec::new();
        for (piece, is_cut) in self.pieces() {
            let mut at = piece.start;
            while at < piece.end {
                at = self.read_base64(at..piece.end, &mut run);
                if run.len() < MIN_BASE64 {
                    continue;
                }
                let rest = run.last().map_or(piece.start, |last| last + 1)..piece.end;
                let reaches_end = self.bytes[rest]
                    .iter()
                    .all(|byte| matches!(byte, b'\0' | b' ' | b'\t'..=b'\r'));
                for offset in 0..4 {
                    let start = builder.bytes.len();
                    builder.base64_run(&run[offset..]);
                    builder.end_piece(start, is_cut && reaches_end);
                    builder.separate(&run);
                }
            }
        }
        builder.finish()
    }

    /// Reads the run of base64 at the beginning of a range: the places of its characters. Line breaks, the blanks after
    /// them and NUL do not end it. Returns where the search for the next run goes on.
    fn read_base64(&self, range: Range<usize>, run: &mut Vec<usize>) -> usize {
        run.clear();
        let mut is_line_start = false;
        for at in range.clone() {
            match self.bytes[at] {
                byte if sextet(byte).is_some() => {
                    run.push(at);
                    is_line_start = false;
                }
                b'\r' | b'\n' => is_line_start = true,
                b'\0' => {}
                b' ' | b'\t' if is_line_start => {}
                _ => return at + 1,
            }
        }
        range.end
    }

    /// Returns whether a part is the beginning of an escape.
    fn may_be_escape(&self, part: Range<usize>) -> bool {
        part.len() < MAX_ESCAPE && matches!(self.bytes[part.start], b'\\' | b'%' | b'&')
    }

    /// Returns the parts that are decoded alone, and whether each ends where the text was cut.
    fn pieces(&self) -> Vec<(Range<usize>, bool)> {
        let mut pieces = Vec::with_capacity(2 * self.cut.len() + 1);
        let mut end = 0;
        for cut in &self.cut {
            pieces.push((end..cut.start, false));
            pieces.push((cut.clone(), true));
            end = cut.end;
        }
        pieces.push((end..self.bytes.len(), false));
        pieces.retain(|(piece, _)| !piece.is_empty());
        pieces
    }
}

struct ViewBuilder<'a> {
    parent: &'a View,
    bytes: Vec<u8>,
    sources: Vec<(u32, u32)>,
    cut: Vec<Range<usize>>,
    has_decoded: bool,
}

impl<'a> ViewBuilder<'a> {
    fn new(parent: &'a View) -> Self {
        Self {
            parent,
            bytes: Vec::with_capacity(parent.bytes.len()),
            sources: Vec::with_capacity(parent.bytes.len()),
            cut: vec![],
            has_decoded: false,
        }
    }

    /// Adds the content of one escape.
    fn decoded(&mut self, content: &[u8], source: Range<usize>) {
        self.has_decoded = true;
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
            self.has_decoded = true;
            self.push((bits >> pending) as u8, places[count - 1]..at + 1);
        }
    }

    /// Adds a byte that belongs to no text, so that no value reaches from one run into the next.
    fn separate(&mut self, run: &[usize]) {
        let last = run.last().copied().unwrap_or(0);
        let end = self.parent.source(last..last + 1).end as u32;
        self.bytes.push(0);
        self.sources.push((end, end));
    }

    /// Ends a part that began at `start`.
    fn end_piece(&mut self, start: usize, is_cut: bool) {
        if is_cut && start < self.bytes.len() {
            self.cut.push(start..self.bytes.len());
        }
    }

    /// Adds a byte that was decoded from a range of the parent, which is not empty.
    fn push(&mut self, byte: u8, source: Range<usize>) {
        let source = self.parent.source(source);
        self.bytes.push(byte);
        self.sources.push((source.start as u32, source.end as u32));
    }

    fn finish(self) -> Option<View> {
        self.has_decoded.then_some(View {
            bytes: self.bytes,
            sources: Some(self.sources),
            cut: self.cut,
            depth: self.parent.depth + 1,
        })
    }
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
        let mut source = None;
        visit_views(text.as_bytes(), false, |view| {
            let at = memchr::memmem::find(&view.bytes, content.as_bytes());
            let found = at.map(|at| text[view.source(at..at + content.len())].to_owned());
            source = source.take().or(found);
        });
        source
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
            let (mut views, mut bytes) = (0, 0);
            visit_views(text.as_bytes(), false, |view| {
                views += 1;
                bytes += view.bytes.len();
            });
            assert!(views <= MAX_VIEWS, "{views}");
            // The last view may pass the budget.
            let most = MIN_BUDGET.max(text.len() * BUDGET_PER_BYTE) + 28 * text.len();
            assert!(bytes <= most, "{bytes} of {most}");
        }
    }

    #[test]
    fn a_text_of_unfinished_escapes_is_read_once() {
        let text = "\\u{".repeat(20_000);
        let started = crate::time::clock::monotonic();
        visit_views(text.as_bytes(), false, |_| {});
        // Each escape once looked through the whole rest of the text, which took more than ten seconds.
        assert!(started.elapsed() < std::time::Duration::from_secs(2));
    }
}
