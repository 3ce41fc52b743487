//! The confirmation that the page of a server shows once after an action.
//!
//! The response to the action leads the browser to the page (redirect after POST). A signed cookie carries the
//! confirmation there, so that no link can make the page confirm an action that never happened.

use std::time::Duration;

use axum::http::header::{HeaderMap, HeaderValue, SET_COOKIE};
use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::cookie::SignedCookie;
use super::html::{failure_page, page_path, redirect_after_form};
use crate::core::catalog::server::Server;
use crate::core::failure::Failure;
use crate::core::ids::ServerId;
use crate::core::names::{SecretName, ServerName};
use crate::http::state::ApiState;
use crate::telemetry::error::internal_error;

/// The path of the page with all connections. The page of a server is below it.
pub(crate) const CONNECT_PATH: &str = "/connect";

const COOKIE: SignedCookie = SignedCookie {
    name: "mcp_api_notice",
    path: CONNECT_PATH,
    purpose: "notice cookie",
    lifetime: Duration::from_secs(60),
};

/// The content of the cookie.
#[derive(Serialize, Deserialize)]
struct Notice {
    server: ServerId,
    action: CompletedAction,
}

/// An action that has changed the connection of a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CompletedAction {
    ValueSet(SecretName),
    ValueRemoved(SecretName),
    OauthConnected,
    OauthDisconnected,
    GoogleConnected,
    GoogleDisconnected,
    AllRemoved,
}

impl CompletedAction {
    /// Returns the sentence for the person.
    pub(crate) fn sentence(&self) -> String {
        match self {
            Self::ValueSet(name) => format!("The value of {name} is stored."),
            Self::ValueRemoved(name) => format!("The value of {name} is removed."),
            Self::OauthConnected => "The account is connected.".into(),
            Self::OauthDisconnected => "The account is disconnected.".into(),
            Self::GoogleConnected => "Google is connected.".into(),
            Self::GoogleDisconnected => "Google is disconnected.".into(),
            Self::AllRemoved => "Everything that you had stored for this server is removed.".into(),
        }
    }
}

/// Returns the path of the page of a server, below the path of `PUBLIC_URL`.
pub(crate) fn server_page_path(state: &ApiState, server: &ServerName) -> String {
    page_path(state, &format!("{CONNECT_PATH}/{server}"))
}

/// Returns a redirect to the page of a server, which then confirms an action.
///
/// # Errors
/// `internal` if the cookie cannot be signed.
pub(crate) fn redirect_with_notice(
    state: &ApiState,
    server: &Server,
    action: CompletedAction,
) -> Result<Response, Failure> {
    let path = server_page_path(state, &server.name);
    let mut response = redirect_after_form(HeaderValue::try_from(path).map_err(internal_error)?);
    let notice = Notice {
        server: server.id,
        action,
    };
    let cookie = COOKIE.issue(state, &notice)?;
    response.headers_mut().append(SET_COOKIE, cookie);
    Ok(response)
}

/// Returns a failure as a page with a link to the page of a server.
pub(crate) fn failure_with_way_back(
    state: &ApiState,
    server: &Server,
    failure: Failure,
) -> Response {
    let back = server_page_path(state, &server.name);
    let text = format!("Back to the page of server {}", server.name);
    failure_page(failure, Some((&back, &text)))
}

/// Returns the action that the page of a server has to confirm.
pub(crate) fn read_notice(
    state: &ApiState,
    headers: &HeaderMap,
    server: ServerId,
) -> Option<CompletedAction> {
    let notice: Notice = COOKIE.read(state, headers)?;
    (notice.server == server).then_some(notice.action)
}

/// Makes the browser forget the confirmation that a page shows.
///
/// # Errors
/// `internal` if the header cannot be made.
pub(crate) fn forget_notice(state: &ApiState, response: &mut Response) -> Result<(), Failure> {
    response
        .headers_mut()
        .append(SET_COOKIE, COOKIE.remove(state)?);
    Ok(())
}
