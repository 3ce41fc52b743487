//! Keyed fingerprints of secret values, and the search for them in a text.
//!
//! The index keeps polynomial hashes modulo 2^61 - 1 with a random base. It keeps no plaintext, because a value stays
//! in the index for as long as it is stored. A search costs a few operations for each byte of the text, however many
//! values the index holds.

use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use imbl::GenericHashMap;
use imbl::shared_ptr::DefaultSharedPtr;
use uuid::Uuid;

const MODULUS: u64 = (1 << 61) - 1;
/// Lengths in bytes of the head of a value. The head is the longest of these that fits into the value.
const HEADS: [usize; 5] = [16, 8, 4, 2, 1];
/// Different lengths of values with one head that are checked one by one. Above, the head alone decides.
const MAX_LENGTHS: usize = 256;

/// The random base of all fingerprints of this process.
static BASE: LazyLock<u64> = LazyLock::new(|| {
    let random = Uuid::new_v4().as_u128() % u128::from(MODULUS - 512);
    random as u64 + 512
});
/// The power of the base for each length in `HEADS`.
static HEAD_POWERS: LazyLock<[u64; HEADS.len()]> = LazyLock::new(|| HEADS.map(power));

type FingerprintMap<V> = GenericHashMap<u64, V, BuildHasherDefault<HashOfHash>, DefaultSharedPtr>;

/// The fingerprint of one value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint {
    /// Bytes of the value; at least 1.
    length: u32,
    head: u64,
    whole: u64,
}

/// All values that are searched for. A clone shares its content.
#[derive(Clone, Default)]
pub(super) struct FingerprintIndex {
    heads: FingerprintMap<Arc<Vec<LengthCount>>>,
    wholes: FingerprintMap<u32>,
    /// How many values have a head of each length in `HEADS`.
    per_head: [u32; HEADS.len()],
}

/// How many values with one head have this length.
#[derive(Clone, Copy)]
struct LengthCount {
    length: u32,
    values: u32,
}

/// A fingerprint is a good hash already, so the maps take it as it is.
#[derive(Default)]
struct HashOfHash(u64);

impl Hasher for HashOfHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 << 8) | u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        // The maps use the low bits first. A factor spreads all 61 bits.
        self.0 = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
}

impl Fingerprint {
    /// Returns the fingerprint of a value. `None`: the value is empty.
    pub(super) fn from_value(value: &[u8]) -> Option<Self> {
        let head = HEADS.into_iter().find(|head| *head <= value.len())?;
        Some(Self {
            length: u32::try_from(value.len()).ok()?,
            head: hash(&value[..head]),
            whole: hash(value),
        })
    }

    pub(super) fn length(&self) -> usize {
        self.length as usize
    }

    fn head_class(&self) -> usize {
        let fits = |head: &usize| *head <= self.length as usize;
        HEADS.iter().position(fits).unwrap_or(HEADS.len() - 1)
    }
}

impl FingerprintIndex {
    pub(super) fn is_empty(&self) -> bool {
        self.wholes.is_empty()
    }

    pub(super) fn add(&mut self, print: Fingerprint) {
        self.per_head[print.head_class()] += 1;
        *self.wholes.entry(print.whole).or_default() += 1;
        let lengths = Arc::make_mut(self.heads.entry(print.head).or_default());
        // The longest first, so that the search finds the longest value.
        match lengths.binary_search_by(|entry| print.length.cmp(&entry.length)) {
            Ok(at) => lengths[at].values += 1,
            Err(at) => lengths.insert(
                at,
                LengthCount {
                    length: print.length,
                    values: 1,
                },
            ),
        }
    }

    /// Removes one value. The index must contain it.
    pub(super) fn remove(&mut self, print: Fingerprint) {
        self.per_head[print.head_class()] -= 1;
        if let Some(values) = self.wholes.get_mut(&print.whole) {
            *values -= 1;
            if *values == 0 {
                self.wholes.remove(&print.whole);
            }
        }
        let Some(lengths) = self.heads.get_mut(&print.head) else {
            return;
        };
        let lengths = Arc::make_mut(lengths);
        if let Ok(at) = lengths.binary_search_by(|entry| print.length.cmp(&entry.length)) {
            lengths[at].values -= 1;
            if lengths[at].values == 0 {
                lengths.remove(at);
            }
        }
        if lengths.is_empty() {
            self.heads.remove(&print.head);
        }
    }

    /// Returns the ranges of `text` that contain a value. In a part that is `cut`, a value that begins in it and does not end
    /// in it counts too.
    pub(super) fn find(&self, text: &[u8], cut: &[Range<usize>]) -> Vec<Range<usize>> {
        let prefixes = Prefixes::new(text);
        let mut found = Vec::new();
        for (class, head) in HEADS.into_iter().enumerate() {
            if self.per_head[class] == 0 || head > text.len() {
                continue;
            }
            let mut at = 0;
            while at + head <= text.len() {
                let key = prefixes.hash(at, at + head, HEAD_POWERS[class]);
                let end = self
                    .heads
                    .get(&key)
                    .and_then(|lengths| self.end_of_value(&prefixes, at, lengths, cut));
                match end {
                    Some(end) => {
                        found.push(at..end);
                        at = end;
                    }
                    None => at += 1,
                }
            }
        }
        found
    }

    /// Returns the end of the longest value that begins at `at`.
    fn end_of_value(
        &self,
        prefixes: &Prefixes,
        at: usize,
        lengths: &[LengthCount],
        cut: &[Range<usize>],
    ) -> Option<usize> {
        let text_end = prefixes.text_end();
        let longest = lengths.first()?.length as usize;
        if lengths.len() > MAX_LENGTHS {
            return Some(text_end.min(at + longest));
        }
        if let Some(part) = cut.iter().find(|part| part.contains(&at))
            && at + longest > part.end
        {
            return Some(part.end);
        }
        lengths
            .iter()
            .map(|entry| at + entry.length as usize)
            .filter(|end| *end <= text_end)
            .find(|end| {
                let whole = prefixes.hash(at, *end, power(end - at));
                self.wholes.contains_key(&whole)
            })
    }
}

/// The hashes of all prefixes of a text. Any range of the text has its hash in two operations.
struct Prefixes(Vec<u64>);

impl Prefixes {
    fn new(text: &[u8]) -> Self {
        let mut prefixes = Vec::with_capacity(text.len() + 1);
        let mut prefix = 0;
        prefixes.push(prefix);
        for byte in text {
            prefix = append(prefix, *byte);
            prefixes.push(prefix);
        }
        Self(prefixes)
    }

    fn text_end(&self) -> usize {
        self.0.len() - 1
    }

    /// Returns the hash of a range. `power` is the base to the power of the range's length.
    fn hash(&self, start: usize, end: usize, power: u64) -> u64 {
        let before = multiply(self.0[start], power);
        let hash = self.0[end] + MODULUS - before;
        if hash >= MODULUS {
            hash - MODULUS
        } else {
            hash
        }
    }
}

fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |hash, byte| append(hash, *byte))
}

/// Returns the hash of a text after one more byte. A byte counts as 1 to 256, so that zero bytes count.
fn append(hash: u64, byte: u8) -> u64 {
    let sum = multiply(hash, *BASE) + u64::from(byte) + 1;
    if sum >= MODULUS { sum - MODULUS } else { sum }
}

fn power(exponent: usize) -> u64 {
    let mut result = 1;
    let mut factor = *BASE;
    let mut left = exponent;
    while left > 0 {
        if left & 1 == 1 {
            result = multiply(result, factor);
        }
        factor = multiply(factor, factor);
        left >>= 1;
    }
    result
}

/// Multiplies modulo 2^61 - 1. Both factors are below the modulus.
fn multiply(first: u64, second: u64) -> u64 {
    let product = u128::from(first) * u128::from(second);
    let sum = (product as u64 & MODULUS) + (product >> 61) as u64;
    if sum >= MODULUS { sum - MODULUS } else { sum }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index_of(values: &[&str]) -> FingerprintIndex {
        let mut index = FingerprintIndex::default();
        for value in values {
            index.add(Fingerprint::from_value(value.as_bytes()).expect("a value"));
        }
        index
    }

    #[test]
    fn a_search_finds_the_longest_value() {
        let index = index_of(&["abc", "abcdef", "b"]);
        assert!(index.find(b"xabcdefabc", &[]).contains(&(1..7)));
        assert!(index.find(b"xabcdefabc", &[]).contains(&(7..10)));
        assert!(index.find(b"xacdef", &[]).is_empty());
    }

    #[test]
    fn a_removed_value_is_not_found() {
        let mut index = index_of(&["first-value-of-all", "first-value-of-all", "x"]);
        index.remove(Fingerprint::from_value(b"first-value-of-all").expect("a value"));
        assert_eq!(index.find(b"first-value-of-all", &[]), vec![0..18]);
        index.remove(Fingerprint::from_value(b"first-value-of-all").expect("a value"));
        index.remove(Fingerprint::from_value(b"x").expect("a value"));
        assert!(index.find(b"first-value-of-all x", &[]).is_empty());
        assert!(index.is_empty() && index.heads.is_empty());
    }

    #[test]
    fn a_value_that_a_cut_text_ends_with_is_found_by_its_head() {
        let index = index_of(&["0123456789abcdefghijklmnop"]);
        assert_eq!(
            index.find(b"x 0123456789abcdefghi", std::slice::from_ref(&(0..21))),
            vec![2..21]
        );
        assert!(index.find(b"x 0123456789abcdefghi", &[]).is_empty());
    }
}
