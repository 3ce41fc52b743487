//! All idempotency records in the catalog.

use imbl::{HashMap, OrdSet};

use crate::core::ids::Digest;
use crate::core::model::idempotency::IdempotencyRecord;

/// The largest number of records. A record needs about 300 bytes, so all records need at most 60 MB of memory.
/// If there are more, the records that expire first are removed before their time.
pub const MAX_RECORDS: usize = 200_000;

/// All idempotency records, by scope and by expiry.
#[derive(Debug, Clone, Default)]
pub struct IdempotencyRecords {
    by_scope: HashMap<Digest, IdempotencyRecord>,
    expiries: OrdSet<(u64, Digest)>,
}

impl IdempotencyRecords {
    pub fn get(&self, scope: Digest) -> Option<&IdempotencyRecord> {
        self.by_scope.get(&scope)
    }

    /// Returns at most `limit` records that have expired at `now` (milliseconds since 1970) or that exceed
    /// [`MAX_RECORDS`].
    pub fn expired(&self, now: u64, limit: usize) -> Vec<Digest> {
        self.expired_above(now, limit, MAX_RECORDS)
    }

    fn expired_above(&self, now: u64, limit: usize, max_records: usize) -> Vec<Digest> {
        let excess = self.expiries.len().saturating_sub(max_records);
        self.expiries
            .iter()
            .enumerate()
            .take_while(|(index, (until, _))| *index < excess || *until <= now)
            .take(limit)
            .map(|(_, (_, scope))| *scope)
            .collect()
    }

    pub fn insert(&mut self, record: IdempotencyRecord) {
        self.remove(record.scope);
        self.expiries.insert((record.until, record.scope));
        self.by_scope.insert(record.scope, record);
    }

    pub fn remove(&mut self, scope: Digest) {
        if let Some(record) = self.by_scope.remove(&scope) {
            self.expiries.remove(&(record.until, scope));
        }
    }

    /// Returns all records in the order of their expiry.
    pub fn all(&self) -> impl Iterator<Item = &IdempotencyRecord> {
        self.expiries
            .iter()
            .filter_map(|(_, scope)| self.by_scope.get(scope))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::ids::CommandId;
    use uuid::Uuid;

    fn record(scope: u128, until: u64) -> IdempotencyRecord {
        IdempotencyRecord {
            scope: Digest(Uuid::from_u128(scope)),
            body: Digest(Uuid::from_u128(7)),
            command: CommandId(Uuid::from_u128(8)),
            until,
        }
    }

    fn table(records: &[IdempotencyRecord]) -> IdempotencyRecords {
        let mut table = IdempotencyRecords::default();
        for record in records {
            table.insert(*record);
        }
        table
    }

    fn numbers(scopes: &[Digest]) -> Vec<u128> {
        scopes.iter().map(|scope| scope.0.as_u128()).collect()
    }

    #[test]
    fn records_expire_at_their_time_and_the_earliest_first() {
        let table = table(&[record(1, 30), record(2, 10), record(3, 20)]);
        assert_eq!(numbers(&table.expired(9, 9)), [0u128; 0]);
        assert_eq!(numbers(&table.expired(20, 9)), [2, 3]);
        assert_eq!(numbers(&table.expired(20, 1)), [2]);
    }

    #[test]
    fn records_above_the_limit_expire_before_their_time() {
        let table = table(&[record(1, 30), record(2, 10), record(3, 20)]);
        assert_eq!(numbers(&table.expired_above(0, 9, 1)), [2, 3]);
        assert_eq!(numbers(&table.expired_above(0, 9, 3)), [0u128; 0]);
        assert_eq!(numbers(&table.expired_above(30, 9, 1)), [2, 3, 1]);
    }

    #[test]
    fn a_scope_has_one_record() {
        let mut table = table(&[record(1, 10), record(1, 20)]);
        assert_eq!(table.all().count(), 1);
        assert_eq!(numbers(&table.expired(10, 9)), [0u128; 0]);
        table.remove(Digest(Uuid::from_u128(1)));
        assert_eq!(table.all().count(), 0);
        assert!(table.expired(99, 9).is_empty());
    }
}
