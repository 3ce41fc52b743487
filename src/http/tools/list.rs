//! `GET /mcp/tools`: the tools of all enabled servers.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use axum::extract::State;
use axum::http::header::{ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::core::catalog::Catalog;
use crate::core::failure::Failure;
use crate::core::ids::Position;
use crate::http::respond::json::{ApiError, json};
use crate::http::state::ApiState;
use crate::telemetry::error::internal_error;

/// The answer of `GET /mcp/tools`. It is built once for each change of a tool list.
#[derive(Default)]
pub struct ToolListCache(ArcSwapOption<CachedToolList>);

struct CachedToolList {
    /// The position of the newest change of a tool list.
    position: Position,
    body: Bytes,
    etag: HeaderValue,
}

impl ToolListCache {
    fn get(&self, catalog: &Catalog) -> Result<Arc<CachedToolList>, Failure> {
        if let Some(cached) = self.0.load_full()
            && cached.position == catalog.tools_changed
        {
            return Ok(cached);
        }
        let cached = Arc::new(CachedToolList::build(catalog)?);
        self.0.store(Some(cached.clone()));
        Ok(cached)
    }
}

impl CachedToolList {
    fn build(catalog: &Catalog) -> Result<Self, Failure> {
        let tools: Vec<_> = catalog
            .servers()
            .into_iter()
            .filter(|server| server.enabled)
            .map(|server| BTreeMap::from([(&server.name, &server.tools.tools)]))
            .collect();
        let tools = serde_json::to_string(&tools).map_err(internal_error)?;
        let body = Bytes::from(format!(r#"{{"success":true,"tools":{tools}}}"#));
        let digest = hex::encode(&Sha256::digest(&body)[..16]);
        let etag = HeaderValue::try_from(format!("\"{digest}\"")).map_err(internal_error)?;
        Ok(Self {
            position: catalog.tools_changed,
            body,
            etag,
        })
    }
}

/// The last known tools of all enabled servers.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct ToolList {
    #[schema(default = true)]
    success: bool,
    /// One object for each server: its name, and the list of its tools as it describes them.
    #[schema(value_type = Vec<BTreeMap<String, Vec<Object>>>)]
    tools: Vec<BTreeMap<String, Vec<String>>>,
}

/// List the last known tools of all enabled servers.
#[utoipa::path(
    get, operation_id = "list_tools", path = "/mcp/tools", tag = "tools",
    responses(
        (status = 200, description = "The tools; the header `ETag` identifies this list",
            body = ToolList),
        (status = 304, description = "The list still has the ETag of `If-None-Match`"),
    )
)]
pub async fn list(
    State(state): State<Arc<ApiState>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let cached = state.tool_list().get(&state.catalog())?;
    let is_unchanged = headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .any(|etags| matches_etag(etags, &cached.etag));
    let mut response = if is_unchanged {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        json(StatusCode::OK, cached.body.clone())
    };
    response.headers_mut().insert(ETAG, cached.etag.clone());
    Ok(response)
}

/// Compares weakly, because proxies make ETags weak (RFC 9110, section 13.1.2).
fn matches_etag(etags: &HeaderValue, etag: &HeaderValue) -> bool {
    etags
        .to_str()
        .unwrap_or_default()
        .split(',')
        .map(str::trim)
        .map(|given| given.strip_prefix("W/").unwrap_or(given))
        .any(|given| given == "*" || etag == given)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_etag_matches_in_a_list_weak_or_as_a_star() {
        let etag = HeaderValue::from_static("\"a\"");
        for (given, expected) in [
            ("\"a\"", true),
            ("W/\"a\"", true),
            ("\"b\", \"a\"", true),
            ("*", true),
            ("\"b\"", false),
            ("", false),
        ] {
            let etags = HeaderValue::from_static(given);
            assert_eq!(matches_etag(&etags, &etag), expected, "{given}");
        }
    }
}
