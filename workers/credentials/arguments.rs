//! The values that one call carries as arguments.

use std::sync::Arc;

use super::{OpenedText, SealedCredential, being_changed, load, open};
use crate::core::arguments::merge::{ArgumentForm, SecretArgument};
use crate::core::catalog::server::Server;
use crate::core::decide::credential::stored_credentials;
use crate::core::failure::Failure;
use crate::core::ids::{ServerId, ValueId};
use crate::core::model::credential::CredentialLocation;
use crate::core::names::UserName;
use crate::eventlog::projection::Projection;
use crate::telemetry::error::internal_error;
use crate::telemetry::metrics::Metrics;
use crate::workers::sealed_store::SealedStore;

/// A value, opened for one call.
pub struct OpenedArgument {
    /// The name of the argument.
    pub target: String,
    pub id: ValueId,
    pub value: OpenedText,
    pub form: ArgumentForm,
}

/// Opens the arguments of calls.
pub struct ArgumentOpener<'a> {
    pub store: &'a SealedStore,
    pub projection: &'a Projection,
    pub metrics: &'a Metrics,
}

impl ArgumentOpener<'_> {
    /// Returns the values that a call of the user carries as arguments.
    ///
    /// # Errors
    /// `credential_required` if a required value is not set, in whatever place. A failure if the store is unavailable.
    pub async fn open(
        &self,
        server: &Server,
        user: &UserName,
    ) -> Result<Vec<OpenedArgument>, Failure> {
        if let Some(arguments) = self.try_open(server, user).await? {
            return Ok(arguments);
        }
        // A change removed a value after this catalog was read. A newer catalog names the new value.
        let newer = self.newer(server.id);
        let newer = newer.ok_or_else(|| Failure::server_not_found(&server.name))?;
        let arguments = self.try_open(&newer, user).await?;
        arguments.ok_or_else(being_changed)
    }

    fn newer(&self, server: ServerId) -> Option<Arc<Server>> {
        self.projection.catalog().server_by_id(server).cloned()
    }

    async fn try_open(
        &self,
        server: &Server,
        user: &UserName,
    ) -> Result<Option<Vec<OpenedArgument>>, Failure> {
        // A value that is missing in another place refuses the call before anything starts.
        let mut stored = stored_credentials(server, Some(user), |_| true)?;
        stored.retain(|stored| stored.location() == CredentialLocation::Argument);
        let Some(loaded) = load(self.store, stored).await? else {
            return Ok(None);
        };
        let opened = loaded
            .iter()
            .map(|sealed| self.open_one(server, user, sealed));
        opened.collect::<Result<Vec<_>, _>>().map(Some)
    }

    fn open_one(
        &self,
        server: &Server,
        user: &UserName,
        (stored, sealed): &SealedCredential<'_>,
    ) -> Result<OpenedArgument, Failure> {
        let value =
            open(&self.store.opener, server, Some(user), stored, sealed).map_err(internal_error)?;
        self.metrics.secrets_opened.inc();
        Ok(OpenedArgument {
            target: stored.target().to_owned(),
            id: stored.value,
            value,
            form: ArgumentForm::Text,
        })
    }
}

/// Returns the opened values as arguments of a call.
///
/// # Errors
/// An internal error if a value is not UTF-8.
pub fn secret_arguments(opened: &[OpenedArgument]) -> Result<Vec<SecretArgument<'_>>, Failure> {
    let mut arguments = Vec::with_capacity(opened.len());
    for argument in opened {
        arguments.push(SecretArgument {
            name: &argument.target,
            value: argument.value.text().map_err(internal_error)?,
            form: argument.form,
        });
    }
    Ok(arguments)
}
