//! `/openapi.json`, built from the handlers, and `/docs`, a page to read it and to try calls.
//!
//! A handler describes its own responses. [`complete`] adds the responses that many routes share.

use axum::Router;
use axum::http::StatusCode;
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use utoipa::OpenApi;
use utoipa::openapi::header::Header;
use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::{Object, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, HttpMethod, Ref, RefOr, Response as ResponseSpec, ResponseBuilder};
use utoipa_swagger_ui::SwaggerUi;

use super::respond::html::forbid_frames;
use crate::views::failure::ErrorBody;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "MCP API",
        description = "Many MCP servers behind one HTTP API, for many users.",
    ),
    components(schemas(ErrorBody)),
    tags(
        (name = "tools", description = "List and call tools"),
        (name = "servers", description = "Register and run MCP servers"),
        (name = "packages", description = "Install MCP servers from npm and PyPI"),
        (name = "secrets", description = "Store the secrets of users, encrypted"),
        (name = "connections", description = "The credentials and grants of one user"),
        (name = "keys", description = "Count and rotate the deployment keys"),
        (name = "jobs", description = "Read and cancel jobs, and handle dead letters"),
        (name = "google", description = "Sign-in of users to Google"),
        (name = "oauth", description = "Access of users to servers behind a URL"),
        (name = "connect", description = "Pages on which people give values and accounts to servers"),
        (name = "signin", description = "Sign-in of people to the pages of this API"),
        (name = "events", description = "Read the event log"),
        (name = "health", description = "Health and metrics of the process"),
    )
)]
struct Base;

/// Returns the description without routes.
pub(super) fn base() -> utoipa::openapi::OpenApi {
    let mut description = Base::openapi();
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some(
            "ADMIN_TOKEN, a token of a user (`mcpu_…`), or a JWT of the issuer (OIDC_ISSUER)",
        ))
        .build();
    description
        .components
        .get_or_insert_default()
        .add_security_scheme("bearer", SecurityScheme::Http(bearer));
    description.security = Some(vec![
        SecurityRequirement::default(),
        SecurityRequirement::new("bearer", [""; 0]),
    ]);
    description
}

/// Returns the whole description, for `/openapi.json` and `schemas/openapi.json`.
pub fn openapi() -> utoipa::openapi::OpenApi {
    complete(super::routes().into_openapi())
}

/// Adds the responses that many routes share, and the header of every answer.
pub(super) fn complete(mut description: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    for (path, item) in &mut description.paths.paths {
        // A probe passes no middleware.
        if path == "/healthz" || path == "/readyz" {
            continue;
        }
        let operations = [
            (HttpMethod::Get, &mut item.get),
            (HttpMethod::Post, &mut item.post),
            (HttpMethod::Put, &mut item.put),
            (HttpMethod::Delete, &mut item.delete),
        ];
        for (method, operation) in operations {
            if let Some(operation) = operation {
                complete_operation(&method, operation);
            }
        }
    }
    description
}

/// A response that many routes share.
struct SharedResponse {
    status: &'static str,
    description: &'static str,
}

const INVALID: SharedResponse = SharedResponse {
    status: "400",
    description: "The request is invalid; `error` names the field and the remedy",
};
const UNAUTHENTICATED: SharedResponse = SharedResponse {
    status: "401",
    description: "The request needs a token and has none, or its token is wrong, has expired or was revoked",
};
const FORBIDDEN: SharedResponse = SharedResponse {
    status: "403",
    description: "The caller lacks the scope of this request or names another user; or no identity is configured, and the Host, the Origin or the site of the request is foreign",
};
const KEY_CONFLICT: SharedResponse = SharedResponse {
    status: "409",
    description: "Another request used the Idempotency-Key with another body",
};
const PAYLOAD_TOO_LARGE: SharedResponse = SharedResponse {
    status: "413",
    description: "The body is larger than PAYLOAD_LIMIT",
};
const UNSUPPORTED_MEDIA_TYPE: SharedResponse = SharedResponse {
    status: "415",
    description: "The body is not `application/json`",
};
const TOO_MANY_JOBS: SharedResponse = SharedResponse {
    status: "429",
    description: "The user has too many waiting jobs (MAX_WAITING_JOBS)",
};
const INTERNAL: SharedResponse = SharedResponse {
    status: "500",
    description: "A bug of mcp-api; its log has the cause",
};
const OUTCOME_UNKNOWN: SharedResponse = SharedResponse {
    status: "502",
    description: "The worker was lost, and it may have done the work; see `mayHaveRun`",
};
const UNAVAILABLE: SharedResponse = SharedResponse {
    status: "503",
    description: "The program cannot do this now and has started nothing; see `Retry-After`",
};
const TIMEOUT: SharedResponse = SharedResponse {
    status: "504",
    description: "No worker answered in time; see `mayHaveRun`",
};

/// The GET routes that send a command to a worker. Every other GET route reads the catalog.
const GET_COMMANDS: [&str; 10] = [
    "authorize_oauth",
    "check_packages",
    "count_keys",
    "get_job",
    "get_package",
    "get_packages_by_name",
    "google_callback",
    "list_packages",
    "login_google",
    "oauth_callback",
];
/// The routes whose job belongs to the system user, which has no limit of waiting jobs.
const MAINTENANCE: [&str; 2] = ["compact_log", "rotate_keys"];
/// The routes whose failures are pages, because a person reads them in a browser.
const PAGES: [&str; 18] = [
    "authorize_oauth",
    "confirm_google",
    "confirm_oauth",
    "connect_disconnect",
    "connect_google",
    "connect_list_page",
    "connect_oauth",
    "connect_page",
    "connect_remove",
    "connect_set",
    "google_callback",
    "login_google",
    "oauth_callback",
    "sign_in",
    "sign_out",
    "signin_callback",
    "signin_page",
    "start_signin",
];

fn complete_operation(method: &HttpMethod, operation: &mut Operation) {
    let id = operation.operation_id.clone().unwrap_or_default();
    for shared in shared_responses(method, &id, operation) {
        let response = operation
            .responses
            .responses
            .entry(shared.status.to_owned());
        response.or_insert_with(|| json_error(shared.description).into());
    }
    let is_page = PAGES.contains(&id.as_str());
    for (status, response) in &mut operation.responses.responses {
        let RefOr::T(response) = response else {
            continue;
        };
        if is_page && status.starts_with(['4', '5']) {
            add_page_content(response);
        }
        response
            .headers
            .insert("Log-Position".into(), log_position().into());
    }
}

fn shared_responses(method: &HttpMethod, id: &str, operation: &Operation) -> Vec<SharedResponse> {
    let mut shared = vec![INVALID, FORBIDDEN, INTERNAL, UNAVAILABLE];
    if !is_public(operation) {
        shared.push(UNAUTHENTICATED);
    }
    if operation.request_body.is_some() {
        shared.extend([PAYLOAD_TOO_LARGE, UNSUPPORTED_MEDIA_TYPE]);
    }
    if has_header(operation, "Idempotency-Key") {
        shared.push(KEY_CONFLICT);
    }
    if has_header(operation, "Prefer") && !MAINTENANCE.contains(&id) {
        shared.push(TOO_MANY_JOBS);
    }
    if *method != HttpMethod::Get || GET_COMMANDS.contains(&id) {
        shared.extend([OUTCOME_UNKNOWN, TIMEOUT]);
    }
    shared
}

fn is_public(operation: &Operation) -> bool {
    operation
        .security
        .as_ref()
        .is_some_and(|requirements| *requirements == [SecurityRequirement::default()])
}

fn has_header(operation: &Operation, name: &str) -> bool {
    operation
        .parameters
        .iter()
        .flatten()
        .any(|parameter| matches!(parameter, RefOr::T(header) if header.name == name))
}

fn json_error(description: &str) -> ResponseBuilder {
    let body = Content::new(Some(Ref::from_schema_name("ErrorBody")));
    ResponseBuilder::new()
        .description(description)
        .content("application/json", body)
}

fn add_page_content(response: &mut ResponseSpec) {
    let page = Content::new(Some(Object::with_type(Type::String)));
    response.content.insert("text/html".into(), page.into());
}

fn log_position() -> Header {
    let mut header = Header::new(Object::with_type(Type::Integer));
    header.description = Some(
        "The position up to which this answer has read the event log. A request that sends it \
         back gets an answer that has read at least as much."
            .into(),
    );
    header
}

/// Returns the documentation page. Its files are part of the program, so it needs no network.
pub(super) fn docs_router<S: Clone + Send + Sync + 'static>(
    description: utoipa::openapi::OpenApi,
) -> Router<S> {
    let docs: Router<S> = SwaggerUi::new("/docs")
        .url("/openapi.json", description)
        .into();
    docs.layer(map_response(async |mut response: Response| {
        if response.status() == StatusCode::NOT_FOUND {
            return super::route_not_found().into_response();
        }
        forbid_frames(&mut response);
        response
    }))
}
