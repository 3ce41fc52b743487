//! The page of one server.

use std::sync::Arc;

use axum::http::StatusCode;
use axum::http::header::HeaderMap;
use axum::response::Response;

use super::person::Person;
use super::server_text::{asks_for_oauth, destination, own_title, slot_state, slot_use};
use super::{person_text, sign_in_text};
use crate::core::catalog::server::Server;
use crate::core::failure::Failure;
use crate::core::model::credential::CredentialOwner;
use crate::core::names::SecretName;
use crate::http::respond::html::{
    Form, HeadingLevel, HtmlError, Page, PasswordField, failure_text, page_path,
};
use crate::http::respond::json::{set_retry_after, status_of};
use crate::http::respond::notice::{
    CONNECT_PATH, CompletedAction, redirect_with_notice, server_page_path,
};
use crate::http::signin::form::{FORM_TOKEN, FormGuard};
use crate::http::signin::signin_path;
use crate::http::state::ApiState;
use crate::time::clock::now_ms;
use crate::views::connection::{AuthorizationView, ConnectionView, SlotView};

/// The outcome of the last action of the person.
pub(super) enum Outcome {
    Nothing,
    Completed(CompletedAction),
    Failed(Problem),
}

/// The reason why an action failed.
pub(super) struct Problem {
    status: StatusCode,
    text: String,
    retry_after: Option<u16>,
    /// The value that the person has to enter again.
    slot: Option<SecretName>,
}

impl Problem {
    /// Returns the problem of a value that does not fit.
    pub(super) fn of_value(slot: &SecretName, text: String) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            text,
            retry_after: None,
            slot: Some(slot.clone()),
        }
    }

    /// Returns the problem of a value that was not stored.
    pub(super) fn with_slot(self, slot: &SecretName) -> Self {
        Self {
            slot: Some(slot.clone()),
            ..self
        }
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        Self {
            status: status_of(failure.code),
            retry_after: failure.retry_after,
            text: failure_text(failure),
            slot: None,
        }
    }
}

/// The page of a server for one person.
pub(crate) struct ServerPage {
    pub(super) state: Arc<ApiState>,
    pub(super) headers: HeaderMap,
    pub(super) person: Person,
    pub(super) server: Arc<Server>,
}

/// A form of the page, without the fields that all forms have.
struct Action<'a> {
    /// The path below the page.
    path: &'a str,
    fields: &'a [(&'a str, &'a str)],
    password: Option<PasswordField<'a>>,
    button: &'a str,
}

impl ServerPage {
    /// Returns the response of an action: a redirect to the page, which confirms the action, or the page with the problem.
    ///
    /// # Errors
    /// `internal` if a form or a cookie cannot be signed.
    pub(super) fn confirm(
        &self,
        action: CompletedAction,
        result: Result<(), Problem>,
    ) -> Result<Response, HtmlError> {
        self.unless_failed(result.and_then(|()| {
            redirect_with_notice(&self.state, &self.server, action).map_err(Problem::from)
        }))
    }

    /// Returns the response of an action, or the page with the problem.
    ///
    /// # Errors
    /// `internal` if a form cannot be signed.
    pub(super) fn unless_failed(
        &self,
        result: Result<Response, Problem>,
    ) -> Result<Response, HtmlError> {
        match result {
            Ok(response) => Ok(response),
            Err(problem) => Ok(self.show(&Outcome::Failed(problem))?),
        }
    }

    /// Returns the page. No part of it contains a value.
    ///
    /// # Errors
    /// `internal` if a form cannot be signed.
    pub(super) fn show(&self, outcome: &Outcome) -> Result<Response, Failure> {
        let user = self.person.user();
        let connection = ConnectionView::new(&self.server, user, now_ms());
        let guard = FormGuard::from_headers(&self.state, &self.headers);
        let token = guard.token(&self.state, self.person.session())?;
        let problem = match outcome {
            Outcome::Failed(problem) => Some(problem),
            Outcome::Nothing | Outcome::Completed(_) => None,
        };
        let mut page = self.begin(&connection, outcome);
        page = self.add_values(page, &connection, problem, &token);
        if let Some(oauth) = self.oauth_state(&connection) {
            page = self.add_oauth(page, &oauth, &token);
        }
        if let Some(google) = &connection.google {
            page = self.add_google(page, google, &token);
        }
        page = self.add_removal(page, &token);
        let status = problem.map_or(StatusCode::OK, |problem| problem.status);
        let mut response = page.respond(status);
        set_retry_after(
            &mut response,
            problem.and_then(|problem| problem.retry_after),
        );
        guard.protect(&self.state, response)
    }

    /// Returns the first part: the outcome of the last action, and what the server is.
    fn begin(&self, connection: &ConnectionView, outcome: &Outcome) -> Page {
        let server = &self.server;
        let own_path = format!("{CONNECT_PATH}/{}", server.name);
        let mut page = Page::new(&format!("Server {}", server.name)).navigation(&[
            (
                page_path(&self.state, CONNECT_PATH),
                "Your connections".into(),
            ),
            (
                signin_path(&self.state, &own_path),
                sign_in_text(&self.person).into(),
            ),
        ]);
        page = match outcome {
            Outcome::Nothing => page,
            Outcome::Completed(action) => page.confirmation(&action.sentence()),
            Outcome::Failed(problem) => {
                let field = problem
                    .slot
                    .as_ref()
                    .and_then(|name| field_of(connection, name));
                page.problem(&problem.text, field.as_deref())
            }
        };
        page = page.paragraph(&person_text(&self.person));
        if let Some(title) = own_title(server) {
            page = page.paragraph(&format!("The server calls itself \u{201c}{title}\u{201d}."));
        }
        page = page.paragraph(&destination(&server.config));
        if !server.enabled {
            page = page
                .paragraph("An administrator has disabled this server, so it serves no calls now.");
        }
        page
    }

    fn add_values(
        &self,
        page: Page,
        connection: &ConnectionView,
        problem: Option<&Problem>,
        token: &str,
    ) -> Page {
        let page = page.heading(HeadingLevel::Part, "Values");
        if connection.slots.is_empty() {
            return page.paragraph("This server asks for no values.");
        }
        let slots = connection.slots.iter().enumerate();
        slots.fold(page, |page, (number, slot)| {
            let problem = problem.filter(|problem| problem.slot.as_ref() == Some(&slot.name));
            self.add_slot(page, &field_id(number), slot, problem, token)
        })
    }

    fn add_slot(
        &self,
        page: Page,
        field: &str,
        slot: &SlotView,
        problem: Option<&Problem>,
        token: &str,
    ) -> Page {
        let name = &slot.name;
        let mut page = page.heading(HeadingLevel::Item, name.as_str());
        for line in slot.description.iter().flat_map(|text| text.lines()) {
            page = page.paragraph(line);
        }
        let page = page.paragraph(&slot_state(slot)).paragraph(slot_use(slot));
        if self.may_change(slot) {
            self.add_slot_forms(page, field, slot, problem, token)
        } else {
            page
        }
    }

    fn add_slot_forms(
        &self,
        page: Page,
        field: &str,
        slot: &SlotView,
        problem: Option<&Problem>,
        token: &str,
    ) -> Page {
        let name = &slot.name;
        let owner = slot_owner(slot);
        let fields = [("name", name.as_str()), ("owner", owner)];
        let verb = if slot.set { "Replace" } else { "Set" };
        let set = Action {
            path: "/secrets",
            fields: &fields,
            password: Some(PasswordField {
                name: "value",
                id: field,
                label: &format!("New value of {name}"),
                autocomplete: "off",
                hint: Some("Enter one line. This page never shows the value later."),
                problem: problem.map(|problem| problem.text.as_str()),
            }),
            button: &format!("{verb} {name}"),
        };
        let page = self.add_form(page, set, token);
        if !slot.set {
            return page;
        }
        let remove = Action {
            path: "/secrets/delete",
            fields: &fields,
            password: None,
            button: &format!("Remove {name}"),
        };
        self.add_form(page, remove, token)
    }

    /// Returns whether the person may set the value of a slot. A shared value needs an administrator.
    fn may_change(&self, slot: &SlotView) -> bool {
        slot.owner == CredentialOwner::User || self.person.caller().is_admin()
    }

    /// Returns the state of the person's own OAuth tokens, if the server may ask for some.
    fn oauth_state(&self, connection: &ConnectionView) -> Option<OauthState> {
        let server = &self.server;
        let own = server.grant(Some(self.person.user()));
        if own.is_some() {
            let needs_person = connection
                .oauth
                .as_ref()
                .is_some_and(|oauth| oauth.needs_reauthorization);
            return Some(if needs_person {
                OauthState::Ended
            } else {
                OauthState::Own
            });
        }
        if server.grant.is_some() {
            return Some(OauthState::OfAllUsers);
        }
        asks_for_oauth(&server.config).then_some(OauthState::NotConnected)
    }

    fn add_oauth(&self, page: Page, oauth: &OauthState, token: &str) -> Page {
        let (text, button, is_own) = match oauth {
            OauthState::Own => (
                "Your account is connected.",
                "Connect the account again",
                true,
            ),
            OauthState::Ended => (
                "The access to your account has ended. Connect the account again.",
                "Connect the account again",
                true,
            ),
            OauthState::OfAllUsers => (
                "An administrator has connected an account for all users. If you connect an account, the server uses yours for you.",
                "Connect an account",
                false,
            ),
            OauthState::NotConnected => (
                "No account is connected. If the server asks for a sign-in (OAuth), connect an account.",
                "Connect an account",
                false,
            ),
        };
        let page = page
            .heading(HeadingLevel::Part, "Account")
            .paragraph(text)
            .paragraph(&self.account_text());
        let page = self.add_button(page, "/oauth", button, token);
        if is_own {
            self.add_disconnect(page, "oauth", "Disconnect the account", token)
        } else {
            page
        }
    }

    fn add_google(&self, page: Page, google: &AuthorizationView, token: &str) -> Page {
        let (text, button) = if google.connected {
            ("Your Google account is connected.", "Connect Google again")
        } else {
            ("No Google account is connected.", "Connect Google")
        };
        let page = page
            .heading(HeadingLevel::Part, "Google")
            .paragraph(text)
            .paragraph(&self.account_text());
        let page = self.add_button(page, "/google", button, token);
        if google.connected {
            self.add_disconnect(page, "google", "Disconnect Google", token)
        } else {
            page
        }
    }

    fn account_text(&self) -> String {
        format!(
            "User {} will use server {} with the account that you choose on the next page.",
            self.person.user(),
            self.server.name
        )
    }

    fn add_removal(&self, page: Page, token: &str) -> Page {
        let (server, user) = (&self.server, self.person.user());
        let has_values = !server.secrets_of(user.as_str()).is_empty()
            || server.grant(Some(user)).is_some()
            || server.google_tokens_of(user.as_str()).is_some();
        if !has_values {
            return page;
        }
        let page = page
            .heading(HeadingLevel::Part, "Remove everything")
            .paragraph(&format!(
                "This removes all values and accounts that are stored for user {user} at server {}. Values that an administrator has set stay.",
                server.name
            ));
        self.add_button(page, "/disconnect", "Remove everything", token)
    }

    fn add_disconnect(&self, page: Page, part: &str, button: &str, token: &str) -> Page {
        let action = Action {
            path: "/disconnect",
            fields: &[("part", part)],
            password: None,
            button,
        };
        self.add_form(page, action, token)
    }

    fn add_button(&self, page: Page, path: &str, button: &str, token: &str) -> Page {
        let action = Action {
            path,
            fields: &[],
            password: None,
            button,
        };
        self.add_form(page, action, token)
    }

    fn add_form(&self, page: Page, action: Action<'_>, token: &str) -> Page {
        let path = server_page_path(&self.state, &self.server.name);
        let hidden = [&[(FORM_TOKEN, token)], action.fields].concat();
        page.form(&Form {
            action: &format!("{path}{}", action.path),
            hidden: &hidden,
            password: action.password,
            button: action.button,
        })
    }
}

/// The state of the OAuth tokens that serve a person.
enum OauthState {
    Own,
    Ended,
    OfAllUsers,
    NotConnected,
}

/// Returns the id of the field of a slot. A name may contain characters that an id must not contain.
fn field_id(number: usize) -> String {
    format!("value-{number}")
}

fn field_of(connection: &ConnectionView, name: &SecretName) -> Option<String> {
    let number = connection.slots.iter().position(|slot| slot.name == *name);
    number.map(field_id)
}

fn slot_owner(slot: &SlotView) -> &'static str {
    match slot.owner {
        CredentialOwner::User => "user",
        CredentialOwner::Shared => "shared",
    }
}
