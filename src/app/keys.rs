//! Finds the deployment's key, or makes one, and checks that it is the one its secrets were sealed with.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::StartError;
use crate::config::Keys;
use crate::crypto::seal;
use crate::crypto::seal::{Opener, SealError, Sealer, SecretsKey};
use crate::ports::vault::{KeyRecord, Vault};

/// The keyring: of `SECRETS_KEY`, or of the key file, which is made where nothing was ever sealed.
pub async fn open(
    vault: &dyn Vault,
    keys: &Keys,
    data_dir: &Path,
) -> Result<(Sealer, Opener), StartError> {
    let record = vault.key_record(None).await?;
    let file = key_file(data_dir);
    let unusable = |cause| StartError::DataDir {
        path: data_dir.display().to_string(),
        cause,
    };
    let from_file;
    let current = match &keys.current {
        Some(key) => key,
        None => {
            from_file = match read(&file).map_err(unusable)? {
                Some(key) => key,
                None if record.is_some() => {
                    return Err(StartError::NoKey {
                        path: file.display().to_string(),
                    });
                }
                None => make(&file).map_err(unusable)?,
            };
            &from_file
        }
    };
    let record = match record {
        Some(record) => {
            if keys.is_weak {
                tracing::warn!(
                    "SECRETS_KEY is short enough to guess; rotate to a key from openssl rand -hex 32 with mcp-api rotate-keys"
                );
            }
            record
        }
        None if keys.is_weak => return Err(StartError::WeakKey),
        None => {
            let proposed = seal::new_record(current).map_err(StartError::Seal)?;
            vault
                .key_record(Some(proposed.clone()))
                .await?
                .unwrap_or(proposed)
        }
    };
    seal::open_keyring(&record, current, &keys.old).map_err(|error| match error {
        SealError::UnknownKey | SealError::Damaged => StartError::WrongKey,
        other => StartError::Seal(other),
    })
}

/// What the key is called, and whether it is the one of a record. Of what was never sealed, any is.
pub fn look(record: Option<&KeyRecord>, keys: &Keys, data_dir: &Path) -> (String, bool) {
    let file = key_file(data_dir);
    let (name, from_file) = match keys.current {
        Some(_) => ("SECRETS_KEY".to_owned(), None),
        None => match read(&file).ok().flatten() {
            Some(key) => (file.display().to_string(), Some(key)),
            None => (format!("SECRETS_KEY or {}", file.display()), None),
        },
    };
    let key = keys.current.as_ref().or(from_file.as_ref());
    let fits = |record| key.is_some_and(|key| seal::open_keyring(record, key, &keys.old).is_ok());
    (name, record.is_none_or(fits))
}

fn key_file(data_dir: &Path) -> PathBuf {
    data_dir.join("secrets.key")
}

fn read(file: &Path) -> io::Result<Option<SecretsKey>> {
    match fs::read_to_string(file) {
        // An empty key would be a passphrase that everybody knows.
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

fn make(path: &Path) -> io::Result<SecretsKey> {
    let mut key = zeroize::Zeroizing::new([0u8; 32]);
    getrandom::fill(&mut *key).map_err(io::Error::other)?;
    let key = hex::encode(key.as_slice());
    // Written whole or not at all: half a key would seal what nobody can open later.
    let fresh = path.with_extension("key.new");
    let mut file = File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&fresh)?;
    writeln!(file, "{key}")?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    tracing::warn!(file = %path.display(), "a new key was made; keep a copy of it: without it all secrets are lost");
    Ok(SecretsKey::new(key))
}
