//! The Vault in MongoDB. The clock of the server counts the age of the values.
//!
//! The wrapping of a value is a field of its own, so that a key rotation reads and replaces it
//! without the rest. In values of an early version, `sealed` holds both.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Document, doc};

use super::MongoStore;
use super::error::{damaged, unless_duplicate, with_timeout};
use crate::core::ids::ValueId;
use crate::ports::error::StoreError;
use crate::ports::vault::{KeyRecord, Sealed, Vault, VaultValue, WrappingChange};

/// The most concurrent writes of values or wrappings.
const CONCURRENT_WRITES: usize = 32;
/// The most ids in one operation, far below the 16 MiB of a message's document.
const MAX_IDS: usize = 10_000;
/// The most bytes of one value. The rest of the 16 MiB of a document is for the other fields.
const MAX_VALUE: usize = (16 << 20) - (64 << 10);

#[async_trait]
impl Vault for MongoStore {
    async fn put(&self, id: ValueId, sealed: Sealed) -> Result<(), StoreError> {
        let bytes = sealed.0.len();
        if bytes > MAX_VALUE {
            return Err(StoreError::TooLarge {
                bytes,
                limit: MAX_VALUE,
            });
        }
        let (wrapping, rest) = sealed.split();
        // A repeat, after a failure of unknown outcome, changes nothing.
        let value = doc! {
            "putAt": { "$ifNull": ["$putAt", "$$NOW"] },
            "wrapping": stored_or("wrapping", &wrapping),
            "sealed": stored_or("sealed", &rest),
        };
        let filter = doc! { "_id": id.to_string() };
        let put = self.vault.update_one(filter, vec![doc! { "$set": value }]);
        with_timeout(put.upsert(true)).await?;
        Ok(())
    }

    async fn get(&self, ids: &[ValueId]) -> Result<Vec<Option<Sealed>>, StoreError> {
        let mut values = HashMap::with_capacity(ids.len());
        for ids in ids.chunks(MAX_IDS) {
            let found = self
                .vault
                .find(with_ids(ids))
                .projection(doc! { "wrapping": 1, "sealed": 1 });
            let found: Vec<Document> =
                with_timeout(async { found.await?.try_collect().await }).await?;
            for value in &found {
                values.insert(value_id(value)?, sealed_value(value)?);
            }
        }
        // The caller may ask twice for one id.
        Ok(ids.iter().map(|id| values.get(id).cloned()).collect())
    }

    async fn remove(&self, ids: &[ValueId]) -> Result<(), StoreError> {
        for ids in ids.chunks(MAX_IDS) {
            with_timeout(self.vault.delete_many(with_ids(ids))).await?;
        }
        Ok(())
    }

    async fn older_than(&self, age: Duration) -> Result<Vec<ValueId>, StoreError> {
        let before = doc! { "$subtract": ["$$NOW", age.as_millis() as i64] };
        let old = doc! { "$expr": { "$lt": ["$putAt", before] } };
        let found = self.vault.find(old).projection(doc! { "_id": 1 });
        let found: Vec<Document> = with_timeout(async { found.await?.try_collect().await }).await?;
        found.iter().map(value_id).collect()
    }

    async fn wrappings(
        &self,
        after: Option<ValueId>,
        limit: usize,
    ) -> Result<Vec<(ValueId, Bytes)>, StoreError> {
        let after = after.map_or(doc! {}, |id| doc! { "_id": { "$gt": id.to_string() } });
        let found = self
            .vault
            .find(after)
            .sort(doc! { "_id": 1 })
            .limit(i64::try_from(limit).unwrap_or(i64::MAX))
            .projection(doc! { "wrapping": { "$ifNull": ["$wrapping", "$sealed"] } });
        let found: Vec<Document> = with_timeout(async { found.await?.try_collect().await }).await?;
        let wrapping = |value: &Document| {
            let (wrapping, _) = Sealed(bytes_of(value, "wrapping")?).split();
            Ok((value_id(value)?, wrapping))
        };
        found.iter().map(wrapping).collect()
    }

    async fn rewrap(&self, changes: Vec<WrappingChange>) -> Result<usize, StoreError> {
        let rewrapped = stream::iter(changes)
            .map(|change| self.rewrap_one(change))
            .buffer_unordered(CONCURRENT_WRITES);
        rewrapped
            .try_fold(0, async |sum, is_changed| Ok(sum + usize::from(is_changed)))
            .await
    }

    async fn key_record(
        &self,
        proposed: Option<KeyRecord>,
    ) -> Result<Option<KeyRecord>, StoreError> {
        let filter = doc! { "_id": "key" };
        if let Some(KeyRecord { salt, check }) = proposed {
            let first = doc! { "$setOnInsert": { "salt": binary(&salt), "check": binary(&check) } };
            let stored = self.keys.update_one(filter.clone(), first).upsert(true);
            // At a duplicate, another process has stored the first record.
            unless_duplicate(stored).await?;
        }
        let Some(record) = with_timeout(self.keys.find_one(filter)).await? else {
            return Ok(None);
        };
        let salt = record.get_binary_generic("salt").map_err(damaged)?;
        let check = record.get_binary_generic("check").map_err(damaged)?;
        Ok(Some(KeyRecord {
            salt: salt.as_slice().try_into().map_err(damaged)?,
            check: check.clone(),
        }))
    }

    async fn renew_key_record(&self, from: &KeyRecord, check: Vec<u8>) -> Result<bool, StoreError> {
        let stored =
            doc! { "_id": "key", "salt": binary(&from.salt), "check": binary(&from.check) };
        let renew = doc! { "$set": { "check": binary(&check) } };
        let renewed = with_timeout(self.keys.update_one(stored, renew)).await?;
        Ok(renewed.matched_count > 0)
    }
}

impl MongoStore {
    pub(super) async fn put_all(&self, values: &[VaultValue]) -> Result<(), StoreError> {
        let stored = stream::iter(values.to_vec()).map(|value| self.put(value.id, value.sealed));
        stored
            .buffer_unordered(CONCURRENT_WRITES)
            .try_collect()
            .await
    }

    /// Replaces one wrapping. Returns false if the wrapping has changed since it was read.
    async fn rewrap_one(&self, change: WrappingChange) -> Result<bool, StoreError> {
        let WrappingChange { id, from, to } = change;
        let id = id.to_string();
        let current = doc! { "_id": &id, "wrapping": binary(&from) };
        let wrapping = doc! { "wrapping": binary(&to) };
        if self.replace_fields(current, wrapping).await? {
            return Ok(true);
        }
        let early = doc! { "_id": &id, "wrapping": { "$exists": false } };
        let Some(value) = with_timeout(self.vault.find_one(early.clone())).await? else {
            return Ok(false);
        };
        let (wrapping, rest) = sealed_value(&value)?.split();
        if wrapping != from {
            return Ok(false);
        }
        let fields = doc! { "wrapping": binary(&to), "sealed": binary(&rest) };
        self.replace_fields(early, fields).await
    }

    async fn replace_fields(&self, filter: Document, fields: Document) -> Result<bool, StoreError> {
        let replaced = self.vault.update_one(filter, doc! { "$set": fields });
        Ok(with_timeout(replaced).await?.matched_count > 0)
    }
}

/// Returns the expression for a field that keeps its stored bytes.
fn stored_or(field: &str, bytes: &[u8]) -> Document {
    let is_stored = doc! { "$ne": [{ "$type": "$sealed" }, "missing"] };
    doc! { "$cond": [is_stored, format!("${field}"), { "$literal": binary(bytes) }] }
}

fn with_ids(ids: &[ValueId]) -> Document {
    let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
    doc! { "_id": { "$in": ids } }
}

/// Returns the whole value, in both stored forms.
fn sealed_value(value: &Document) -> Result<Sealed, StoreError> {
    let rest = bytes_of(value, "sealed")?;
    if value.contains_key("wrapping") {
        Ok(Sealed::wrapped(&bytes_of(value, "wrapping")?, &rest))
    } else {
        Ok(Sealed(rest))
    }
}

fn bytes_of(value: &Document, field: &str) -> Result<Bytes, StoreError> {
    let bytes = value.get_binary_generic(field).map_err(damaged)?;
    Ok(Bytes::copy_from_slice(bytes))
}

fn value_id(value: &Document) -> Result<ValueId, StoreError> {
    let id = value.get_str("_id").map_err(damaged)?;
    id.parse().map(ValueId).map_err(damaged)
}

pub(super) fn binary(bytes: &[u8]) -> Binary {
    Binary {
        subtype: BinarySubtype::Generic,
        bytes: bytes.to_vec(),
    }
}
