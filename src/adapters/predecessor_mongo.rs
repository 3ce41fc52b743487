//! Reads the MongoDB of the predecessor, and writes nothing there.

use std::time::Duration;

use futures::TryStreamExt;
use mongodb::bson::{Bson, Document, doc};
use mongodb::options::ClientOptions;
use mongodb::{Client, Database};
use serde_json::Value;

use super::store_mongo::MongoOptions;
use crate::ports::error::StoreError;

/// The longest search for a server.
const SELECTION_LIMIT: Duration = Duration::from_secs(10);
/// The longest read of one collection.
const READ_LIMIT: Duration = Duration::from_secs(300);

/// The documents of the collections of the predecessor, as JSON.
pub struct PredecessorData {
    pub servers: Vec<Value>,
    pub secrets: Vec<Value>,
    pub packages: Vec<Value>,
    pub tokens: Vec<Value>,
}

impl PredecessorData {
    /// Reads all documents. `secrets` of the options is the whole name of a collection.
    ///
    /// # Errors
    /// Returns an error if the URL is invalid, no server answers, or a collection takes too long.
    pub async fn read(options: MongoOptions) -> Result<Self, StoreError> {
        let unusable = |_| StoreError::Unusable("the URL is no URL of MongoDB");
        let mut client = ClientOptions::parse(&options.url).await.map_err(unusable)?;
        client
            .app_name
            .get_or_insert_with(|| "mcp-api import".to_owned());
        client.server_selection_timeout = Some(SELECTION_LIMIT);
        client.connect_timeout = Some(SELECTION_LIMIT);
        let client = Client::with_options(client).map_err(unusable)?;
        let database = client
            .default_database()
            .unwrap_or_else(|| client.database(&options.database));
        Ok(Self {
            servers: read_collection(&database, "mcp").await?,
            secrets: read_collection(&database, &options.secrets).await?,
            packages: read_collection(&database, "packages").await?,
            tokens: read_collection(&database, "mcpOAuthTokens").await?,
        })
    }
}

/// Returns the documents in the order of their ids. A missing collection is empty.
async fn read_collection(database: &Database, collection: &str) -> Result<Vec<Value>, StoreError> {
    let read = async {
        let found = database
            .collection::<Document>(collection)
            .find(doc! {})
            .sort(doc! { "_id": 1 })
            .await?;
        found.try_collect::<Vec<_>>().await
    };
    let documents = match tokio::time::timeout(READ_LIMIT, read).await {
        Ok(documents) => documents.map_err(StoreError::failed)?,
        Err(_) => return Err(StoreError::TimedOut { limit: READ_LIMIT }),
    };
    let documents = documents.into_iter();
    Ok(documents
        .map(|document| to_json(Bson::Document(document)))
        .collect())
}

/// Returns the JSON of a value. JavaScript stores every number as a double, so a whole double becomes
/// an integer.
fn to_json(value: Bson) -> Value {
    match value {
        Bson::Document(fields) => fields
            .into_iter()
            .map(|(name, value)| (name, to_json(value)))
            .collect(),
        Bson::Array(values) => values.into_iter().map(to_json).collect(),
        Bson::String(text) => Value::String(text),
        Bson::Boolean(yes) => Value::Bool(yes),
        Bson::Int32(number) => number.into(),
        Bson::Int64(number) => number.into(),
        Bson::Double(number) if number.fract() == 0.0 && number.abs() < 9e15 => {
            (number as i64).into()
        }
        Bson::Double(number) => number.into(),
        Bson::Null | Bson::Undefined => Value::Null,
        Bson::DateTime(at) => at.timestamp_millis().into(),
        // Ids and similar types. The import uses no field of such a type.
        other => Value::String(other.to_string()),
    }
}
