//! The errors of the command line, as a user reads them.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use super::client::ClientError;
use crate::app::StartError;
use crate::app::archive::ArchiveError;
use crate::app::backup::BackupError;
use crate::config::BadConfig;

/// The end of a command: an exit code, or an error that `main` prints.
pub(super) type CommandResult = Result<ExitCode, CliError>;

/// The reason why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error(transparent)]
    Config(#[from] BadConfig),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Backup(#[from] BackupError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    #[error("cannot receive Ctrl-C")]
    Signal(#[source] io::Error),
    #[error("cannot read standard input")]
    Input(#[source] io::Error),
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
    #[error("cannot write {path}")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the key of the predecessor cannot be used")]
    PredecessorKey(#[source] crate::crypto::seal::SealError),
    #[error("cannot read the MongoDB of the predecessor")]
    Predecessor(#[source] Box<dyn Error + Send + Sync>),
    /// A sentence that explains the failure to the user.
    #[error("{0}")]
    Failed(String),
}
