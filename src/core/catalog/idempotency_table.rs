//!

use imbl::{HashMap, OrdSet};

use crate::core::ids::Digest;
use crate::core::model::idempotency::IdempotencyRecord;

#[derive(Debug, Clone, Default)]
pub struct IdempotencyRecords {
    known: HashMap<Digest, IdempotencyRecord>,
    ends: OrdSet<(u64, Digest)>,
}

impl IdempotencyRecords {
    pub fn get(&self, scope: Digest) -> Option<&IdempotencyRecord> {
        self.known.get(&scope)
    }

    pub fn expired(&self, now: u64, limit: usize) -> Vec<Digest> {
        self.ends
            .iter()
            .take_while(|(until, _)| *until <= now)
            .take(limit)
            .map(|(_, scope)| *scope)
            .collect()
    }

    pub fn insert(&mut self, request: IdempotencyRecord) {
        self.forget(request.scope);
        self.ends.insert((request.until, request.scope));
        self.known.insert(request.scope, request);
    }

    pub fn forget(&mut self, scope: Digest) {
        if let Some(request) = self.known.remove(&scope) {
            self.ends.remove(&(request.until, scope));
        }
    }

    /// In the order in which they are forgotten.
    pub fn all(&self) -> impl Iterator<Item = &IdempotencyRecord> {
        self.ends
            .iter()
            .filter_map(|(_, scope)| self.known.get(scope))
    }
}
