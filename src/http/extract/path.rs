//! The server that a path names.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use utoipa::IntoParams;

use crate::core::catalog::server::Server;
use crate::core::decide::access::Action;
use crate::core::failure::Failure;
use crate::core::model::caller::Caller;
use crate::core::names::ServerName;
use crate::http::auth::SecretsCaller;
use crate::http::respond::json::ApiError;
use crate::http::state::ApiState;

/// The text in a path, such as an id that the handler parses.
pub(crate) struct PathText(pub String);

impl<S: Send + Sync> FromRequestParts<S> for PathText {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Ok(Path(text)) = Path::<String>::from_request_parts(parts, state).await else {
            return Err(Failure::invalid(
                "The last part of the path must be UTF-8, percent-encoded",
            )
            .into());
        };
        Ok(Self(text))
    }
}

/// The server's name in a path. An invalid name is `server_not_found`.
#[derive(IntoParams)]
#[into_params(names("name"), parameter_in = Path)]
pub(crate) struct ServerNamePath(
    /// The name of the server.
    #[param(value_type = String)]
    pub ServerName,
);

impl<S: Send + Sync> FromRequestParts<S> for ServerNamePath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let name = Path::<String>::from_request_parts(parts, state).await.ok();
        let name = name.and_then(|Path(name)| name.parse().ok());
        Ok(Self(name.ok_or_else(|| {
            Failure::server_not_found("of that name")
        })?))
    }
}

/// The server that a path names, and the caller who stores credentials for it. The extractor refuses a request for a
/// server that the caller may not use before it reads the body.
pub(crate) struct SecretsServer {
    pub caller: Arc<Caller>,
    pub server: Arc<Server>,
}

impl FromRequestParts<Arc<ApiState>> for SecretsServer {
    type Rejection = ApiError;

    async fn from_request_parts(
        parts: &mut Parts,
        state: &Arc<ApiState>,
    ) -> Result<Self, ApiError> {
        let SecretsCaller(caller) = SecretsCaller::from_request_parts(parts, state).await?;
        let ServerNamePath(name) = ServerNamePath::from_request_parts(parts, state).await?;
        let server = state.find_server_for(&caller, Action::ManageSecrets, &name)?;
        Ok(Self { caller, server })
    }
}

/// The registered server that a path names. The extractor refuses a request for another server
/// before it reads the body.
pub(crate) struct ExistingServer(pub Arc<Server>);

impl FromRequestParts<Arc<ApiState>> for ExistingServer {
    type Rejection = ApiError;

    async fn from_request_parts(
        parts: &mut Parts,
        state: &Arc<ApiState>,
    ) -> Result<Self, ApiError> {
        let ServerNamePath(name) = ServerNamePath::from_request_parts(parts, state).await?;
        Ok(Self(state.find_server(&name)?))
    }
}
