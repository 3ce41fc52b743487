//! The sign-in at the OpenID Connect issuer: the way there, and the way back.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{HeaderMap, HeaderValue, SET_COOKIE};
use axum::response::Response;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::form::FormFields;
use super::next::page_of_this_api;
use super::pending::{PendingSignin, forget_pending};
use super::session::{begin_session, signed_in};
use super::{SIGN_IN_PATH, signin_path};
use crate::core::failure::{Code, Failure};
use crate::core::model::caller::Caller;
use crate::http::auth::oidc::{JwtError, SigninClient, SigninError, whole_seconds};
use crate::http::extract::callback::{refusal_reason, required_text};
use crate::http::extract::query::PageQuery;
use crate::http::respond::html::{HtmlError, Page, page_path, page_that_leads_to, redirect};
use crate::http::respond::json::{set_retry_after, status_of};
use crate::http::state::ApiState;
use crate::telemetry::error::{error_chain, internal_error};
use crate::views::failure::ErrorBody;

/// The path of the form that begins a sign-in.
pub(crate) const START_PATH: &str = "/signin/start";

/// The form of the button that leads to the issuer.
#[derive(ToSchema)]
#[allow(dead_code)]
pub(crate) struct StartForm {
    /// The hidden field of the page.
    form_token: String,
    /// The page to which the sign-in leads.
    next: Option<String>,
}

/// The parameters from the issuer. Other parameters are ignored.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct CallbackQuery {
    code: Option<String>,
    state: Option<String>,
    iss: Option<String>,
    error: Option<String>,
}

/// Begin a sign-in at the issuer. Exists only with `OIDC_CLIENT_ID`.
#[utoipa::path(
    post, operation_id = "start_signin", path = "/signin/start", tag = "signin", security(()),
    request_body(content = StartForm, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "A page that leads to the issuer, with a cookie for ten minutes",
            content_type = "text/html", body = String),
        (status = 404, description = "People cannot sign in at an issuer", body = ErrorBody),
        (status = 502, description = "The issuer has no usable metadata", body = ErrorBody),
    )
)]
pub(crate) async fn start(
    State(state): State<Arc<ApiState>>,
    headers: HeaderMap,
    fields: FormFields,
) -> Result<Response, HtmlError> {
    let signed_in = signed_in(&state, &headers);
    fields.check(&state, &headers, signed_in.as_ref())?;
    let client = signin_client(&state)?;
    let next = page_of_this_api(fields.get("next")).unwrap_or(SIGN_IN_PATH);
    let pending = PendingSignin::new(next);
    let secrets = pending.secrets(&state)?;
    // A person who is signed in already wants another account.
    let url = client
        .authorization_url(&secrets, signed_in.is_some())
        .await;
    let url = match url {
        Ok(url) => url,
        Err(error) => return Ok(show_failure(&state, &failure_of(&error), next)),
    };
    let host = url.host_str().unwrap_or_default();
    let page = page_that_leads_to(url.as_str(), "Sign in", &format!("Continue at {host}"));
    let mut response = page.respond(StatusCode::OK);
    response
        .headers_mut()
        .append(SET_COOKIE, pending.cookie(&state)?);
    Ok(response)
}

/// End a sign-in at the issuer: the browser gets a session and goes to the page from which the sign-in began.
#[utoipa::path(
    get, operation_id = "signin_callback", path = "/signin/callback", tag = "signin",
    params(CallbackQuery), security(()),
    responses(
        (status = 302, description = "To the page `next`, with the cookie of the session"),
        (status = 200, description = "The session has begun, and the link must be opened again",
            content_type = "text/html", body = String),
        (status = 403, description = "This browser has not begun this sign-in, the person has not \
            signed in, or the ID token names no user", body = ErrorBody),
        (status = 404, description = "People cannot sign in at an issuer", body = ErrorBody),
        (status = 502, description = "The issuer refuses the code, or its ID token is not accepted",
            body = ErrorBody),
    )
)]
pub(crate) async fn callback(
    State(state): State<Arc<ApiState>>,
    headers: HeaderMap,
    PageQuery(query): PageQuery<CallbackQuery>,
) -> Result<Response, HtmlError> {
    let client = signin_client(&state)?;
    let pending = required_text("state", query.state.clone())
        .and_then(|given| PendingSignin::read(&state, &headers, &given));
    let pending = match pending {
        Ok(pending) => pending,
        Err(failure) => return Ok(show_failure(&state, &failure, SIGN_IN_PATH)),
    };
    let mut response = match finish(&state, client, &pending, query).await {
        Ok(caller) => {
            let mut response = lead_back(&state, pending.next.as_deref())?;
            let session = begin_session(&state, &caller)?;
            response.headers_mut().append(SET_COOKIE, session);
            response
        }
        Err(failure) => {
            let next = pending.next.as_deref().unwrap_or(SIGN_IN_PATH);
            show_failure(&state, &failure, next)
        }
    };
    // The sign-in has ended, well or not.
    response
        .headers_mut()
        .append(SET_COOKIE, forget_pending(&state)?);
    Ok(response)
}

fn signin_client(state: &ApiState) -> Result<&SigninClient, Failure> {
    state.signin_client().ok_or_else(|| {
        Failure::new(
            Code::RouteNotFound,
            "This page exists only with OIDC_CLIENT_ID; sign in with a token at /signin",
        )
    })
}

/// Returns the caller who has signed in.
async fn finish(
    state: &ApiState,
    client: &SigninClient,
    pending: &PendingSignin,
    query: CallbackQuery,
) -> Result<Caller, Failure> {
    let checked = client.check_issuer(query.iss.as_deref()).await;
    checked.map_err(|error| failure_of(&error))?;
    if let Some(error) = query.error {
        let reason = refusal_reason(&error);
        return Err(Failure::new(
            Code::Forbidden,
            format!("The issuer did not sign you in ({reason}); sign in again"),
        ));
    }
    let code = required_text("code", query.code)?;
    let secrets = pending.secrets(state)?;
    let exchanged = client.exchange(&code, &secrets).await;
    exchanged.map_err(|error| failure_of(&error))
}

/// Returns the redirect to the page from which the sign-in began.
fn lead_back(state: &ApiState, next: Option<&str>) -> Result<Response, Failure> {
    let Some(next) = next else {
        let page = Page::new("You are signed in").paragraph(
            "The link from which you came is too long to lead there. Open the link again.",
        );
        return Ok(page.respond(StatusCode::OK));
    };
    let location = HeaderValue::try_from(page_path(state, next)).map_err(internal_error)?;
    Ok(redirect(location))
}

/// Returns the page of a failed sign-in, with the link to a new sign-in.
fn show_failure(state: &ApiState, failure: &Failure, next: &str) -> Response {
    let again = match failure.code {
        Code::Unavailable => "Retry",
        _ => "Sign in again",
    };
    let page = Page::new("The sign-in did not work")
        .paragraph(&format!("{}.", failure.message))
        .link(&signin_path(state, next), again);
    let mut response = page.respond(status_of(failure.code));
    set_retry_after(&mut response, failure.retry_after);
    response
}

/// Returns the failure that a person reads, and logs the cause for the operator.
fn failure_of(error: &SigninError) -> Failure {
    let cause = match error {
        SigninError::Refused(reason) => format!("accepts no code ({})", refusal_reason(reason)),
        other => error_chain(other),
    };
    tracing::warn!(error = %cause, "a sign-in at the issuer failed");
    if let Some(time) = error.retry_after() {
        return Failure {
            retry_after: Some(whole_seconds(time)),
            ..Failure::unavailable("The issuer cannot be asked now; retry in a moment")
        };
    }
    let (code, sentence) = match error {
        SigninError::Refused(reason) if reason == "invalid_grant" => (
            Code::Forbidden,
            "The issuer does not accept this sign-in any more; sign in again".to_owned(),
        ),
        SigninError::Refused(reason) => {
            let reason = refusal_reason(reason);
            let sentence = format!(
                "The issuer refuses the client of this API ({reason}); an administrator must check OIDC_CLIENT_ID and \
                 OIDC_CLIENT_SECRET"
            );
            (Code::UpstreamError, sentence)
        }
        SigninError::IdToken(JwtError::User) => (
            Code::Forbidden,
            "The ID token of the issuer names no user of this API: the claim of OIDC_USER_CLAIM is missing or is no valid \
             username; sign in with another account, or ask an administrator"
                .to_owned(),
        ),
        SigninError::OtherIssuer => (
            Code::Forbidden,
            "Another issuer than OIDC_ISSUER made this response; sign in again".to_owned(),
        ),
        other => (
            Code::UpstreamError,
            format!("The issuer {other}; sign in again, or ask an administrator"),
        ),
    };
    Failure::new(code, sentence)
}
