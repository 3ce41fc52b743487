//! Leases in MongoDB, by the server's clock.
//!
//! MongoDB itself drops the document of one that nobody has held for a day. Tokens are the server's time at
//! least, so that they grow over that too.

use std::time::Duration;

use async_trait::async_trait;
use futures::TryStreamExt;
use mongodb::bson::{Bson, Document, doc};
use mongodb::options::ReturnDocument;

use super::{MongoStore, damaged, failed, is_duplicate, with_timeout};
use crate::core::ids::{LeaseId, WorkerId};
use crate::ports::error::StoreError;
use crate::ports::leases::Leases;

#[async_trait]
impl Leases for MongoStore {
    async fn acquire(
        &self,
        what: LeaseId,
        holder: WorkerId,
        ttl: Duration,
    ) -> Result<Option<u64>, StoreError> {
        if let Some(token) = self.take_free(what, holder, ttl).await? {
            return Ok(Some(token));
        }
        // Somebody has it, or there is no document yet, and an expression cannot make one.
        // One that ended long ago would be dropped again before it is taken.
        let free = doc! { "holder": Bson::Null, "until": "$$NOW", "token": 0i64 };
        let free = free.into_iter().map(|(field, value)| {
            (
                field.clone(),
                doc! { "$ifNull": [format!("${field}"), value] }.into(),
            )
        });
        let free = vec![doc! { "$set": free.collect::<Document>() }];
        match timely_or_duplicate(
            self.leases
                .update_one(doc! { "_id": what.to_string() }, free)
                .upsert(true),
        )
        .await?
        {
            Some(made) if made.upserted_id.is_some() => self.take_free(what, holder, ttl).await,
            _ => Ok(None),
        }
    }

    async fn renew(&self, holder: WorkerId, ttl: Duration) -> Result<Vec<LeaseId>, StoreError> {
        let held = doc! { "holder": holder.to_string(), "$expr": { "$gt": ["$until", "$$NOW"] } };
        let later = vec![doc! { "$set": { "until": until(ttl) } }];
        let renewed = with_timeout(self.leases.update_many(held.clone(), later)).await?;
        if renewed.matched_count == 0 {
            return Ok(vec![]);
        }
        // All that are held now were held then: whoever loses one does not get it back by renewing.
        let found = self.leases.find(held).projection(doc! { "_id": 1 });
        let found: Vec<Document> = with_timeout(async { found.await?.try_collect().await }).await?;
        let id = |lease: &Document| {
            lease
                .get_str("_id")
                .map_err(damaged)?
                .parse()
                .map(LeaseId)
                .map_err(damaged)
        };
        found.iter().map(id).collect()
    }

    async fn release(&self, what: LeaseId, holder: WorkerId) -> Result<(), StoreError> {
        let own = doc! { "_id": what.to_string(), "holder": holder.to_string() };
        let free = vec![doc! { "$set": { "holder": Bson::Null, "until": "$$NOW" } }];
        with_timeout(self.leases.update_one(own, free))
            .await
            .map(drop)
    }
}

impl MongoStore {
    /// Takes a lease that nobody holds, or the own one.
    async fn take_free(
        &self,
        what: LeaseId,
        holder: WorkerId,
        ttl: Duration,
    ) -> Result<Option<u64>, StoreError> {
        let holder = holder.to_string();
        let lives = doc! { "$gt": ["$until", "$$NOW"] };
        let own = doc! { "$and": [{ "$eq": ["$holder", &holder] }, lives.clone()] };
        let mine = doc! { "_id": what.to_string(), "$expr": { "$or": [own.clone(), { "$not": [lives] }] } };
        let next = doc! { "$max": [{ "$add": ["$token", 1i64] }, { "$toLong": "$$NOW" }] };
        let token = doc! { "$cond": [own, "$token", next] };
        let taken =
            vec![doc! { "$set": { "token": token, "holder": holder, "until": until(ttl) } }];
        let lease = self
            .leases
            .find_one_and_update(mine, taken)
            .return_document(ReturnDocument::After);
        let Some(lease) = with_timeout(lease).await? else {
            return Ok(None);
        };
        Ok(Some(lease.get_i64("token").map_err(damaged)? as u64))
    }
}

fn until(ttl: Duration) -> Document {
    doc! { "$add": ["$$NOW", ttl.as_millis() as i64] }
}

/// `None`: somebody else has made it at the same moment.
async fn timely_or_duplicate<T>(
    operation: impl IntoFuture<Output = Result<T, mongodb::error::Error>>,
) -> Result<Option<T>, StoreError> {
    match tokio::time::timeout(super::OPERATION, operation.into_future()).await {
        Ok(Ok(done)) => Ok(Some(done)),
        Ok(Err(error)) if is_duplicate(&error) => Ok(None),
        Ok(Err(error)) => Err(failed(&error)),
        Err(_) => Err(StoreError("MongoDB did not answer".to_owned())),
    }
}
