//! The cached keys of the issuer, and the decision when to read them again. The functions take the time as an argument.

use std::time::Duration;

use jsonwebtoken::DecodingKey;
use tokio::time::Instant;

use super::key_set::{KeyName, KeySet};

/// The time for which keys verify JWTs while the issuer cannot be reached.
const USABLE: Duration = Duration::from_secs(24 * 3600);
/// The age at which keys are read again, so that a key that the issuer has removed ends.
const OLD: Duration = Duration::from_secs(600);
/// The time between two reads for an unknown key, and between two reads of old keys.
const PAUSE: Duration = Duration::from_secs(30);
/// The time between two reads as long as there are no usable keys.
const PAUSE_WITHOUT_KEYS: Duration = Duration::from_secs(5);

/// The reason why a JWT has no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissingKey {
    /// The issuer does not have the key.
    Unknown,
    /// The issuer cannot be asked.
    Unreachable { retry_after: Duration },
}

/// A key, and the generation of its set.
pub struct FoundKey {
    pub key: DecodingKey,
    pub generation: u64,
}

#[derive(Default)]
pub(super) struct KeyCache {
    keys: KeySet,
    /// The number of times that the keys have changed.
    generation: u64,
    /// The end of the last read that succeeded.
    read_at: Option<Instant>,
    last_read: Option<FinishedRead>,
    /// The last read that an unknown key caused.
    unknown_at: Option<Instant>,
}

struct FinishedRead {
    at: Instant,
    has_failed: bool,
}

impl KeyCache {
    /// Returns the generation of the keys, or `None` without usable keys.
    pub(super) fn generation(&self, now: Instant) -> Option<u64> {
        self.has_usable_keys(now).then_some(self.generation)
    }

    pub(super) fn find(&self, name: &KeyName, now: Instant) -> Option<FoundKey> {
        let generation = self.generation(now)?;
        let key = self.keys.find(name)?;
        Some(FoundKey { key, generation })
    }

    /// Decides whether an unknown key causes a read now, and records the read.
    ///
    /// # Errors
    /// Returns the answer without a read.
    pub(super) fn begin_read_for_unknown(&mut self, now: Instant) -> Result<(), MissingKey> {
        if !self.has_usable_keys(now) {
            let may_read = self
                .last_read
                .as_ref()
                .is_none_or(|read| read.at + PAUSE_WITHOUT_KEYS <= now);
            return if may_read {
                Ok(())
            } else {
                Err(self.missing(now))
            };
        }
        if self.unknown_at.is_some_and(|at| now < at + PAUSE) {
            return Err(self.missing(now));
        }
        self.unknown_at = Some(now);
        Ok(())
    }

    /// Returns the reason why a key is missing after a read.
    pub(super) fn missing(&self, now: Instant) -> MissingKey {
        let has_failed = self.last_read.as_ref().is_none_or(|read| read.has_failed);
        if !has_failed {
            return MissingKey::Unknown;
        }
        let next_read = if self.has_usable_keys(now) {
            self.unknown_at.map(|at| at + PAUSE)
        } else {
            self.last_read
                .as_ref()
                .map(|read| read.at + PAUSE_WITHOUT_KEYS)
        };
        let wait = next_read.map(|next| next.saturating_duration_since(now));
        MissingKey::Unreachable {
            retry_after: wait.unwrap_or_default(),
        }
    }

    /// Returns whether the keys are so old that a request reads them again without waiting for them.
    pub(super) fn is_read_due(&self, now: Instant) -> bool {
        let is_old = self.read_at.is_some_and(|read| read + OLD <= now);
        let has_paused = self
            .last_read
            .as_ref()
            .is_none_or(|read| read.at + PAUSE <= now);
        is_old && has_paused
    }

    /// Records the end of a read. A read without keys has failed.
    pub(super) fn finish_read(&mut self, keys: Option<KeySet>, now: Instant) {
        self.last_read = Some(FinishedRead {
            at: now,
            has_failed: keys.is_none(),
        });
        if let Some(keys) = keys {
            self.read_at = Some(now);
            if keys != self.keys {
                self.keys = keys;
                self.generation += 1;
            }
        }
    }

    fn has_usable_keys(&self, now: Instant) -> bool {
        self.read_at.is_some_and(|read| now < read + USABLE)
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::Algorithm;
    use serde_json::json;

    use super::*;
    use crate::time::clock::monotonic;

    fn keys(id: &str) -> Option<KeySet> {
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        Some(KeySet::from_json(vec![json!({
            "kty": "OKP", "crv": "Ed25519", "x": x, "kid": id,
        })]))
    }

    fn name(id: &str) -> KeyName {
        KeyName {
            id: Some(id.to_owned()),
            algorithm: Algorithm::EdDSA,
        }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn an_unknown_key_causes_one_read_in_thirty_seconds() {
        let start = monotonic();
        let mut cache = KeyCache::default();
        assert_eq!(cache.begin_read_for_unknown(start), Ok(()));
        cache.finish_read(keys("a"), start);
        assert!(cache.find(&name("a"), start).is_some());
        assert!(cache.find(&name("b"), start).is_none());
        let soon = start + seconds(1);
        assert_eq!(cache.begin_read_for_unknown(soon), Ok(()));
        cache.finish_read(keys("a"), soon);
        let refused = cache.begin_read_for_unknown(soon + seconds(29));
        assert_eq!(refused, Err(MissingKey::Unknown));
        assert_eq!(cache.begin_read_for_unknown(soon + seconds(30)), Ok(()));
    }

    #[test]
    fn without_the_issuer_keys_work_for_a_day() {
        let start = monotonic();
        let mut cache = KeyCache::default();
        cache.finish_read(keys("a"), start);
        let later = start + USABLE - seconds(1);
        assert!(cache.is_read_due(later));
        cache.finish_read(None, later);
        assert!(cache.find(&name("a"), later).is_some());
        assert_eq!(cache.generation(later), Some(1));
        assert_eq!(cache.begin_read_for_unknown(later), Ok(()));
        cache.finish_read(None, later);
        let refused = cache.begin_read_for_unknown(later);
        let retry_after = PAUSE;
        assert_eq!(refused, Err(MissingKey::Unreachable { retry_after }));
        let end = start + USABLE;
        assert!(cache.find(&name("a"), end).is_none());
        assert_eq!(cache.generation(end), None);
    }

    #[test]
    fn without_keys_a_read_follows_after_five_seconds() {
        let start = monotonic();
        let mut cache = KeyCache::default();
        cache.finish_read(None, start);
        let retry_after = seconds(4);
        assert_eq!(
            cache.begin_read_for_unknown(start + seconds(1)),
            Err(MissingKey::Unreachable { retry_after })
        );
        assert_eq!(cache.begin_read_for_unknown(start + seconds(5)), Ok(()));
    }

    #[test]
    fn old_keys_are_read_again_and_changed_keys_start_a_generation() {
        let start = monotonic();
        let mut cache = KeyCache::default();
        cache.finish_read(keys("a"), start);
        assert!(!cache.is_read_due(start + OLD - seconds(1)));
        let due = start + OLD;
        assert!(cache.is_read_due(due));
        cache.finish_read(keys("a"), due);
        assert_eq!(cache.generation(due), Some(1));
        cache.finish_read(keys("b"), due);
        assert_eq!(cache.generation(due), Some(2));
        assert!(cache.find(&name("a"), due).is_none());
    }
}
