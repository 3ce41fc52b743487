//! Replaces the secret values of one server with `***` in the lines, errors and log entries of that server.
//!
//! A call adds its values before it starts. A value stays known while a call has it and for as long as it is stored.
//! A line reads an immutable copy of the index, so a call never waits for a line.

mod escapes;
mod fingerprints;
mod json;
mod off_runtime;
mod views;

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use zeroize::Zeroizing;

use self::fingerprints::{Fingerprint, FingerprintIndex};
pub use self::off_runtime::off_runtime;
use self::off_runtime::turn;
use self::views::visit_views;
use crate::core::ids::ValueId;
use crate::time::clock::monotonic;

/// How long a value that is not stored stays known after its last call.
const GRACE: Duration = Duration::from_secs(10);
/// Bytes of a value that stays known for as long as it is stored. A shorter value stays known for `GRACE` only, because
/// it would make the lines of all users unreadable.
const MIN_STORED: usize = 4;
/// Bytes of one line of a value that is searched for alone.
const MIN_LINE: usize = 8;
/// The largest part of a text in bytes that is masked. The text after it is removed, because the views of a text need many times its memory.
const MAX_TEXT: usize = 256 * 1024;
/// Bytes masked at the end of a cut text. A value that begins there has no complete head, so no search finds it.
const CUT_TAIL: usize = 256;
/// Bytes of a value that is masked in texts for other users. A shorter value could be guessed: a user would see which guess is
/// masked.
const MIN_FOREIGN: usize = 16;
const MASK: &str = "***";

/// The secret values of one server.
#[derive(Default)]
pub struct Redactor {
    held: Mutex<HashMap<ValueId, HeldValue>>,
    index: ArcSwap<FingerprintIndex>,
    /// The values that are too long to be guessed.
    long_index: ArcSwap<FingerprintIndex>,
}

struct HeldValue {
    fingerprints: Vec<Fingerprint>,
    /// Running calls that have the value.
    calls: usize,
    last_call: Instant,
}

impl Redactor {
    /// Masks a value from now on. [`Redactor::release`] must follow.
    pub fn hold(&self, id: ValueId, value: &str) {
        self.hold_with(id, || fingerprints_of(value));
    }

    /// Masks several texts that belong to one value. [`Redactor::release`] must follow.
    pub fn hold_all(&self, id: ValueId, texts: &[Zeroizing<String>]) {
        self.hold_with(id, || fingerprints_of_all(texts));
    }

    /// Masks the secret parts of a value. `parts` runs only if the value is not known yet. [`Redactor::release`] must
    /// follow.
    pub fn hold_parts(&self, id: ValueId, parts: impl FnOnce() -> Vec<Zeroizing<String>>) {
        self.hold_with(id, || fingerprints_of_all(&parts()));
    }

    fn hold_with(&self, id: ValueId, fingerprints: impl FnOnce() -> Vec<Fingerprint>) {
        if let Some(value) = self.held.lock().get_mut(&id) {
            value.calls += 1;
            return;
        }
        let fingerprints = fingerprints();
        let mut held = self.held.lock();
        if let Some(value) = held.get_mut(&id) {
            value.calls += 1;
            return;
        }
        let mut index = FingerprintIndex::clone(&self.index.load());
        let mut long_index = FingerprintIndex::clone(&self.long_index.load());
        for print in &fingerprints {
            index.add(*print);
            if print.length() >= MIN_FOREIGN {
                long_index.add(*print);
            }
        }
        self.index.store(Arc::new(index));
        self.long_index.store(Arc::new(long_index));
        held.insert(
            id,
            HeldValue {
                fingerprints,
                calls: 1,
                last_call: monotonic(),
            },
        );
    }

    /// Records that a call with the value has ended.
    pub fn release(&self, id: ValueId) {
        if let Some(value) = self.held.lock().get_mut(&id) {
            value.calls -= 1;
            value.last_call = monotonic();
        }
    }

    /// Returns the values that no call has had for ten seconds.
    pub fn idle_values(&self) -> HashSet<ValueId> {
        let held = self.held.lock();
        let idle = held.iter().filter(|(_, value)| value.is_idle());
        idle.map(|(id, _)| *id).collect()
    }

    /// Removes the values that no call has had for ten seconds and that are not stored any more.
    pub fn expire(&self, is_stored: impl Fn(ValueId) -> bool) {
        let mut held = self.held.lock();
        let mut expired = Vec::new();
        held.retain(|id, value| {
            let keep = !value.is_idle() || (value.may_stay() && is_stored(*id));
            if !keep {
                expired.append(&mut value.fingerprints);
            }
            keep
        });
        if expired.is_empty() {
            return;
        }
        let mut index = FingerprintIndex::clone(&self.index.load());
        let mut long_index = FingerprintIndex::clone(&self.long_index.load());
        for print in expired {
            if print.length() >= MIN_FOREIGN {
                long_index.remove(print);
            }
            index.remove(print);
        }
        self.index.store(Arc::new(index));
        self.long_index.store(Arc::new(long_index));
    }

    /// Returns a redactor for the texts that one user sees: it masks the values of the user, and those values of others that
    /// are too long to be guessed. The values must be held.
    pub fn for_user(&self, own: &[ValueId]) -> Self {
        self.with_values(FingerprintIndex::clone(&self.long_index.load()), own)
    }

    /// Returns a redactor that masks these values and no others. They must be held.
    pub fn only(&self, values: &[ValueId]) -> Self {
        self.with_values(FingerprintIndex::default(), values)
    }

    fn with_values(&self, mut index: FingerprintIndex, values: &[ValueId]) -> Self {
        let held = self.held.lock();
        let held = values.iter().filter_map(|value| held.get(value));
        for print in held.flat_map(|value| &value.fingerprints) {
            index.add(*print);
        }
        Self {
            index: ArcSwap::from_pointee(index),
            ..Self::default()
        }
    }

    /// Returns the text with `***` in place of every value. A text above 256 KiB is cut there.
    pub fn mask(&self, text: &str) -> String {
        if self.index.load().is_empty() {
            return text.to_owned();
        }
        off_runtime(text.len(), || self.mask_whole(text))
    }

    fn mask_whole(&self, text: &str) -> String {
        if text.len() > MAX_TEXT {
            let cut = String::from_utf8_lossy(&text.as_bytes()[..MAX_TEXT]);
            return self.mask_text(&cut, true);
        }
        self.mask_text(text, false)
    }

    /// Returns the beginning of a longer text with `***` in place of every value, also of the value that the cut
    /// divides. The last bytes before the cut are masked too, because a value that begins there is not recognized.
    pub fn mask_cut(&self, cut: &[u8]) -> String {
        let cut = &cut[..cut.len().min(MAX_TEXT)];
        let text = String::from_utf8_lossy(cut);
        if self.index.load().is_empty() {
            return text.into_owned();
        }
        off_runtime(text.len(), || self.mask_text(&text, true))
    }

    fn mask_text(&self, text: &str, is_cut: bool) -> String {
        let _turn = turn(text.len());
        let index = self.index.load();
        let mut ranges = Vec::new();
        visit_views(text.as_bytes(), is_cut, |view| {
            let found = index.find(&view.bytes, &view.cut).into_iter();
            ranges.extend(found.map(|range| view.source(range)));
        });
        if is_cut {
            ranges.push(text.len().saturating_sub(CUT_TAIL)..text.len());
        }
        replace(text, ranges)
    }
}

impl HeldValue {
    /// Whether no call has had the value for ten seconds.
    fn is_idle(&self) -> bool {
        self.calls == 0 && self.last_call.elapsed() >= GRACE
    }

    fn may_stay(&self) -> bool {
        self.fingerprints
            .iter()
            .all(|print| print.length() >= MIN_STORED)
    }
}

fn fingerprints_of_all(texts: &[Zeroizing<String>]) -> Vec<Fingerprint> {
    texts
        .iter()
        .flat_map(|text| fingerprints_of(text))
        .collect()
}

/// Returns the fingerprints of a value and of its lines, because standard error arrives line by line.
fn fingerprints_of(value: &str) -> Vec<Fingerprint> {
    let mut prints: Vec<Fingerprint> = Fingerprint::from_value(value.as_bytes())
        .into_iter()
        .collect();
    let trimmed = value.trim();
    if trimmed.len() < value.len() && trimmed.len() >= MIN_STORED {
        prints.extend(Fingerprint::from_value(trimmed.as_bytes()));
    }
    let lines = value.lines().map(str::trim);
    let lines = lines.filter(|line| line.len() >= MIN_LINE && line.len() < trimmed.len());
    prints.extend(lines.filter_map(|line| Fingerprint::from_value(line.as_bytes())));
    prints
}

/// Replaces ranges of a text with `***`. Ranges that touch or overlap become one.
fn replace(text: &str, mut ranges: Vec<Range<usize>>) -> String {
    ranges.retain(|range| !range.is_empty());
    if ranges.is_empty() {
        return text.to_owned();
    }
    ranges.sort_unstable_by_key(|range| range.start);
    let mut masked = String::with_capacity(text.len());
    let mut end = 0;
    for range in ranges {
        let start = text.floor_char_boundary(range.start);
        if start > end || end == 0 {
            masked.push_str(&text[end..start.max(end)]);
            masked.push_str(MASK);
        }
        end = end.max(text.ceil_char_boundary(range.end));
    }
    masked.push_str(&text[end..]);
    masked
}

#[cfg(test)]
mod tests;
