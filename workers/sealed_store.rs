//! Stores, loads and opens the sealed values of servers in the Vault.

use std::sync::Arc;

use quick_cache::sync::Cache;

use crate::core::failure::Failure;
use crate::core::ids::{ServerId, ValueId};
use crate::core::model::remote::StoredSession;
use crate::crypto::context::{ServerValueContext, ServerValueKind};
use crate::crypto::seal::{Opener, Plaintext, Sealer};
use crate::ports::error::StoreError;
use crate::ports::vault::{Sealed, Vault};
use crate::telemetry::error::error_chain;

/// Sealed values in memory, which are never stale, because a value does not change under its id. After a key rotation an
/// old wrapping opens for as long as its key is listed.
const SEALED_VALUES: usize = 10_000;

/// The Vault with the keys that seal and open its values.
#[derive(Clone)]
pub struct SealedStore {
    pub vault: Arc<dyn Vault>,
    pub opener: Opener,
    pub sealer: Sealer,
    cache: Arc<Cache<ValueId, Sealed>>,
}

impl SealedStore {
    pub fn new(vault: Arc<dyn Vault>, opener: Opener, sealer: Sealer) -> Self {
        Self {
            vault,
            opener,
            sealer,
            cache: Arc::new(Cache::new(SEALED_VALUES)),
        }
    }

    /// Loads a sealed value from memory or from the Vault. `None`: the Vault does not contain it.
    ///
    /// # Errors
    /// A failure if the store is unavailable.
    pub async fn cached(&self, value: ValueId) -> Result<Option<Sealed>, Failure> {
        if let Some(sealed) = self.cache.get(&value) {
            return Ok(Some(sealed));
        }
        let found = self.find(value).await.map_err(store_unavailable)?;
        if let Some(sealed) = &found {
            self.cache.insert(value, sealed.clone());
        }
        Ok(found)
    }

    /// Removes values from memory, because they are removed from the Vault.
    pub fn forget(&self, values: &[ValueId]) {
        for value in values {
            self.cache.remove(value);
        }
    }

    /// Loads a sealed value. `None`: the Vault does not contain it.
    pub async fn find(&self, value: ValueId) -> Result<Option<Sealed>, StoreError> {
        Ok(self.vault.get(&[value]).await?.pop().flatten())
    }

    /// Loads a sealed value.
    ///
    /// # Errors
    /// A sentence that follows the name of the server.
    pub async fn sealed(&self, value: ValueId) -> Result<Sealed, String> {
        let found = self.find(value).await.map_err(|error| error.to_string())?;
        found.ok_or_else(|| {
            "a sealed value of it is missing in the store; set the value again".to_owned()
        })
    }

    /// Loads and opens a value.
    ///
    /// # Errors
    /// A sentence that follows the name of the server.
    pub async fn open(&self, context: ServerValueContext<'_>) -> Result<Plaintext, String> {
        let sealed = self.sealed(context.value).await?;
        self.opener
            .open(context, &sealed)
            .map_err(|error| error.to_string())
    }

    /// Seals and stores a value.
    ///
    /// # Errors
    /// The error of the sealer or of the store.
    pub async fn put(&self, context: ServerValueContext<'_>, text: &str) -> Result<(), String> {
        let sealed = self
            .sealer
            .seal(context, text)
            .map_err(|error| error.to_string())?;
        self.vault
            .put(context.value, sealed)
            .await
            .map_err(|error| error.to_string())
    }

    /// Loads and opens a session. `None`: it is missing or cannot be opened.
    pub async fn session(&self, server: ServerId, value: ValueId) -> Option<StoredSession> {
        self.open_session(server, value, &self.sealed(value).await.ok()?)
    }

    /// Opens a sealed session. `None`: it cannot be opened.
    pub fn open_session(
        &self,
        server: ServerId,
        value: ValueId,
        sealed: &Sealed,
    ) -> Option<StoredSession> {
        let opened = self
            .opener
            .open(session_context(server, value), sealed)
            .ok()?;
        serde_json::from_str(opened.expose().ok()?).ok()
    }
}

/// Returns the seal context of a session.
pub fn session_context(server: ServerId, value: ValueId) -> ServerValueContext<'static> {
    ServerValueContext {
        server,
        kind: ServerValueKind::Session,
        name: "",
        value,
    }
}

/// Logs the error of a store, and returns the failure of the request that needed the store.
pub fn store_unavailable(error: StoreError) -> Failure {
    tracing::warn!(error = error_chain(&error), "a request to the store failed");
    error.failure()
}
