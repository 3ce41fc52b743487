//! The buttons that connect an account, disconnect it, and remove everything.

use axum::response::Response;
use utoipa::ToSchema;

use super::request::ServerForm;
use super::server_page::Problem;
use crate::core::command::{ConnectionPart, Disconnect};
use crate::core::failure::Failure;
use crate::http::connections::remove_values;
use crate::http::extract::headers::RequestHost;
use crate::http::extract::path::ServerNamePath;
use crate::http::respond::html::HtmlError;
use crate::http::respond::notice::CompletedAction;
use crate::http::signin::form::ButtonForm;
use crate::http::state::change_origin;
use crate::http::{google, oauth};
use crate::views::failure::ErrorBody;

/// The form that removes everything, or one account.
#[derive(ToSchema)]
#[allow(dead_code)]
pub(crate) struct DisconnectForm {
    /// The hidden field of the page.
    form_token: String,
    /// `oauth` or `google`. Everything is removed if it is absent.
    part: Option<String>,
}

/// Begin an authorization: a page leads to the authorization server. The way back ends at the page of the server.
#[utoipa::path(
    post, operation_id = "connect_oauth", path = "/connect/{name}/oauth", tag = "connect",
    params(ServerNamePath), security(()),
    request_body(content = ButtonForm, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "A page that leads to the authorization server, with a \
            cookie for ten minutes", content_type = "text/html", body = String),
        (status = 401, description = "The sign-in has ended", body = ErrorBody),
        (status = 404, description = "No server has this name", body = ErrorBody),
        (status = 502, description = "The page of the server with the reason: the server has no \
            authorization server, or it accepts no client", body = ErrorBody),
    )
)]
pub(crate) async fn connect_oauth(
    RequestHost(host): RequestHost,
    ServerForm { page, .. }: ServerForm,
) -> Result<Response, HtmlError> {
    let user = page.person.user().clone();
    let begun =
        oauth::browser_flow::begin_on_server_page(&page.state, host.as_ref(), &page.server, user);
    page.unless_failed(begun.await.map_err(Problem::from))
}

/// Begin the sign-in to Google: a page leads to Google. The way back ends at the page of the server.
#[utoipa::path(
    post, operation_id = "connect_google", path = "/connect/{name}/google", tag = "connect",
    params(ServerNamePath), security(()),
    request_body(content = ButtonForm, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "A page that leads to Google, with a cookie for ten minutes",
            content_type = "text/html", body = String),
        (status = 401, description = "The sign-in has ended", body = ErrorBody),
        (status = 404, description = "No server has this name", body = ErrorBody),
        (status = 502, description = "The page of the server with the reason: the server returned \
            no URL", body = ErrorBody),
    )
)]
pub(crate) async fn connect_google(
    ServerForm { page, .. }: ServerForm,
) -> Result<Response, HtmlError> {
    let user = page.person.user().clone();
    let begun = google::browser_flow::begin_on_server_page(&page.state, &page.server, user);
    page.unless_failed(begun.await.map_err(Problem::from))
}

/// Disconnect one account, or remove everything that the person has stored for the server.
#[utoipa::path(
    post, operation_id = "connect_disconnect", path = "/connect/{name}/disconnect", tag = "connect",
    params(ServerNamePath), security(()),
    request_body(content = DisconnectForm, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 303, description = "Nothing of it is stored: to the page of the server"),
        (status = 401, description = "The sign-in has ended", body = ErrorBody),
        (status = 404, description = "No server has this name", body = ErrorBody),
    )
)]
pub(crate) async fn disconnect(
    ServerForm { page, fields }: ServerForm,
) -> Result<Response, HtmlError> {
    let (part, action) = match fields.get("part") {
        "" => (None, CompletedAction::AllRemoved),
        "oauth" => (
            Some(ConnectionPart::Oauth),
            CompletedAction::OauthDisconnected,
        ),
        "google" => (
            Some(ConnectionPart::Google),
            CompletedAction::GoogleDisconnected,
        ),
        _ => {
            let sentence =
                "The field part of the form must be oauth, google or absent; open the page again";
            return Err(Failure::invalid(sentence).into());
        }
    };
    let command = Disconnect {
        origin: change_origin(page.person.caller(), None),
        server: page.server.id,
        server_name: page.server.name.clone(),
        user: page.person.user().clone(),
        part,
    };
    let removed = remove_values(&page.state, &command).await;
    page.confirm(action, removed.map_err(Problem::from))
}
