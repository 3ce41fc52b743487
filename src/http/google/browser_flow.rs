//! The sign-in to Google for a stdio server that acts there for its users.
//!
//! The browser that begins the sign-in must be the browser that ends it. A signed cookie holds the
//! user, the server and the digest of `state`, and the callback accepts a code only with it.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::header::SET_COOKIE;
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use url::Url;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::link::{COOKIE, GoogleLink, LoginCookie};
use crate::cluster::command_client::CommandRequest;
use crate::core::catalog::server::Server;
use crate::core::command::{Area, Command, ExchangeGoogleCode};
use crate::core::decide::access::{Action, may};
use crate::core::decide::google::find_google_server;
use crate::core::failure::{Code, Failure};
use crate::core::ids::ValueId;
use crate::core::model::google::{ExchangeArgs, GET_URL, consent, user_in_state};
use crate::core::model::grant::GrantId;
use crate::core::model::tool_call::CallTool;
use crate::core::names::{BadName, ServerName, UserName};
use crate::crypto::context::{GoogleContext, GoogleValueKind};
use crate::http::auth::SecretsCaller;
use crate::http::extract::callback::{refusal_reason, required_text, state_digest};
use crate::http::extract::headers::RequestHost;
use crate::http::extract::json::JsonBody;
use crate::http::extract::query::PageQuery;
use crate::http::respond::html::{HtmlError, html_page, redirect};
use crate::http::respond::json::{ApiError, Success, success};
use crate::http::respond::notice::{CompletedAction, failure_with_way_back, redirect_with_notice};
use crate::http::signin::form::{ButtonForm, FormFields};
use crate::http::signin::link_page::{OpenedLink, show_link, show_way, use_link};
use crate::http::state::{ApiState, browser_origin};
use crate::telemetry::error::internal_error;
use crate::views::failure::ErrorBody;

/// The longest time for the tool that returns the URL of the consent page.
const URL_LIMIT: Duration = Duration::from_secs(30);
/// The extra time of a command around its tool call.
const COMMAND_MARGIN: Duration = Duration::from_secs(15);

/// The user and the server of a link.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"username": "ana", "serverName": "workspace"}))]
pub(crate) struct LinkBody {
    /// The caller if absent, and `default` for a caller without a user.
    #[schema(value_type = Option<String>)]
    username: Option<UserName>,
    /// Can be absent if only one server signs in to Google.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    server_name: Option<ServerName>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct LoginUrl {
    /// The URL to open in the user's browser within ten minutes.
    url: String,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct LoginQuery {
    /// The user who signs in.
    #[param(value_type = String)]
    user_id: UserName,
    /// Can be absent if only one server signs in to Google.
    #[param(value_type = Option<String>)]
    server: Option<ServerName>,
    /// The end of the signed link's life in seconds since 1970.
    expires: Option<u64>,
    /// Names the signed link, so that it is used once.
    #[param(value_type = Option<String>)]
    id: Option<Uuid>,
    /// The signature of the link, required if an identity is configured.
    signature: Option<String>,
}

/// The parameters from Google. Other parameters are ignored.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct CallbackQuery {
    code: Option<String>,
    state: Option<String>,
    error: Option<String>,
}

/// Make a signed link for a user's browser.
#[utoipa::path(
    post, operation_id = "link_google", path = "/auth/google/link", tag = "google",
    request_body = LinkBody,
    responses(
        (status = 200, description = "The link", body = Success<LoginUrl>),
        (status = 404, description = "No server has this name", body = ErrorBody),
    )
)]
pub(crate) async fn link(
    State(state): State<Arc<ApiState>>,
    SecretsCaller(caller): SecretsCaller,
    RequestHost(host): RequestHost,
    JsonBody { value: body, .. }: JsonBody<LinkBody>,
) -> Result<Response, ApiError> {
    let user = caller.acts_for(body.username)?;
    let may_use = |server: &Server| may(&caller, Action::ManageSecrets, Some(server.id)).is_ok();
    let server = find_google_server(&state.catalog(), body.server_name.as_ref(), may_use)?;
    let link = GoogleLink {
        user: &user,
        server: Some(&server.name),
    };
    success(LoginUrl {
        url: link.url(&state, host.as_ref())?,
    })
}

/// Open a link: a page asks for the sign-in of its user, or for one click.
///
/// Where no identity is configured, the browser goes to the consent page at once.
#[utoipa::path(
    get, operation_id = "login_google", path = "/auth/google/login", tag = "google",
    params(LoginQuery), security(()),
    responses(
        (status = 200, description = "The button that begins the sign-in to Google",
            content_type = "text/html", body = String),
        (status = 302, description = "To Google, with a cookie for ten minutes"),
        (status = 401, description = "The form of the sign-in to this API",
            content_type = "text/html", body = String),
        (status = 403, description = "The link is not signed, has expired or is for another user",
            body = ErrorBody),
        (status = 404, description = "No server has this name", body = ErrorBody),
        (status = 409, description = "The server is disabled", body = ErrorBody),
        (status = 502, description = "The server returned no URL", body = ErrorBody),
    )
)]
pub(crate) async fn login(
    State(state): State<Arc<ApiState>>,
    headers: HeaderMap,
    uri: Uri,
    PageQuery(query): PageQuery<LoginQuery>,
) -> Result<Response, HtmlError> {
    query.check(&state)?;
    let server = find_google_server(&state.catalog(), query.server.as_ref(), |_| true)?;
    if state.access().is_identity_configured() {
        let opened = OpenedLink {
            grant: &grant_of(&server, &query.user_id),
            server: &server.name,
            path: uri.path_and_query().map_or("", PathAndQuery::as_str),
        };
        return show_link(&state, &headers, &opened);
    }
    let (url, cookie) = start_login(&state, &server, query.user_id).await?;
    let location = HeaderValue::from_str(url.as_str()).map_err(internal_error)?;
    let mut response = redirect(location);
    let cookie = COOKIE.issue(&state, &cookie)?;
    response.headers_mut().insert(SET_COOKIE, cookie);
    Ok(response)
}

/// Begin the sign-in to Google of a link. Each link begins one sign-in.
#[utoipa::path(
    post, operation_id = "confirm_google", path = "/auth/google/login", tag = "google",
    params(LoginQuery), security(()),
    request_body(content = ButtonForm, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "A page that leads to Google, with a cookie for ten minutes",
            content_type = "text/html", body = String),
        (status = 401, description = "The sign-in to this API has ended", body = ErrorBody),
        (status = 403, description = "The link was used before, is not signed, has expired or is \
            for another user, or another page sent the form", body = ErrorBody),
        (status = 404, description = "No server has this name", body = ErrorBody),
        (status = 409, description = "The server is disabled", body = ErrorBody),
        (status = 502, description = "The server returned no URL", body = ErrorBody),
    )
)]
pub(crate) async fn confirm(
    State(state): State<Arc<ApiState>>,
    headers: HeaderMap,
    PageQuery(query): PageQuery<LoginQuery>,
    fields: FormFields,
) -> Result<Response, HtmlError> {
    query.check(&state)?;
    let id = query.id.ok_or_else(|| {
        let sentence = "This link has no id; ask for a new one with POST /auth/google/link";
        Failure::new(Code::Forbidden, sentence)
    })?;
    let server = find_google_server(&state.catalog(), query.server.as_ref(), |_| true)?;
    let grant = grant_of(&server, &query.user_id);
    use_link(&state, &headers, &fields, &grant, ValueId(id)).await?;
    let (url, cookie) = start_login(&state, &server, query.user_id).await?;
    let cookie = COOKIE.issue(&state, &cookie)?;
    Ok(show_way(&server.name, url.as_str(), cookie))
}

impl LoginQuery {
    fn check(&self, state: &ApiState) -> Result<(), Failure> {
        let link = GoogleLink {
            user: &self.user_id,
            server: self.server.as_ref(),
        };
        link.check(state, self.expires, self.id, self.signature.as_deref())
    }
}

/// Begins a sign-in to Google for a person who has clicked a button on the page of the server, and returns the page that
/// leads to Google. The way back ends at the page of the server.
///
/// # Errors
/// Fails if the server is no Google server, or if it returns no URL.
pub(crate) async fn begin_on_server_page(
    state: &ApiState,
    server: &Server,
    user: UserName,
) -> Result<Response, Failure> {
    find_google_server(&state.catalog(), Some(&server.name), |_| true)?;
    let (url, mut cookie) = start_login(state, server, user).await?;
    cookie.from_server_page = true;
    let cookie = COOKIE.issue(state, &cookie)?;
    Ok(show_way(&server.name, url.as_str(), cookie))
}

/// Starts a sign-in, and returns the consent page and the content of the cookie for the way back.
async fn start_login(
    state: &ApiState,
    server: &Server,
    user: UserName,
) -> Result<(Url, LoginCookie), Failure> {
    let (url, state_parameter) = request_consent_url(state, server, &user).await?;
    let cookie = LoginCookie::new(user, server.id, state_digest(&state_parameter));
    Ok((url, cookie))
}

/// Calls the server's tool that returns the URL of the consent page and its `state`.
async fn request_consent_url(
    state: &ApiState,
    server: &Server,
    user: &UserName,
) -> Result<(Url, String), Failure> {
    let arguments = serde_json::json!({ "user_id": user });
    let body = serde_json::to_vec(&arguments).map_err(internal_error)?;
    let tool = GET_URL
        .parse()
        .map_err(|error: BadName| internal_error(error))?;
    let request = CommandRequest {
        area: Area::Tools,
        server: server.exclusive_id(),
        command: CallTool::NAME,
        call: Some(CallTool {
            user: user.clone(),
            server: server.name.clone(),
            tool,
            timeout_ms: Some(URL_LIMIT.as_millis() as u64),
        }),
        client: None,
        interim: None,
        body: body.into(),
        traceparent: None,
        meta: None,
        time: URL_LIMIT + COMMAND_MARGIN,
    };
    let _permit = state.page_permit(&grant_of(server, user))?;
    let response = state.send_request(&request).await?;
    consent(&response.body, user)
}

/// End the sign-in: a worker exchanges the code and stores the tokens.
#[utoipa::path(
    get, operation_id = "google_callback", path = "/auth/google/callback", tag = "google",
    params(CallbackQuery), security(()),
    responses(
        (status = 200, description = "The server has access", content_type = "text/html",
            body = String),
        (status = 303, description = "The server has access, and the user has begun on the page of \
            the server: to that page"),
        (status = 403, description = "This browser has not begun this sign-in, or the user has \
            given no access", body = ErrorBody),
        (status = 404, description = "The server is deleted", body = ErrorBody),
        (status = 409, description = "The server is disabled", body = ErrorBody),
        (status = 502, description = "The server got no tokens for the code", body = ErrorBody),
    )
)]
pub(crate) async fn callback(
    State(state): State<Arc<ApiState>>,
    headers: HeaderMap,
    PageQuery(query): PageQuery<CallbackQuery>,
) -> Result<Response, HtmlError> {
    let state_parameter = required_text("state", query.state.clone())?;
    let cookie = check_cookie(&state, &headers, &state_parameter)?;
    let server = state.catalog().server_by_id(cookie.server).cloned();
    let server = server.ok_or_else(|| Failure::server_not_found("of this sign-in"))?;
    let completed = complete(&state, &server, &cookie, query, &state_parameter).await;
    let mut response = match completed {
        Ok(()) if cookie.from_server_page => {
            redirect_with_notice(&state, &server, CompletedAction::GoogleConnected)?
        }
        Ok(()) => access_given(&server, &cookie.user),
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

async fn complete(
    state: &ApiState,
    server: &Server,
    cookie: &LoginCookie,
    query: CallbackQuery,
    state_parameter: &str,
) -> Result<(), Failure> {
    if let Some(error) = query.error {
        let reason = refusal_reason(&error);
        return Err(begin_again(&format!("Google gives no access ({reason})")));
    }
    let code = required_text("code", query.code)?;
    let arguments = ExchangeArgs {
        code: &code,
        state: state_parameter,
    };
    exchange_code(state, server, &cookie.user, &arguments).await
}

fn access_given(server: &Server, user: &UserName) -> Response {
    let text = format!(
        "Server {} now has access to Google for user {user}. This page can be closed.",
        server.name
    );
    html_page(StatusCode::OK, "Connected to Google", &text)
}

/// Returns the cookie of the sign-in that this `state` belongs to.
fn check_cookie(
    state: &ApiState,
    headers: &HeaderMap,
    state_parameter: &str,
) -> Result<LoginCookie, Failure> {
    let cookie = COOKIE
        .read::<LoginCookie>(state, headers)
        .filter(|cookie| !cookie.is_expired())
        .ok_or_else(|| {
            begin_again("This browser did not begin this within the last ten minutes")
        })?;
    if cookie.state != state_digest(state_parameter) {
        return Err(begin_again("This browser has begun another sign-in since"));
    }
    if user_in_state(state_parameter).as_ref() != Some(&cookie.user) {
        return Err(begin_again("This is another user's sign-in"));
    }
    Ok(cookie)
}

fn begin_again(sentence: &str) -> Failure {
    Failure::new(Code::Forbidden, format!("{sentence}; begin again"))
}

/// Sends the sealed code to the worker that calls the exchange tool and stores the tokens.
async fn exchange_code(
    state: &ApiState,
    server: &Server,
    user: &UserName,
    arguments: &ExchangeArgs<'_>,
) -> Result<(), Failure> {
    let arguments = serde_json::to_string(arguments).map_err(internal_error)?;
    let arguments = Zeroizing::new(arguments);
    let context = GoogleContext {
        server: server.id,
        user,
        kind: GoogleValueKind::Code,
        value: ValueId(Uuid::now_v7()),
    };
    let sealed = state.seal(context, &arguments)?;
    let command = ExchangeGoogleCode {
        origin: browser_origin(Some(user.clone())),
        server: server.id,
        server_name: server.name.clone(),
        user: user.clone(),
        value: sealed.value,
        sealed: sealed.sealed,
    };
    let limit = Duration::from_millis(server.config.tool_timeout_ms()) + COMMAND_MARGIN;
    let _permit = state.page_permit(&grant_of(server, user))?;
    state.send_to_owner(&server.name, &command, limit).await
}

fn grant_of(server: &Server, user: &UserName) -> GrantId {
    GrantId {
        server: server.id,
        user: Some(user.clone()),
    }
}
