//! Extractors of the caller: each refuses a caller without the scope of its action, before the body is read.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use crate::core::decide::access::{Action, Denial, may, missing_scope};
use crate::core::failure::Failure;
use crate::core::model::caller::Caller;
use crate::http::respond::json::ApiError;

/// The caller of a request that needs no scope.
pub(crate) struct AnyCaller(pub(crate) Arc<Caller>);

impl<S: Send + Sync> FromRequestParts<S> for AnyCaller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Ok(Self(extension(parts)?))
    }
}

macro_rules! callers {
    ($($(#[$doc:meta])* $name:ident = $action:ident),+ $(,)?) => {$(
        $(#[$doc])*
        // Not every route reads its caller.
        #[allow(dead_code)]
        pub(crate) struct $name(pub(crate) Arc<Caller>);

        impl<S: Send + Sync> FromRequestParts<S> for $name {
            type Rejection = ApiError;

            async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
                let caller = extension(parts)?;
                match may(&caller, Action::$action, None) {
                    Err(Denial::MissingScope(scope)) => Err(missing_scope(scope).into()),
                    _ => Ok(Self(caller)),
                }
            }
        }
    )+};
}

callers! {
    /// A caller who lists and calls tools.
    ToolsCaller = UseTools,
    /// A caller who sets secrets and starts connections.
    SecretsCaller = ManageSecrets,
    /// A caller who makes tokens.
    TokensCaller = ManageTokens,
    /// A caller who reads the events of all users.
    AuditCaller = ReadEvents,
    /// A caller who reads the metrics.
    MetricsCaller = ReadMetrics,
    /// A caller who administers the deployment.
    AdminCaller = Administer,
}

/// Returns the caller that the middleware has found.
fn extension(parts: &Parts) -> Result<Arc<Caller>, Failure> {
    let caller = parts.extensions.get::<Arc<Caller>>();
    // A public path has no caller, so a route that asks for one must not be public.
    caller.cloned().ok_or_else(Failure::internal)
}
