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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::decide::testing::given;
    use crate::core::decide::testing::samples::*;

    fn set(user: &str, secret: &str, number: u128, if_absent: bool) -> SetSecret {
        SetSecret {
            origin: origin(1),
            server: server_id("memory"),
            server_name: name("memory"),
            user: name(user),
            name: name(secret),
            value: value(number),
            sealed: String::new(),
            if_absent,
        }
    }

    fn delete(user: &str, secret: &str) -> DeleteSecret {
        DeleteSecret {
            origin: origin(1),
            server_name: name("memory"),
            user: name(user),
            name: name(secret),
        }
    }

    fn deleted(user: &str, secret: &str, number: u128) -> Event {
        SecretDeleted {
            server: server_id("memory"),
            server_name: name("memory"),
            user: name(user),
            name: name(secret),
            value: value(number),
        }
        .into()
    }

    #[test]
    fn a_secret_is_set() {
        given([server_registered("memory")])
            .when(|catalog| set_secret(catalog, &set("ana", "TOKEN", 2, false)))
            .then([secret_set("memory", "ana", "TOKEN", 2)]);
    }

    #[test]
    fn a_new_value_replaces_the_old_one() {
        let catalog = given([
            server_registered("memory"),
            secret_set("memory", "ana", "TOKEN", 2),
        ])
        .when(|catalog| set_secret(catalog, &set("ana", "TOKEN", 3, false)))
        .then([secret_set("memory", "ana", "TOKEN", 3)]);
        assert_eq!(catalog.values(), [value(3)].into());
    }

    #[test]
    fn a_stored_secret_stays_if_the_command_says_so() {
        given([
            server_registered("memory"),
            secret_set("memory", "ana", "TOKEN", 2),
        ])
        .when(|catalog| set_secret(catalog, &set("ana", "TOKEN", 3, true)))
        .then_fails_with(Code::Conflict);
    }

    #[test]
    fn a_secret_of_another_user_or_name_does_not_count_as_stored() {
        for (user, secret) in [("ben", "TOKEN"), ("ana", "OTHER")] {
            given([
                server_registered("memory"),
                secret_set("memory", "ana", "TOKEN", 2),
            ])
            .when(|catalog| set_secret(catalog, &set(user, secret, 3, true)))
            .then([secret_set("memory", user, secret, 3)]);
        }
    }

    #[test]
    fn a_secret_of_an_unknown_server_is_refused() {
        given([])
            .when(|catalog| set_secret(catalog, &set("ana", "TOKEN", 2, false)))
            .then_fails_with(Code::ServerNotFound);
    }

    #[test]
    fn a_secret_is_deleted() {
        let catalog = given([
            server_registered("memory"),
            secret_set("memory", "ana", "TOKEN", 2),
        ])
        .when(|catalog| delete_secret(catalog, &delete("ana", "TOKEN")))
        .then([deleted("ana", "TOKEN", 2)]);
        assert!(catalog.values().is_empty());
    }

    #[test]
    fn an_unknown_secret_cannot_be_deleted() {
        for (user, secret) in [("ben", "TOKEN"), ("ana", "OTHER")] {
            given([
                server_registered("memory"),
                secret_set("memory", "ana", "TOKEN", 2),
            ])
            .when(|catalog| delete_secret(catalog, &delete(user, secret)))
            .then_fails_with(Code::SecretNotFound);
        }
        given([])
            .when(|catalog| delete_secret(catalog, &delete("ana", "TOKEN")))
            .then_fails_with(Code::ServerNotFound);
    }

    #[test]
    fn a_failure_never_names_the_secret() {
        let failure = given([server_registered("memory")])
            .when(|catalog| delete_secret(catalog, &delete("ana", "HUNTER2")))
            .then_fails_with(Code::SecretNotFound);
        assert!(!failure.message.contains("HUNTER2"), "{failure}");
    }
}
