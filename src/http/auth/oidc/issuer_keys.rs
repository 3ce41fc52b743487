//! Finds the keys of the issuer: cached, and read by one task at a time.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;

use super::fetch::fetch_keys;
use super::key_cache::{FoundKey, KeyCache, MissingKey};
use super::key_set::KeyName;
use crate::config::Oidc;
use crate::http_client::{HttpClient, client};
use crate::telemetry::error::error_chain;
use crate::time::clock::monotonic;

/// A read in progress. Requests that need its result wait for it together.
type Read = Shared<BoxFuture<'static, ()>>;

pub struct IssuerKeys {
    oidc: Arc<Oidc>,
    http: HttpClient,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    cache: KeyCache,
    read: Option<Read>,
}

impl IssuerKeys {
    pub fn new(oidc: Arc<Oidc>) -> Arc<Self> {
        Arc::new(Self {
            oidc,
            http: client(),
            state: Mutex::default(),
        })
    }

    /// Returns the generation of the usable keys. A JWT that was verified with another generation is verified again.
    pub fn generation(self: &Arc<Self>) -> Option<u64> {
        let mut state = self.state.lock();
        self.read_if_due(&mut state);
        state.cache.generation(monotonic())
    }

    /// Returns the key of a JWT, and asks the issuer if necessary.
    ///
    /// # Errors
    /// Fails if the issuer does not have the key or cannot be asked.
    pub async fn find(self: &Arc<Self>, name: &KeyName) -> Result<FoundKey, MissingKey> {
        let read = {
            let mut state = self.state.lock();
            if let Some(found) = state.cache.find(name, monotonic()) {
                self.read_if_due(&mut state);
                return Ok(found);
            }
            match &state.read {
                Some(read) if read.peek().is_none() => read.clone(),
                _ => {
                    state.cache.begin_read_for_unknown(monotonic())?;
                    self.start_read(&mut state)
                }
            }
        };
        read.await;
        let state = self.state.lock();
        let now = monotonic();
        let found = state.cache.find(name, now);
        found.ok_or_else(|| state.cache.missing(now))
    }

    fn read_if_due(self: &Arc<Self>, state: &mut State) {
        if state.read.is_none() && state.cache.is_read_due(monotonic()) {
            // The task reads the keys, and no request waits for it.
            drop(self.start_read(state));
        }
    }

    /// Starts a task, so that the read goes on when the request that caused it is dropped.
    fn start_read(self: &Arc<Self>, state: &mut State) -> Read {
        let keys = self.clone();
        let task = tokio::spawn(async move {
            let result = fetch_keys(&keys.http, &keys.oidc).await;
            if let Err(error) = &result {
                let issuer = &keys.oidc.issuer_text;
                tracing::warn!(%issuer, error = %error_chain(error), "the facade cannot read the keys of the issuer");
            }
            let mut state = keys.state.lock();
            state.cache.finish_read(result.ok(), monotonic());
            state.read = None;
        });
        let read = task.map(|_| ()).boxed().shared();
        state.read = Some(read.clone());
        read
    }
}
