//! Backup of the embedded store while the program serves it, and restore.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::data_dir::lock_data_dir;
use super::{StartError, adapters, keys};
use crate::adapters::store_sqlite::{CopySummary, copy};
use crate::config::Config;
use crate::ports::error::StoreError;

/// The reason why a backup or a restore failed.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error(
        "the log and the secrets are in MongoDB, not in DATA_DIR; back up its collections mcpapi_* with mongodump, and restore them with mongorestore"
    )]
    InMongo,
    #[error("{0} exists already, and mcp-api overwrites nothing; choose another name")]
    Exists(PathBuf),
    #[error("{path} cannot be copied")]
    Copy {
        path: PathBuf,
        #[source]
        source: StoreError,
    },
    #[error("{0} does not exist; check DATA_DIR")]
    NoStore(PathBuf),
    #[error("{path} cannot be written")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Start(#[from] StartError),
}

/// The content of a backup, and whether the configured key opens it.
pub struct BackupSummary {
    pub position: u64,
    pub values: u64,
    /// The source of the key: a variable or a file.
    pub key: String,
    pub key_fits: bool,
}

/// Saves the current store of `DATA_DIR` to a new file. The serving process may keep running.
///
/// # Errors
/// Returns an error if the store is in MongoDB, the file exists, or the copy fails.
pub fn save(config: &Config, target: &Path) -> Result<BackupSummary, BackupError> {
    let store = embedded_store(config)?;
    if !store.exists() {
        return Err(BackupError::NoStore(store));
    }
    reserve_name(target)?;
    let saved = copy_store(config, &store, target);
    if saved.is_err() {
        // The error of the copy is the one that matters.
        let _ = fs::remove_file(target);
    }
    saved
}

/// Creates the empty target, so that a second backup to the same name fails.
fn reserve_name(target: &Path) -> Result<(), BackupError> {
    match File::options().write(true).create_new(true).open(target) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(BackupError::Exists(target.to_owned()))
        }
        Err(source) => Err(BackupError::Write {
            path: target.to_owned(),
            source,
        }),
    }
}

/// Restores a backup into a `DATA_DIR` without a store.
///
/// # Errors
/// Returns an error if another process uses `DATA_DIR`, a store exists, or the copy fails.
pub fn restore(config: &Config, backup: &Path) -> Result<BackupSummary, BackupError> {
    let store = embedded_store(config)?;
    let _lock = lock_data_dir(&config.data_dir.path)?;
    // SQLite would apply the write-ahead log of another file to the restored one.
    for suffix in ["", "-wal", "-journal"] {
        let existing = with_suffix(&store, suffix);
        if existing.exists() {
            return Err(BackupError::Exists(existing));
        }
    }
    copy_store(config, backup, &store)
}

fn embedded_store(config: &Config) -> Result<PathBuf, BackupError> {
    if config.services.mongo.is_some() {
        return Err(BackupError::InMongo);
    }
    Ok(adapters::store_file(&config.data_dir.path))
}

/// Copies a store under a temporary name first, so that the target is always complete.
fn copy_store(config: &Config, source: &Path, target: &Path) -> Result<BackupSummary, BackupError> {
    let partial = with_suffix(target, ".part");
    let copied = copy_to_partial(source, &partial).and_then(|summary| {
        fs::rename(&partial, target)
            .and_then(|()| sync_folder(target))
            .map_err(|source| BackupError::Write {
                path: target.to_owned(),
                source,
            })?;
        Ok(summary)
    });
    if copied.is_err() {
        // The error of the copy is the one that matters.
        let _ = fs::remove_file(&partial);
    }
    let summary = copied?;
    let record = summary.key.as_ref();
    let (key, key_fits) = keys::inspect_key(record, &config.keys, &config.data_dir.path);
    Ok(BackupSummary {
        position: summary.position,
        values: summary.values,
        key,
        key_fits,
    })
}

fn copy_to_partial(source: &Path, partial: &Path) -> Result<CopySummary, BackupError> {
    remove_partial(partial)?;
    copy(source, partial).map_err(|error| BackupError::Copy {
        path: source.to_owned(),
        source: error,
    })
}

/// Removes the file that an interrupted copy has left.
fn remove_partial(partial: &Path) -> Result<(), BackupError> {
    match fs::remove_file(partial) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(BackupError::Write {
            path: partial.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

fn sync_folder(file: &Path) -> io::Result<()> {
    let folder = file
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

fn with_suffix(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
