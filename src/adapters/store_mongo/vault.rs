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
use mongodb::bson::{Binary, DateTime, Document, Timestamp, doc};

use super::MongoStore;
use super::error::{damaged, unless_duplicate, with_timeout};
use crate::core::ids::ValueId;
use crate::ports::error::StoreError;
use crate::ports::vault::{KeyRecord, Sealed, Vault, VaultValue, WrappingChange};

/// The most concurrent writes of wrappings.
const CONCURRENT_WRITES: usize = 32;
/// The most ids in one operation, far below the 16 MiB of a message's document.
const MAX_IDS: usize = 10_000;

#[async_trait]
impl Vault for MongoStore {
    async fn put(&self, id: ValueId, sealed: Sealed) -> Result<(), StoreError> {
        self.vault_writer.put(VaultValue { id, sealed }).await
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
        let before = self.server_time().await? - age.as_millis() as i64;
        // A timestamp has whole seconds, so a value may count as up to a second older.
        let timestamp = Timestamp {
            time: u32::try_from(before / 1000 + 1).unwrap_or(0),
            increment: 0,
        };
        // Values of an early version have a date instead of a timestamp.
        let date = doc! { "putAt": { "$lt": DateTime::from_millis(before) } };
        let old = doc! { "$or": [{ "putAt": { "$lt": timestamp } }, date] };
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
    /// Returns the clock of the server, in milliseconds since 1970.
    async fn server_time(&self) -> Result<i64, StoreError> {
        let database = self.vault.client().database(&self.vault.namespace().db);
        let hello = with_timeout(database.run_command(doc! { "hello": 1 })).await?;
        let time = hello.get_datetime("localTime").map_err(damaged)?;
        Ok(time.timestamp_millis())
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
