//! The data of the predecessor, for the import.

use super::adapters::mongo_options;
pub use crate::adapters::predecessor_mongo::PredecessorData;
use crate::config::Mongo;
use crate::ports::error::StoreError;

/// Reads all data of the predecessor and changes nothing.
///
/// # Errors
/// Returns an error if MongoDB cannot be read.
pub async fn read(mongo: &Mongo) -> Result<PredecessorData, StoreError> {
    PredecessorData::read(mongo_options(mongo)).await
}
