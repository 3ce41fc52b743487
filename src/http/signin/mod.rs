//! The sign-in of people: a browser gets a session for `ADMIN_TOKEN`, for a token of a user, or for a sign-in at the issuer.

pub(super) mod form;
pub(super) mod issuer;
pub(super) mod link_page;
mod next;
mod pending;
pub(super) mod session;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{HeaderMap, HeaderValue, SET_COOKIE};
use axum::response::Response;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use self::form::{ButtonForm, FORM_TOKEN, FormFields, FormGuard};
use self::issuer::START_PATH;
use self::next::page_of_this_api;
use self::session::{SignedIn, begin_session, end_session, signed_in};
use crate::core::decide::access::{Action, may};
use crate::core::failure::Failure;
use crate::http::extract::query::PageQuery;
use crate::http::respond::html::{
    Form, HtmlError, Page, PasswordField, page_path, redirect_after_form,
};
use crate::http::respond::notice::CONNECT_PATH;
use crate::http::state::ApiState;
use crate::telemetry::error::internal_error;
use crate::views::failure::ErrorBody;

const SIGN_IN_PATH: &str = "/signin";
pub(super) const SIGN_OUT_PATH: &str = "/signout";
/// The time for which the answer to a wrong token waits. A right token is answered at once.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct SigninQuery {
    /// The page to which the sign-in leads. Only pages of this API are accepted.
    next: Option<String>,
}

/// The form of the sign-in.
#[derive(ToSchema)]
#[allow(dead_code)]
pub(super) struct SigninForm {
    /// The hidden field of the page.
    form_token: String,
    /// `ADMIN_TOKEN`, or a token of a user (`mcpu_…`).
    token: String,
    /// The page to which the sign-in leads.
    next: Option<String>,
}

/// The texts of a page with the forms of the sign-in.
pub(super) struct SigninPage<'a> {
    pub(super) status: StatusCode,
    pub(super) title: &'a str,
    /// The reason for the sign-in.
    pub(super) text: Option<&'a str>,
    pub(super) problem: Option<&'a str>,
    /// The page to which the sign-in leads.
    pub(super) next: &'a str,
}

/// Show the sign-in: a button that leads to the issuer, a form that takes a token, and a button that ends the session.
#[utoipa::path(
    get, operation_id = "signin_page", path = "/signin", tag = "signin",
    params(SigninQuery), security(()),
    responses(
        (status = 200, description = "The forms", content_type = "text/html", body = String),
    )
)]
pub(super) async fn page(
    State(state): State<Arc<ApiState>>,
    headers: HeaderMap,
    PageQuery(query): PageQuery<SigninQuery>,
) -> Result<Response, HtmlError> {
    let next = query.next.as_deref().and_then(page_of_this_api);
    let page = SigninPage {
        status: StatusCode::OK,
        title: "Sign in",
        text: None,
        problem: None,
        next: next.unwrap_or(SIGN_IN_PATH),
    };
    Ok(show_signin(&state, &headers, &page)?)
}

/// Sign in with a token. The browser gets a session of eight hours, which authenticates pages and no other route.
#[utoipa::path(
    post, operation_id = "sign_in", path = "/signin", tag = "signin", security(()),
    request_body(content = SigninForm, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 303, description = "To the page `next`, with the cookie of the session"),
        (status = 401, description = "The token is wrong, has expired or was revoked",
            body = ErrorBody),
    )
)]
pub(super) async fn sign_in(
    State(state): State<Arc<ApiState>>,
    headers: HeaderMap,
    fields: FormFields,
) -> Result<Response, HtmlError> {
    fields.check(&state, &headers, signed_in(&state, &headers).as_ref())?;
    let next = page_of_this_api(fields.get("next")).unwrap_or(SIGN_IN_PATH);
    let Some(caller) = state.caller_of_text(fields.get("token").trim()) else {
        tracing::warn!("a sign-in with a wrong token failed");
        // The pause ends early when the process stops.
        let stop = state.shutdown().cancelled();
        let _ = tokio::time::timeout(FAILURE_PAUSE, stop).await;
        let page = SigninPage {
            status: StatusCode::UNAUTHORIZED,
            title: "Sign in",
            text: None,
            problem: Some("The token is wrong, has expired or was revoked."),
            next,
        };
        return Ok(show_signin(&state, &headers, &page)?);
    };
    let mut response = redirect_to_page(&state, next)?;
    let cookie = begin_session(&state, &caller)?;
    response.headers_mut().append(SET_COOKIE, cookie);
    Ok(response)
}

/// Sign out. The browser forgets the session.
#[utoipa::path(
    post, operation_id = "sign_out", path = "/signout", tag = "signin", security(()),
    request_body(content = ButtonForm, content_type = "application/x-www-form-urlencoded"),
    responses((status = 303, description = "To the sign-in, without the cookie of the session"))
)]
pub(super) async fn sign_out(
    State(state): State<Arc<ApiState>>,
    headers: HeaderMap,
    fields: FormFields,
) -> Result<Response, HtmlError> {
    fields.check(&state, &headers, signed_in(&state, &headers).as_ref())?;
    let mut response = redirect_to_page(&state, SIGN_IN_PATH)?;
    let cookie = end_session(&state)?;
    response.headers_mut().append(SET_COOKIE, cookie);
    Ok(response)
}

fn redirect_to_page(state: &ApiState, path: &str) -> Result<Response, Failure> {
    let location = HeaderValue::try_from(page_path(state, path)).map_err(internal_error)?;
    Ok(redirect_after_form(location))
}

/// Returns a page with the forms of the sign-in, and with a button that ends the session of this browser.
///
/// # Errors
/// `internal` if the form cannot be signed.
pub(super) fn show_signin(
    state: &ApiState,
    headers: &HeaderMap,
    texts: &SigninPage<'_>,
) -> Result<Response, Failure> {
    let guard = FormGuard::from_headers(state, headers);
    let signed_in = signed_in(state, headers);
    let token = guard.token(state, signed_in.as_ref())?;
    let mut page = Page::new(texts.title);
    if let Some(problem) = texts.problem {
        page = page.alert(problem);
    }
    if let Some(SignedIn { caller, .. }) = &signed_in {
        page = page
            .paragraph(&format!("You are signed in as user {}.", caller.user))
            .form(&Form {
                action: &page_path(state, SIGN_OUT_PATH),
                hidden: &[(FORM_TOKEN, &token)],
                password: None,
                button: "Sign out",
            });
        if may(caller, Action::ManageSecrets, None).is_ok() {
            page = page.link(&page_path(state, CONNECT_PATH), "Your connections");
        }
    }
    if let Some(text) = texts.text {
        page = page.paragraph(text);
    }
    let mut token_text = "Enter your token of this API.";
    if let Some(client) = state.signin_client() {
        page = page.form(&Form {
            action: &page_path(state, START_PATH),
            hidden: &[(FORM_TOKEN, &token), ("next", texts.next)],
            password: None,
            button: &format!("Sign in with {}", client.issuer_host()),
        });
        token_text = "Or enter a token of this API.";
    }
    page = page.paragraph(token_text).form(&Form {
        action: &page_path(state, SIGN_IN_PATH),
        hidden: &[(FORM_TOKEN, &token), ("next", texts.next)],
        password: Some(PasswordField::of_token("Token")),
        button: "Sign in",
    });
    guard.protect(state, page.respond(texts.status))
}

/// Returns the path of the sign-in that leads to a page, for a link of a page.
pub(super) fn signin_path(state: &ApiState, next: &str) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("next", next);
    page_path(state, &format!("{SIGN_IN_PATH}?{}", query.finish()))
}
