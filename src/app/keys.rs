//! Finds or creates the key of the deployment, and checks that it sealed the stored secrets.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::StartError;
use crate::config::Keys;
use crate::crypto::keyring;
use crate::crypto::keyring::SecretsKey;
use crate::crypto::seal::{Opener, SealError, Sealer};
use crate::ports::vault::{KeyRecord, Vault};

/// Opens the keyring with `SECRETS_KEY`, or with the key file. Creates the key file if nothing was
/// ever sealed.
///
/// # Errors
/// Returns `NoKey` or `WrongKey` if the secrets of the deployment cannot be opened, `WeakKey` for a
/// weak key without a stored record, `DataDir` if the key file cannot be used, and `Store` if the
/// Vault cannot be read.
pub(super) async fn open_keyring(
    vault: &dyn Vault,
    keys: &Keys,
    data_dir: &Path,
) -> Result<(Sealer, Opener), StartError> {
    let stored = vault.key_record(None).await?;
    let file_key;
    let current = match &keys.current {
        Some(key) => key,
        None => {
            file_key = load_or_create_key(data_dir, stored.is_some())?;
            &file_key
        }
    };
    let record = match stored {
        Some(record) => {
            if keys.is_weak {
                tracing::warn!(
                    "SECRETS_KEY is short enough to guess; rotate to a key from openssl rand -hex 32 with mcp-api rotate-keys"
                );
            }
            record
        }
        None if keys.is_weak => return Err(StartError::WeakKey),
        None => store_record(vault, current).await?,
    };
    keyring::open_keyring(&record, current, &keys.old).map_err(|error| match error {
        SealError::UnknownKey | SealError::Damaged => StartError::WrongKey,
        other => StartError::Seal(other),
    })
}

/// Stores the record of a new key. If another process was first, its record is returned.
async fn store_record(vault: &dyn Vault, key: &SecretsKey) -> Result<KeyRecord, StartError> {
    let proposed = keyring::new_record(key).map_err(StartError::Seal)?;
    let stored = vault.key_record(Some(proposed.clone())).await?;
    Ok(stored.unwrap_or(proposed))
}

fn load_or_create_key(data_dir: &Path, is_sealed: bool) -> Result<SecretsKey, StartError> {
    let file = key_file(data_dir);
    let unusable = |source| StartError::DataDir {
        path: data_dir.display().to_string(),
        source,
    };
    match load_key(&file).map_err(unusable)? {
        Some(key) => Ok(key),
        None if is_sealed => Err(StartError::NoKey {
            path: file.display().to_string(),
        }),
        None => create_key(&file).map_err(unusable),
    }
}

/// Returns the name of the key (a variable or a file), and whether the key opens the record.
/// Every key opens a store without a record.
pub(super) fn inspect_key(
    record: Option<&KeyRecord>,
    keys: &Keys,
    data_dir: &Path,
) -> (String, bool) {
    let file = key_file(data_dir);
    let loaded = load_key(&file).ok().flatten();
    let (name, key) = match (&keys.current, &loaded) {
        (Some(key), _) => ("SECRETS_KEY".to_owned(), Some(key)),
        (None, Some(key)) => (file.display().to_string(), Some(key)),
        (None, None) => (format!("SECRETS_KEY or {}", file.display()), None),
    };
    let opens =
        |record| key.is_some_and(|key| keyring::open_keyring(record, key, &keys.old).is_ok());
    (name, record.is_none_or(opens))
}

fn key_file(data_dir: &Path) -> PathBuf {
    data_dir.join("secrets.key")
}

fn load_key(file: &Path) -> io::Result<Option<SecretsKey>> {
    match fs::read_to_string(file) {
        // An empty passphrase would protect nothing.
        Ok(key) if key.trim().is_empty() => Err(io::Error::other("secrets.key is empty")),
        Ok(key) => {
            check_mode(file)?;
            Ok(Some(SecretsKey::new(key.trim().to_owned())))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Refuses a key file that the group may change, or that other users may read.
fn check_mode(file: &Path) -> io::Result<()> {
    const FORBIDDEN: u32 = 0o027;
    let mode = fs::metadata(file)?.mode() & 0o777;
    if mode & FORBIDDEN == 0 {
        return Ok(());
    }
    let path = file.display();
    Err(io::Error::other(format!(
        "other users may read or change the key file (mode {mode:o}); run chmod 600 {path}"
    )))
}

fn create_key(path: &Path) -> io::Result<SecretsKey> {
    let mut bytes = zeroize::Zeroizing::new([0u8; 32]);
    getrandom::fill(&mut *bytes).map_err(io::Error::other)?;
    let key = hex::encode(bytes.as_slice());
    // The file appears under its name only when it is complete, because values that a partial key
    // has sealed could never be opened.
    let partial = path.with_extension("key.new");
    let mut file = File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&partial)?;
    writeln!(file, "{key}")?;
    file.sync_all()?;
    fs::rename(&partial, path)?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    tracing::warn!(
        file = %path.display(),
        "the program created a key; keep a copy of it, because all secrets are lost without it"
    );
    Ok(SecretsKey::new(key))
}
