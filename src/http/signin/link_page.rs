//! The page of a link that begins an authorization.
//!
//! A link never leads to an authorization server at once, because an attacker could then make a victim give the attacker's
//! user access to an account of the victim. The page asks the user of the link to sign in, or asks for one click.

use std::time::Duration;

use axum::http::StatusCode;
use axum::http::header::{HeaderMap, HeaderValue, SET_COOKIE};
use axum::response::Response;
use url::Url;

use super::form::{FORM_TOKEN, FormFields, FormGuard};
use super::session::signed_in;
use super::{SigninPage, show_signin, signin_path};
use crate::core::command::UseLink;
use crate::core::decide::link::{LinkStep, link_step};
use crate::core::failure::{Code, Failure};
use crate::core::ids::ValueId;
use crate::core::model::grant::GrantId;
use crate::core::names::{ServerName, UserName};
use crate::http::respond::html::{Form, HtmlError, Page, page_path, page_that_leads_to};
use crate::http::respond::json::status_of;
use crate::http::state::ApiState;
use crate::time::clock::now_ms;

/// The longest time for the record that a link was used.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);

/// A link that a browser has opened.
pub(crate) struct OpenedLink<'a> {
    pub grant: &'a GrantId,
    pub server: &'a ServerName,
    /// The path and the query of the page.
    pub path: &'a str,
}

/// Returns the page of a link: the sign-in, or the button that begins the authorization.
///
/// # Errors
/// `internal` if a form cannot be signed.
pub(crate) fn show_link(
    state: &ApiState,
    headers: &HeaderMap,
    link: &OpenedLink<'_>,
) -> Result<Response, HtmlError> {
    let server = link.server;
    let title = format!("Give server {server} access");
    match step(state, headers, link.grant) {
        Ok(LinkStep::SignIn) => {
            let text = match &link.grant.user {
                Some(user) => format!(
                    "This link gives server {server} access to an account for user {user}. Sign in as user {user}."
                ),
                None => format!(
                    "This link gives server {server} access to an account for all users. Sign in as an administrator."
                ),
            };
            let page = SigninPage {
                status: StatusCode::UNAUTHORIZED,
                title: &title,
                text: Some(&text),
                problem: None,
                next: link.path,
            };
            Ok(show_signin(state, headers, &page)?)
        }
        Ok(LinkStep::Confirm) => Ok(show_confirmation(state, headers, link, &title)?),
        Err(failure) => Ok(show_refusal(state, link, &failure)),
    }
}

/// Returns the page with the button that begins the authorization.
fn show_confirmation(
    state: &ApiState,
    headers: &HeaderMap,
    link: &OpenedLink<'_>,
    title: &str,
) -> Result<Response, Failure> {
    let guard = FormGuard::from_headers(state, headers);
    let token = guard.token(state, signed_in(state, headers).as_ref())?;
    let server = link.server;
    let user = match &link.grant.user {
        Some(user) => format!("User {user}"),
        None => "Every user".into(),
    };
    let page = Page::new(title)
        .paragraph(&format!(
            "{user} will use server {server} with the account that you choose on the next page."
        ))
        .paragraph(&match &link.grant.user {
            Some(user) => format!("Continue only if you are user {user} and want this."),
            None => "Continue only if all users may use that account.".into(),
        })
        .form(&Form {
            action: &page_path(state, link.path),
            hidden: &[(FORM_TOKEN, &token)],
            password: None,
            button: "Continue",
        });
    guard.protect(state, page.respond(StatusCode::OK))
}

fn show_refusal(state: &ApiState, link: &OpenedLink<'_>, failure: &Failure) -> Response {
    Page::new("This link cannot be used here")
        .paragraph(&format!("{}.", failure.message))
        .link(&signin_path(state, link.path), "Sign in again")
        .respond(status_of(failure.code))
}

/// Checks that this person may begin the authorization of a link, and records the use of the link.
///
/// # Errors
/// `forbidden` if the form is not from this browser, if the person is not the user of the link, or if the link was used
/// before. `unauthenticated` if the person must sign in first.
pub(crate) async fn use_link(
    state: &ApiState,
    headers: &HeaderMap,
    fields: &FormFields,
    grant: &GrantId,
    link: ValueId,
) -> Result<(), Failure> {
    fields.check(state, headers, signed_in(state, headers).as_ref())?;
    if step(state, headers, grant)? == LinkStep::SignIn {
        return Err(Failure::new(
            Code::Unauthenticated,
            "The sign-in of this browser has ended; open the link again",
        ));
    }
    let command = UseLink {
        grant: grant.clone(),
        link,
    };
    let _permit = state.page_permit(grant)?;
    state.send_command(&command, COMMAND_LIMIT).await
}

/// Returns the page that leads to an authorization server, with the cookie for the way back.
pub(crate) fn show_way(server: &ServerName, url: &str, cookie: HeaderValue) -> Response {
    let host = Url::parse(url)
        .ok()
        .and_then(|url| url.host_str().map(str::to_owned));
    let host = host.unwrap_or_else(|| "the authorization server".into());
    let title = format!("Give server {server} access");
    let mut response =
        page_that_leads_to(url, &title, &format!("Continue at {host}")).respond(StatusCode::OK);
    response.headers_mut().append(SET_COOKIE, cookie);
    response
}

fn step(state: &ApiState, headers: &HeaderMap, grant: &GrantId) -> Result<LinkStep, Failure> {
    let signed_in = signed_in(state, headers);
    let caller = signed_in.as_ref().map(|signed_in| &signed_in.caller);
    let user = grant.user.as_ref();
    link_step(
        caller,
        user,
        grant.server,
        user.is_some_and(|user| can_sign_in(state, user)),
    )
}

/// Returns whether a user can sign in: people sign in at the issuer, or the user has a valid token.
fn can_sign_in(state: &ApiState, user: &UserName) -> bool {
    if state.signin_client().is_some() {
        return true;
    }
    let now = now_ms();
    let catalog = state.catalog();
    let mut tokens = catalog.tokens.of_user(user);
    tokens.any(|token| token.is_valid(now))
}
