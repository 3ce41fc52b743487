//! `mcp-api backup FILE` and `mcp-api restore FILE`: the embedded store, the key not included.

use std::path::Path;
use std::process::ExitCode;

use super::CommandResult;
use crate::app::backup;
use crate::app::backup::BackupSummary;
use crate::config::{Config, Env};

/// Saves what `DATA_DIR` holds, also while it is served.
pub fn save(file: &Path) -> CommandResult {
    let BackupSummary {
        position,
        values,
        key,
        ..
    } = backup::save(&Config::read(&Env::of_process()?)?, file)?;
    println!(
        "{} holds the log up to position {position}, and {values} sealed values.",
        file.display()
    );
    println!(
        "The key is not in it: keep a copy of {key} somewhere else. Without it all secrets are lost."
    );
    Ok(ExitCode::SUCCESS)
}

/// Puts it into a `DATA_DIR` that has no store.
pub fn restore(file: &Path) -> CommandResult {
    let config = Config::read(&Env::of_process()?)?;
    let BackupSummary {
        position,
        values,
        key,
        key_fits,
    } = backup::restore(&config, file)?;
    let data_dir = config.place.data_dir.display();
    println!("{data_dir} holds the log up to position {position}, and {values} sealed values.");
    match key_fits {
        true => println!("{key} opens them: mcp-api serve can start."),
        false => println!(
            "{key} does not open them: before mcp-api serve starts, set the key they were sealed with."
        ),
    }
    Ok(ExitCode::SUCCESS)
}
