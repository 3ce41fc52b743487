//! The Vault in MongoDB. Ages are counted by the server's clock.
//!
//! A value's wrapping stands beside the rest of its bytes, so that it is read and replaced without those. In
//! what an earlier version has put, `sealed` holds both.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Document, doc};

use super::{MongoStore, damaged, failed, is_duplicate, with_timeout};
use crate::core::ids::ValueId;
use crate::ports::error::StoreError;
use crate::ports::vault::{KeyRecord, Sealed, Vault, VaultValue, WrappingChange};

/// Values put, or wrappings replaced, at once.
const AT_ONCE: usize = 32;

#[async_trait]
impl Vault for MongoStore {
    async fn put(&self, id: ValueId, sealed: Sealed) -> Result<(), StoreError> {
        let (wrapping, rest) = sealed.split();
        // The same put again, after a failure of unknown outcome, changes nothing.
        let first = |field: &str, bytes: &[u8]| {
            let there = doc! { "$ne": [{ "$type": "$sealed" }, "missing"] };
            doc! { "$cond": [there, field, { "$literal": binary(bytes) }] }
        };
        let value = doc! {
            "putAt": { "$ifNull": ["$putAt", "$$NOW"] },
            "wrapping": first("$wrapping", &wrapping),
            "sealed": first("$sealed", &rest),
        };
        let put = self
            .vault
            .update_one(doc! { "_id": id.to_string() }, vec![doc! { "$set": value }])
            .upsert(true);
        with_timeout(put).await.map(drop)
    }

    async fn get(&self, ids: &[ValueId]) -> Result<Vec<Option<Sealed>>, StoreError> {
        let wanted: Vec<_> = ids.iter().map(ToString::to_string).collect();
        let found = self
            .vault
            .find(doc! { "_id": { "$in": &wanted } })
            .projection(doc! { "wrapping": 1, "sealed": 1 });
        let found: Vec<Document> = with_timeout(async { found.await?.try_collect().await }).await?;
        let mut values = HashMap::with_capacity(found.len());
        for value in &found {
            values.insert(value.get_str("_id").map_err(damaged)?, whole(value)?);
        }
        // An id may be asked for twice.
        Ok(wanted
            .iter()
            .map(|id| values.get(id.as_str()).cloned())
            .collect())
    }

    async fn remove(&self, ids: &[ValueId]) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
        with_timeout(self.vault.delete_many(doc! { "_id": { "$in": ids } }))
            .await
            .map(drop)
    }

    async fn older_than(&self, age: Duration) -> Result<Vec<ValueId>, StoreError> {
        let before = doc! { "$subtract": ["$$NOW", age.as_millis() as i64] };
        let old = doc! { "$expr": { "$lt": ["$putAt", before] } };
        let found = self.vault.find(old).projection(doc! { "_id": 1 });
        let found: Vec<Document> = with_timeout(async { found.await?.try_collect().await }).await?;
        found.iter().map(id_of).collect()
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
            .limit(i64::try_from(limit).unwrap_or(i64::MAX));
        let found = found.projection(doc! { "wrapping": { "$ifNull": ["$wrapping", "$sealed"] } });
        let found: Vec<Document> = with_timeout(async { found.await?.try_collect().await }).await?;
        let wrapping = |value: &Document| {
            Ok((
                id_of(value)?,
                Sealed(bytes_of(value, "wrapping")?).split().0,
            ))
        };
        found.iter().map(wrapping).collect()
    }

    async fn rewrap(&self, changes: Vec<WrappingChange>) -> Result<usize, StoreError> {
        let given = stream::iter(changes)
            .map(|change| self.rewrap_one(change))
            .buffer_unordered(AT_ONCE);
        given
            .try_fold(0, async |given, one| Ok(given + usize::from(one)))
            .await
    }

    async fn key_record(
        &self,
        proposed: Option<KeyRecord>,
    ) -> Result<Option<KeyRecord>, StoreError> {
        let one = doc! { "_id": "key" };
        if let Some(KeyRecord { salt, check }) = proposed {
            let first = doc! { "$setOnInsert": { "salt": binary(&salt), "check": binary(&check) } };
            match self.keys.update_one(one.clone(), first).upsert(true).await {
                // Of two at once the other was first.
                Err(error) if !is_duplicate(&error) => return Err(failed(&error)),
                _ => {}
            }
        }
        let Some(record) = with_timeout(self.keys.find_one(one)).await? else {
            return Ok(None);
        };
        let salt = record
            .get_binary_generic("salt")
            .map_err(damaged)?
            .as_slice()
            .try_into()
            .map_err(damaged)?;
        let check = record.get_binary_generic("check").map_err(damaged)?.clone();
        Ok(Some(KeyRecord { salt, check }))
    }

    async fn renew_key_record(&self, from: &KeyRecord, check: Vec<u8>) -> Result<bool, StoreError> {
        let stored =
            doc! { "_id": "key", "salt": binary(&from.salt), "check": binary(&from.check) };
        let renewed = with_timeout(
            self.keys
                .update_one(stored, doc! { "$set": { "check": binary(&check) } }),
        )
        .await?;
        Ok(renewed.matched_count > 0)
    }
}

impl MongoStore {
    pub(super) async fn put_all(&self, values: &[VaultValue]) -> Result<(), StoreError> {
        let put =
            stream::iter(values.to_vec()).map(|VaultValue { id, sealed }| self.put(id, sealed));
        put.buffer_unordered(AT_ONCE).try_collect().await
    }

    async fn rewrap_one(
        &self,
        WrappingChange { id, from, to }: WrappingChange,
    ) -> Result<bool, StoreError> {
        let replaced = async |there: Document, with: Document| {
            let replaced =
                with_timeout(self.vault.update_one(there, doc! { "$set": with })).await?;
            Ok::<_, StoreError>(replaced.matched_count > 0)
        };
        let there = doc! { "_id": id.to_string(), "wrapping": binary(&from) };
        if replaced(there, doc! { "wrapping": binary(&to) }).await? {
            return Ok(true);
        }
        let earlier = doc! { "_id": id.to_string(), "wrapping": { "$exists": false } };
        let Some(value) = with_timeout(self.vault.find_one(earlier.clone())).await? else {
            return Ok(false);
        };
        let sealed = whole(&value)?;
        let (wrapping, rest) = sealed.split();
        if wrapping != from {
            return Ok(false);
        }
        replaced(
            earlier,
            doc! { "wrapping": binary(&to), "sealed": binary(&rest) },
        )
        .await
    }
}

fn whole(value: &Document) -> Result<Sealed, StoreError> {
    let rest = bytes_of(value, "sealed")?;
    match value.contains_key("wrapping") {
        true => Ok(Sealed::wrapped(&bytes_of(value, "wrapping")?, &rest)),
        false => Ok(Sealed(rest)),
    }
}

fn bytes_of(value: &Document, field: &str) -> Result<Bytes, StoreError> {
    value
        .get_binary_generic(field)
        .map(|bytes| Bytes::copy_from_slice(bytes))
        .map_err(damaged)
}

fn id_of(value: &Document) -> Result<ValueId, StoreError> {
    value
        .get_str("_id")
        .map_err(damaged)?
        .parse()
        .map(ValueId)
        .map_err(damaged)
}

pub(super) fn binary(bytes: &[u8]) -> Binary {
    Binary {
        subtype: BinarySubtype::Generic,
        bytes: bytes.to_vec(),
    }
}
