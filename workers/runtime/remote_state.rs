//! The stored state of a server behind a URL: its protocol mode, and its session, whose id is sealed in the Vault.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use uuid::Uuid;

use crate::core::decide::remote::{RemoteFinding, record_finding};
use crate::core::event::Actor;
use crate::core::ids::{CommandId, ServerId, ValueId};
use crate::core::model::remote::StoredSession;
use crate::core::names::UserName;
use crate::crypto::context::{ServerValueContext, ServerValueKind};
use crate::eventlog::appender::Appender;
use crate::workers::oauth::token_source::TokenSourceDeps;
use crate::workers::sealed_store::SealedStore;

/// Returns the seal context of a session.
pub fn session_context(server: ServerId, value: ValueId) -> ServerValueContext<'static> {
    ServerValueContext {
        server,
        kind: ServerValueKind::Session,
        name: "",
        value,
    }
}

/// The stored state of one server at one URL, or of the connection of one user to it.
#[derive(Clone)]
pub struct RemoteState {
    pub sealed_store: SealedStore,
    pub appender: Appender,
    pub grants: Arc<TokenSourceDeps>,
    pub server: ServerId,
    /// The user of the connection, if the user has a grant. The session of such a connection is not stored.
    pub user: Option<UserName>,
    pub url: Arc<str>,
    /// The id of the session, for the answers of the API.
    pub session_id: Arc<ArcSwapOption<String>>,
}

impl RemoteState {
    /// Loads the session that was opened last. `None`: it cannot be read.
    pub async fn session(&self, value: ValueId) -> Option<StoredSession> {
        let session = self.sealed_store.session(self.server, value).await?;
        self.show(Some(&session.id));
        Some(session)
    }

    /// Sets the session id that the API shows.
    pub fn show(&self, session_id: Option<&str>) {
        if self.user.is_none() {
            let session_id = session_id.map(|id| Arc::new(id.to_owned()));
            self.session_id.store(session_id);
        }
    }

    /// Stores a session that replaces `old`: store the value, append the event, remove the old value. If that fails, the
    /// connection works, and a restart opens another session.
    pub async fn opened(&self, session: &StoredSession, old: Option<ValueId>) -> Option<ValueId> {
        if self.user.is_some() {
            return None;
        }
        self.show(Some(&session.id));
        let value = ValueId(Uuid::now_v7());
        let context = session_context(self.server, value);
        let text = zeroize::Zeroizing::new(serde_json::to_string(session).ok()?);
        let sealed = self.sealed_store.sealer.seal(context, &text).ok()?;
        if let Err(error) = self.sealed_store.vault.put(value, sealed).await {
            tracing::warn!(server = %self.server, %error, "a session could not be stored");
            return None;
        }
        self.found(RemoteFinding::Session(value)).await;
        self.remove_value(old).await;
        Some(value)
    }

    /// Records that the server does not know its session any more and opened no other one with an id.
    pub async fn ended(&self, old: Option<ValueId>) {
        self.show(None);
        if let Some(value) = old {
            self.found(RemoteFinding::NoSession(value)).await;
            self.remove_value(old).await;
        }
    }

    async fn remove_value(&self, old: Option<ValueId>) {
        if let Some(old) = old
            && let Err(error) = self.sealed_store.vault.remove(&[old]).await
        {
            tracing::warn!(%error, "an old session could not be removed; the sweep will remove it");
        }
    }

    /// Records a finding about the server if the catalog does not have it.
    pub async fn found(&self, finding: RemoteFinding) {
        let id = CommandId(Uuid::now_v7());
        let server = self.server;
        let url = self.url.clone();
        let recorded = self.appender.commit(id, Actor::Worker, move |catalog| {
            Ok(record_finding(catalog, server, &url, finding))
        });
        if let Err(failure) = recorded.await {
            tracing::warn!(server = %self.server, %failure, "a finding about a server could not be recorded");
        }
    }
}
