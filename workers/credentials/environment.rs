//! The values that one process gets as environment variables.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::{being_changed, load, open};
use crate::core::catalog::server::Server;
use crate::core::decide::credential::stored_credentials;
use crate::core::failure::Failure;
use crate::core::ids::ValueId;
use crate::core::model::credential::CredentialLocation;
use crate::core::names::UserName;
use crate::telemetry::error::internal_error;
use crate::workers::redact::Redactor;
use crate::workers::sealed_store::SealedStore;

/// The opened variables of a process, for its start.
pub struct OpenedEnvironment {
    pub variables: Vec<(String, Zeroizing<String>)>,
    /// Must live for as long as the process, because the process can print its variables at any time.
    pub redaction: EnvironmentRedaction,
}

/// Masks the variables of a process in the lines of its server until it is dropped.
pub struct EnvironmentRedaction {
    redactor: Arc<Redactor>,
    values: Vec<ValueId>,
}

impl Drop for EnvironmentRedaction {
    fn drop(&mut self) {
        for value in &self.values {
            self.redactor.release(*value);
        }
    }
}

/// Opens the variables of a process of the user, or of all users if `user` is `None`.
///
/// # Errors
/// `credential_required` if a required value is not set, and a failure if the store is unavailable.
pub async fn open_environment(
    store: &SealedStore,
    server: &Server,
    user: Option<&UserName>,
    redactor: &Arc<Redactor>,
) -> Result<OpenedEnvironment, Failure> {
    let stored = stored_credentials(server, user, |location| location == CredentialLocation::Env)?;
    let loaded = load(store, stored).await?.ok_or_else(being_changed)?;
    let mut opened = OpenedEnvironment {
        variables: Vec::with_capacity(loaded.len()),
        redaction: EnvironmentRedaction {
            redactor: redactor.clone(),
            values: Vec::with_capacity(loaded.len()),
        },
    };
    for (stored, sealed) in &loaded {
        let text = open(&store.opener, server, user, stored, sealed).map_err(internal_error)?;
        redactor.hold(stored.value, text.value().map_err(internal_error)?);
        opened.redaction.values.push(stored.value);
        let value = text.text().map_err(internal_error)?.to_owned();
        let variable = (stored.target().to_owned(), Zeroizing::new(value));
        opened.variables.push(variable);
    }
    Ok(opened)
}
