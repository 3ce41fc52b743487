//! The stored state of a server: its protocol mode, and the session behind a URL, whose id is sealed in the Vault.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use parking_lot::Mutex;
use uuid::Uuid;

use super::lease::LocalLease;
use crate::core::decide::connection::{ConnectionFinding, ConnectionTarget, record_finding};
use crate::core::event::Actor;
use crate::core::ids::{CommandId, ServerId, ValueId};
use crate::core::model::remote::StoredSession;
use crate::core::names::UserName;
use crate::eventlog::appender::Appender;
use crate::telemetry::error::error_chain;
use crate::workers::mcp::SessionStore;
use crate::workers::oauth::token_source::TokenSourceDeps;
use crate::workers::sealed_store::{SealedStore, session_context};

/// The stored state of one server, or of the connection of one user to it.
#[derive(Clone)]
pub struct StoredState {
    pub sealed_store: SealedStore,
    pub appender: Appender,
    pub grants: Arc<TokenSourceDeps>,
    pub server: ServerId,
    /// The user of the connection, if the user has a grant. The session of such a connection is not stored.
    pub user: Option<UserName>,
    pub target: ConnectionTarget,
    /// The id of the session, for the replies of the API.
    pub session_id: Arc<ArcSwapOption<String>>,
    /// The sealed value of the stored session.
    pub stored: Arc<Mutex<Option<ValueId>>>,
    /// The right of this worker to run the server. Without it the worker records nothing.
    pub lease: Arc<LocalLease>,
}

impl StoredState {
    /// Begins a connection with the session that the catalog names.
    pub fn begin(&self, session: Option<ValueId>) {
        *self.stored.lock() = session.filter(|_| self.user.is_none());
    }

    /// Stores a session and returns the id of the sealed value: put the value, append the event, remove the old value.
    /// Without the stored session a restart opens a new session.
    async fn store_session(&self, session: &StoredSession) -> Option<ValueId> {
        let value = ValueId(Uuid::now_v7());
        let context = session_context(self.server, value);
        let text = zeroize::Zeroizing::new(serde_json::to_string(session).ok()?);
        let sealed = self.sealed_store.sealer.seal(context, &text).ok()?;
        if let Err(error) = self.sealed_store.vault.put(value, sealed).await {
            tracing::warn!(server = %self.server, error = error_chain(&error), "cannot store a session");
            return None;
        }
        self.found(ConnectionFinding::Session(value)).await;
        Some(value)
    }

    async fn remove_value(&self, old: ValueId) {
        if let Err(error) = self.sealed_store.vault.remove(&[old]).await {
            tracing::warn!(
                error = error_chain(&error),
                "cannot remove an old session; the sweep of the Vault removes it"
            );
        }
    }

    /// Records a finding about the server if the catalog does not have it.
    pub async fn found(&self, found: ConnectionFinding) {
        let server = self.server;
        let target = self.target.clone();
        let lease = self.lease.clone();
        let token = lease.fencing_token();
        let id = CommandId(Uuid::now_v7());
        let recorded = self.appender.commit(id, Actor::worker(), move |catalog| {
            if !lease.is_held() {
                return Ok(vec![]);
            }
            Ok(record_finding(catalog, server, &target, found, token))
        });
        if let Err(failure) = recorded.await {
            tracing::warn!(server = %self.server, %failure, "cannot record a finding about a server");
        }
    }
}

/// A user's own connection stores and shows no session.
#[async_trait]
impl SessionStore for StoredState {
    async fn load(&self) -> Option<StoredSession> {
        let value = (*self.stored.lock())?;
        let session = self.sealed_store.session(self.server, value).await?;
        self.show(Some(&session.id));
        Some(session)
    }

    fn show(&self, session_id: Option<&str>) {
        if self.user.is_some() {
            return;
        }
        self.session_id
            .store(session_id.map(|id| Arc::new(id.to_owned())));
    }

    async fn store(&self, session: &StoredSession) {
        if self.user.is_some() {
            return;
        }
        self.show(Some(&session.id));
        let Some(value) = self.store_session(session).await else {
            return;
        };
        let old = self.stored.lock().replace(value);
        if let Some(old) = old {
            self.remove_value(old).await;
        }
    }

    async fn end(&self) {
        self.show(None);
        let old = self.stored.lock().take();
        if let Some(old) = old {
            self.found(ConnectionFinding::NoSession(old)).await;
            self.remove_value(old).await;
        }
    }
}
