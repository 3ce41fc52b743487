//!

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::error::StoreError;
use crate::core::ids::ValueId;

/// Sealed bytes: safe to store and to send to a Vault, useless without the key.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(pub Bytes);

impl Sealed {
    /// The first bytes are the wrapping: which of the deployment's keys they lie under, and the value's own
    /// key wrapped by it.
    pub const WRAPPING: usize = 69;

    /// The wrapping, and the rest; of bytes that are too few to have one, all of them.
    pub fn split(&self) -> (Bytes, Bytes) {
        let at = self.0.len().min(Self::WRAPPING);
        (self.0.slice(..at), self.0.slice(at..))
    }

    /// The same value in another wrapping.
    pub fn wrapped(wrapping: &[u8], rest: &[u8]) -> Self {
        Self([wrapping, rest].concat().into())
    }
}

/// A value for the Vault.
#[derive(Clone)]
pub struct VaultValue {
    pub id: ValueId,
    pub sealed: Sealed,
}

/// Another wrapping for a value, in the place of the one it was made from.
#[derive(Clone)]
pub struct WrappingChange {
    pub id: ValueId,
    pub from: Bytes,
    pub to: Bytes,
}

/// The salt and the check value of a deployment's key, stored once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRecord {
    pub salt: [u8; 16],
    pub check: Vec<u8>,
}

/// Sealed values under ids. A value is put once and never changed, so whoever has it has it right. Only its
/// wrapping may be another one later: who keeps sealed bytes has to keep the key they lie under too.
#[async_trait]
pub trait Vault: Send + Sync {
    async fn put(&self, id: ValueId, sealed: Sealed) -> Result<(), StoreError>;
    /// The values in the order of their ids; `None` for one that is not there.
    async fn get(&self, ids: &[ValueId]) -> Result<Vec<Option<Sealed>>, StoreError>;
    /// Removes values; one that is not there is no error.
    async fn remove(&self, ids: &[ValueId]) -> Result<(), StoreError>;
    /// The ids of values put longer ago than `age`, by the store's clock.
    async fn older_than(&self, age: Duration) -> Result<Vec<ValueId>, StoreError>;
    /// The wrappings of up to `limit` values after an id, in the order of their ids.
    async fn wrappings(
        &self,
        after: Option<ValueId>,
        limit: usize,
    ) -> Result<Vec<(ValueId, Bytes)>, StoreError>;
    /// Gives values another wrapping, each where it still has the one that was read, and says how many were
    /// given one. `from` and `to` are equally long.
    async fn rewrap(&self, changes: Vec<WrappingChange>) -> Result<usize, StoreError>;
    /// The stored key record; `proposed` becomes it where there is none.
    async fn key_record(
        &self,
        proposed: Option<KeyRecord>,
    ) -> Result<Option<KeyRecord>, StoreError>;
    /// Puts another check value in the place of this record's. False: it is not the stored one.
    async fn renew_key_record(&self, from: &KeyRecord, check: Vec<u8>) -> Result<bool, StoreError>;
}
