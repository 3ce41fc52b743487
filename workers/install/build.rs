//! Builds what a server's recipe says where this worker has not got it: with the lock and the credentials that lie in
//! the Vault.

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

/// What the server's package consists of; it is built first where it is not there. `None`: it consists of nothing.
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
    let place = ServerValueContext {
        server,
        kind: ServerValueKind::Lock,
        name: "",
        value: *lock,
    };
    let lock = sealed_store.open(place).await.map_err(gone)?;
    let around =
        open_install_context(sealed_store, server, &package.source, progress, redactor).await?;
    let lock = lock.expose().map_err(internal_error)?;
    Ok(Some(
        installer
            .build(&package.name, &package.source, digest, lock, &around)
            .await?,
    ))
}

/// What an installation is surrounded by: credentials are opened, and hidden in all that is said.
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
            let url = Some(opened(sealed_store, server, field, index, &redactor).await?);
            if field == "pipIndexUrl" {
                indexes.url = url
            } else {
                indexes.extra = url
            }
        }
    }
    Ok(InstallContext {
        progress,
        redactor,
        indexes: Arc::new(indexes),
    })
}

async fn opened(
    sealed_store: &SealedStore,
    server: ServerId,
    field: &str,
    index: &PackageIndex,
    redactor: &Redactor,
) -> Result<Zeroizing<String>, Failure> {
    let plain = plain_url(&index.url);
    let Some(value) = index.user_info else {
        return Ok(Zeroizing::new(plain));
    };
    let place = ServerValueContext {
        server,
        kind: ServerValueKind::Index,
        name: field,
        value,
    };
    let user_info = sealed_store.open(place).await.map_err(gone)?;
    let user_info = user_info.expose().map_err(internal_error)?;
    // Held for as long as the masker lives: it is this installation's alone, or its server's.
    redactor.hold_all(value, &hidden(user_info));
    Ok(Zeroizing::new(plain.replacen(
        "://",
        &format!("://{user_info}@"),
        1,
    )))
}

/// It may be repeated whole, or its password alone, escaped or not.
fn hidden(user_info: &str) -> Vec<Zeroizing<String>> {
    let password = user_info
        .split_once(':')
        .map_or(user_info, |(_, password)| password);
    let plain = percent_encoding::percent_decode_str(password).decode_utf8_lossy();
    [user_info, password, &plain]
        .into_iter()
        .filter(|part| !part.is_empty())
        .map(|part| Zeroizing::new(part.to_owned()))
        .collect()
}

fn gone(reason: String) -> Failure {
    Failure::unavailable(format!(
        "What the package consists of could not be read: {reason}"
    ))
}
