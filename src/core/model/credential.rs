//! Credentials: the values that a server needs from each user or for all users, and where its requests carry them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::server::ServerConfig;
use crate::core::names::SecretName;

/// The part of a format that stands for the value.
pub const PLACEHOLDER: &str = "{value}";

/// One value that a server needs. A secret with the same name holds it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Credential {
    pub name: SecretName,
    #[serde(rename = "in", default)]
    pub location: CredentialLocation,
    /// The argument, variable, header or query parameter. If it is absent, it has the name of the secret.
    #[serde(rename = "as", default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// A text with `{value}`. If it is absent, the value stands alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// A call without the value is refused before anything starts.
    #[serde(default)]
    pub required: bool,
    #[serde(default)]
    pub owner: CredentialOwner,
    /// A text for the person who sets the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// The part of a request, or of a process, that carries a credential.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CredentialLocation {
    /// An argument of each tool call, at the top level.
    #[default]
    Argument,
    /// A variable of the process. Each user has a process of their own.
    Env,
    /// A header of each HTTP request. Each user has a connection of their own.
    Header,
    /// A parameter of the URL of each HTTP request. Each user has a connection of their own.
    Query,
}

impl CredentialLocation {
    /// Returns the value of `in` in requests and responses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Argument => "argument",
            Self::Env => "env",
            Self::Header => "header",
            Self::Query => "query",
        }
    }

    /// Returns whether each HTTP request carries the value in its headers or its URL.
    pub fn is_sent(self) -> bool {
        matches!(self, Self::Header | Self::Query)
    }

    /// Returns whether the value belongs to a process or to a connection, and not to a single call.
    pub fn is_of_connection(self) -> bool {
        self != Self::Argument
    }
}

/// The owner of the value of a credential.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CredentialOwner {
    /// Each user has a value of their own.
    #[default]
    User,
    /// One value serves all users. An administrator sets it.
    Shared,
}

impl Credential {
    /// Returns the argument, variable, header or query parameter that carries the value.
    pub fn target(&self) -> &str {
        self.target.as_deref().unwrap_or(self.name.as_str())
    }

    /// Returns the text that a request carries for a value. `None`: the value stands alone.
    pub fn formatted(&self, value: &str) -> Option<Zeroizing<String>> {
        let format = self.format.as_deref()?;
        Some(Zeroizing::new(format.replacen(PLACEHOLDER, value, 1)))
    }

    /// Returns whether each user has a process or a connection of their own because of this credential.
    pub fn separates_users(&self) -> bool {
        self.owner == CredentialOwner::User && self.location.is_of_connection()
    }
}

impl ServerConfig {
    /// Returns whether each user has a process or a connection of their own.
    pub fn separates_users(&self) -> bool {
        self.credentials.iter().any(Credential::separates_users)
    }

    /// Returns whether the server cannot start without a value of a user.
    pub fn starts_for_users_only(&self) -> bool {
        self.credentials
            .iter()
            .any(|credential| credential.required && credential.separates_users())
    }

    /// Returns whether a credential is this header.
    pub fn declares_header(&self, header: &str) -> bool {
        self.credentials.iter().any(|credential| {
            credential.location == CredentialLocation::Header
                && credential.target().eq_ignore_ascii_case(header)
        })
    }

    /// Returns whether each user, or all of them, have a value in the headers or the URL of requests.
    pub fn sends_credentials(&self) -> bool {
        self.credentials
            .iter()
            .any(|credential| credential.location.is_sent())
    }

    /// Returns the credential that a secret of this owner fills.
    pub fn credential(&self, name: &SecretName, owner: CredentialOwner) -> Option<&Credential> {
        self.credentials
            .iter()
            .find(|credential| credential.name == *name && credential.owner == owner)
    }
}
