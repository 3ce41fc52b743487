//!

use std::sync::Arc;

use super::runtime::remote_state::session_place;
use crate::core::ids::{ServerId, ValueId};
use crate::core::model::remote::StoredSession;
use crate::crypto::context::ServerValueContext;
use crate::crypto::seal::{Opener, Plaintext, Sealer};
use crate::ports::error::StoreError;
use crate::ports::vault::{Sealed, Vault};

/// What a worker needs to keep secrets of servers.
#[derive(Clone)]
pub struct SealedStore {
    pub vault: Arc<dyn Vault>,
    pub opener: Opener,
    pub sealer: Sealer,
}

impl SealedStore {
    pub async fn find(&self, value: ValueId) -> Result<Option<Sealed>, StoreError> {
        Ok(self.vault.get(&[value]).await?.pop().flatten())
    }

    pub async fn sealed(&self, value: ValueId) -> Result<Sealed, String> {
        let found = self.find(value).await.map_err(|error| error.to_string())?;
        found.ok_or_else(|| "a sealed value of it is gone; give it anew".to_owned())
    }

    pub async fn open(&self, place: ServerValueContext<'_>) -> Result<Plaintext, String> {
        let sealed = self.sealed(place.value).await?;
        self.opener
            .open(place, &sealed)
            .map_err(|error| error.to_string())
    }

    pub async fn put(&self, place: ServerValueContext<'_>, text: &str) -> Result<(), String> {
        let sealed = self
            .sealer
            .seal(place, text)
            .map_err(|error| error.to_string())?;
        self.vault
            .put(place.value, sealed)
            .await
            .map_err(|error| error.to_string())
    }

    /// The session that lies there.
    pub async fn session(&self, server: ServerId, value: ValueId) -> Option<StoredSession> {
        self.open_session(server, value, &self.sealed(value).await.ok()?)
    }

    pub fn open_session(
        &self,
        server: ServerId,
        value: ValueId,
        sealed: &Sealed,
    ) -> Option<StoredSession> {
        let opened = self
            .opener
            .open(session_place(server, value), sealed)
            .ok()?;
        serde_json::from_str(opened.expose().ok()?).ok()
    }
}
