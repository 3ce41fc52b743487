//! Puts the adapters into the ports: those of the services that are configured, else the embedded ones.

use std::sync::Arc;

use super::StartError;
use crate::adapters::bus_in_process::InProcessBus;
use crate::adapters::store_sqlite::SqliteStore;
use crate::config::Config;
use crate::ports::{Bus, EventLog, Leases, Vault};

pub struct Ports {
    pub log: Arc<dyn EventLog>,
    pub vault: Arc<dyn Vault>,
    pub leases: Arc<dyn Leases>,
    pub bus: Arc<dyn Bus>,
}

pub async fn open(config: &Config) -> Result<Ports, StartError> {
    let store = Arc::new(SqliteStore::open(&config.place.data_dir.join("mcp-api.sqlite"))?);
    Ok(Ports { log: store.clone(), vault: store.clone(), leases: store, bus: InProcessBus::new() })
}
