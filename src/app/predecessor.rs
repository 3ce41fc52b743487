//! An original's data, for the one import that reads it.

pub use crate::adapters::predecessor_mongo::PredecessorData;
use crate::adapters::store_mongo::MongoOptions;
use crate::config::Mongo;
use crate::ports::error::StoreError;

/// Everything that it has, read and not changed.
pub async fn read(
    Mongo {
        url,
        database,
        secrets,
    }: &Mongo,
) -> Result<PredecessorData, StoreError> {
    let (url, database, secrets) = (url.clone(), database.clone(), secrets.clone());
    PredecessorData::read(MongoOptions {
        url,
        database,
        secrets,
    })
    .await
}
