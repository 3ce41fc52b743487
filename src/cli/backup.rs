//! `mcp-api backup FILE` and `mcp-api restore FILE`: save and restore the embedded store without its key.

use std::path::Path;
use std::process::ExitCode;

use super::error::CommandResult;
use super::output::print_line;
use crate::app::backup;
use crate::app::backup::BackupSummary;
use crate::config::{Config, Env};

/// Saves the store of `DATA_DIR` to a new file. The program may run during the backup.
pub(super) fn save(file: &Path) -> CommandResult {
    let BackupSummary {
        position,
        values,
        key,
        ..
    } = backup::save(&Config::read(&Env::of_process()?)?, file)?;
    let file = file.display();
    print_line(format_args!(
        "{file} holds the log up to position {position}, and {values} sealed values."
    ));
    print_line(format_args!(
        "It does not hold the key. Keep a copy of {key} in another place, because without the key all secrets are lost."
    ));
    Ok(ExitCode::SUCCESS)
}

/// Restores a backup to a `DATA_DIR` that has no store.
pub(super) fn restore(file: &Path) -> CommandResult {
    let config = Config::read(&Env::of_process()?)?;
    let BackupSummary {
        position,
        values,
        key,
        key_fits,
    } = backup::restore(&config, file)?;
    let data_dir = config.data_dir.path.display();
    print_line(format_args!(
        "{data_dir} holds the log up to position {position}, and {values} sealed values."
    ));
    if key_fits {
        print_line(format_args!("{key} opens them: mcp-api serve can start."));
    } else {
        print_line(format_args!(
            "{key} does not open them: set the key that sealed them before mcp-api serve starts."
        ));
    }
    Ok(ExitCode::SUCCESS)
}
