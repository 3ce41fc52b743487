//! The decisions about secrets.

use crate::core::catalog::Catalog;
use crate::core::catalog::server::{SecretRef, Server};
use crate::core::command::{DeleteSecret, SetSecret};
use crate::core::event::{Event, SecretDeleted, SecretSet};
use crate::core::failure::{Code, Failure};
use crate::core::model::credential::CredentialOwner;
use crate::core::names::UserName;

/// Sets a secret. The Vault holds the new value already.
///
/// # Errors
/// Fails if the server does not exist, or if the secret exists and the command says `if_absent`.
pub fn set_secret(catalog: &Catalog, command: &SetSecret) -> Result<Vec<Event>, Failure> {
    let server = catalog
        .server_by_id(command.server)
        .ok_or_else(|| Failure::server_not_found(&command.server_name))?;
    check_owner(server, command)?;
    let exists = secrets_of(server, command.user.as_ref())
        .iter()
        .any(|secret| secret.name == command.name);
    if command.if_absent && exists {
        let message = format!(
            "{} such a secret for server {} already, and it stays unchanged",
            owner_has(command.user.as_ref()),
            server.name
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
    let user = command.user.as_ref();
    let secret = secrets_of(server, user)
        .iter()
        .find(|secret| secret.name == command.name)
        .ok_or_else(|| {
            let message = match user {
                Some(user) => format!("User {user} has no such secret for server {}", server.name),
                None => format!("Server {} has no such shared secret", server.name),
            };
            Failure::new(Code::SecretNotFound, message)
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

fn secrets_of<'a>(server: &'a Server, user: Option<&UserName>) -> &'a [SecretRef] {
    match user {
        Some(user) => server.secrets_of(user.as_str()),
        None => &server.shared_secrets,
    }
}

fn owner_has(user: Option<&UserName>) -> String {
    match user {
        Some(user) => format!("User {user} has"),
        None => "All users have".to_owned(),
    }
}

/// Refuses a value that no request would ever carry, because the credential with its name has another owner.
fn check_owner(server: &Server, command: &SetSecret) -> Result<(), Failure> {
    let name = &command.name;
    let has = |owner| server.config.credential(name, owner).is_some();
    if command.user.is_none() && !has(CredentialOwner::Shared) {
        return Err(Failure::invalid(format!(
            "secretName must be a credential of server {} with \"owner\": \"shared\", because the request has \"shared\": true",
            server.name
        )));
    }
    if command.user.is_some() && has(CredentialOwner::Shared) {
        return Err(Failure::invalid(format!(
            "secretName is a credential of server {} that all users share; an administrator sets it with \"shared\": true",
            server.name
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::decide::testing::given;
    use crate::core::decide::testing::samples::*;
    use crate::core::event::ServerRegistered;
    use crate::core::model::remote::Remote;
    use crate::core::model::server::{ServerConfig, Transport};

    fn set(user: &str, secret: &str, number: u128, if_absent: bool) -> SetSecret {
        SetSecret {
            origin: origin(1),
            server: server_id("memory"),
            server_name: name("memory"),
            user: Some(name(user)),
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
            user: Some(name(user)),
            name: name(secret),
        }
    }

    fn deleted(user: &str, secret: &str, number: u128) -> Event {
        SecretDeleted {
            server: server_id("memory"),
            server_name: name("memory"),
            user: Some(name(user)),
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

    fn registered_with_credentials() -> Event {
        let credentials = r#"[{"name":"ORG","owner":"shared"},{"name":"KEY"}]"#;
        let config = ServerConfig {
            credentials: serde_json::from_str(credentials).expect("credentials"),
            ..ServerConfig::new(Transport::StreamableHttp(Remote::new(URL)))
        };
        ServerRegistered {
            server: server_id("memory"),
            name: name("memory"),
            config,
            enabled: true,
        }
        .into()
    }

    fn for_all(secret: &str, number: u128) -> SetSecret {
        SetSecret {
            user: None,
            ..set("ana", secret, number, false)
        }
    }

    #[test]
    fn a_shared_value_is_set_and_deleted() {
        let catalog = given([registered_with_credentials()])
            .when(|catalog| set_secret(catalog, &for_all("ORG", 2)))
            .then([SecretSet {
                server: server_id("memory"),
                server_name: name("memory"),
                user: None,
                name: name("ORG"),
                value: value(2),
            }
            .into()]);
        assert_eq!(catalog.values(), [value(2)].into());
        let command = DeleteSecret {
            user: None,
            ..delete("ana", "ORG")
        };
        let events = delete_secret(&catalog, &command).expect("a shared value");
        assert_eq!(events.len(), 1);
        let failure = delete_secret(&catalog, &delete("ana", "ORG")).expect_err("no value of ana");
        assert_eq!(failure.code, Code::SecretNotFound);
    }

    #[test]
    fn a_value_that_no_request_would_carry_is_refused() {
        given([registered_with_credentials()])
            .when(|catalog| set_secret(catalog, &set("ana", "ORG", 2, false)))
            .then_fails_with(Code::InvalidRequest);
        for event in [registered_with_credentials(), server_registered("memory")] {
            given([event])
                .when(|catalog| set_secret(catalog, &for_all("KEY", 2)))
                .then_fails_with(Code::InvalidRequest);
        }
    }

    #[test]
    fn a_failure_never_names_the_secret() {
        let failure = given([server_registered("memory")])
            .when(|catalog| delete_secret(catalog, &delete("ana", "HUNTER2")))
            .then_fails_with(Code::SecretNotFound);
        assert!(!failure.message.contains("HUNTER2"), "{failure}");
    }
}
