//! The HTTP API of a facade, with one folder for each resource.
//!
//! A handler extracts the parts of a request, sends one command or reads the catalog, and responds.
//! This module decides nothing itself.

mod auth;
mod connect;
mod connections;
mod dead_letters;
mod events;
mod extract;
mod google;
mod health;
mod jobs;
mod keys;
pub mod listener;
mod log;
mod mcp;
mod middleware;
mod oauth;
mod openapi;
mod packages;
mod page_limit;
mod resource_metadata;
mod respond;
mod secrets;
mod servers;
mod signin;
mod state;
mod tokens;
mod tools;
mod whoami;

use std::sync::Arc;

use axum::Router;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use self::middleware::Api;
pub use self::openapi::openapi;
use self::respond::json::ApiError;
pub use self::state::{ApiDeps, ApiState};
use crate::core::failure::{Code, Failure};

/// Returns all routes with their descriptions.
fn routes() -> OpenApiRouter<Arc<ApiState>> {
    OpenApiRouter::with_openapi(openapi::base())
        .routes(routes!(tools::list::list))
        .routes(routes!(tools::call::call))
        .routes(routes!(mcp::post_all, mcp::open_all, mcp::end_all))
        .routes(routes!(mcp::post_server, mcp::open_server, mcp::end_server))
        .routes(routes!(servers::list, servers::register))
        .routes(routes!(servers::get, servers::update, servers::delete))
        .routes(routes!(servers::enable))
        .routes(routes!(servers::disable))
        .routes(routes!(self::oauth::tokens::store))
        .routes(routes!(self::oauth::browser_flow::start))
        .routes(routes!(
            self::oauth::browser_flow::authorize,
            self::oauth::browser_flow::confirm
        ))
        .routes(routes!(self::oauth::browser_flow::callback))
        .routes(routes!(self::oauth::browser_flow::document))
        .routes(routes!(resource_metadata::of_api))
        .routes(routes!(resource_metadata::of_mcp))
        .routes(routes!(resource_metadata::of_server))
        .routes(routes!(packages::list))
        .routes(routes!(packages::install::install))
        .routes(routes!(packages::by_name))
        .routes(routes!(packages::by_id))
        .routes(routes!(packages::updates))
        .routes(routes!(packages::upgrade_all::upgrade_all))
        .routes(routes!(packages::install::upgrade))
        .routes(routes!(packages::enable))
        .routes(routes!(packages::disable))
        .routes(routes!(packages::delete))
        .routes(routes!(secrets::set))
        .routes(routes!(secrets::delete))
        .routes(routes!(self::connections::list))
        .routes(routes!(self::connections::disconnect))
        .routes(routes!(self::tokens::create, self::tokens::list))
        .routes(routes!(self::tokens::revoke))
        .routes(routes!(whoami::whoami))
        .routes(routes!(keys::count))
        .routes(routes!(keys::rotate))
        .routes(routes!(jobs::list))
        .routes(routes!(jobs::get, jobs::cancel))
        .routes(routes!(self::google::browser_flow::link))
        .routes(routes!(
            self::google::browser_flow::login,
            self::google::browser_flow::confirm
        ))
        .routes(routes!(self::google::browser_flow::callback))
        .routes(routes!(signin::page, signin::sign_in))
        .routes(routes!(signin::issuer::start))
        .routes(routes!(signin::issuer::callback))
        .routes(routes!(signin::sign_out))
        .routes(routes!(connect::list))
        .routes(routes!(connect::page))
        .routes(routes!(connect::values::set))
        .routes(routes!(connect::values::remove))
        .routes(routes!(connect::accounts::connect_oauth))
        .routes(routes!(connect::accounts::connect_google))
        .routes(routes!(connect::accounts::disconnect))
        .routes(routes!(dead_letters::list))
        .routes(routes!(dead_letters::retry))
        .routes(routes!(dead_letters::discard))
        .routes(routes!(events::read_events))
        .routes(routes!(log::compact))
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
}

/// Returns the routes of a process that is only a worker: health and metrics.
pub fn health_api(state: Arc<ApiState>) -> Api {
    let (health, _) = OpenApiRouter::new()
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
        .split_for_parts();
    with_fallbacks(health, state)
}

/// Returns the whole API with its middleware.
pub fn api(state: Arc<ApiState>) -> Api {
    let (api, description) = routes().split_for_parts();
    let docs = openapi::docs_router(openapi::complete(description));
    with_fallbacks(api.merge(docs), state)
}

fn with_fallbacks(routes: Router<Arc<ApiState>>, state: Arc<ApiState>) -> Api {
    let routes = routes
        .fallback(async || route_not_found())
        .method_not_allowed_fallback(async || method_not_allowed())
        .with_state(state.clone());
    Api::new(state, routes)
}

fn route_not_found() -> ApiError {
    ApiError(Failure::new(
        Code::RouteNotFound,
        "No route has this path; GET /docs lists all routes",
    ))
}

fn method_not_allowed() -> ApiError {
    ApiError(Failure::new(
        Code::MethodNotAllowed,
        "The route does not have this method; GET /docs lists all routes",
    ))
}
