//! The decisions about secrets.

use crate::core::catalog::Catalog;
use crate::core::command::{DeleteSecret, SetSecret};
use crate::core::event::{Event, SecretDeleted, SecretSet};
use crate::core::failure::{Code, Failure};

/// Sets a secret. The Vault holds the new value already.
///
/// # Errors
/// Fails if the server does not exist, or if the secret exists and the command says `if_absent`.
pub fn set_secret(catalog: &Catalog, command: &SetSecret) -> Result<Vec<Event>, Failure> {
    let server = catalog
        .server_by_id(command.server)
        .ok_or_else(|| Failure::server_not_found(&command.server_name))?;
    let exists = server
        .secrets_of(command.user.as_str())
        .iter()
        .any(|secret| secret.name == command.name);
    if command.if_absent && exists {
        let message = format!(
            "User {} has such a secret for server {} already, and it stays unchanged",
            command.user, server.name
        );
        return Err(Failure::new(Code::Conflict, message));
    }
    let set = SecretSet {
        server: server.id,
        server_name: server.name.clone(),
        user: command.user.clone(),
        name: command.name.clone(),
        value: command.value,
    };
    Ok(vec![set.into()])
}

/// Deletes a secret.
///
/// # Errors
/// Fails if the server or the secret does not exist.
pub fn delete_secret(catalog: &Catalog, command: &DeleteSecret) -> Result<Vec<Event>, Failure> {
    let server = catalog
        .server(command.server_name.as_str())
        .ok_or_else(|| Failure::server_not_found(&command.server_name))?;
    let secret = server
        .secrets_of(command.user.as_str())
        .iter()
        .find(|secret| secret.name == command.name)
        .ok_or_else(|| {
            Failure::new(
                Code::SecretNotFound,
                format!(
                    "User {} has no such secret for server {}",
                    command.user, server.name
                ),
            )
        })?;
    let deleted = SecretDeleted {
        server: server.id,
        server_name: server.name.clone(),
        user: command.user.clone(),
        name: secret.name.clone(),
        value: secret.value,
    };
    Ok(vec![deleted.into()])
}
