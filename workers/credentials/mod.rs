//! Opens the stored values that requests to a server carry: the only place that does.
//!
//! `core::decide::credential` decides which values a request carries. [`arguments`] opens the values of one call,
//! [`environment`] opens the values of one process, and [`remote`] opens the values of each HTTP request.

pub mod arguments;
pub mod environment;
pub mod remote;

use zeroize::Zeroizing;

use crate::core::catalog::server::Server;
use crate::core::decide::credential::StoredCredential;
use crate::core::failure::Failure;
use crate::core::model::credential::CredentialOwner;
use crate::core::names::UserName;
use crate::crypto::context::SecretContext;
use crate::crypto::seal::{Opener, Plaintext, SealError};
use crate::ports::vault::Sealed;
use crate::workers::sealed_store::SealedStore;

/// A value that a request carries, and its sealed bytes.
pub type SealedCredential<'a> = (StoredCredential<'a>, Sealed);

/// An opened value, and the text that a request carries for it.
pub struct OpenedText {
    plain: Plaintext,
    /// `None`: the value stands alone.
    formatted: Option<Zeroizing<String>>,
}

impl OpenedText {
    /// Returns the text that the request carries.
    ///
    /// # Errors
    /// The value is not UTF-8.
    pub fn text(&self) -> Result<&str, SealError> {
        match &self.formatted {
            Some(text) => Ok(text),
            None => self.plain.expose(),
        }
    }

    /// Returns the value that the user has stored.
    ///
    /// # Errors
    /// The value is not UTF-8.
    pub fn value(&self) -> Result<&str, SealError> {
        self.plain.expose()
    }
}

impl From<Plaintext> for OpenedText {
    fn from(plain: Plaintext) -> Self {
        Self {
            plain,
            formatted: None,
        }
    }
}

/// Loads the sealed values. `None`: the Vault does not contain a value that this catalog names, because a change has
/// removed it since.
///
/// # Errors
/// A failure if the store is unavailable.
pub async fn load<'a>(
    store: &SealedStore,
    credentials: Vec<StoredCredential<'a>>,
) -> Result<Option<Vec<SealedCredential<'a>>>, Failure> {
    let mut loaded = Vec::with_capacity(credentials.len());
    for stored in credentials {
        let Some(sealed) = store.cached(stored.value).await? else {
            return Ok(None);
        };
        loaded.push((stored, sealed));
    }
    Ok(Some(loaded))
}

/// Returns the failure of a request whose values were being changed.
pub fn being_changed() -> Failure {
    Failure::unavailable("A secret is being changed; try again")
}

/// Opens the value of a credential of a server.
///
/// # Errors
/// The sealed value belongs to another place, or no key of this worker opens it.
pub fn open(
    opener: &Opener,
    server: &Server,
    user: Option<&UserName>,
    stored: &StoredCredential<'_>,
    sealed: &Sealed,
) -> Result<OpenedText, SealError> {
    let context = SecretContext {
        server: server.id,
        user: user.filter(|_| stored.owner == CredentialOwner::User),
        name: stored.name,
        value: stored.value,
    };
    let plain = opener.open(context, sealed)?;
    let formatted = match stored.credential {
        Some(credential) => credential.formatted(plain.expose()?),
        None => None,
    };
    Ok(OpenedText { plain, formatted })
}
