//! The time at which this process last saw each token.

use quick_cache::sync::Cache;

use crate::core::ids::TokenId;

/// The most tokens whose last use this process remembers. The cache removes rarely used tokens first.
const MAX_TOKENS: usize = 100_000;
/// A use within this time of the recorded use is not recorded, in milliseconds.
const PRECISION_MS: u64 = 1000;

/// The last use of each token, in milliseconds since 1970. The log does not hold it.
pub(super) struct LastUsed(Cache<TokenId, u64>);

impl Default for LastUsed {
    fn default() -> Self {
        Self(Cache::new(MAX_TOKENS))
    }
}

impl LastUsed {
    pub(super) fn record(&self, token: TokenId, now_ms: u64) {
        let recorded = self.0.get(&token);
        if recorded.is_none_or(|recorded| recorded + PRECISION_MS <= now_ms) {
            self.0.insert(token, now_ms);
        }
    }

    pub(super) fn get(&self, token: TokenId) -> Option<u64> {
        self.0.get(&token)
    }
}
