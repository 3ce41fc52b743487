//! The middleware around all routes: it admits or refuses each request.

mod cors;
mod host_check;
mod log_position;

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::header::{ORIGIN, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use futures::future::BoxFuture;
use tower_service::Service as _;

use self::host_check::{check_fetch_site, check_host_and_origin, check_origin};
use self::log_position::wait_for_log_position;
use super::auth::oidc::is_mcp_endpoint;
use super::auth::{Authentication, is_public_path};
use super::resource_metadata::challenge;
use super::respond::json::ApiError;
use super::state::ApiState;
use crate::core::failure::Failure;
use crate::core::model::caller::Caller;

/// The position up to which an answer has read the log. A client that sends it back gets an answer
/// that has read at least as much.
static LOG_POSITION: HeaderName = HeaderName::from_static("log-position");

/// All routes, behind the middleware.
///
/// The middleware is no layer of the router, because a layer costs each request two more boxes and their copies.
#[derive(Clone)]
pub struct Api {
    state: Arc<ApiState>,
    routes: Router,
}

impl Api {
    pub(super) fn new(state: Arc<ApiState>, routes: Router) -> Self {
        Self { state, routes }
    }

    /// Answers one request. Dropping the future cancels the request.
    pub(super) fn answer(&self, request: Request) -> BoxFuture<'static, Response> {
        let (state, routes) = (self.state.clone(), self.routes.clone());
        Box::pin(handle_request(state, routes, request))
    }
}

/// Passes an admitted request on and adds the headers of every answer.
async fn handle_request(
    state: Arc<ApiState>,
    mut routes: Router,
    mut request: Request,
) -> Response {
    let _unanswered = state.track_request();
    // A copy of the URI costs no allocation.
    let uri = request.uri().clone();
    let origin = cross_origin(&state, &request);
    // The request must not be borrowed across an await, because its body is not `Sync`.
    let admission = match admit_request(&state, &request) {
        Ok(admission) => match admission.finished() {
            Ok(caller) => Ok(caller),
            // The box keeps the future of an ordinary request small.
            Err(admission) => Box::pin(finish_admission(&state, admission)).await,
        },
        Err(failure) => Err(failure),
    };
    let mut response = match admission {
        Ok(_) if is_preflight(&request) => cors::preflight(request.headers()),
        Ok(caller) => {
            if let Some(caller) = caller {
                request.extensions_mut().insert(caller);
            }
            let Ok(mut response) = routes.call(request).await;
            let position = HeaderValue::from(state.projection().position().0);
            response
                .headers_mut()
                .insert(LOG_POSITION.clone(), position);
            response
        }
        Err(failure) => ApiError(failure).into_response(),
    };
    response
        .headers_mut()
        .insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    name_metadata(&state, uri.path(), &mut response);
    if let Some(origin) = origin {
        cors::allow_origin(&mut response, origin);
    }
    response
}

/// Returns the allowed origin of a request to an MCP endpoint.
fn cross_origin(state: &ApiState, request: &Request) -> Option<HeaderValue> {
    let origin = request.headers().get(ORIGIN)?;
    let is_allowed =
        is_mcp_endpoint(request.uri().path()) && check_origin(origin, state.access()).is_ok();
    is_allowed.then(|| origin.clone())
}

/// Returns whether a request is the preflight request of a page that will call an MCP endpoint.
fn is_preflight(request: &Request) -> bool {
    request.method() == Method::OPTIONS && is_mcp_endpoint(request.uri().path())
}

/// Names the protected resource metadata in the challenge of a 401, so that MCP clients find the issuer.
fn name_metadata(state: &ApiState, path: &str, response: &mut Response) {
    let is_challenge = response.status() == StatusCode::UNAUTHORIZED
        && response.headers().contains_key(WWW_AUTHENTICATE);
    if is_challenge && let Some(challenge) = challenge(state.access(), path) {
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
}

/// A request that is admitted if its JWT is valid.
#[derive(Default)]
struct Admission {
    /// A public path has no caller.
    authentication: Option<Authentication>,
    log_position: Option<HeaderValue>,
}

impl Admission {
    /// Returns the caller if nothing is left to wait for.
    fn finished(self) -> Result<Option<Arc<Caller>>, Self> {
        match self {
            Self {
                authentication: Some(Authentication::Caller(caller)),
                log_position: None,
            } => Ok(Some(caller)),
            Self {
                authentication: None,
                log_position: None,
            } => Ok(None),
            unfinished => Err(unfinished),
        }
    }
}

/// Verifies the JWT of a request, waits for the log position that the request names, and returns the caller.
async fn finish_admission(
    state: &ApiState,
    admission: Admission,
) -> Result<Option<Arc<Caller>>, Failure> {
    let caller = match admission.authentication {
        Some(Authentication::Jwt(jwt)) => Some(state.verify_jwt(&jwt).await?),
        Some(Authentication::Caller(caller)) => Some(caller),
        None => None,
    };
    if let Some(position) = admission.log_position {
        wait_for_log_position(state, &position).await?;
    }
    Ok(caller)
}

/// Decides whether a request is admitted, and finds its caller or its JWT.
fn admit_request(state: &ApiState, request: &Request) -> Result<Admission, Failure> {
    let path = request.uri().path();
    if path == "/healthz" || path == "/readyz" {
        return Ok(Admission::default());
    }
    let is_public = is_public_path(path);
    let is_mcp = is_mcp_endpoint(path);
    let access = state.access();
    if !access.is_identity_configured() {
        check_host_and_origin(request, access)?;
        if !is_public && !is_mcp {
            check_fetch_site(request.headers())?;
        }
    }
    if is_mcp && let Some(origin) = request.headers().get(ORIGIN) {
        check_origin(origin, access)?;
    }
    let authentication = if is_public || is_preflight(request) {
        None
    } else {
        Some(state.authenticate(request.headers())?)
    };
    Ok(Admission {
        authentication,
        log_position: request.headers().get(&LOG_POSITION).cloned(),
    })
}
