//! The buttons that connect an account, disconnect it, and remove everything.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use utoipa::ToSchema;

use super::person::ConnectServer;
use super::server_page::{Outcome, Problem, ServerPage};
use crate::core::command::{ConnectionPart, Disconnect};
use crate::core::failure::Failure;
use crate::http::extract::headers::RequestHost;
use crate::http::extract::path::ServerNamePath;
use crate::http::respond::html::HtmlError;
use crate::http::respond::notice::{CompletedAction, redirect_with_notice};
use crate::http::secrets::COMMAND_LIMIT;
use crate::http::signin::form::{ButtonForm, FormFields};
use crate::http::state::{ApiState, change_origin};
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
    State(state): State<Arc<ApiState>>,
    ConnectServer { person, server }: ConnectServer,
    headers: HeaderMap,
    RequestHost(host): RequestHost,
    fields: FormFields,
) -> Result<Response, HtmlError> {
    fields.check(&state, &headers, person.session())?;
    let user = person.user().clone();
    let begun =
        oauth::browser_flow::begin_on_server_page(&state, host.as_ref(), &server, user).await;
    let page = ServerPage {
        state: &state,
        headers: &headers,
        person: &person,
        server: &server,
    };
    page.unless_failed(begun)
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
    State(state): State<Arc<ApiState>>,
    ConnectServer { person, server }: ConnectServer,
    headers: HeaderMap,
    fields: FormFields,
) -> Result<Response, HtmlError> {
    fields.check(&state, &headers, person.session())?;
    let user = person.user().clone();
    let begun = google::browser_flow::begin_on_server_page(&state, &server, user).await;
    let page = ServerPage {
        state: &state,
        headers: &headers,
        person: &person,
        server: &server,
    };
    page.unless_failed(begun)
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
    State(state): State<Arc<ApiState>>,
    ConnectServer { person, server }: ConnectServer,
    headers: HeaderMap,
    fields: FormFields,
) -> Result<Response, HtmlError> {
    fields.check(&state, &headers, person.session())?;
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
        origin: change_origin(person.caller(), None),
        server: server.id,
        server_name: server.name.clone(),
        user: person.user().clone(),
        part,
    };
    let page = ServerPage {
        state: &state,
        headers: &headers,
        person: &person,
        server: &server,
    };
    let removed = state.send_command(&command, COMMAND_LIMIT).await;
    page.unless_failed(removed.and_then(|()| redirect_with_notice(&state, &server, action)))
}

impl ServerPage<'_> {
    /// Returns the response of an action, or the page with the reason why the action failed.
    fn unless_failed(&self, result: Result<Response, Failure>) -> Result<Response, HtmlError> {
        match result {
            Ok(response) => Ok(response),
            Err(failure) => {
                let problem = Problem::from_failure(failure, None);
                Ok(self.show(&Outcome::Failed(problem))?)
            }
        }
    }
}
