//! `/openapi.json`, made from the handlers themselves, and a page to read it and try calls from.

use axum::Router;
use axum::http::StatusCode;
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use utoipa::OpenApi;
use utoipa::openapi::header::Header;
use utoipa::openapi::schema::{Object, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, Ref, RefOr, ResponseBuilder};
use utoipa_swagger_ui::SwaggerUi;

#[derive(OpenApi)]
#[openapi(
    info(title = "MCP API", description = "Any number of MCP servers behind one HTTP API, for any number of users."),
    tags(
        (name = "tools", description = "List and call tools"),
        (name = "servers", description = "Register and run MCP servers"),
        (name = "packages", description = "Install MCP servers from npm and PyPI"),
        (name = "secrets", description = "Secrets of users, sealed"),
        (name = "keys", description = "Which keys lie around what is sealed"),
        (name = "google", description = "Access to Google, given by users in their browsers"),
        (name = "events", description = "What has happened"),
        (name = "health", description = "How the process is"),
    )
)]
struct About;

/// What stands above the routes.
pub fn about() -> utoipa::openapi::OpenApi {
    let mut about = About::openapi();
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("ADMIN_TOKEN, where it is set"))
        .build();
    about
        .components
        .get_or_insert_default()
        .add_security_scheme("admin_token", SecurityScheme::Http(bearer));
    about.security = Some(vec![
        SecurityRequirement::default(),
        SecurityRequirement::new("admin_token", [""; 0]),
    ]);
    about
}

/// The whole description, for `/openapi.json` and `schemas/openapi.json`.
pub fn openapi() -> utoipa::openapi::OpenApi {
    complete(super::routes().into_openapi())
}

/// Adds what every route may answer, and the header that every answer has.
pub fn complete(mut about: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    for (path, item) in &mut about.paths.paths {
        if path == "/healthz" || path == "/readyz" {
            continue;
        }
        let operations = [
            &mut item.get,
            &mut item.post,
            &mut item.put,
            &mut item.delete,
        ];
        for operation in operations.into_iter().flatten() {
            let body = operation.request_body.is_some();
            // What anybody may open asks for no token.
            let open = operation
                .security
                .as_ref()
                .is_some_and(|needed| *needed == [SecurityRequirement::default()]);
            let errors = EVERYWHERE
                .iter()
                .filter(|(status, _)| !open || *status != "401")
                .chain(WITH_A_BODY.iter().filter(|_| body));
            for (status, what) in errors {
                let response = operation.responses.responses.entry((*status).into());
                response.or_insert_with(|| error(what).into());
            }
            for response in operation.responses.responses.values_mut() {
                if let RefOr::T(response) = response {
                    response
                        .headers
                        .insert("Log-Position".into(), log_position().into());
                }
            }
        }
    }
    about
}

const EVERYWHERE: [(&str, &str); 4] = [
    (
        "401",
        "ADMIN_TOKEN is set, and the request does not bring it",
    ),
    (
        "403",
        "No token is set, and the Host or Origin is a foreign one",
    ),
    ("500", "A bug of mcp-api; its log says more"),
    (
        "503",
        "Not possible right now, and nothing was begun; see `Retry-After`",
    ),
];
const WITH_A_BODY: [(&str, &str); 2] = [
    ("413", "The body is larger than PAYLOAD_LIMIT"),
    ("415", "The body is not `application/json`"),
];

fn error(what: &str) -> ResponseBuilder {
    let body = Content::new(Some(Ref::from_schema_name("ErrorBody")));
    ResponseBuilder::new()
        .description(what)
        .content("application/json", body)
}

fn log_position() -> Header {
    let mut header = Header::new(Object::with_type(Type::Integer));
    header.description = Some(
        "How far this answer has read the log; sent back, the answer will have seen as much".into(),
    );
    header
}

/// The page, from files in the binary: it needs no network.
pub fn page<S: Clone + Send + Sync + 'static>(about: utoipa::openapi::OpenApi) -> Router<S> {
    let page: Router<S> = SwaggerUi::new("/docs").url("/openapi.json", about).into();
    page.layer(map_response(async |response: Response| {
        match response.status() {
            StatusCode::NOT_FOUND => super::no_such_route().into_response(),
            _ => response,
        }
    }))
}
