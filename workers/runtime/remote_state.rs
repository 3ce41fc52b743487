//! What outlives a connection: the era found, and the session, whose id is a credential and lies sealed in the Vault.

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

pub fn session_place(server: ServerId, value: ValueId) -> ServerValueContext<'static> {
    ServerValueContext {
        server,
        kind: ServerValueKind::Session,
        name: "",
        value,
    }
}

/// The memory of one server, or of one user's connection to it, as long as it is at one URL.
#[derive(Clone)]
pub struct RemoteState {
    pub sealed_store: SealedStore,
    pub appender: Appender,
    pub grants: Arc<TokenSourceDeps>,
    pub server: ServerId,
    /// Whose connection it is, where he has given access of his own: its session is not kept.
    pub user: Option<UserName>,
    pub url: Arc<str>,
    /// The id of the session, to be shown.
    pub session_id: Arc<ArcSwapOption<String>>,
}

impl RemoteState {
    /// The session that was opened last.
    pub async fn session(&self, value: ValueId) -> Option<StoredSession> {
        let session = self.sealed_store.session(self.server, value).await?;
        self.show(Some(&session.id));
        Some(session)
    }

    pub fn show(&self, session_id: Option<&str>) {
        if self.user.is_some() {
            return;
        }
        self.session_id
            .store(session_id.map(|id| Arc::new(id.to_owned())));
    }

    /// Keeps a session that was opened in the place of another: put, append, drop the old. Without it the
    /// connection works all the same; after a restart a new one is opened.
    pub async fn opened(&self, session: &StoredSession, old: Option<ValueId>) -> Option<ValueId> {
        if self.user.is_some() {
            return None;
        }
        self.show(Some(&session.id));
        let value = ValueId(Uuid::now_v7());
        let place = session_place(self.server, value);
        let text = zeroize::Zeroizing::new(serde_json::to_string(session).ok()?);
        let sealed = self.sealed_store.sealer.seal(place, &text).ok()?;
        if let Err(error) = self.sealed_store.vault.put(value, sealed).await {
            tracing::warn!(server = %self.server, %error, "a session could not be kept");
            return None;
        }
        self.found(RemoteFinding::Session(value)).await;
        self.drop_value(old).await;
        Some(value)
    }

    /// The server does not know the session any more, and opened no other that has an id.
    pub async fn ended(&self, old: Option<ValueId>) {
        self.show(None);
        if let Some(value) = old {
            self.found(RemoteFinding::NoSession(value)).await;
            self.drop_value(old).await;
        }
    }

    async fn drop_value(&self, old: Option<ValueId>) {
        if let Some(old) = old
            && let Err(error) = self.sealed_store.vault.remove(&[old]).await
        {
            tracing::warn!(%error, "an old session is left to the sweep");
        }
    }

    /// Tells the log what was found out, where that is news.
    pub async fn found(&self, found: RemoteFinding) {
        let (server, url) = (self.server, self.url.clone());
        let id = CommandId(Uuid::now_v7());
        let recorded = self.appender.commit(id, Actor::Worker, move |catalog| {
            Ok(record_finding(catalog, server, &url, found))
        });
        if let Err(failure) = recorded.await {
            tracing::warn!(server = %self.server, %failure, "what was found out of a server could not be recorded");
        }
    }
}
