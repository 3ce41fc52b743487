//! Changes under an `Idempotency-Key`: the first makes the change and is remembered with it, the others find it.

use imbl::{HashMap, OrdSet};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::catalog::Catalog;
use super::event::{Event, RequestForgotten, RequestKept};
use super::failure::{Code, Failure};
use super::job::RequestKey;
use super::names::{CommandId, Digest};

/// What a key was used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Request {
    pub scope: Digest,
    pub body: Digest,
    /// The command that made the change.
    pub command: CommandId,
    /// Milliseconds since 1970: how long it is remembered.
    pub until: u64,
}

#[derive(Debug, Clone, Default)]
pub struct Requests {
    known: HashMap<Digest, Request>,
    ends: OrdSet<(u64, Digest)>,
}

impl Requests {
    pub fn get(&self, scope: Digest) -> Option<&Request> {
        self.known.get(&scope)
    }

    pub fn expired(&self, now: u64, limit: usize) -> Vec<Digest> {
        self.ends.iter().take_while(|(until, _)| *until <= now).take(limit).map(|(_, scope)| *scope).collect()
    }

    pub fn insert(&mut self, request: Request) {
        self.forget(request.scope);
        self.ends.insert((request.until, request.scope));
        self.known.insert(request.scope, request);
    }

    pub fn forget(&mut self, scope: Digest) {
        if let Some(request) = self.known.remove(&scope) {
            self.ends.remove(&(request.until, scope));
        }
    }

    /// In the order in which they are forgotten.
    pub fn all(&self) -> impl Iterator<Item = &Request> {
        self.ends.iter().filter_map(|(_, scope)| self.known.get(scope))
    }
}

/// The command that a key stands for: that of the first request under it, else `id`.
pub fn command_of(catalog: &Catalog, key: RequestKey, id: CommandId) -> Result<CommandId, Failure> {
    match catalog.requests.get(key.scope) {
        Some(first) if first.body != key.body => Err(used_otherwise()),
        first => Ok(first.map_or(id, |request| request.command)),
    }
}

/// Decides a change and has its key remembered with it. What is refused is not remembered: nothing has happened.
pub fn once(
    catalog: &Catalog,
    id: CommandId,
    key: RequestKey,
    until: u64,
    decide: impl Fn(&Catalog) -> Result<Vec<Event>, Failure>,
) -> Result<Vec<Event>, Failure> {
    match catalog.requests.get(key.scope) {
        Some(first) if first.body != key.body => Err(used_otherwise()),
        // The first finds its own commit by its id; another has to take that one's.
        Some(first) if first.command == id => Ok(vec![]),
        Some(_) => Err(Failure::unavailable("The same request is being carried out; ask again")),
        None => {
            let mut events = decide(catalog)?;
            let RequestKey { scope, body } = key;
            events.push(RequestKept { request: Request { scope, body, command: id, until } }.into());
            Ok(events)
        }
    }
}

/// Lets go of keys whose time is over.
pub fn forget(catalog: &Catalog, now: u64, limit: usize) -> Vec<Event> {
    let scopes = catalog.requests.expired(now, limit);
    if scopes.is_empty() { vec![] } else { vec![RequestForgotten { scopes }.into()] }
}

pub fn used_otherwise() -> Failure {
    let used = "This Idempotency-Key was used with another body; send that one again, or take a new key";
    Failure::new(Code::Conflict, used)
}
