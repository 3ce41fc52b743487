//! All tokens of users in the catalog.

use std::sync::Arc;

use imbl::{HashMap, OrdSet};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::core::event::{TokenCreated, TokenRevoked, TokensRemoved};
use crate::core::ids::TokenId;
use crate::core::model::token::Token;
use crate::core::names::UserName;

/// A token and the time of its revocation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredToken {
    #[serde(flatten)]
    pub token: Token,
    /// Milliseconds since 1970.
    pub revoked_at: Option<u64>,
}

impl StoredToken {
    /// Returns whether the token authenticates its user at this time (milliseconds since 1970).
    pub fn is_valid(&self, now_ms: u64) -> bool {
        self.revoked_at.is_none() && !self.token.is_expired(now_ms)
    }

    /// Returns the time at which the token ended, in milliseconds since 1970.
    pub fn ended_at(&self, now_ms: u64) -> Option<u64> {
        let expired_at = self.token.expires_at.filter(|end| *end <= now_ms);
        self.revoked_at.into_iter().chain(expired_at).min()
    }
}

/// All tokens, by id and by user.
#[derive(Debug, Clone, Default)]
pub struct TokenTable {
    by_id: HashMap<TokenId, Arc<StoredToken>>,
    by_user: OrdSet<(UserName, TokenId)>,
}

impl TokenTable {
    pub fn get(&self, id: TokenId) -> Option<&Arc<StoredToken>> {
        self.by_id.get(&id)
    }

    /// Returns the tokens of one user, oldest first.
    pub fn of_user<'a>(&'a self, user: &'a UserName) -> impl Iterator<Item = &'a Arc<StoredToken>> {
        let first = (user.clone(), TokenId(Uuid::nil()));
        let last = (user.clone(), TokenId(Uuid::max()));
        self.by_user
            .range(first..=last)
            .filter_map(|(_, id)| self.by_id.get(id))
    }

    /// Returns all tokens, sorted by user and age.
    pub fn all(&self) -> impl Iterator<Item = &Arc<StoredToken>> {
        self.by_user.iter().filter_map(|(_, id)| self.by_id.get(id))
    }

    pub fn create(&mut self, event: &TokenCreated) {
        self.insert(StoredToken {
            token: event.0.clone(),
            revoked_at: None,
        });
    }

    pub fn revoke(&mut self, event: &TokenRevoked) {
        if let Some(stored) = self.by_id.get_mut(&event.token) {
            Arc::make_mut(stored).revoked_at.get_or_insert(event.at);
        }
    }

    pub fn remove(&mut self, event: &TokensRemoved) {
        for id in &event.tokens {
            if let Some(stored) = self.by_id.remove(id) {
                self.by_user.remove(&(stored.token.user.clone(), *id));
            }
        }
    }

    pub(super) fn insert(&mut self, mut stored: StoredToken) {
        let token = &mut stored.token;
        // Most tokens are made by their own users, so both fields share one text.
        if token.created_by.as_ref() == Some(&token.user) {
            token.created_by = Some(token.user.clone());
        }
        self.by_user.insert((token.user.clone(), token.id));
        self.by_id.insert(token.id, Arc::new(stored));
    }
}
