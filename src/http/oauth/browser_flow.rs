//! A user gives access to a server behind a URL, in a browser.
//!
//! The browser that opens the link must be the browser that ends the authorization. A signed
//! cookie holds the grant and the digest of `state`, and the callback accepts a code only with it.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::header::SET_COOKIE;
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::link::{AuthorizationCookie, AuthorizationLink, COOKIE};
use crate::core::catalog::server::Server;
use crate::core::command::{AuthorizationStarted, BeginAuthorization, CompleteAuthorization};
use crate::core::decide::grant::not_remote;
use crate::core::failure::{Code, Failure};
use crate::core::ids::ValueId;
use crate::core::model::grant::{GrantId, OAuthClient, check_scopes, check_text};
use crate::core::model::remote::SealedValue;
use crate::core::names::UserName;
use crate::crypto::context::{GrantContext, GrantValueKind};
use crate::http::extract::callback::{refusal_reason, required_text, state_digest};
use crate::http::extract::headers::RequestHost;
use crate::http::extract::json::JsonBody;
use crate::http::extract::path::{SecretsServer, ServerNamePath};
use crate::http::extract::query::PageQuery;
use crate::http::respond::html::{HtmlError, html_page, public_url, redirect};
use crate::http::respond::json::{ApiError, Success, success};
use crate::http::respond::notice::{CompletedAction, failure_with_way_back, redirect_with_notice};
use crate::http::signin::form::{ButtonForm, FormFields};
use crate::http::signin::link_page::{OpenedLink, show_link, show_way, use_link};
use crate::http::state::{ApiState, browser_origin};
use crate::telemetry::error::internal_error;
use crate::views::failure::ErrorBody;

/// The path of the callback.
const CALLBACK_PATH: &str = "/oauth/callback";
/// The path of the client metadata document.
const DOCUMENT_PATH: &str = "/oauth/client.json";
/// The longest time for finding an authorization server and for exchanging a code.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);

/// The access that a user gives, and the client that asks for it.
#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(example = json!({"username": "ana"}))]
pub(crate) struct StartBody {
    /// The user who gets access. If absent: the caller; for an administrator, all users who have no tokens of their own.
    #[schema(value_type = Option<String>)]
    username: Option<UserName>,
    /// The scopes to request; the scopes that the server asks for if absent.
    scopes: Option<Vec<String>>,
    /// A client that the authorization server knows; if absent, the program registers one.
    client_id: Option<String>,
    #[schema(value_type = Option<String>)]
    client_secret: Option<Zeroizing<String>>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AuthorizationUrl {
    /// The URL to open in the user's browser within ten minutes.
    authorization_url: String,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct AuthorizeQuery {
    /// The signed link.
    link: String,
}

/// The parameters from an authorization server. Other parameters are ignored.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct CallbackQuery {
    code: Option<String>,
    state: Option<String>,
    iss: Option<String>,
    error: Option<String>,
}

/// Begin an authorization. The user opens `authorizationUrl` in a browser.
#[utoipa::path(
    post, operation_id = "start_oauth", path = "/mcp/servers/{name}/oauth/start",
    tag = "servers", params(ServerNamePath), request_body = StartBody,
    responses(
        (status = 200, description = "The URL", body = Success<AuthorizationUrl>),
        (status = 404, description = "No server has this name", body = ErrorBody),
        (status = 502, description = "The server has no authorization server, or it accepts no \
            client; see `error`", body = ErrorBody),
    )
)]
pub(crate) async fn start(
    State(state): State<Arc<ApiState>>,
    SecretsServer { caller, server }: SecretsServer,
    RequestHost(host): RequestHost,
    JsonBody { value: body, .. }: JsonBody<StartBody>,
) -> Result<Response, ApiError> {
    let user = caller.grant_user(body.username)?;
    check_scopes(body.scopes.as_deref())?;
    if server.remote().is_none() {
        return Err(not_remote(&server).into());
    }
    let grant = GrantId {
        server: server.id,
        user,
    };
    let client = seal_client(&state, &grant, body.client_id, body.client_secret)?;
    let started = begin(&state, host.as_ref(), &grant, body.scopes, client).await?;
    let link = AuthorizationLink::new(grant, Some(started), None);
    success(AuthorizationUrl {
        authorization_url: link.url(&state, host.as_ref())?,
    })
}

fn seal_client(
    state: &ApiState,
    grant: &GrantId,
    client_id: Option<String>,
    client_secret: Option<Zeroizing<String>>,
) -> Result<Option<SealedValue>, Failure> {
    let Some(client_id) = client_id else {
        if client_secret.is_some() {
            return Err(Failure::invalid(
                "clientSecret cannot be used without clientId; add clientId",
            ));
        }
        return Ok(None);
    };
    check_text("clientId", Some(&client_id))?;
    check_text("clientSecret", client_secret.as_deref().map(String::as_str))?;
    let client = OAuthClient {
        client_id,
        client_secret,
    };
    let client = Zeroizing::new(serde_json::to_string(&client).map_err(internal_error)?);
    seal(state, grant, GrantValueKind::Client, &client).map(Some)
}

/// Open a link: a page asks for the sign-in of its user, or for one click.
///
/// Where no identity is configured, the browser goes to the authorization server at once.
#[utoipa::path(
    get, operation_id = "authorize_oauth", path = "/oauth/authorize", tag = "oauth",
    params(AuthorizeQuery), security(()),
    responses(
        (status = 200, description = "The button that begins the authorization",
            content_type = "text/html", body = String),
        (status = 401, description = "The form of the sign-in", content_type = "text/html",
            body = String),
        (status = 302, description = "To the authorization server, with a cookie for ten minutes"),
        (status = 403, description = "Another deployment made the link, it has expired, or it is \
            for another user", body = ErrorBody),
        (status = 404, description = "The server is deleted", body = ErrorBody),
        (status = 502, description = "The server has no authorization server", body = ErrorBody),
    )
)]
pub(crate) async fn authorize(
    State(state): State<Arc<ApiState>>,
    headers: HeaderMap,
    uri: Uri,
    RequestHost(host): RequestHost,
    PageQuery(query): PageQuery<AuthorizeQuery>,
) -> Result<Response, HtmlError> {
    let link = AuthorizationLink::verify(&state, &query.link)?;
    if state.access().is_identity_configured() {
        let server = find_server(&state, &link.grant)?;
        let opened = OpenedLink {
            grant: &link.grant,
            server: &server.name,
            path: uri.path_and_query().map_or("", PathAndQuery::as_str),
        };
        return show_link(&state, &headers, &opened);
    }
    let (url, cookie) = start_link(&state, host.as_ref(), link).await?;
    let location = HeaderValue::from_str(&url).map_err(internal_error)?;
    let mut response = redirect(location);
    let cookie = COOKIE.issue(&state, &cookie)?;
    response.headers_mut().insert(SET_COOKIE, cookie);
    Ok(response)
}

/// Begin the authorization of a link. Each link begins one authorization.
#[utoipa::path(
    post, operation_id = "confirm_oauth", path = "/oauth/authorize", tag = "oauth",
    params(AuthorizeQuery), security(()),
    request_body(content = ButtonForm, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "A page that leads to the authorization server, with a \
            cookie for ten minutes", content_type = "text/html", body = String),
        (status = 401, description = "The sign-in has ended", body = ErrorBody),
        (status = 403, description = "The link was used before, has expired or is for another \
            user, or another page sent the form", body = ErrorBody),
        (status = 404, description = "The server is deleted", body = ErrorBody),
        (status = 502, description = "The server has no authorization server", body = ErrorBody),
    )
)]
pub(crate) async fn confirm(
    State(state): State<Arc<ApiState>>,
    headers: HeaderMap,
    RequestHost(host): RequestHost,
    PageQuery(query): PageQuery<AuthorizeQuery>,
    fields: FormFields,
) -> Result<Response, HtmlError> {
    let link = AuthorizationLink::verify(&state, &query.link)?;
    let server = find_server(&state, &link.grant)?;
    use_link(&state, &headers, &fields, &link.grant, link.id).await?;
    let (url, cookie) = start_link(&state, host.as_ref(), link).await?;
    let cookie = COOKIE.issue(&state, &cookie)?;
    Ok(show_way(&server.name, &url, cookie))
}

/// Begins an authorization for a person who has clicked a button on the page of the server, and returns the page that leads
/// to the authorization server. The way back ends at the page of the server.
///
/// # Errors
/// Fails if the server has no authorization server, or if it accepts no client.
pub(crate) async fn begin_on_server_page(
    state: &ApiState,
    host: Option<&HeaderValue>,
    server: &Server,
    user: UserName,
) -> Result<Response, Failure> {
    if server.remote().is_none() {
        return Err(not_remote(server));
    }
    let grant = GrantId {
        server: server.id,
        user: Some(user),
    };
    let link = AuthorizationLink::new(grant, None, None);
    let (url, mut cookie) = start_link(state, host, link).await?;
    cookie.from_server_page = true;
    Ok(show_way(&server.name, &url, COOKIE.issue(state, &cookie)?))
}

/// Starts the authorization of a link, and returns the page of the authorization server and the content of the cookie for
/// the way back.
async fn start_link(
    state: &ApiState,
    host: Option<&HeaderValue>,
    link: AuthorizationLink,
) -> Result<(String, AuthorizationCookie), Failure> {
    let started = match link.started {
        Some(started) => started,
        None => {
            let _permit = state.page_permit(&link.grant)?;
            begin(state, host, &link.grant, link.scopes, None).await?
        }
    };
    let state_digest = state_digest(&started.state);
    let cookie = AuthorizationCookie::new(link.grant, started.value, state_digest);
    Ok((started.url, cookie))
}

fn find_server(state: &ApiState, grant: &GrantId) -> Result<Arc<Server>, Failure> {
    let server = state.catalog().server_by_id(grant.server).cloned();
    server.ok_or_else(|| Failure::server_not_found("of this authorization"))
}

/// End an authorization: a worker exchanges the code and stores the tokens.
#[utoipa::path(
    get, operation_id = "oauth_callback", path = "/oauth/callback", tag = "oauth",
    params(CallbackQuery), security(()),
    responses(
        (status = 200, description = "The user has given access", content_type = "text/html",
            body = String),
        (status = 303, description = "The user has given access, and has begun on the page of the \
            server: to that page"),
        (status = 403, description = "This browser has not begun this authorization, or the user \
            has given no access", body = ErrorBody),
        (status = 404, description = "The server is deleted", body = ErrorBody),
        (status = 502, description = "The authorization server returned no tokens",
            body = ErrorBody),
    )
)]
pub(crate) async fn callback(
    State(state): State<Arc<ApiState>>,
    headers: HeaderMap,
    PageQuery(query): PageQuery<CallbackQuery>,
) -> Result<Response, HtmlError> {
    let state_parameter = required_text("state", query.state.clone())?;
    let cookie = check_cookie(&state, &headers, &state_parameter)?;
    let server = find_server(&state, &cookie.grant)?;
    let completed = complete(&state, &cookie, query).await;
    let mut response = match completed {
        Ok(()) if cookie.from_server_page => {
            redirect_with_notice(&state, &server, CompletedAction::OauthConnected)?
        }
        Ok(()) => access_given(&server, cookie.grant.user.as_ref()),
        Err(failure) if cookie.from_server_page => {
            return Ok(failure_with_way_back(&state, &server, failure));
        }
        Err(failure) => return Err(failure.into()),
    };
    response
        .headers_mut()
        .append(SET_COOKIE, COOKIE.remove(&state)?);
    Ok(response)
}

/// Sends the code to a worker, which exchanges it and stores the tokens.
async fn complete(
    state: &ApiState,
    cookie: &AuthorizationCookie,
    query: CallbackQuery,
) -> Result<(), Failure> {
    if let Some(error) = query.error {
        let reason = refusal_reason(&error);
        let sentence = format!("The authorization server gives no access ({reason})");
        return Err(begin_again(&sentence));
    }
    let code = required_text("code", query.code)?;
    let grant = &cookie.grant;
    let command = CompleteAuthorization {
        origin: browser_origin(grant.user.clone()),
        grant: grant.clone(),
        authorization: cookie.authorization,
        code: seal(state, grant, GrantValueKind::Code, &code)?,
        issuer: query.iss,
    };
    let _permit = state.page_permit(grant)?;
    state.send_command(&command, COMMAND_LIMIT).await
}

fn access_given(server: &Server, user: Option<&UserName>) -> Response {
    let user = user.map_or(String::new(), |user| format!(" for user {user}"));
    let text = format!(
        "Server {} can be used now{user}. This page can be closed.",
        server.name
    );
    html_page(StatusCode::OK, "Access was given", &text)
}

/// Returns the cookie of the authorization that this `state` belongs to.
fn check_cookie(
    state: &ApiState,
    headers: &HeaderMap,
    state_parameter: &str,
) -> Result<AuthorizationCookie, Failure> {
    let cookie = COOKIE
        .read::<AuthorizationCookie>(state, headers)
        .filter(|cookie| !cookie.is_expired())
        .ok_or_else(|| {
            begin_again("This browser did not begin this within the last ten minutes")
        })?;
    if cookie.state != state_digest(state_parameter) {
        return Err(begin_again(
            "This browser has begun another authorization since",
        ));
    }
    Ok(cookie)
}

fn begin_again(sentence: &str) -> Failure {
    Failure::new(Code::Forbidden, format!("{sentence}; begin again"))
}

/// Read the client metadata, for authorization servers that do not register clients.
#[utoipa::path(
    get, operation_id = "oauth_client", path = "/oauth/client.json", tag = "oauth", security(()),
    responses(
        (status = 200, description = "An OAuth Client ID Metadata Document", body = Object),
        (status = 404, description = "PUBLIC_URL is not https", body = ErrorBody),
    )
)]
pub(crate) async fn document(State(state): State<Arc<ApiState>>) -> Result<Response, ApiError> {
    let client_id = document_url(&state).ok_or_else(|| {
        Failure::new(
            Code::RouteNotFound,
            "This document exists only if PUBLIC_URL is https",
        )
    })?;
    let document = serde_json::json!({
        "client_id": client_id,
        "client_name": "MCP API",
        "redirect_uris": [public_url(&state, None, CALLBACK_PATH)],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "none",
    });
    Ok(axum::Json(document).into_response())
}

async fn begin(
    state: &ApiState,
    host: Option<&HeaderValue>,
    grant: &GrantId,
    scopes: Option<Vec<String>>,
    client: Option<SealedValue>,
) -> Result<AuthorizationStarted, Failure> {
    let command = BeginAuthorization {
        grant: grant.clone(),
        redirect_uri: public_url(state, host, CALLBACK_PATH),
        scopes,
        client,
        client_document: document_url(state),
    };
    state.send_command(&command, COMMAND_LIMIT).await
}

fn document_url(state: &ApiState) -> Option<String> {
    state
        .access()
        .public
        .as_ref()
        .filter(|public| public.secure)
        .map(|public| format!("{}{DOCUMENT_PATH}", public.url))
}

fn seal(
    state: &ApiState,
    grant: &GrantId,
    part: GrantValueKind,
    plain: &str,
) -> Result<SealedValue, Failure> {
    let value = ValueId(Uuid::now_v7());
    state.seal(GrantContext { grant, part, value }, plain)
}
