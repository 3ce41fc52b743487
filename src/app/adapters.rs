//! Puts the adapters into the ports: those of the services that are configured, else the embedded ones.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

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

/// How long a service is waited for at start.
const WAIT: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(500);
/// Room for what stands around a body.
const AROUND: usize = 1 << 20;

pub struct Adapters {
    pub log: Arc<dyn EventLog>,
    pub vault: Arc<dyn Vault>,
    pub leases: Arc<dyn Leases>,
    pub bus: Arc<dyn Bus>,
}

pub async fn open(config: &Config) -> Result<Adapters, StartError> {
    let bus: Arc<dyn Bus> = match &config.services.nats {
        Some(nats) => {
            wait("NATS (NATS_URL)", async || {
                NatsBus::connect(of_nats(nats, &config.limits)).await
            })
            .await?
        }
        None => LocalBus::new(),
    };
    match &config.services.mongo {
        Some(mongo) => {
            let connect = async || {
                MongoStore::connect(of_mongo(mongo))
                    .await
                    .map_err(|error| error.0)
            };
            Ok(Adapters::new(
                Arc::new(wait("MongoDB (MONGO_URL)", connect).await?),
                bus,
            ))
        }
        None => Ok(Adapters::new(Arc::new(sqlite(&config.data_dir.path)?), bus)),
    }
}

impl Adapters {
    fn new<S: EventLog + Vault + Leases + 'static>(store: Arc<S>, bus: Arc<dyn Bus>) -> Self {
        Self {
            log: store.clone(),
            vault: store.clone(),
            leases: store,
            bus,
        }
    }
}

fn sqlite(data_dir: &Path) -> Result<SqliteStore, StartError> {
    Ok(SqliteStore::open(&store_file(data_dir))?)
}

/// Where the embedded store lies.
pub fn store_file(data_dir: &Path) -> PathBuf {
    data_dir.join("mcp-api.sqlite")
}

fn of_nats(nats: &Nats, limits: &Limits) -> NatsOptions {
    NatsOptions {
        urls: nats.urls.clone(),
        creds: nats.creds.clone(),
        ca: nats.ca.clone(),
        prefix: NatsOptions::PREFIX.to_owned(),
        max_body: limits.payload.max(limits.result) + AROUND,
    }
}

fn of_mongo(mongo: &Mongo) -> MongoOptions {
    MongoOptions {
        url: mongo.url.clone(),
        database: mongo.database.clone(),
        secrets: mongo.secrets.clone(),
    }
}

/// Tries until it works or the time is over, and says what is waited for.
async fn wait<T>(
    service: &'static str,
    connect: impl AsyncFn() -> Result<T, String>,
) -> Result<T, StartError> {
    let until = Instant::now() + WAIT;
    let mut told = false;
    loop {
        match connect().await {
            Ok(connected) => return Ok(connected),
            Err(why) if Instant::now() >= until => {
                return Err(StartError::Away {
                    service,
                    limit: WAIT,
                    why,
                });
            }
            Err(why) if !told => tracing::warn!(service, why, "waiting for a service"),
            Err(_) => {}
        }
        told = true;
        tokio::time::sleep(AGAIN).await;
    }
}
