//! The HTTP API: one file per resource. A handler parses, asks a worker or reads the catalogue, and
//! replies; it decides nothing and touches nothing outside.

pub mod dead_letters;
mod events;
pub mod extract;
mod google;
mod health;
mod jobs;
mod keys;
pub mod listener;
pub mod middleware;
mod oauth;
pub mod openapi;
mod packages;
pub mod respond;
mod secrets;
mod servers;
pub mod state;
mod tools;

use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use self::openapi::openapi;
use self::respond::json::ApiError;
pub use self::state::{ApiDeps, ApiState};
use crate::core::failure::{Code, Failure};

/// All routes, and what they say about themselves.
fn routes() -> OpenApiRouter<Arc<ApiState>> {
    OpenApiRouter::with_openapi(openapi::about())
        .routes(routes!(tools::list))
        .routes(routes!(tools::call))
        .routes(routes!(servers::list, servers::register))
        .routes(routes!(servers::get, servers::update, servers::delete))
        .routes(routes!(servers::enable))
        .routes(routes!(servers::disable))
        .routes(routes!(self::oauth::tokens::store))
        .routes(routes!(self::oauth::browser_flow::start))
        .routes(routes!(self::oauth::browser_flow::authorize))
        .routes(routes!(self::oauth::browser_flow::callback))
        .routes(routes!(self::oauth::browser_flow::document))
        .routes(routes!(packages::list))
        .routes(routes!(packages::install))
        .routes(routes!(packages::by_name))
        .routes(routes!(packages::by_id))
        .routes(routes!(packages::updates))
        .routes(routes!(self::packages::upgrade_all::upgrade_all))
        .routes(routes!(packages::upgrade))
        .routes(routes!(packages::enable))
        .routes(routes!(packages::disable))
        .routes(routes!(packages::delete))
        .routes(routes!(secrets::set))
        .routes(routes!(secrets::delete))
        .routes(routes!(keys::count))
        .routes(routes!(keys::rotate))
        .routes(routes!(jobs::list))
        .routes(routes!(jobs::get, jobs::cancel))
        .routes(routes!(self::google::browser_flow::link))
        .routes(routes!(self::google::browser_flow::login))
        .routes(routes!(self::google::browser_flow::callback))
        .routes(routes!(dead_letters::list))
        .routes(routes!(dead_letters::retry))
        .routes(routes!(dead_letters::drop_letter))
        .routes(routes!(events::read_events))
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
}

fn no_such_route() -> ApiError {
    ApiError(Failure::new(
        Code::RouteNotFound,
        "There is no such route; GET /docs shows which there are",
    ))
}

/// What a process answers that is only a worker: how it is.
pub fn health_router(facade: Arc<ApiState>) -> Router {
    let (health, _) = OpenApiRouter::new()
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
        .split_for_parts();
    behind_the_door(health, facade)
}

/// The whole API behind its door.
pub fn router(facade: Arc<ApiState>) -> Router {
    let (api, about) = routes().split_for_parts();
    behind_the_door(api.merge(openapi::page(openapi::complete(about))), facade)
}

fn behind_the_door(routes: Router<Arc<ApiState>>, facade: Arc<ApiState>) -> Router {
    routes
        .fallback(async || no_such_route())
        .method_not_allowed_fallback(async || {
            ApiError(Failure::new(
                Code::MethodNotAllowed,
                "The route exists, but not with this method; see GET /docs",
            ))
        })
        .layer(from_fn_with_state(
            facade.clone(),
            self::middleware::auth::authenticate_request,
        ))
        .with_state(facade)
}
