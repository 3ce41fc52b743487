//! The author of a commit.

use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::upcast;
use crate::core::ids::TokenId;
use crate::core::model::caller::{Caller, CallerKind};
use crate::core::names::UserName;

/// The kind of an author: the way in which a caller authenticated, or a part of the program.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ActorKind {
    /// A client of the HTTP API. Earlier versions stored no more than this.
    #[default]
    Api,
    /// A client with `ADMIN_TOKEN`.
    AdminToken,
    /// A client with a token of a user (`mcpu_…`).
    Token,
    /// A client with a token of `OIDC_ISSUER`.
    Oidc,
    /// A person who signed in with a browser, or who ended an authorization in a browser.
    Browser,
    /// A client of a deployment without a configured identity.
    Local,
    /// A program that sends jobs over NATS.
    Producer,
    /// A worker.
    Worker,
}

/// The author of a commit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Actor {
    pub kind: ActorKind,
    /// The user whom the author authenticated as. Absent for an author who may act for every user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<UserName>,
    /// The token of the author.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenId>,
    /// The claim `sub` of the author's JWT.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub subject: Option<Arc<str>>,
}

impl From<&Caller> for Actor {
    fn from(caller: &Caller) -> Self {
        let (kind, has_user) = match caller.kind {
            CallerKind::AdminToken => (ActorKind::AdminToken, false),
            CallerKind::Local => (ActorKind::Local, false),
            CallerKind::Token => (ActorKind::Token, true),
            CallerKind::Oidc => (ActorKind::Oidc, true),
            CallerKind::Browser => (ActorKind::Browser, true),
        };
        Self {
            kind,
            user: has_user.then(|| caller.user.clone()),
            token: caller.token,
            subject: caller.subject.clone(),
        }
    }
}

impl Actor {
    /// Returns an author without a user.
    pub const fn of_kind(kind: ActorKind) -> Self {
        Self {
            kind,
            user: None,
            token: None,
            subject: None,
        }
    }

    /// Returns the author of the changes that a worker makes by itself.
    pub const fn worker() -> Self {
        Self::of_kind(ActorKind::Worker)
    }

    /// Returns the author of a job that a producer sent.
    pub const fn producer() -> Self {
        Self::of_kind(ActorKind::Producer)
    }

    /// Returns the author of a change that a user's browser ends.
    pub fn browser(user: Option<UserName>) -> Self {
        Self {
            user,
            ..Self::of_kind(ActorKind::Browser)
        }
    }

    /// Returns whether this is the author that earlier versions stored for every client.
    pub fn is_earlier(&self) -> bool {
        *self == Self::default()
    }
}

/// The stored form of an author.
#[derive(Deserialize)]
struct StoredActor {
    kind: ActorKind,
    #[serde(default)]
    user: Option<UserName>,
    #[serde(default)]
    token: Option<TokenId>,
    #[serde(default)]
    subject: Option<Arc<str>>,
}

impl<'de> Deserialize<'de> for Actor {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_any(ActorVisitor)
    }
}

/// Reads an author as an object, or as the word that earlier versions stored.
struct ActorVisitor;

impl<'de> Visitor<'de> for ActorVisitor {
    type Value = Actor;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an actor")
    }

    fn visit_str<E: Error>(self, word: &str) -> Result<Actor, E> {
        upcast::actor(word).ok_or_else(|| E::custom("an actor that is not known"))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Actor, A::Error> {
        let stored = StoredActor::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Actor {
            kind: stored.kind,
            user: stored.user,
            token: stored.token,
            subject: stored.subject,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_actor_without_a_user_is_its_kind_alone() {
        let json = serde_json::to_string(&Actor::worker()).expect("JSON");
        assert_eq!(json, r#"{"kind":"worker"}"#);
        assert_eq!(
            serde_json::from_str::<Actor>(&json).expect("an actor"),
            Actor::worker()
        );
    }

    #[test]
    fn an_actor_keeps_user_token_and_subject() {
        let actor = Actor {
            kind: ActorKind::Oidc,
            user: Some("ana".parse().expect("a name")),
            token: Some(TokenId(uuid::Uuid::from_u128(7))),
            subject: Some("s-1".into()),
        };
        let json = serde_json::to_string(&actor).expect("JSON");
        assert_eq!(
            serde_json::from_str::<Actor>(&json).expect("an actor"),
            actor
        );
    }

    #[test]
    fn a_word_of_an_earlier_version_is_an_actor() {
        for (word, kind) in [("api", ActorKind::Api), ("worker", ActorKind::Worker)] {
            let actor: Actor = serde_json::from_str(&format!("\"{word}\"")).expect("an actor");
            assert_eq!(actor, Actor::of_kind(kind));
        }
        assert!(serde_json::from_str::<Actor>("\"root\"").is_err());
    }
}
