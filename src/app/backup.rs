//! A backup of the embedded store while it is in use, and back again.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::{StartError, adapters, keys, lock};
use crate::adapters::store_sqlite::{CopySummary, copy};
use crate::config::Config;
use crate::ports::error::StoreError;

/// Why there is no backup, or nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error(
        "the log and the secrets lie in MongoDB, not in DATA_DIR: back up its collections mcpapi_* with mongodump, and restore them with mongorestore"
    )]
    InMongo,
    #[error("{0} is there already; nothing is overwritten")]
    Exists(PathBuf),
    #[error("{path} cannot be copied: {cause}")]
    From { path: PathBuf, cause: StoreError },
    #[error("{path} cannot be written: {cause}")]
    To { path: PathBuf, cause: io::Error },
    #[error(transparent)]
    Start(#[from] StartError),
}

/// What was saved or restored, in figures, and whether the key that is set opens it.
pub struct BackupSummary {
    pub position: u64,
    pub values: u64,
    /// Where the key is looked for: a variable or a file.
    pub key: String,
    pub key_fits: bool,
}

/// Saves the store of `DATA_DIR` as it is now. The process that serves it needs not stop.
pub fn save(config: &Config, to: &Path) -> Result<BackupSummary, BackupError> {
    let from = store(config)?;
    if !from.exists() {
        let nothing = StoreError("there is no store yet; is DATA_DIR the right folder?".into());
        return Err(BackupError::From {
            path: from,
            cause: nothing,
        });
    }
    // Ours from here on: whoever else wants the same name is told that it is there.
    match File::options().write(true).create_new(true).open(to) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(BackupError::Exists(to.to_owned()));
        }
        Err(cause) => {
            return Err(BackupError::To {
                path: to.to_owned(),
                cause,
            });
        }
    }
    let saved = take(config, &from, to);
    if saved.is_err() {
        let _ = fs::remove_file(to);
    }
    saved
}

/// Puts a backup into a `DATA_DIR` that has no store.
pub fn restore(config: &Config, from: &Path) -> Result<BackupSummary, BackupError> {
    let to = store(config)?;
    let _lock = lock(&config.data_dir.path)?;
    // A log beside a file that is not its own would be played into it.
    for ending in ["", "-wal", "-journal"] {
        let there = beside(&to, ending);
        if there.exists() {
            return Err(BackupError::Exists(there));
        }
    }
    take(config, from, &to)
}

fn store(config: &Config) -> Result<PathBuf, BackupError> {
    match config.services.mongo {
        Some(_) => Err(BackupError::InMongo),
        None => Ok(adapters::store_file(&config.data_dir.path)),
    }
}

/// Under another name first: what has the name is whole.
fn take(config: &Config, from: &Path, to: &Path) -> Result<BackupSummary, BackupError> {
    let part = beside(to, ".part");
    let copied = fresh(&part).and_then(|()| {
        copy(from, &part).map_err(|cause| BackupError::From {
            path: from.to_owned(),
            cause,
        })
    });
    let put = copied.and_then(|copied| {
        let put = fs::rename(&part, to).and_then(|()| sync_folder(to));
        put.map(|()| copied).map_err(|cause| BackupError::To {
            path: to.to_owned(),
            cause,
        })
    });
    if put.is_err() {
        let _ = fs::remove_file(&part);
    }
    let CopySummary {
        position,
        values,
        key: record,
    } = put?;
    let (key, key_fits) = keys::look(record.as_ref(), &config.keys, &config.data_dir.path);
    Ok(BackupSummary {
        position,
        values,
        key,
        key_fits,
    })
}

/// What an interrupted copy has left is not added to.
fn fresh(part: &Path) -> Result<(), BackupError> {
    match fs::remove_file(part) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(BackupError::To {
            path: part.to_owned(),
            cause,
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

fn beside(file: &Path, ending: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(ending);
    name.into()
}
