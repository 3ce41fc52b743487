//! `/auth/google`: a user gives a server access to Google, in a browser.
//!
//! Whoever begins is the one who ends: a signed cookie holds the user, the server and the hash of `state`, and the
//! callback takes a code only with it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::header::{HOST, SET_COOKIE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD as URL_SAFE, Engine as _};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::to_raw_value;
use sha2::{Digest, Sha256};
use url::form_urlencoded::Serializer;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::cluster::command_client::CommandRequest;
use crate::core::catalog::server::Server;
use crate::core::command::{Area, Command, ExchangeGoogleCode};
use crate::core::failure::{Code, Failure};
use crate::core::ids::{ServerId, ValueId};
use crate::core::model::google;
use crate::core::model::google::{ExchangeArgs, GET_URL};
use crate::core::model::job::Job;
use crate::core::model::tool_call::CallTool;
use crate::core::names::{ServerName, UserName};
use crate::crypto::context::{GoogleContext, GoogleValueKind};
use crate::http::extract::json;
use crate::http::respond::html;
use crate::http::respond::html::{HtmlError, cookie, cookie_of, html_page, public_url, redirect};
use crate::http::respond::json::{ApiError, Success, success};
use crate::http::state::{ApiState, new_command_id};
use crate::telemetry::error::internal_error;
use crate::time::clock::now_seconds;
use crate::views::failure::ErrorBody;
use crate::views::job_answer::JobAnswer;

const COOKIE: &str = "mcp_api_google";
const LOGIN: &str = "/auth/google/login";
/// Where the cookie goes.
const PAGES: &str = "/auth/google";
/// How long a link leads in, and a sign-in may take.
const VALID: Duration = Duration::from_secs(600);
/// How long the server may take to say where a user consents.
const ANSWERS: Duration = Duration::from_secs(30);
/// What the exchange may take beside the call itself.
const AROUND: Duration = Duration::from_secs(15);
/// Bytes of a code or a state.
const LONGEST: usize = 4096;

/// Whose link is wanted.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"username": "ana", "serverName": "workspace"}))]
pub struct LinkBody {
    /// `default` where absent.
    #[serde(default)]
    #[schema(value_type = String, required = false)]
    username: UserName,
    /// May be left out while one server signs in to Google.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    server_name: Option<ServerName>,
}

#[derive(Serialize, ToSchema)]
pub struct Link {
    /// To be opened in the user's browser within ten minutes.
    url: String,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LoginQuery {
    #[param(value_type = String)]
    user_id: UserName,
    /// May be left out while one server signs in to Google.
    #[param(value_type = Option<String>)]
    server: Option<ServerName>,
    /// Of a signed link.
    expires: Option<u64>,
    /// Of a signed link; needed where ADMIN_TOKEN is set.
    signature: Option<String>,
}

/// What Google sends the browser back with; there is more, which is ignored.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct CallbackQuery {
    code: Option<String>,
    state: Option<String>,
    error: Option<String>,
}

/// Make a signed link that lets a user's browser begin.
#[utoipa::path(post, operation_id = "link_google", path = "/auth/google/link", tag = "google", request_body = LinkBody,
    responses((status = 200, description = "Done", body = Success<Link>), (status = 400, description = "The request is wrong; `error` says which field, and what would be right", body = ErrorBody), (status = 404, description = "There is no such server", body = ErrorBody)))]
pub async fn link(
    State(facade): State<Arc<ApiState>>,
    request: Request,
) -> Result<Response, ApiError> {
    let host = request.headers().get(HOST).cloned();
    let body = json::read_json(request, facade.limits.payload).await?;
    let LinkBody {
        username,
        server_name,
    } = json::parse_json(&body)?;
    let server = crate::core::decide::google::find_google_server(
        &facade.projection.catalog(),
        server_name.as_ref(),
    )?;
    success(Link {
        url: signed_link(&facade, host.as_ref(), &username, &server.name)?,
    })
}

/// Begin: ask the server where the user consents, and send the browser there.
#[utoipa::path(get, operation_id = "login_google", path = "/auth/google/login", tag = "google", params(LoginQuery), security(()),
    responses((status = 302, description = "To Google's page, with a cookie for ten minutes"), (status = 400, description = "A page: the link is not whole", content_type = "text/html", body = String), (status = 403, description = "A page: the link is not signed, or too old", content_type = "text/html", body = String),
        (status = 404, description = "A page: there is no such server", content_type = "text/html", body = String), (status = 502, description = "A page: the server gave no URL", content_type = "text/html", body = String)))]
pub async fn login(
    State(facade): State<Arc<ApiState>>,
    query: Result<Query<LoginQuery>, QueryRejection>,
) -> Result<Response, HtmlError> {
    let Query(query) = query.map_err(|error| Failure::invalid(error.body_text()))?;
    check_link(&facade, &query)?;
    let user = query.user_id;
    let server = crate::core::decide::google::find_google_server(
        &facade.projection.catalog(),
        query.server.as_ref(),
    )?;
    let body =
        serde_json::to_vec(&serde_json::json!({ "user_id": user })).map_err(internal_error)?;
    let call = CallTool {
        user: user.clone(),
        server: server.name.clone(),
        tool: GET_URL
            .parse()
            .map_err(|error: crate::core::names::BadName| internal_error(error))?,
        timeout_ms: Some(ANSWERS.as_millis() as u64),
    };
    let question = CommandRequest {
        area: Area::Tools,
        server: server.exclusive_id(),
        command: CallTool::NAME,
        call: Some(call),
        body: body.into(),
        traceparent: None,
        time: ANSWERS + AROUND,
    };
    let answered = facade.commands.send(question).await?;
    let (url, state) = google::consent(&answered.body, &user)?;
    let started = LoginCookie {
        user,
        server: server.id,
        state: hash(&state),
        until: now_seconds() + VALID.as_secs(),
    };
    let mut response = redirect(HeaderValue::from_str(url.as_str()).map_err(internal_error)?);
    response
        .headers_mut()
        .insert(SET_COOKIE, started.cookie(&facade)?);
    Ok(response)
}

/// End: exchange the code that Google gave the browser, and keep the tokens.
#[utoipa::path(get, operation_id = "google_callback", path = "/auth/google/callback", tag = "google", params(CallbackQuery), security(()),
    responses((status = 200, description = "A page: the server has access", content_type = "text/html", body = String), (status = 400, description = "A page: what Google sent is not whole", content_type = "text/html", body = String), (status = 403, description = "A page: this browser did not begin this, or Google was not given access", content_type = "text/html", body = String),
        (status = 404, description = "A page: the server is gone", content_type = "text/html", body = String), (status = 502, description = "A page: the server got no tokens for the code", content_type = "text/html", body = String)))]
pub async fn callback(
    State(facade): State<Arc<ApiState>>,
    headers: HeaderMap,
    query: Result<Query<CallbackQuery>, QueryRejection>,
) -> Result<Response, HtmlError> {
    let Query(CallbackQuery { code, state, error }) =
        query.map_err(|error| Failure::invalid(error.body_text()))?;
    let state = state
        .filter(|state| state.len() <= LONGEST)
        .ok_or_else(|| Failure::invalid("state is missing"))?;
    let LoginCookie { user, server, .. } = LoginCookie::of(&facade, &headers, &state)?;
    if let Some(error) = error {
        let plain = |c: char| c.is_ascii_lowercase() || c == '_';
        let reason: String = error.chars().filter(|c| plain(*c)).take(40).collect();
        return Err(Failure::new(
            Code::Forbidden,
            format!("Google gives no access ({reason}); begin again"),
        )
        .into());
    }
    let code = code
        .filter(|code| code.len() <= LONGEST)
        .ok_or_else(|| Failure::invalid("code is missing"))?;
    let server = facade.projection.catalog().server_by_id(server).cloned();
    let server = server.ok_or_else(|| Failure::server_not_found("of this sign-in"))?;

    let args = zeroize::Zeroizing::new(
        serde_json::to_string(&ExchangeArgs {
            code: &code,
            state: &state,
        })
        .map_err(internal_error)?,
    );
    let value = ValueId(Uuid::now_v7());
    let place = GoogleContext {
        server: server.id,
        user: &user,
        kind: GoogleValueKind::Code,
        value,
    };
    let sealed =
        BASE64_STANDARD.encode(&facade.sealer.seal(place, &args).map_err(internal_error)?.0);
    let (id, server_name) = (new_command_id(), server.name.clone());
    let command = ExchangeGoogleCode {
        id,
        server: server.id,
        server_name,
        user: user.clone(),
        value,
        sealed,
    };
    let time = Duration::from_millis(server.config.tool_timeout_ms()) + AROUND;
    facade.send_to_owner(&server.name, &command, time).await?;

    let text = format!(
        "Server {} now has access to Google for user {user}. This page can be closed.",
        server.name
    );
    let mut response = html_page(StatusCode::OK, "Connected to Google", &text);
    let gone = cookie(&facade, COOKIE, "", PAGES, Duration::ZERO);
    response
        .headers_mut()
        .extend(gone.map(|gone| (SET_COOKIE, gone)));
    Ok(response)
}

/// Adds to a failed call where its user gives access, if that is what is missing.
pub fn add_login_url(
    facade: &ApiState,
    host: Option<&HeaderValue>,
    server: &Server,
    user: &UserName,
    failure: Failure,
) -> Failure {
    if failure.code != Code::ReauthRequired || !google::is_marked(&server.config) {
        return failure;
    }
    match signed_link(facade, host, user, &server.name) {
        Ok(url) => Failure {
            authorization_url: Some(url),
            ..failure
        },
        Err(broken) => broken,
    }
}

/// The same for an answer that was kept as a job's: a link of that time would be too old.
pub fn add_fresh_login_url(
    facade: &ApiState,
    job: &Job,
    answer: JobAnswer,
) -> Result<JobAnswer, Failure> {
    let missing = answer.status == Code::ReauthRequired.status();
    let catalog = facade.projection.catalog();
    let server = job
        .server
        .as_ref()
        .filter(|_| missing)
        .and_then(|name| catalog.server(name.as_str()));
    let Some(server) = server.filter(|server| google::is_marked(&server.config)) else {
        return Ok(answer);
    };
    let mut body: BTreeMap<String, Value> =
        serde_json::from_str(answer.body.get()).map_err(internal_error)?;
    body.insert(
        "authorizationUrl".into(),
        signed_link(facade, None, &job.user, &server.name)?.into(),
    );
    Ok(JobAnswer {
        body: to_raw_value(&body).map_err(internal_error)?,
        ..answer
    })
}

fn signed_link(
    facade: &ApiState,
    host: Option<&HeaderValue>,
    user: &UserName,
    server: &ServerName,
) -> Result<String, Failure> {
    let expires = now_seconds() + VALID.as_secs();
    let signature = facade
        .sealer
        .sign("google link", &link_text(user, Some(server), expires))
        .map_err(internal_error)?;
    let query = Serializer::new(String::new())
        .append_pair("user_id", user.as_str())
        .append_pair("server", server.as_str())
        .append_pair("expires", &expires.to_string())
        .append_pair("signature", &URL_SAFE.encode(signature))
        .finish();
    Ok(public_url(facade, host, &format!("{LOGIN}?{query}")))
}

/// What is signed of a link.
fn link_text(user: &UserName, server: Option<&ServerName>, expires: u64) -> String {
    serde_json::json!([user, server, expires]).to_string()
}

/// Where there is a token a link has to be signed; a signature that is there has to be right anywhere.
fn check_link(facade: &ApiState, query: &LoginQuery) -> Result<(), Failure> {
    if facade.access.admin_token.is_none() && query.signature.is_none() {
        return Ok(());
    }
    let refused = |why: &str| {
        Failure::new(
            Code::Forbidden,
            format!("This link {why}; ask for a new one"),
        )
    };
    let (Some(expires), Some(signature)) = (query.expires, &query.signature) else {
        return Err(refused(
            "is not signed, as POST /auth/google/link makes them",
        ));
    };
    let signature = URL_SAFE.decode(signature).unwrap_or_default();
    let text = link_text(&query.user_id, query.server.as_ref(), expires);
    if !facade.sealer.is_signed("google link", &text, &signature) {
        return Err(refused("was not made here, or was changed"));
    }
    if expires < now_seconds() {
        Err(refused("is more than ten minutes old"))
    } else {
        Ok(())
    }
}

/// A sign-in that a browser has begun: what its cookie says.
#[derive(Serialize, Deserialize)]
struct LoginCookie {
    user: UserName,
    server: ServerId,
    /// The hash of `state`.
    state: String,
    /// Seconds since 1970.
    until: u64,
}

impl LoginCookie {
    fn cookie(&self, facade: &ApiState) -> Result<HeaderValue, Failure> {
        let text = URL_SAFE.encode(serde_json::to_vec(self).map_err(internal_error)?);
        let signature = URL_SAFE.encode(
            facade
                .sealer
                .sign("google cookie", &text)
                .map_err(internal_error)?,
        );
        let cookie = html::cookie(facade, COOKIE, &format!("{text}.{signature}"), PAGES, VALID);
        cookie.ok_or_else(|| internal_error("a cookie cannot be a header"))
    }

    /// The sign-in that this browser began and that this `state` belongs to.
    fn of(facade: &ApiState, headers: &HeaderMap, state: &str) -> Result<Self, Failure> {
        let refused = |why: &str| Failure::new(Code::Forbidden, format!("{why}; begin again"));
        let began = "This browser did not begin this within the last ten minutes";
        let started = cookie_of(headers, COOKIE).and_then(|value| {
            let (text, signature) = value.split_once('.')?;
            let signature = URL_SAFE.decode(signature).ok()?;
            let signed = facade.sealer.is_signed("google cookie", text, &signature);
            serde_json::from_slice::<Self>(&URL_SAFE.decode(text).ok().filter(|_| signed)?).ok()
        });
        let started = started
            .filter(|started| started.until >= now_seconds())
            .ok_or_else(|| refused(began))?;
        if started.state != hash(state) {
            return Err(refused("This browser has begun another sign-in since"));
        }
        if google::user_in_state(state).as_ref() != Some(&started.user) {
            return Err(refused("This is another user's sign-in"));
        }
        Ok(started)
    }
}

fn hash(state: &str) -> String {
    URL_SAFE.encode(Sha256::digest(state))
}
