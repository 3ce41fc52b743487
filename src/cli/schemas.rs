//! `mcp-api schemas FOLDER`: everything that is made from the types and committed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{CommandResult, asyncapi};
use crate::{config, core, http};

pub fn run(folder: &Path) -> CommandResult {
    for (path, text) in files() {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap_or(folder))?;
        fs::write(path, text)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The files and what they hold, by their paths from the project's root.
pub fn files() -> Vec<(PathBuf, String)> {
    let commands = core::command::schemas()
        .into_iter()
        .map(|schema| ("commands", schema));
    let events = core::event::schemas()
        .into_iter()
        .map(|schema| ("events", schema));
    let mut files: Vec<_> = commands
        .chain(events)
        .map(|(kind, (name, v, schema))| {
            (
                format!("schemas/{kind}/{name}.v{v}.json").into(),
                pretty(&schema),
            )
        })
        .collect();
    files.push(("schemas/openapi.json".into(), pretty(&http::openapi())));
    files.push(("schemas/asyncapi.yaml".into(), asyncapi::document()));
    files.push(("example.env".into(), config::example_env()));
    files
}

fn pretty(value: &impl serde::Serialize) -> String {
    let text = serde_json::to_string_pretty(value).unwrap_or_else(|error| error.to_string());
    text + "\n"
}
