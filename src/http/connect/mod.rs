//! The pages on which a person gives values and accounts to servers: `/connect` and `/connect/{server}`.
//!
//! The pages use the commands of the JSON routes. They never show a value. A form needs the session of the person and the
//! token of the page (`ServerForm`).

pub(super) mod accounts;
mod person;
mod request;
mod server_page;
mod server_text;
pub(super) mod values;

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;

use self::person::{ConnectPerson, Person};
use self::server_page::{Outcome, ServerPage};
use super::connections::connections_of;
use super::extract::path::ServerNamePath;
use super::respond::html::{Form, HtmlError, Page, page_path};
use super::respond::notice::{CONNECT_PATH, forget_notice, read_notice, server_page_path};
use super::signin::form::{FORM_TOKEN, FormGuard};
use super::signin::{SIGN_OUT_PATH, signin_path};
use super::state::ApiState;
use crate::core::model::credential::CredentialOwner;
use crate::views::connection::ConnectionView;
use crate::views::failure::ErrorBody;

/// Show the servers of the signed-in person, with the state of each connection.
#[utoipa::path(
    get, operation_id = "connect_list_page", path = "/connect", tag = "connect", security(()),
    responses(
        (status = 200, description = "The servers", content_type = "text/html", body = String),
        (status = 302, description = "To the sign-in, which leads back"),
    )
)]
pub(super) async fn list(
    State(state): State<Arc<ApiState>>,
    ConnectPerson(person): ConnectPerson,
    headers: HeaderMap,
) -> Result<Response, HtmlError> {
    let connections = connections_of(&state, person.caller(), person.user());
    let items: Vec<_> = connections
        .iter()
        .map(|connection| {
            let path = server_page_path(&state, &connection.server_name);
            (
                path,
                connection.server_name.to_string(),
                summary(connection),
            )
        })
        .collect();
    let mut page = Page::new("Your connections")
        .navigation(&[(
            signin_path(&state, CONNECT_PATH),
            sign_in_text(&person).into(),
        )])
        .paragraph(&person_text(&person));
    page = if items.is_empty() {
        page.paragraph("There is no server that you may use.")
    } else {
        page.paragraph("Choose a server to give it values or an account, or to take them back.")
            .link_list(&items)
    };
    let guard = FormGuard::from_headers(&state, &headers);
    let token = guard.token(&state, person.session())?;
    if person.session().is_some() {
        page = page.form(&Form {
            action: &page_path(&state, SIGN_OUT_PATH),
            hidden: &[(FORM_TOKEN, &token)],
            password: None,
            button: "Sign out",
        });
    }
    Ok(guard.protect(&state, page.respond(StatusCode::OK))?)
}

/// Show one server: where its data goes, the values and accounts that it has from the person, and forms to change them.
#[utoipa::path(
    get, operation_id = "connect_page", path = "/connect/{name}", tag = "connect",
    params(ServerNamePath), security(()),
    responses(
        (status = 200, description = "The server", content_type = "text/html", body = String),
        (status = 302, description = "To the sign-in, which leads back"),
        (status = 404, description = "No server has this name", body = ErrorBody),
    )
)]
pub(super) async fn page(page: ServerPage) -> Result<Response, HtmlError> {
    let Some(action) = read_notice(&page.state, &page.headers, page.server.id) else {
        return Ok(page.show(&Outcome::Nothing)?);
    };
    let mut response = page.show(&Outcome::Completed(action))?;
    forget_notice(&page.state, &mut response)?;
    Ok(response)
}

/// Returns the sentence that says for whom a page acts.
fn person_text(person: &Person) -> String {
    let user = person.user();
    match person {
        Person::SignedIn(_) => format!("You are signed in as user {user}."),
        Person::Local(_) => {
            format!("This deployment needs no sign-in. The page acts for user {user}.")
        }
    }
}

fn sign_in_text(person: &Person) -> &'static str {
    match person {
        Person::SignedIn(_) => "Sign in as another user",
        Person::Local(_) => "Sign in",
    }
}

/// Returns the state of a connection in a few words.
fn summary(connection: &ConnectionView) -> String {
    let missing = |owner: CredentialOwner| -> Vec<&str> {
        let slots = connection.slots.iter();
        let slots = slots.filter(|slot| slot.required && !slot.set && slot.owner == owner);
        slots.map(|slot| slot.name.as_str()).collect()
    };
    let accounts = [
        ("account", &connection.oauth),
        ("Google", &connection.google),
    ];
    let mut parts = Vec::new();
    let own = missing(CredentialOwner::User);
    if !own.is_empty() {
        parts.push(format!("needs {}", own.join(", ")));
    }
    let shared = missing(CredentialOwner::Shared);
    if !shared.is_empty() {
        parts.push(format!("an administrator has to set {}", shared.join(", ")));
    }
    let values = connection.slots.len();
    if parts.is_empty() && values > 0 {
        let set = connection.slots.iter().filter(|slot| slot.set).count();
        parts.push(format!("{set} of {values} values set"));
    }
    for (name, account) in accounts {
        let Some(account) = account else { continue };
        let word = match (account.connected, account.needs_reauthorization) {
            (_, true) => "has to be connected again",
            (true, false) => "connected",
            (false, false) => "not connected",
        };
        parts.push(format!("{name} {word}"));
    }
    if parts.is_empty() {
        return "needs nothing from you".into();
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests;
