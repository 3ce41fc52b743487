//! The Vault: sealed values under ids.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::error::StoreError;
use crate::core::ids::ValueId;

/// Encrypted bytes. Without the key they show nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(pub Bytes);

impl Sealed {
    /// The length of the wrapping in bytes. The wrapping names the deployment key and holds the key of the
    /// value, encrypted with the deployment key.
    pub const WRAPPING: usize = 69;

    /// Returns the wrapping and the rest. Bytes that are too short for a wrapping are all wrapping.
    pub fn split(&self) -> (Bytes, Bytes) {
        let at = self.0.len().min(Self::WRAPPING);
        (self.0.slice(..at), self.0.slice(at..))
    }

    /// Returns the value with another wrapping.
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

/// A new wrapping for a value, which replaces the wrapping `from`.
#[derive(Clone)]
pub struct WrappingChange {
    pub id: ValueId,
    pub from: Bytes,
    pub to: Bytes,
}

/// The salt and the check value of the deployment key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRecord {
    pub salt: [u8; 16],
    pub check: Vec<u8>,
}

/// Stores sealed values. A value never changes under its id, but a key rotation replaces its wrapping.
#[async_trait]
pub trait Vault: Send + Sync {
    async fn put(&self, id: ValueId, sealed: Sealed) -> Result<(), StoreError>;
    /// Returns the values in the order of `ids`, with `None` for a missing value.
    async fn get(&self, ids: &[ValueId]) -> Result<Vec<Option<Sealed>>, StoreError>;
    /// Removes values. A missing value is no error.
    async fn remove(&self, ids: &[ValueId]) -> Result<(), StoreError>;
    /// Returns the ids of the values that are older than `age` by the clock of the store.
    async fn older_than(&self, age: Duration) -> Result<Vec<ValueId>, StoreError>;
    /// Returns the wrappings of up to `limit` values after an id, in the order of the ids.
    async fn wrappings(
        &self,
        after: Option<ValueId>,
        limit: usize,
    ) -> Result<Vec<(ValueId, Bytes)>, StoreError>;
    /// Replaces the wrappings that have not changed since they were read, and returns their number. `from` and
    /// `to` have the same length.
    async fn rewrap(&self, changes: Vec<WrappingChange>) -> Result<usize, StoreError>;
    /// Returns the stored key record. Stores `proposed` if there is none.
    async fn key_record(
        &self,
        proposed: Option<KeyRecord>,
    ) -> Result<Option<KeyRecord>, StoreError>;
    /// Replaces the check value of a record. Returns `false` if the record is not the stored one.
    async fn renew_key_record(&self, from: &KeyRecord, check: Vec<u8>) -> Result<bool, StoreError>;
}
