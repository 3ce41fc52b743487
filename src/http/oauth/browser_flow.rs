//! A user gives access to a server behind a URL, in a browser, without any platform beside us.
//!
//! Whoever opens the link is the one who ends it: a signed cookie holds whose grant it is to be and the hash of
//! `state`, and the callback takes a code only with it.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::header::{HOST, SET_COOKIE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD as URL_SAFE, Engine as _};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::core::catalog::server::Server;
use crate::core::command::{AuthorizationStarted, BeginAuthorization, CompleteAuthorization};
use crate::core::decide::grant::not_remote;
use crate::core::failure::{Code, Failure};
use crate::core::ids::ValueId;
use crate::core::model::grant::{GrantId, OAuthClient, check_scopes, check_text};
use crate::core::model::remote::SealedValue;
use crate::core::names::UserName;
use crate::crypto::context::{GrantContext, GrantValueKind};
use crate::http::extract::json;
use crate::http::extract::path::ServerNamePath;
use crate::http::respond::html::{HtmlError, cookie, cookie_of, html_page, public_url, redirect};
use crate::http::respond::json::{ApiError, Success, success};
use crate::http::state::{ApiState, new_command_id};
use crate::telemetry::error::internal_error;
use crate::time::clock::now_seconds;
use crate::views::failure::ErrorBody;

const COOKIE: &str = "mcp_api_oauth";
/// Where the cookie goes.
const PAGES: &str = "/oauth";
const CALLBACK: &str = "/oauth/callback";
const DOCUMENT: &str = "/oauth/client.json";
/// What signatures are for.
const LINK: &str = "oauth link";
const STARTED: &str = "oauth cookie";
/// How long a link leads in, and an authorization may take.
const VALID: Duration = Duration::from_secs(600);
/// What finding an authorization server, or exchanging a code, may take.
const TIME: Duration = Duration::from_secs(120);
/// Bytes of what a browser brings.
const LONGEST: usize = 4096;

/// Whose access is to be given, and by which client.
#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(example = json!({"username": "ana"}))]
pub struct StartBody {
    /// Who will have access; without it, all users who have none of their own.
    #[schema(value_type = Option<String>)]
    username: Option<UserName>,
    /// Those that the server asks for, where absent.
    scopes: Option<Vec<String>>,
    /// A client that the authorization server knows; where absent, one is registered.
    client_id: Option<String>,
    #[schema(value_type = Option<String>)]
    client_secret: Option<Zeroizing<String>>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Start {
    /// To be opened in that user's browser within ten minutes.
    authorization_url: String,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuthorizeQuery {
    link: String,
}

/// What an authorization server sends the browser back with; there is more, which is ignored.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct CallbackQuery {
    code: Option<String>,
    state: Option<String>,
    iss: Option<String>,
    error: Option<String>,
}

/// A link: what was begun, or whose access is wanted.
#[derive(Serialize, Deserialize)]
struct AuthorizationLink {
    grant: GrantId,
    begun: Option<AuthorizationStarted>,
    /// What is to be allowed; what the server asks for, where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scopes: Option<Vec<String>>,
    /// Seconds since 1970.
    until: u64,
}

/// An authorization that a browser has taken up: what its cookie says.
#[derive(Serialize, Deserialize)]
struct AuthorizationCookie {
    grant: GrantId,
    begun: ValueId,
    /// The hash of `state`.
    state: String,
    /// Seconds since 1970.
    until: u64,
}

/// Begin to give access to a server: `authorizationUrl` is to be opened in the user's browser.
#[utoipa::path(post, operation_id = "start_oauth", path = "/mcp/servers/{name}/oauth/start", tag = "servers", params(("name" = String, Path)), request_body = StartBody,
    responses((status = 200, description = "Done", body = Success<Start>), (status = 400, description = "The request is wrong; `error` says which field, and what would be right", body = ErrorBody), (status = 404, description = "There is no such server", body = ErrorBody), (status = 502, description = "No authorization server was found, or it takes no clients; `error` says why", body = ErrorBody)))]
pub async fn start(
    State(facade): State<Arc<ApiState>>,
    ServerNamePath(name): ServerNamePath,
    request: Request,
) -> Result<Response, ApiError> {
    let host = request.headers().get(HOST).cloned();
    let body = json::read_json(request, facade.limits.payload).await?;
    let body: StartBody = json::parse_json(&body)?;
    check_scopes(body.scopes.as_deref())?;
    let server = facade.projection.catalog().server(name.as_str()).cloned();
    let server = server.ok_or_else(|| Failure::server_not_found(&name))?;
    if server.remote().is_none() {
        return Err(not_remote(&server).into());
    }
    let grant = GrantId {
        server: server.id,
        user: body.username,
    };
    let client = match (body.client_id, body.client_secret) {
        (Some(client_id), client_secret) => {
            check_text("clientId", Some(&client_id))?;
            check_text("clientSecret", client_secret.as_deref().map(String::as_str))?;
            Some(sealed(
                &facade,
                &grant,
                GrantValueKind::Client,
                &json(&OAuthClient {
                    client_id,
                    client_secret,
                })?,
            )?)
        }
        (None, Some(_)) => {
            return Err(Failure::invalid("clientSecret needs a clientId beside it").into());
        }
        (None, None) => None,
    };
    let begun = begin(&facade, host.as_ref(), &grant, body.scopes, client).await?;
    let link = AuthorizationLink {
        grant,
        begun: Some(begun),
        scopes: None,
        until: now_seconds() + VALID.as_secs(),
    };
    success(Start {
        authorization_url: link.url(&facade, host.as_ref())?,
    })
}

/// The link's page: sends the browser on, with the cookie that it has to come back with.
#[utoipa::path(get, operation_id = "authorize_oauth", path = "/oauth/authorize", tag = "oauth", params(AuthorizeQuery), security(()),
    responses((status = 302, description = "To the authorization server's page, with a cookie for ten minutes"), (status = 400, description = "A page: the link is not whole", content_type = "text/html", body = String), (status = 403, description = "A page: the link was not made here, or is too old", content_type = "text/html", body = String), (status = 502, description = "A page: no authorization server was found", content_type = "text/html", body = String)))]
pub async fn authorize(
    State(facade): State<Arc<ApiState>>,
    headers: HeaderMap,
    query: Result<Query<AuthorizeQuery>, QueryRejection>,
) -> Result<Response, HtmlError> {
    let Query(AuthorizeQuery { link }) =
        query.map_err(|error| Failure::invalid(error.body_text()))?;
    let link: AuthorizationLink = verify_text(&facade, LINK, &link).ok_or_else(|| {
        Failure::new(
            Code::Forbidden,
            "This link was not made here, or was changed; ask for a new one",
        )
    })?;
    if link.until < now_seconds() {
        return Err(Failure::new(
            Code::Forbidden,
            "This link is more than ten minutes old; ask for a new one",
        )
        .into());
    }
    let AuthorizationStarted { value, url, state } = match link.begun {
        Some(begun) => begun,
        None => begin(&facade, headers.get(HOST), &link.grant, link.scopes, None).await?,
    };
    let until = now_seconds() + VALID.as_secs();
    let started = AuthorizationCookie {
        grant: link.grant,
        begun: value,
        state: hash(&state),
        until,
    };
    let cookie = cookie(
        &facade,
        COOKIE,
        &sign_text(&facade, STARTED, &started)?,
        PAGES,
        VALID,
    );
    let mut response = redirect(HeaderValue::from_str(&url).map_err(internal_error)?);
    let cookie = cookie.ok_or_else(|| internal_error("a cookie cannot be a header"))?;
    response.headers_mut().insert(SET_COOKIE, cookie);
    Ok(response)
}

/// End: exchange the code that the authorization server gave the browser, and keep the tokens.
#[utoipa::path(get, operation_id = "oauth_callback", path = "/oauth/callback", tag = "oauth", params(CallbackQuery), security(()),
    responses((status = 200, description = "A page: access was given", content_type = "text/html", body = String), (status = 400, description = "A page: what the browser brings is not whole", content_type = "text/html", body = String), (status = 403, description = "A page: this browser did not begin this, or access was not given", content_type = "text/html", body = String), (status = 502, description = "A page: there were no tokens for the code", content_type = "text/html", body = String)))]
pub async fn callback(
    State(facade): State<Arc<ApiState>>,
    headers: HeaderMap,
    query: Result<Query<CallbackQuery>, QueryRejection>,
) -> Result<Response, HtmlError> {
    let Query(CallbackQuery {
        code,
        state,
        iss,
        error,
    }) = query.map_err(|error| Failure::invalid(error.body_text()))?;
    let short = |text: &String| text.len() <= LONGEST;
    let state = state
        .filter(short)
        .ok_or_else(|| Failure::invalid("state is missing"))?;
    let refused = |why: &str| Failure::new(Code::Forbidden, format!("{why}; begin again"));
    let started = cookie_of(&headers, COOKIE)
        .and_then(|cookie| verify_text::<AuthorizationCookie>(&facade, STARTED, cookie));
    let started = started.filter(|started| started.until >= now_seconds());
    let started = started
        .ok_or_else(|| refused("This browser did not begin this within the last ten minutes"))?;
    if started.state != hash(&state) {
        return Err(refused("This browser has begun another authorization since").into());
    }
    if let Some(error) = error {
        let plain = |c: &char| c.is_ascii_lowercase() || *c == '_';
        let reason: String = error.chars().filter(plain).take(40).collect();
        return Err(refused(&format!(
            "The authorization server gives no access ({reason})"
        ))
        .into());
    }
    let code = code
        .filter(short)
        .ok_or_else(|| Failure::invalid("code is missing"))?;
    let grant = started.grant;
    let server = facade
        .projection
        .catalog()
        .server_by_id(grant.server)
        .cloned();
    let server = server.ok_or_else(|| Failure::server_not_found("of this authorization"))?;
    let code = sealed(&facade, &grant, GrantValueKind::Code, &code)?;
    let command = CompleteAuthorization {
        id: new_command_id(),
        grant: grant.clone(),
        authorization: started.begun,
        code,
        issuer: iss,
    };
    facade.send_command(&command, TIME).await?;

    let whose = grant
        .user
        .map_or(String::new(), |user| format!(" for user {user}"));
    let text = format!(
        "Server {} can be used now{whose}. This page can be closed.",
        server.name
    );
    let mut response = html_page(StatusCode::OK, "Access was given", &text);
    let gone = cookie(&facade, COOKIE, "", PAGES, Duration::ZERO);
    response
        .headers_mut()
        .extend(gone.map(|gone| (SET_COOKIE, gone)));
    Ok(response)
}

/// Who we are, for authorization servers that read it instead of registering clients.
#[utoipa::path(get, operation_id = "oauth_client", path = "/oauth/client.json", tag = "oauth", security(()),
    responses((status = 200, description = "An OAuth Client ID Metadata Document", body = Object), (status = 404, description = "PUBLIC_URL is not https", body = ErrorBody)))]
pub async fn document(State(facade): State<Arc<ApiState>>) -> Result<Response, ApiError> {
    let client_id = document_url(&facade).ok_or_else(|| {
        Failure::new(
            Code::RouteNotFound,
            "There is such a document where PUBLIC_URL is https",
        )
    })?;
    let document = serde_json::json!({
        "client_id": client_id,
        "client_name": "MCP API",
        "redirect_uris": [public_url(&facade, None, CALLBACK)],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "none",
    });
    Ok(axum::Json(document).into_response())
}

/// Adds to a failed call where its user gives access, if that is what is missing.
pub fn add_authorization_url(
    facade: &ApiState,
    host: Option<&HeaderValue>,
    server: &Server,
    user: &UserName,
    failure: Failure,
) -> Failure {
    if failure.code != Code::ReauthRequired || server.remote().is_none() {
        return failure;
    }
    let grant = GrantId {
        server: server.id,
        user: Some(user.clone()),
    };
    let words = |scope: &str| {
        scope
            .split_ascii_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let scopes = failure
        .scope
        .as_deref()
        .map(words)
        .filter(|scopes| check_scopes(Some(scopes)).is_ok());
    match (AuthorizationLink {
        grant,
        begun: None,
        scopes,
        until: now_seconds() + VALID.as_secs(),
    })
    .url(facade, host)
    {
        Ok(url) => Failure {
            authorization_url: Some(url),
            ..failure
        },
        Err(broken) => broken,
    }
}

async fn begin(
    facade: &ApiState,
    host: Option<&HeaderValue>,
    grant: &GrantId,
    scopes: Option<Vec<String>>,
    client: Option<SealedValue>,
) -> Result<AuthorizationStarted, Failure> {
    let redirect_uri = public_url(facade, host, CALLBACK);
    let (grant, client_document) = (grant.clone(), document_url(facade));
    facade
        .send_command(
            &BeginAuthorization {
                grant,
                redirect_uri,
                scopes,
                client,
                client_document,
            },
            TIME,
        )
        .await
}

fn document_url(facade: &ApiState) -> Option<String> {
    facade
        .access
        .public
        .as_ref()
        .filter(|public| public.secure)
        .map(|public| format!("{}{DOCUMENT}", public.url))
}

impl AuthorizationLink {
    fn url(&self, facade: &ApiState, host: Option<&HeaderValue>) -> Result<String, Failure> {
        Ok(public_url(
            facade,
            host,
            &format!("/oauth/authorize?link={}", sign_text(facade, LINK, self)?),
        ))
    }
}

fn sealed(
    facade: &ApiState,
    grant: &GrantId,
    part: GrantValueKind,
    plain: &str,
) -> Result<SealedValue, Failure> {
    let value = ValueId(Uuid::now_v7());
    let sealed = facade
        .sealer
        .seal(GrantContext { grant, part, value }, plain)
        .map_err(internal_error)?;
    Ok(SealedValue {
        value,
        sealed: BASE64_STANDARD.encode(&sealed.0),
    })
}

fn json(what: &impl Serialize) -> Result<Zeroizing<String>, Failure> {
    serde_json::to_string(what)
        .map(Zeroizing::new)
        .map_err(internal_error)
}

/// A text that only this deployment can have made.
fn sign_text(facade: &ApiState, what: &str, content: &impl Serialize) -> Result<String, Failure> {
    let text = URL_SAFE.encode(serde_json::to_vec(content).map_err(internal_error)?);
    let signature = facade.sealer.sign(what, &text).map_err(internal_error)?;
    Ok(format!("{text}.{}", URL_SAFE.encode(signature)))
}

fn verify_text<T: DeserializeOwned>(facade: &ApiState, what: &str, text: &str) -> Option<T> {
    let (text, signature) = text.split_once('.')?;
    let signature = URL_SAFE.decode(signature).ok()?;
    let content = facade
        .sealer
        .is_signed(what, text, &signature)
        .then(|| URL_SAFE.decode(text).ok())??;
    serde_json::from_slice(&content).ok()
}

fn hash(state: &str) -> String {
    URL_SAFE.encode(Sha256::digest(state))
}
