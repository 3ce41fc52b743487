//! All tokens of users in the catalog.

use std::num::NonZeroU64;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::core::event::{TokenCreated, TokenRevoked, TokensRemoved};
use crate::core::ids::TokenId;
use crate::core::model::caller::{AllowedServers, Scopes};
use crate::core::model::token::{Token, TokenDigest};
use crate::core::names::UserName;

/// A token of the catalog. Fields that the tokens of an administrator for many users lack share one allocation, because a
/// deployment can have 100,000 users with such a token each.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredToken {
    pub id: TokenId,
    pub user: UserName,
    pub digest: TokenDigest,
    pub scopes: Scopes,
    /// Milliseconds since 1970.
    pub created_at: u64,
    expires_at: Option<NonZeroU64>,
    revoked_at: Option<NonZeroU64>,
    rare: Option<Box<RareFields>>,
}

/// The fields that a token from an administrator lacks, if it has no label and is for all servers.
#[derive(Debug, Clone, PartialEq)]
struct RareFields {
    servers: AllowedServers,
    label: Option<Arc<str>>,
    created_by: Option<UserName>,
    maker: Option<TokenId>,
}

/// The form of a token in a snapshot.
#[derive(Serialize, Deserialize)]
pub(super) struct TokenSnapshot {
    #[serde(flatten)]
    token: Token,
    /// Milliseconds since 1970.
    revoked_at: Option<u64>,
}

impl StoredToken {
    /// Returns the end of the token's life in milliseconds since 1970.
    pub fn expires_at(&self) -> Option<u64> {
        self.expires_at.map(NonZeroU64::get)
    }

    /// Returns the time of the revocation in milliseconds since 1970.
    pub fn revoked_at(&self) -> Option<u64> {
        self.revoked_at.map(NonZeroU64::get)
    }

    pub fn servers(&self) -> AllowedServers {
        let rare = self.rare.as_ref();
        rare.map_or(AllowedServers::All, |rare| rare.servers.clone())
    }

    pub fn label(&self) -> Option<Arc<str>> {
        self.rare.as_ref()?.label.clone()
    }

    pub fn created_by(&self) -> Option<UserName> {
        self.rare.as_ref()?.created_by.clone()
    }

    pub fn maker(&self) -> Option<TokenId> {
        self.rare.as_ref()?.maker
    }

    /// Returns whether the token authenticates its user at this time (milliseconds since 1970).
    pub fn is_valid(&self, now_ms: u64) -> bool {
        self.revoked_at.is_none() && self.expires_at().is_none_or(|end| end > now_ms)
    }

    /// Returns the time at which the token ended, in milliseconds since 1970.
    pub fn ended_at(&self, now_ms: u64) -> Option<u64> {
        let expired_at = self.expires_at().filter(|end| *end <= now_ms);
        self.revoked_at().into_iter().chain(expired_at).min()
    }

    pub(super) fn to_snapshot(&self) -> TokenSnapshot {
        TokenSnapshot {
            token: Token {
                id: self.id,
                user: self.user.clone(),
                digest: self.digest,
                scopes: self.scopes,
                servers: self.servers(),
                label: self.label(),
                created_at: self.created_at,
                expires_at: self.expires_at(),
                created_by: self.created_by(),
                maker: self.maker(),
            },
            revoked_at: self.revoked_at(),
        }
    }
}

impl From<Token> for StoredToken {
    fn from(token: Token) -> Self {
        let created_by = match token.created_by {
            // Most tokens are made by their own users, so both fields share one text.
            Some(user) if user == token.user => Some(token.user.clone()),
            created_by => created_by,
        };
        let rare = RareFields {
            servers: token.servers,
            label: token.label,
            created_by,
            maker: token.maker,
        };
        let is_usual = rare.servers.is_all()
            && rare.label.is_none()
            && rare.created_by.is_none()
            && rare.maker.is_none();
        Self {
            id: token.id,
            user: token.user,
            digest: token.digest,
            scopes: token.scopes,
            created_at: token.created_at,
            expires_at: token.expires_at.and_then(NonZeroU64::new),
            revoked_at: None,
            rare: (!is_usual).then(|| Box::new(rare)),
        }
    }
}

/// All tokens, by id and by user.
#[derive(Debug, Clone, Default)]
pub struct TokenTable {
    by_id: OrdMap<TokenId, Arc<StoredToken>>,
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
        self.insert(event.0.clone().into());
    }

    pub fn revoke(&mut self, event: &TokenRevoked) {
        if let Some(stored) = self.by_id.get_mut(&event.token) {
            let stored = Arc::make_mut(stored);
            stored.revoked_at = stored.revoked_at.or(NonZeroU64::new(event.at));
        }
    }

    pub fn remove(&mut self, event: &TokensRemoved) {
        for id in &event.tokens {
            if let Some(stored) = self.by_id.remove(id) {
                self.by_user.remove(&(stored.user.clone(), *id));
            }
        }
    }

    pub(super) fn restore(&mut self, snapshot: TokenSnapshot) {
        let mut stored = StoredToken::from(snapshot.token);
        stored.revoked_at = snapshot.revoked_at.and_then(NonZeroU64::new);
        self.insert(stored);
    }

    fn insert(&mut self, stored: StoredToken) {
        self.by_user.insert((stored.user.clone(), stored.id));
        self.by_id.insert(stored.id, Arc::new(stored));
    }
}
