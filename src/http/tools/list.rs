//! `GET /mcp/tools`: the tools of all enabled servers.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header::{ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use crate::core::names::ServerName;
use crate::http::auth::ToolsCaller;
use crate::http::extract::query::QueryParams;
use crate::http::extract::server_page::ServerPage;
use crate::http::respond::json::{ApiError, json};
use crate::http::state::ApiState;

/// The last known tools of all enabled servers.
#[derive(ToSchema)]
#[allow(dead_code)]
pub(crate) struct ToolList {
    #[schema(default = true)]
    success: bool,
    /// One object for each server: its name, and the list of its tools as it describes them.
    #[schema(value_type = Vec<BTreeMap<String, Vec<Object>>>)]
    tools: Vec<BTreeMap<String, Vec<String>>>,
    /// The `after` of the next page. Absent on the last page.
    next: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListToolsQuery {
    /// The number of servers in the answer: 1 to 1000; all if absent.
    limit: Option<usize>,
    /// Only servers whose names come after this one: the `next` of an earlier answer.
    #[param(value_type = Option<String>)]
    after: Option<ServerName>,
}

/// List the last known tools of all enabled servers.
///
/// The servers are in the order of their names. With `limit` the answer has a part of them, and `next` for the next part.
#[utoipa::path(
    get, operation_id = "list_tools", path = "/mcp/tools", tag = "tools", params(ListToolsQuery),
    responses(
        (status = 200, description = "The tools; the header `ETag` identifies this list",
            body = ToolList),
        (status = 304, description = "The list still has the ETag of `If-None-Match`"),
    )
)]
pub(crate) async fn list(
    State(state): State<Arc<ApiState>>,
    ToolsCaller(caller): ToolsCaller,
    QueryParams(query): QueryParams<ListToolsQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let page = ServerPage::new(query.limit, query.after)?;
    let cached = state.tool_list().get(&state.catalog(), &caller, &page)?;
    let is_unchanged = headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .any(|etags| matches_etag(etags, cached.etag()));
    let mut response = if is_unchanged {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        json(StatusCode::OK, cached.body().clone())
    };
    response.headers_mut().insert(ETAG, cached.etag().clone());
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
