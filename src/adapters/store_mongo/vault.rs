//! The Vault in MongoDB. Ages are counted by the server's clock.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Document, doc};

use super::{MongoStore, damaged, duplicate, failed, timely};
use crate::core::names::ValueId;
use crate::ports::{KeyRecord, Sealed, StoreError, Vault};

#[async_trait]
impl Vault for MongoStore {
    async fn put(&self, id: ValueId, sealed: Sealed) -> Result<(), StoreError> {
        // The same put again, after a failure of unknown outcome, changes nothing.
        let value = doc! {
            "putAt": { "$ifNull": ["$putAt", "$$NOW"] },
            "sealed": { "$ifNull": ["$sealed", { "$literal": binary(&sealed.0) }] },
        };
        let put = self.vault.update_one(doc! { "_id": id.to_string() }, vec![doc! { "$set": value }]).upsert(true);
        timely(put).await.map(drop)
    }

    async fn get(&self, ids: &[ValueId]) -> Result<Vec<Option<Sealed>>, StoreError> {
        let wanted: Vec<_> = ids.iter().map(ToString::to_string).collect();
        let found = self.vault.find(doc! { "_id": { "$in": &wanted } }).projection(doc! { "sealed": 1 });
        let found: Vec<Document> = timely(async { found.await?.try_collect().await }).await?;
        let mut values = HashMap::with_capacity(found.len());
        for value in &found {
            let sealed = value.get_binary_generic("sealed").map_err(damaged)?;
            values.insert(value.get_str("_id").map_err(damaged)?, Sealed(Bytes::copy_from_slice(sealed)));
        }
        // An id may be asked for twice.
        Ok(wanted.iter().map(|id| values.get(id.as_str()).cloned()).collect())
    }

    async fn remove(&self, ids: &[ValueId]) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
        timely(self.vault.delete_many(doc! { "_id": { "$in": ids } })).await.map(drop)
    }

    async fn older_than(&self, age: Duration) -> Result<Vec<ValueId>, StoreError> {
        let before = doc! { "$subtract": ["$$NOW", age.as_millis() as i64] };
        let old = doc! { "$expr": { "$lt": ["$putAt", before] } };
        let found = self.vault.find(old).projection(doc! { "_id": 1 });
        let found: Vec<Document> = timely(async { found.await?.try_collect().await }).await?;
        let id = |value: &Document| value.get_str("_id").map_err(damaged)?.parse().map(ValueId).map_err(damaged);
        found.iter().map(id).collect()
    }

    async fn key_record(&self, proposed: Option<KeyRecord>) -> Result<Option<KeyRecord>, StoreError> {
        let one = doc! { "_id": "key" };
        if let Some(KeyRecord { salt, check }) = proposed {
            let first = doc! { "$setOnInsert": { "salt": binary(&salt), "check": binary(&check) } };
            match self.keys.update_one(one.clone(), first).upsert(true).await {
                // Of two at once the other was first.
                Err(error) if duplicate(&error).is_none() => return Err(failed(&error)),
                _ => {}
            }
        }
        let Some(record) = timely(self.keys.find_one(one)).await? else { return Ok(None) };
        let salt = record.get_binary_generic("salt").map_err(damaged)?.as_slice().try_into().map_err(damaged)?;
        let check = record.get_binary_generic("check").map_err(damaged)?.clone();
        Ok(Some(KeyRecord { salt, check }))
    }
}

fn binary(bytes: &[u8]) -> Binary {
    Binary { subtype: BinarySubtype::Generic, bytes: bytes.to_vec() }
}
