//! `mcp-api schemas FOLDER`: writes the committed files that the program generates from its types.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::asyncapi;
use super::error::{CliError, CommandResult};
use crate::{config, core, http};

pub fn run(folder: &Path) -> CommandResult {
    for (path, text) in files() {
        let path = folder.join(path);
        let created = fs::create_dir_all(path.parent().unwrap_or(folder));
        let written = created.and_then(|()| fs::write(&path, text));
        written.map_err(|source| CliError::Write { path, source })?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the files as paths from the root of the project, and their texts.
pub fn files() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    for (name, version, schema) in core::command::schemas() {
        let path = format!("schemas/commands/{name}.v{version}.json");
        files.push((path.into(), pretty(&schema)));
    }
    for (name, version, schema) in core::event::schemas() {
        let path = format!("schemas/events/{name}.v{version}.json");
        files.push((path.into(), pretty(&schema)));
    }
    files.push(("schemas/openapi.json".into(), pretty(&http::openapi())));
    files.push(("schemas/asyncapi.yaml".into(), asyncapi::document()));
    files.push(("example.env".into(), config::example_env()));
    files
}

fn pretty(value: &impl serde::Serialize) -> String {
    let text = serde_json::to_string_pretty(value).unwrap_or_else(|error| error.to_string());
    text + "\n"
}
