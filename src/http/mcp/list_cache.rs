//! The cache of tool lists. A list that callers request again is a copy of its text.

use std::sync::Arc;

use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

/// The most bytes of cached pages.
const CACHE_BYTES: u64 = 64 << 20;
/// Lists that the cache expects. It holds more if they are small.
const CACHE_LISTS: usize = 1024;
/// Bytes of an entry besides its pages.
const ENTRY_BYTES: u64 = 256;

/// A digest of everything that a list depends on.
pub(super) type ListKey = [u8; 32];

/// The pages of one list: the JSON object `result` of each page.
pub struct ListText {
    pub pages: Vec<Bytes>,
}

/// The lists that callers requested last. The least recently used lists leave first.
pub struct ListCache(Cache<ListKey, Arc<ListText>, ListWeight>);

impl ListCache {
    pub fn get(&self, key: &ListKey) -> Option<Arc<ListText>> {
        self.0.get(key)
    }

    pub fn insert(&self, key: ListKey, list: Arc<ListText>) {
        self.0.insert(key, list);
    }
}

#[derive(Clone)]
struct ListWeight;

impl Weighter<ListKey, Arc<ListText>> for ListWeight {
    fn weight(&self, _: &ListKey, list: &Arc<ListText>) -> u64 {
        let pages = list.pages.iter().map(|page| page.len() as u64);
        pages.sum::<u64>() + ENTRY_BYTES
    }
}

impl Default for ListCache {
    fn default() -> Self {
        Self(Cache::with_weighter(CACHE_LISTS, CACHE_BYTES, ListWeight))
    }
}
