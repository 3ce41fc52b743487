//! Connects the ports to their adapters: the configured services, or the embedded store and bus.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::StartError;
use crate::adapters::bus_local::LocalBus;
use crate::adapters::bus_nats::{NatsBus, NatsOptions};
use crate::adapters::store_mongo::{MongoOptions, MongoStore};
use crate::adapters::store_sqlite::SqliteStore;
use crate::config::{Config, Limits, Mongo, Nats};
use crate::ports::bus::Bus;
use crate::ports::event_log::EventLog;
use crate::ports::leases::Leases;
use crate::ports::vault::Vault;
use crate::telemetry::error::error_chain;
use crate::time::retry::SERVICE_AT_START;

/// Bytes that a message needs beside its body.
const MESSAGE_OVERHEAD: usize = 1 << 20;

/// The adapters of this process behind their ports.
pub(super) struct Adapters {
    pub log: Arc<dyn EventLog>,
    pub vault: Arc<dyn Vault>,
    pub leases: Arc<dyn Leases>,
    pub bus: Arc<dyn Bus>,
    embedded_store: Option<Arc<SqliteStore>>,
}

/// Opens the store and the bus. Waits up to 60 seconds for each external service.
///
/// # Errors
/// Returns `Unreachable` if a service does not answer in time, and `Store` if the embedded store
/// cannot be opened.
pub(super) async fn open_adapters(config: &Config) -> Result<Adapters, StartError> {
    let bus: Arc<dyn Bus> = match &config.services.nats {
        Some(nats) => connect_nats(nats, &config.limits).await?,
        None => LocalBus::new(),
    };
    match &config.services.mongo {
        Some(mongo) => Ok(Adapters::new(connect_mongo(mongo).await?, bus)),
        None => {
            let store = Arc::new(SqliteStore::open(&store_file(&config.data_dir.path))?);
            Ok(Adapters {
                embedded_store: Some(store.clone()),
                ..Adapters::new(store, bus)
            })
        }
    }
}

impl Adapters {
    fn new<S: EventLog + Vault + Leases + 'static>(store: Arc<S>, bus: Arc<dyn Bus>) -> Self {
        Self {
            log: store.clone(),
            vault: store.clone(),
            leases: store,
            bus,
            embedded_store: None,
        }
    }

    /// Empties the write-ahead log of the embedded store. Tasks hold the store until the process ends, so no drop does
    /// this.
    pub(super) async fn close(&self) {
        // The last replies and hints leave the process.
        self.bus.flush().await;
        let Some(store) = &self.embedded_store else {
            return;
        };
        if let Err(error) = store.empty_write_ahead_log().await {
            let error = error_chain(&error);
            tracing::warn!(%error, "the write-ahead log of the store is not empty");
        }
    }
}

/// Returns the file of the embedded store.
pub(super) fn store_file(data_dir: &Path) -> PathBuf {
    data_dir.join("mcp-api.sqlite")
}

async fn connect_nats(nats: &Nats, limits: &Limits) -> Result<Arc<dyn Bus>, StartError> {
    let bus = wait_for_service("NATS (NATS_URL)", async || {
        let connected = NatsBus::connect(nats_options(nats, limits)).await;
        connected.map_err(|error| error_chain(&error))
    });
    Ok(bus.await?)
}

async fn connect_mongo(mongo: &Mongo) -> Result<Arc<MongoStore>, StartError> {
    let store = wait_for_service("MongoDB (MONGO_URL)", async || {
        let connected = MongoStore::connect(mongo_options(mongo)).await;
        connected.map_err(|error| error_chain(&error))
    });
    Ok(Arc::new(store.await?))
}

fn nats_options(nats: &Nats, limits: &Limits) -> NatsOptions {
    NatsOptions {
        urls: nats.urls.clone(),
        creds: nats.creds.clone(),
        ca: nats.ca.clone(),
        prefix: NatsOptions::PREFIX.to_owned(),
        max_body: limits.payload.max(limits.result) + MESSAGE_OVERHEAD,
    }
}

pub(super) fn mongo_options(mongo: &Mongo) -> MongoOptions {
    MongoOptions {
        url: mongo.url.clone(),
        database: mongo.database.clone(),
        secrets: mongo.secrets.clone(),
    }
}

/// Repeats `connect` until it succeeds or the limit of [`SERVICE_AT_START`] is reached. The log
/// names the service once.
async fn wait_for_service<T>(
    service: &'static str,
    connect: impl AsyncFn() -> Result<T, String>,
) -> Result<T, StartError> {
    let mut attempts = SERVICE_AT_START.start();
    let mut is_logged = false;
    loop {
        let reason = match connect().await {
            Ok(connected) => return Ok(connected),
            Err(reason) => reason,
        };
        if !is_logged {
            tracing::warn!(service, error = reason, "the program waits for a service");
            is_logged = true;
        }
        if !attempts.wait().await {
            return Err(StartError::Unreachable {
                service,
                limit: SERVICE_AT_START.limit().unwrap_or_default(),
                reason,
            });
        }
    }
}
