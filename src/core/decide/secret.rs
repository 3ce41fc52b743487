//!

use crate::core::catalog::Catalog;
use crate::core::command::{DeleteSecret, SetSecret};
use crate::core::event::{Event, SecretDeleted, SecretSet};
use crate::core::failure::{Code, Failure};

/// A new value was put into the Vault; from here on it is the one.
pub fn set_secret(catalog: &Catalog, command: &SetSecret) -> Result<Vec<Event>, Failure> {
    let server = catalog
        .server_by_id(command.server)
        .ok_or_else(|| Failure::server_not_found(&command.server_name))?;
    let there = server
        .secrets_of(command.user.as_str())
        .iter()
        .any(|secret| secret.name == command.name);
    if command.if_absent && there {
        let stays = format!(
            "User {} has such a secret for server {} already; it stays",
            command.user, server.name
        );
        return Err(Failure::new(Code::Conflict, stays));
    }
    Ok(vec![
        SecretSet {
            server: server.id,
            server_name: server.name.clone(),
            user: command.user.clone(),
            name: command.name.clone(),
            value: command.value,
        }
        .into(),
    ])
}

pub fn delete_secret(catalog: &Catalog, command: &DeleteSecret) -> Result<Vec<Event>, Failure> {
    let server = catalog
        .server(command.server_name.as_str())
        .ok_or_else(|| Failure::server_not_found(&command.server_name))?;
    let found = server
        .secrets_of(command.user.as_str())
        .iter()
        .find(|secret| secret.name == command.name);
    let secret = found.ok_or_else(|| {
        Failure::new(
            Code::SecretNotFound,
            format!(
                "User {} has no such secret for server {}",
                command.user, server.name
            ),
        )
    })?;
    Ok(vec![
        SecretDeleted {
            server: server.id,
            server_name: server.name.clone(),
            user: command.user.clone(),
            name: secret.name.clone(),
            value: secret.value,
        }
        .into(),
    ])
}
