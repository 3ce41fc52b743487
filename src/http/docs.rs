//! `/openapi.json`, made from the handlers themselves, and a page to read it and try calls from.

use axum::Router;
use axum::http::StatusCode;
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa_swagger_ui::SwaggerUi;

#[derive(OpenApi)]
#[openapi(
    info(title = "MCP API", description = "Any number of MCP servers behind one HTTP API, for any number of users."),
    tags(
        (name = "tools", description = "List and call tools"),
        (name = "servers", description = "Register and run MCP servers"),
        (name = "secrets", description = "Secrets of users, sealed"),
        (name = "events", description = "What has happened"),
        (name = "health", description = "How the process is"),
    )
)]
struct About;

/// What stands above the routes.
pub fn about() -> utoipa::openapi::OpenApi {
    let mut about = About::openapi();
    let bearer =
        HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("ADMIN_TOKEN, where it is set")).build();
    about.components.get_or_insert_default().add_security_scheme("admin_token", SecurityScheme::Http(bearer));
    about.security = Some(vec![SecurityRequirement::default(), SecurityRequirement::new("admin_token", [""; 0])]);
    about
}

/// The whole description, for `schemas/openapi.json`.
pub fn openapi() -> utoipa::openapi::OpenApi {
    super::routes().into_openapi()
}

/// The page, from files in the binary: it needs no network.
pub fn page<S: Clone + Send + Sync + 'static>(about: utoipa::openapi::OpenApi) -> Router<S> {
    let page: Router<S> = SwaggerUi::new("/docs").url("/openapi.json", about).into();
    page.layer(map_response(async |response: Response| match response.status() {
        StatusCode::NOT_FOUND => super::no_such_route().into_response(),
        _ => response,
    }))
}
