//! All idempotency records in the catalog.

use std::collections::HashSet;

use imbl::{HashMap, OrdSet};

use crate::core::ids::Digest;
use crate::core::model::idempotency::IdempotencyRecord;

/// How many records the catalog keeps. If there are more, the records that expire first are removed before their time.
#[derive(Debug, Clone, Copy)]
pub struct RecordLimits {
    pub per_user: usize,
    pub all: usize,
}

/// The limits of every process. They are constants, because all processes must decide alike. A record needs about 400
/// bytes, so all records need at most 80 MB of memory.
pub const LIMITS: RecordLimits = RecordLimits {
    per_user: 20_000,
    all: 200_000,
};

/// All idempotency records, by scope, by expiry and by user.
#[derive(Debug, Clone, Default)]
pub struct IdempotencyRecords {
    by_scope: HashMap<Digest, IdempotencyRecord>,
    expiries: OrdSet<(u64, Digest)>,
    users: HashMap<Option<Digest>, OrdSet<(u64, Digest)>>,
    /// The users with more records than [`LIMITS`] allows.
    users_above_limit: OrdSet<Option<Digest>>,
}

impl IdempotencyRecords {
    pub fn get(&self, scope: Digest) -> Option<&IdempotencyRecord> {
        self.by_scope.get(&scope)
    }

    /// Returns at most `limit` records that have expired at `now` (milliseconds since 1970) or that exceed [`LIMITS`].
    pub fn expired(&self, now: u64, limit: usize) -> Vec<Digest> {
        self.expired_above(now, limit, LIMITS)
    }

    fn expired_above(&self, now: u64, limit: usize, limits: RecordLimits) -> Vec<Digest> {
        let mut expired: Vec<Digest> = self
            .expiries
            .iter()
            .take_while(|(until, _)| *until <= now)
            .take(limit)
            .map(|(_, scope)| *scope)
            .collect();
        let above = self.users_above_limit.iter();
        for records in above.filter_map(|user| self.users.get(user)) {
            let excess = records.len().saturating_sub(limits.per_user);
            add_first(&mut expired, records, limit, excess);
        }
        // The records that are removed anyway make room.
        let kept = self.expiries.len().saturating_sub(expired.len());
        let excess = kept.saturating_sub(limits.all);
        add_first(&mut expired, &self.expiries, limit, excess);
        expired
    }

    pub fn insert(&mut self, record: IdempotencyRecord) {
        self.remove(record.scope);
        let entry = (record.until, record.scope);
        self.expiries.insert(entry);
        self.users.entry(record.user).or_default().insert(entry);
        self.by_scope.insert(record.scope, record);
        self.update_user(record.user);
    }

    pub fn remove(&mut self, scope: Digest) {
        let Some(record) = self.by_scope.remove(&scope) else {
            return;
        };
        let entry = (record.until, scope);
        self.expiries.remove(&entry);
        if let Some(records) = self.users.get_mut(&record.user) {
            records.remove(&entry);
        }
        self.update_user(record.user);
    }

    fn update_user(&mut self, user: Option<Digest>) {
        let count = self.users.get(&user).map_or(0, OrdSet::len);
        if count > LIMITS.per_user {
            self.users_above_limit.insert(user);
        } else {
            self.users_above_limit.remove(&user);
        }
        if count == 0 {
            self.users.remove(&user);
        }
    }

    /// Returns all records in the order of their expiry.
    pub fn all(&self) -> impl Iterator<Item = &IdempotencyRecord> {
        self.expiries
            .iter()
            .filter_map(|(_, scope)| self.by_scope.get(scope))
    }
}

/// Adds the first `excess` records that are not there yet.
fn add_first(
    expired: &mut Vec<Digest>,
    records: &OrdSet<(u64, Digest)>,
    limit: usize,
    excess: usize,
) {
    let known: HashSet<Digest> = expired.iter().copied().collect();
    let further = records
        .iter()
        .map(|(_, scope)| *scope)
        .filter(|scope| !known.contains(scope))
        .take(excess.min(limit.saturating_sub(expired.len())));
    expired.extend(further);
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
            user: None,
        }
    }

    const fn limits(per_user: usize, all: usize) -> RecordLimits {
        RecordLimits { per_user, all }
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
        assert_eq!(numbers(&table.expired_above(0, 9, limits(9, 1))), [2, 3]);
        assert_eq!(
            numbers(&table.expired_above(0, 9, limits(9, 3))),
            [0u128; 0]
        );
        assert_eq!(
            numbers(&table.expired_above(30, 9, limits(9, 1))),
            [2, 3, 1]
        );
    }

    #[test]
    fn a_user_above_the_limit_loses_the_records_that_expire_first() {
        let user = |number| Some(Digest(Uuid::from_u128(number)));
        let mut table = IdempotencyRecords::default();
        let above = LIMITS.per_user as u128 + 2;
        for number in 0..above {
            table.insert(IdempotencyRecord {
                user: user(1),
                ..record(number + 100, 1000 + number as u64)
            });
        }
        table.insert(IdempotencyRecord {
            user: user(2),
            ..record(1, 500)
        });
        assert_eq!(numbers(&table.expired(0, 9)), [100, 101]);
        assert_eq!(numbers(&table.expired(0, 1)), [100]);
        assert_eq!(numbers(&table.expired(500, 9)), [1, 100, 101]);
        for scope in table.expired(0, 9) {
            table.remove(scope);
        }
        assert!(table.expired(0, 9).is_empty());
        assert!(table.users_above_limit.is_empty());
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
