//!

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;

use crate::core::failure::Failure;
use crate::core::names::ServerName;
use crate::http::respond::json::ApiError;

/// The server's name in a path. One that can be no server's belongs to no server.
pub struct ServerNamePath(pub ServerName);

impl<S: Send + Sync> FromRequestParts<S> for ServerNamePath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let name = Path::<String>::from_request_parts(parts, state).await.ok();
        let name = name.and_then(|Path(name)| name.parse().ok()).map(Self);
        Ok(name.ok_or_else(|| Failure::server_not_found("of that name"))?)
    }
}
