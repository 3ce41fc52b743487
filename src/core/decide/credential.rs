//! The decision which stored values a request to a server carries, and the removal of a user's values.

use crate::core::catalog::Catalog;
use crate::core::catalog::server::{SecretRef, Server};
use crate::core::command::{ConnectionPart, Disconnect};
use crate::core::event::{Event, GoogleDisconnected, GrantRemoved, SecretDeleted};
use crate::core::failure::{Code, Failure, MissingCredentials};
use crate::core::ids::ValueId;
use crate::core::model::credential::{Credential, CredentialLocation, CredentialOwner};
use crate::core::names::{SecretName, UserName};

/// A stored value that a request to a server carries.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StoredCredential<'a> {
    pub name: &'a SecretName,
    pub value: ValueId,
    pub owner: CredentialOwner,
    /// `None`: the server declares no credentials, and the secret is an argument with its own name.
    pub credential: Option<&'a Credential>,
}

impl StoredCredential<'_> {
    pub fn location(&self) -> CredentialLocation {
        self.credential
            .map_or(CredentialLocation::Argument, |credential| {
                credential.location
            })
    }

    /// Returns the argument, variable, header or query parameter that carries the value.
    pub fn target(&self) -> &str {
        self.credential
            .map_or(self.name.as_str(), Credential::target)
    }
}

/// Returns the values that the requests of a user carry in these places, or the shared values alone if `user` is `None`.
///
/// # Errors
/// `credential_required` if a required value of these places is not set. Without a user, required values of users do not
/// count.
pub fn stored_credentials<'a>(
    server: &'a Server,
    user: Option<&UserName>,
    is_wanted: impl Fn(CredentialLocation) -> bool,
) -> Result<Vec<StoredCredential<'a>>, Failure> {
    let secrets = user.map_or(&[][..], |user| server.secrets_of(user.as_str()));
    if server.config.credentials.is_empty() {
        if !is_wanted(CredentialLocation::Argument) {
            return Ok(vec![]);
        }
        let taken = secrets
            .iter()
            .filter(|secret| server.config.takes(&secret.name));
        return Ok(taken.map(undeclared).collect());
    }
    let mut stored = Vec::with_capacity(server.config.credentials.len());
    let mut missing = Vec::new();
    let wanted = server.config.credentials.iter();
    for credential in wanted.filter(|credential| is_wanted(credential.location)) {
        let owned = match credential.owner {
            CredentialOwner::User => secrets,
            CredentialOwner::Shared => &server.shared_secrets,
        };
        match owned.iter().find(|secret| secret.name == credential.name) {
            Some(secret) => stored.push(StoredCredential {
                name: &secret.name,
                value: secret.value,
                owner: credential.owner,
                credential: Some(credential),
            }),
            None if credential.required => missing.push(credential),
            None => {}
        }
    }
    if user.is_none() {
        missing.retain(|credential| credential.owner == CredentialOwner::Shared);
    }
    if missing.is_empty() {
        Ok(stored)
    } else {
        Err(credential_required(server, user, &missing))
    }
}

/// Returns the ids of the values that a process or a connection of the user has, or one for all users if `user` is `None`.
/// Another list needs another process or connection.
///
/// # Errors
/// `credential_required` if a required value of them is not set.
pub fn connection_values(
    server: &Server,
    user: Option<&UserName>,
) -> Result<Vec<ValueId>, Failure> {
    let stored = stored_credentials(server, user, CredentialLocation::is_of_connection)?;
    Ok(stored.iter().map(|stored| stored.value).collect())
}

/// Returns whether the server can start without a value of a user: all values that its process or connection requires are
/// shared and set.
pub fn starts_without_user(server: &Server) -> bool {
    !server.config.starts_for_users_only() && connection_values(server, None).is_ok()
}

/// Returns whether a request of this user makes a server known that has not described itself yet: only the users start it, and
/// this user can.
pub fn is_introduced_by(server: &Server, user: &UserName) -> bool {
    let is_users_own = server.grant(Some(user)).is_some() || !starts_without_user(server);
    server.description.is_none() && is_users_own && connection_values(server, Some(user)).is_ok()
}

/// Returns the names of the credentials without which the server does not start by itself: the required ones that each
/// user sets, and the required shared ones that are not set.
pub fn needed_credentials(server: &Server) -> Vec<&SecretName> {
    let is_shared = |name: &SecretName| {
        server
            .shared_secrets
            .iter()
            .any(|secret| secret.name == *name)
    };
    let required = server
        .config
        .credentials
        .iter()
        .filter(|credential| credential.required);
    required
        .filter(|credential| match credential.owner {
            CredentialOwner::User => credential.separates_users(),
            CredentialOwner::Shared => !is_shared(&credential.name),
        })
        .map(|credential| &credential.name)
        .collect()
}

/// Removes all that a user has stored for a server: secrets, OAuth tokens and Google tokens, or one part of it. Returns no
/// event if there is nothing.
///
/// # Errors
/// Fails if the server does not exist.
pub fn disconnect(catalog: &Catalog, command: &Disconnect) -> Result<Vec<Event>, Failure> {
    let server = catalog
        .server_by_id(command.server)
        .ok_or_else(|| Failure::server_not_found(&command.server_name))?;
    let user = &command.user;
    let removes = |part| command.part.is_none_or(|only| only == part);
    let secrets = match command.part {
        None => server.secrets_of(user.as_str()),
        Some(_) => &[],
    };
    let secrets = secrets.iter().map(|secret| {
        SecretDeleted {
            server: server.id,
            server_name: server.name.clone(),
            user: Some(user.clone()),
            name: secret.name.clone(),
            value: secret.value,
        }
        .into()
    });
    let grant = server.grant(Some(user));
    let grant = grant.filter(|_| removes(ConnectionPart::Oauth));
    let grant = grant.map(|grant| {
        GrantRemoved {
            server: server.id,
            server_name: server.name.clone(),
            user: Some(user.clone()),
            tokens: grant.tokens,
        }
        .into()
    });
    let google = server.google_tokens_of(user.as_str());
    let google = google.filter(|_| removes(ConnectionPart::Google));
    let google = google.map(|value| {
        GoogleDisconnected {
            server: server.id,
            server_name: server.name.clone(),
            user: user.clone(),
            value,
        }
        .into()
    });
    Ok(secrets.chain(grant).chain(google).collect())
}

fn undeclared(secret: &SecretRef) -> StoredCredential<'_> {
    StoredCredential {
        name: &secret.name,
        value: secret.value,
        owner: CredentialOwner::User,
        credential: None,
    }
}

/// Returns the failure for missing values. Those of the user come first, because the user can set them at once.
fn credential_required(
    server: &Server,
    user: Option<&UserName>,
    missing: &[&Credential],
) -> Failure {
    let names_of = |owner| {
        let owned = missing
            .iter()
            .filter(move |credential| credential.owner == owner);
        owned
            .map(|credential| credential.name.clone())
            .collect::<Vec<_>>()
    };
    let own = names_of(CredentialOwner::User);
    let (names, remedy) = match user {
        Some(user) if !own.is_empty() => (own, format!("user {user} has to set it")),
        _ => (
            names_of(CredentialOwner::Shared),
            "an administrator has to set it with POST /secrets/set and \"shared\": true".to_owned(),
        ),
    };
    let listed: Vec<&str> = names.iter().map(SecretName::as_str).collect();
    let listed = listed.join(", ");
    Failure {
        missing: Some(Box::new(MissingCredentials {
            names,
            connect_url: None,
        })),
        ..Failure::new(
            Code::CredentialRequired,
            format!("Server {} needs {listed}; {remedy}", server.name),
        )
    }
}

#[cfg(test)]
mod tests;
