//! Builds the recipe of a server if this worker has not built it, with the lockfile and the
//! credentials from the Vault.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::{Indexes, InstallContext, Installer, PackageHandle, ProgressSink};
use crate::core::failure::Failure;
use crate::core::ids::ServerId;
use crate::core::model::package::{Package, PackageIndex, Recipe, Source};
use crate::core::model::remote::plain_url;
use crate::crypto::context::{ServerValueContext, ServerValueKind};
use crate::telemetry::error::internal_error;
use crate::workers::redact::Redactor;
use crate::workers::sealed_store::SealedStore;

/// Returns the folder of a server's package, and builds it first if necessary. Returns `None` if the
/// package has no files.
///
/// # Errors
/// Fails if the Vault is unavailable, or if the package cannot be built.
pub async fn ensure_built(
    installer: &Installer,
    sealed_store: &SealedStore,
    server: ServerId,
    package: &Package,
    progress: Arc<dyn ProgressSink>,
    redactor: Arc<Redactor>,
) -> Result<Option<PackageHandle>, Failure> {
    let Some(Recipe { digest, lock, .. }) = &package.recipe else {
        return Ok(None);
    };
    if let Some(built) = installer.built(&package.source, digest) {
        return Ok(Some(built));
    }
    let lock_context = ServerValueContext {
        server,
        kind: ServerValueKind::Lock,
        name: "",
        value: *lock,
    };
    let lock = sealed_store
        .open(lock_context)
        .await
        .map_err(unreadable_recipe)?;
    let context =
        open_install_context(sealed_store, server, &package.source, progress, redactor).await?;
    let lock = lock.expose().map_err(internal_error)?;
    let built = installer
        .build(&package.name, &package.source, digest, lock, &context)
        .await?;
    Ok(Some(built))
}

/// Returns the context of an installation. It opens the credentials of the package indexes, and the
/// redactor hides them in all output.
///
/// # Errors
/// Fails if the Vault is unavailable.
pub async fn open_install_context(
    sealed_store: &SealedStore,
    server: ServerId,
    source: &Source,
    progress: Arc<dyn ProgressSink>,
    redactor: Arc<Redactor>,
) -> Result<InstallContext, Failure> {
    let mut indexes = Indexes::default();
    if let Source::Python(python) = source {
        for (field, index) in python.indexes() {
            let url = open_index_url(sealed_store, server, field, index, &redactor).await?;
            if field == "pipIndexUrl" {
                indexes.url = Some(url);
            } else {
                indexes.extra = Some(url);
            }
        }
    }
    Ok(InstallContext {
        progress,
        redactor,
        indexes: Arc::new(indexes),
    })
}

/// Returns the URL of a package index with its user info.
async fn open_index_url(
    sealed_store: &SealedStore,
    server: ServerId,
    field: &str,
    index: &PackageIndex,
    redactor: &Redactor,
) -> Result<Zeroizing<String>, Failure> {
    let url = plain_url(&index.url);
    let Some(value) = index.user_info else {
        return Ok(Zeroizing::new(url));
    };
    let context = ServerValueContext {
        server,
        kind: ServerValueKind::Index,
        name: field,
        value,
    };
    let user_info = sealed_store
        .open(context)
        .await
        .map_err(unreadable_recipe)?;
    let user_info = user_info.expose().map_err(internal_error)?;
    // The redactor belongs to this installation or to its server, so the value is never released.
    redactor.hold_all(value, &hidden_parts(user_info));
    let with_user_info = url.replacen("://", &format!("://{user_info}@"), 1);
    Ok(Zeroizing::new(with_user_info))
}

/// Returns the texts to hide: the user info, and its password in plain and percent-encoded form.
fn hidden_parts(user_info: &str) -> Vec<Zeroizing<String>> {
    let password = user_info
        .split_once(':')
        .map_or(user_info, |(_, password)| password);
    let decoded = percent_encoding::percent_decode_str(password).decode_utf8_lossy();
    [user_info, password, &decoded]
        .into_iter()
        .filter(|part| !part.is_empty())
        .map(|part| Zeroizing::new(part.to_owned()))
        .collect()
}

fn unreadable_recipe(reason: String) -> Failure {
    Failure::unavailable(format!(
        "The recipe of the package could not be read: {reason}"
    ))
}
