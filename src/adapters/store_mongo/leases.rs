//! Leases in MongoDB, by the clock of the server.
//!
//! MongoDB removes the document of a lease that no worker has held for a day. A fencing token is at
//! least the time of the server, so the tokens grow although the document is removed.

use std::time::Duration;

use async_trait::async_trait;
use futures::TryStreamExt;
use mongodb::bson::{Bson, Document, doc};
use mongodb::options::ReturnDocument;

use super::MongoStore;
use super::error::{damaged, unless_duplicate, with_timeout};
use crate::core::ids::{LeaseId, WorkerId};
use crate::ports::error::StoreError;
use crate::ports::leases::Leases;

#[async_trait]
impl Leases for MongoStore {
    async fn acquire(
        &self,
        lease: LeaseId,
        holder: WorkerId,
        ttl: Duration,
    ) -> Result<Option<u64>, StoreError> {
        if let Some(token) = self.acquire_existing(lease, holder, ttl).await? {
            return Ok(Some(token));
        }
        // Another worker holds the lease, or there is no document, which a filter with an
        // expression cannot create.
        if self.create_free(lease).await? {
            return self.acquire_existing(lease, holder, ttl).await;
        }
        Ok(None)
    }

    async fn renew(&self, holder: WorkerId, ttl: Duration) -> Result<Vec<LeaseId>, StoreError> {
        let held = doc! { "holder": holder.to_string(), "$expr": { "$gt": ["$until", "$$NOW"] } };
        let extend = vec![doc! { "$set": { "until": expiry(ttl) } }];
        let renewed = with_timeout(self.leases.update_many(held.clone(), extend)).await?;
        if renewed.matched_count == 0 {
            return Ok(vec![]);
        }
        // The worker held these leases at the update too, because a renewal never brings back a
        // lease that the worker has lost.
        let found = self.leases.find(held).projection(doc! { "_id": 1 });
        let found: Vec<Document> = with_timeout(async { found.await?.try_collect().await }).await?;
        found.iter().map(lease_id).collect()
    }

    async fn release(&self, lease: LeaseId, holder: WorkerId) -> Result<(), StoreError> {
        let own = doc! { "_id": lease.to_string(), "holder": holder.to_string() };
        let free = vec![doc! { "$set": { "holder": Bson::Null, "until": "$$NOW" } }];
        with_timeout(self.leases.update_one(own, free)).await?;
        Ok(())
    }
}

impl MongoStore {
    /// Acquires a lease that has a document and that is free or belongs to the worker.
    async fn acquire_existing(
        &self,
        lease: LeaseId,
        holder: WorkerId,
        ttl: Duration,
    ) -> Result<Option<u64>, StoreError> {
        let holder = holder.to_string();
        let is_held = doc! { "$gt": ["$until", "$$NOW"] };
        let is_own = doc! { "$and": [{ "$eq": ["$holder", &holder] }, is_held.clone()] };
        let is_available = doc! { "$or": [is_own.clone(), { "$not": [is_held] }] };
        let filter = doc! { "_id": lease.to_string(), "$expr": is_available };
        let next = doc! { "$max": [{ "$add": ["$token", 1i64] }, { "$toLong": "$$NOW" }] };
        let token = doc! { "$cond": [is_own, "$token", next] };
        let acquire =
            vec![doc! { "$set": { "token": token, "holder": holder, "until": expiry(ttl) } }];
        let acquired = self
            .leases
            .find_one_and_update(filter, acquire)
            .return_document(ReturnDocument::After);
        let acquired = with_timeout(acquired).await?;
        acquired
            .map(|lease| Ok(lease.get_i64("token").map_err(damaged)? as u64))
            .transpose()
    }

    /// Creates the document of a free lease. Returns false if the document exists. `until` is now,
    /// because MongoDB removes the document of a lease that ended long ago.
    async fn create_free(&self, lease: LeaseId) -> Result<bool, StoreError> {
        let free = vec![doc! { "$set": {
            "holder": { "$ifNull": ["$holder", Bson::Null] },
            "until": { "$ifNull": ["$until", "$$NOW"] },
            "token": { "$ifNull": ["$token", 0i64] },
        } }];
        let filter = doc! { "_id": lease.to_string() };
        let created = self.leases.update_one(filter, free).upsert(true);
        let created = unless_duplicate(created).await?;
        Ok(created.is_some_and(|created| created.upserted_id.is_some()))
    }
}

fn expiry(ttl: Duration) -> Document {
    doc! { "$add": ["$$NOW", ttl.as_millis() as i64] }
}

fn lease_id(lease: &Document) -> Result<LeaseId, StoreError> {
    let id = lease.get_str("_id").map_err(damaged)?;
    id.parse().map(LeaseId).map_err(damaged)
}
