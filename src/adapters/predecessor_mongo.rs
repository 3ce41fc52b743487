//! Reads the MongoDB of the predecessor. The program never writes to it.

use std::time::Duration;

use futures::TryStreamExt;
use mongodb::bson::{Bson, Document, doc};
use mongodb::options::ClientOptions;
use mongodb::{Client, Database};
use serde_json::Value;

use super::store_mongo::MongoOptions;
use crate::ports::error::StoreError;

/// The time limit for the search for a server.
const FIND: Duration = Duration::from_secs(10);
/// The time limit for reading one collection.
const READ: Duration = Duration::from_secs(300);

/// The documents of the predecessor's collections, as JSON.
pub struct PredecessorData {
    pub servers: Vec<Value>,
    pub secrets: Vec<Value>,
    pub packages: Vec<Value>,
    pub tokens: Vec<Value>,
}

impl PredecessorData {
    /// Reads all collections. The field `secrets` of the options is the name of the collection of secrets.
    pub async fn read(options: MongoOptions) -> Result<Self, StoreError> {
        let unusable = |_| StoreError("the URL is not a MongoDB URL".to_owned());
        let mut client = ClientOptions::parse(&options.url).await.map_err(unusable)?;
        client
            .app_name
            .get_or_insert_with(|| "mcp-api import".to_owned());
        client.server_selection_timeout = Some(FIND);
        client.connect_timeout = Some(FIND);
        let client = Client::with_options(client).map_err(unusable)?;
        let database = client
            .default_database()
            .unwrap_or_else(|| client.database(&options.database));
        Ok(Self {
            servers: all(&database, "mcp").await?,
            secrets: all(&database, &options.secrets).await?,
            packages: all(&database, "packages").await?,
            tokens: all(&database, "mcpOAuthTokens").await?,
        })
    }
}

/// Returns the documents of a collection in the order of their ids. A missing collection is empty.
async fn all(database: &Database, collection: &str) -> Result<Vec<Value>, StoreError> {
    let read = async {
        let found = database
            .collection::<Document>(collection)
            .find(doc! {})
            .sort(doc! { "_id": 1 })
            .await?;
        found.try_collect::<Vec<_>>().await
    };
    let documents = tokio::time::timeout(READ, read).await;
    let documents = documents.map_err(|_| {
        StoreError(format!(
            "reading the collection {collection} takes too long"
        ))
    })?;
    let documents =
        documents.map_err(|error| StoreError(error.to_string().chars().take(500).collect()))?;
    Ok(documents
        .into_iter()
        .map(|document| json(Bson::Document(document)))
        .collect())
}

/// Converts a value to JSON. JavaScript has one kind of number and MongoDB has several, so a whole number becomes an
/// integer.
fn json(value: Bson) -> Value {
    match value {
        Bson::Document(fields) => fields
            .into_iter()
            .map(|(name, value)| (name, json(value)))
            .collect(),
        Bson::Array(values) => values.into_iter().map(json).collect(),
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
        // The import reads no value of any other type.
        other => Value::String(other.to_string()),
    }
}
