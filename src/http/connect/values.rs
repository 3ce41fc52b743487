//! The forms that set and remove values.

use axum::response::Response;
use utoipa::ToSchema;

use super::person::Person;
use super::request::ServerForm;
use super::server_page::Problem;
use crate::core::catalog::server::Server;
use crate::core::command::DeleteSecret;
use crate::core::decide::access::missing_scope;
use crate::core::failure::{Code, Failure};
use crate::core::model::caller::Scope;
use crate::core::model::credential::CredentialOwner;
use crate::core::model::credential_check::broken_rule;
use crate::core::names::{SecretName, UserName};
use crate::http::extract::path::ServerNamePath;
use crate::http::respond::html::HtmlError;
use crate::http::respond::notice::CompletedAction;
use crate::http::secrets::{NewSecret, delete_secret, store_secret};
use crate::http::signin::form::FormFields;
use crate::http::state::change_origin;
use crate::views::failure::ErrorBody;

/// The form that sets a value.
#[derive(ToSchema)]
#[allow(dead_code)]
pub(crate) struct ValueForm {
    /// The hidden field of the page.
    form_token: String,
    /// The name of the value.
    name: String,
    /// `user` or `shared`. A shared value needs an administrator.
    owner: String,
    value: String,
}

/// The form that removes a value.
#[derive(ToSchema)]
#[allow(dead_code)]
pub(crate) struct RemovalForm {
    /// The hidden field of the page.
    form_token: String,
    /// The name of the value.
    name: String,
    /// `user` or `shared`. A shared value needs an administrator.
    owner: String,
}

/// Set a value. The page then confirms it and never shows the value.
#[utoipa::path(
    post, operation_id = "connect_set", path = "/connect/{name}/secrets", tag = "connect",
    params(ServerNamePath), security(()),
    request_body(content = ValueForm, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 303, description = "The value is stored: to the page of the server"),
        (status = 400, description = "The page of the server with the reason why the value does not fit", body = ErrorBody),
        (status = 401, description = "The sign-in has ended", body = ErrorBody),
        (status = 404, description = "No server has this name", body = ErrorBody),
    )
)]
pub(crate) async fn set(ServerForm { page, fields }: ServerForm) -> Result<Response, HtmlError> {
    let slot = FormSlot::from_fields(&page.person, &fields)?;
    let value = fields.get("value");
    let result = match slot.problem(&page.server, value) {
        Some(text) => Err(Problem::of_value(&slot.name, text)),
        None => {
            let secret = NewSecret {
                origin: change_origin(page.person.caller(), None),
                user: slot.user,
                name: slot.name.clone(),
                if_absent: false,
            };
            store_secret(&page.state, &page.server, secret, value)
                .await
                .map_err(|failure| Problem::from(failure).with_slot(&slot.name))
        }
    };
    page.confirm(CompletedAction::ValueSet(slot.name), result)
}

/// Remove a value. A value that is removed already is no error.
#[utoipa::path(
    post, operation_id = "connect_remove", path = "/connect/{name}/secrets/delete", tag = "connect",
    params(ServerNamePath), security(()),
    request_body(content = RemovalForm, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 303, description = "The value is removed: to the page of the server"),
        (status = 401, description = "The sign-in has ended", body = ErrorBody),
        (status = 404, description = "No server has this name", body = ErrorBody),
    )
)]
pub(crate) async fn remove(ServerForm { page, fields }: ServerForm) -> Result<Response, HtmlError> {
    let slot = FormSlot::from_fields(&page.person, &fields)?;
    let command = DeleteSecret {
        origin: change_origin(page.person.caller(), None),
        server_name: page.server.name.clone(),
        user: slot.user,
        name: slot.name.clone(),
    };
    let result = match delete_secret(&page.state, &command).await {
        Err(failure) if failure.code != Code::SecretNotFound => Err(failure.into()),
        _ => Ok(()),
    };
    page.confirm(CompletedAction::ValueRemoved(slot.name), result)
}

/// The value that a form names: its name and its owner.
struct FormSlot {
    name: SecretName,
    /// `None` for a value that all users share.
    user: Option<UserName>,
}

impl FormSlot {
    /// Returns the value that a form names.
    ///
    /// # Errors
    /// `invalid_request` if the form was changed. `forbidden` if the value is shared and the person is no administrator.
    fn from_fields(person: &Person, fields: &FormFields) -> Result<Self, Failure> {
        let name = fields.get("name").parse();
        let name =
            name.map_err(|error| Failure::invalid(format!("The field name of the form {error}")))?;
        let user = match fields.get("owner") {
            "user" => Some(person.user().clone()),
            "shared" if person.caller().is_admin() => None,
            "shared" => return Err(missing_scope(Scope::Admin)),
            _ => {
                return Err(Failure::invalid(
                    "The field owner of the form must be user or shared; open the page again",
                ));
            }
        };
        Ok(Self { name, user })
    }

    /// Returns the reason why a value does not fit, without the value.
    fn problem(&self, server: &Server, value: &str) -> Option<String> {
        let name = &self.name;
        let config = &server.config;
        let owner = match self.user {
            Some(_) => CredentialOwner::User,
            None => CredentialOwner::Shared,
        };
        let credential = config.credential(name, owner);
        let is_known = credential.is_some()
            || self.user.is_some() && config.credentials.is_empty() && config.takes(name);
        if !is_known {
            return Some(format!("Server {} does not ask for {name}", server.name));
        }
        if value.is_empty() {
            return Some(format!("Enter a value for {name}"));
        }
        let rule = broken_rule(credential?, value)?;
        Some(format!("The value does not fit {name}: {rule}"))
    }
}
