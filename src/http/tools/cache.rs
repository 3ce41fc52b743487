//! The cached answer of `GET /mcp/tools`.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use axum::http::HeaderValue;
use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::core::catalog::Catalog;
use crate::core::decide::access::{Action, may};
use crate::core::failure::Failure;
use crate::core::ids::Position;
use crate::core::model::caller::Caller;
use crate::http::extract::server_page::ServerPage;
use crate::telemetry::error::internal_error;

/// The answer of `GET /mcp/tools`, built once for each change of a tool list.
#[derive(Default)]
pub struct ToolListCache(ArcSwapOption<CachedToolList>);

/// One answer of `GET /mcp/tools`.
pub(crate) struct CachedToolList {
    /// The position of the newest change of a tool list.
    position: Position,
    body: Bytes,
    etag: HeaderValue,
}

impl ToolListCache {
    /// Returns the answer for this catalog, caller and page. Only the answer with all servers is stored.
    ///
    /// # Errors
    /// `internal` if the list cannot be encoded.
    pub(crate) fn get(
        &self,
        catalog: &Catalog,
        caller: &Caller,
        page: &ServerPage,
    ) -> Result<Arc<CachedToolList>, Failure> {
        if !caller.servers.is_all() || !page.is_whole() {
            return CachedToolList::build(catalog, caller, page).map(Arc::new);
        }
        if let Some(cached) = self.0.load_full()
            && cached.position == catalog.tools_changed
        {
            return Ok(cached);
        }
        let cached = Arc::new(CachedToolList::build(catalog, caller, page)?);
        self.0.store(Some(cached.clone()));
        Ok(cached)
    }
}

impl CachedToolList {
    fn build(catalog: &Catalog, caller: &Caller, page: &ServerPage) -> Result<Self, Failure> {
        let usable = catalog
            .servers()
            .into_iter()
            .filter(|server| server.enabled)
            .filter(|server| may(caller, Action::UseTools, Some(server.id)).is_ok());
        let (servers, next) = page.select(usable);
        let tools: Vec<_> = servers
            .into_iter()
            .map(|server| BTreeMap::from([(&server.name, &server.tools.tools)]))
            .collect();
        let tools = serde_json::to_string(&tools).map_err(internal_error)?;
        // A name needs no escapes in JSON.
        let next = next.map_or_else(String::new, |next| format!(r#","next":"{next}""#));
        let body = Bytes::from(format!(r#"{{"success":true,"tools":{tools}{next}}}"#));
        let digest = hex::encode(&Sha256::digest(&body)[..16]);
        let etag = HeaderValue::try_from(format!("\"{digest}\"")).map_err(internal_error)?;
        Ok(Self {
            position: catalog.tools_changed,
            body,
            etag,
        })
    }

    pub(crate) fn body(&self) -> &Bytes {
        &self.body
    }

    pub(crate) fn etag(&self) -> &HeaderValue {
        &self.etag
    }
}
