//! The person who uses the pages.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::header::SET_COOKIE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse as _, Response};

use crate::core::decide::access::{Action, Denial, may};
use crate::core::failure::Failure;
use crate::core::model::caller::{Caller, CallerKind, Scope};
use crate::core::names::UserName;
use crate::http::respond::html::{HtmlError, Page, redirect};
use crate::http::respond::notice::CONNECT_PATH;
use crate::http::signin::session::{SignedIn, end_session, presents_session, signed_in};
use crate::http::signin::{SigninPage, show_signin, signin_path};
use crate::http::state::ApiState;
use crate::telemetry::error::internal_error;

/// The person who uses a page.
pub(crate) enum Person {
    SignedIn(SignedIn),
    /// No identity is configured, and the browser has no session: the page acts for the user `default`.
    Local(Caller),
}

impl Person {
    /// Returns the person of a browser. A session that has ended never falls back to the user `default`.
    fn from_headers(state: &ApiState, headers: &HeaderMap) -> Option<Self> {
        if let Some(signed_in) = signed_in(state, headers) {
            return Some(Self::SignedIn(signed_in));
        }
        let is_local = !state.access().is_identity_configured() && !presents_session(headers);
        is_local.then(|| Self::Local(Caller::unrestricted(CallerKind::Local)))
    }

    pub(super) fn caller(&self) -> &Caller {
        match self {
            Self::SignedIn(signed_in) => &signed_in.caller,
            Self::Local(caller) => caller,
        }
    }

    pub(super) fn user(&self) -> &UserName {
        &self.caller().user
    }

    /// Returns the session that the forms of the person belong to.
    pub(super) fn session(&self) -> Option<&SignedIn> {
        match self {
            Self::SignedIn(signed_in) => Some(signed_in),
            Self::Local(_) => None,
        }
    }
}

/// The person of a request, who may manage connections. The extractor leads other people to the sign-in.
pub(crate) struct ConnectPerson(pub(super) Person);

impl FromRequestParts<Arc<ApiState>> for ConnectPerson {
    type Rejection = Response;

    async fn from_request_parts(
        parts: &mut Parts,
        state: &Arc<ApiState>,
    ) -> Result<Self, Response> {
        admit(state, parts, CONNECT_PATH)
            .map(Self)
            .map_err(|refusal| *refusal)
    }
}

/// Returns the person of a request. `next` is the page to which a sign-in leads.
pub(super) fn admit(state: &ApiState, parts: &Parts, next: &str) -> Result<Person, Box<Response>> {
    let Some(person) = Person::from_headers(state, &parts.headers) else {
        let response = if parts.method == Method::POST {
            ask_to_sign_in(state, &parts.headers, next)
        } else {
            redirect_to_signin(state, next)
        };
        let response = response.unwrap_or_else(|failure| HtmlError(failure).into_response());
        return Err(response.into());
    };
    match may(person.caller(), Action::ManageSecrets, None) {
        Err(Denial::MissingScope(scope)) => {
            Err(show_missing_scope(state, &person, scope, next).into())
        }
        _ => Ok(person),
    }
}

/// Leads a browser to the sign-in. A session that has ended is removed, so that the next visit begins without it.
fn redirect_to_signin(state: &ApiState, next: &str) -> Result<Response, Failure> {
    let location = HeaderValue::try_from(signin_path(state, next)).map_err(internal_error)?;
    let mut response = redirect(location);
    response
        .headers_mut()
        .append(SET_COOKIE, end_session(state)?);
    Ok(response)
}

fn ask_to_sign_in(state: &ApiState, headers: &HeaderMap, next: &str) -> Result<Response, Failure> {
    let page = SigninPage {
        status: StatusCode::UNAUTHORIZED,
        title: "Sign in",
        text: Some(
            "The sign-in of this browser has ended, and nothing was changed. Sign in again.",
        ),
        problem: None,
        next,
    };
    let mut response = show_signin(state, headers, &page)?;
    response
        .headers_mut()
        .append(SET_COOKIE, end_session(state)?);
    Ok(response)
}

fn show_missing_scope(state: &ApiState, person: &Person, scope: Scope, next: &str) -> Response {
    let user = person.user();
    Page::new("You cannot manage connections here")
        .paragraph(&format!(
            "This browser is signed in as user {user}, with a token without the scope {scope}. Sign in with a token that has it."
        ))
        .link(&signin_path(state, next), "Sign in again")
        .respond(StatusCode::FORBIDDEN)
}
