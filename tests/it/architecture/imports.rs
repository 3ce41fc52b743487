//! The layers of the source tree: which module may import which one, and no circle between folders.

use std::collections::{BTreeMap, BTreeSet};

use super::source::tokens;

/// The rows that a module may import. `core::*` means all rows of `core`.
enum May {
    Import(&'static [&'static str]),
    /// All rows above, except these.
    ImportAllAboveBut(&'static [&'static str]),
}
use May::{Import, ImportAllAboveBut};

/// A file belongs to the row with the longest matching module. A row imports only rows that stand above it.
const ALLOWED_IMPORTS: &[(&str, May)] = &[
    // `core` itself: names, ids, failures, arguments, tool results, producer messages, MCP constants.
    ("core", Import(&[])),
    ("core::model", Import(&["core"])),
    ("core::event", Import(&["core", "core::model"])),
    (
        "core::command",
        Import(&["core", "core::model", "core::event"]),
    ),
    (
        "core::catalog",
        Import(&["core", "core::model", "core::event", "core::command"]),
    ),
    ("core::decide", Import(&["core::*"])),
    ("time", Import(&["core::*"])),
    ("ports", Import(&["core::*"])),
    ("crypto", Import(&["core::*", "ports"])),
    ("config", Import(&["core::*", "crypto"])),
    ("telemetry", Import(&["core::*", "config"])),
    ("http_client", Import(&[])),
    ("views", Import(&["core::*", "time"])),
    (
        "eventlog",
        Import(&["core::*", "ports", "time", "telemetry"]),
    ),
    (
        "cluster",
        Import(&["core::*", "ports", "time", "telemetry", "eventlog"]),
    ),
    (
        "jobs",
        Import(&[
            "core::*",
            "ports",
            "crypto",
            "config",
            "time",
            "telemetry",
            "eventlog",
            "cluster",
        ]),
    ),
    ("adapters", Import(&["core::*", "ports", "time"])),
    ("http", ImportAllAboveBut(&["adapters"])),
    ("workers::guard", Import(WORKER_BASE)),
    ("workers::redact", Import(WORKER_BASE)),
    ("workers::sealed_store", Import(WORKER_BASE)),
    (
        "workers::mcp",
        Import(&["core::*", "time", "workers::guard", "http_client"]),
    ),
    (
        "workers::install",
        Import(&[
            "core::*",
            "ports",
            "crypto",
            "time",
            "telemetry",
            "config",
            "eventlog",
            "workers::guard",
            "workers::redact",
            "workers::sealed_store",
        ]),
    ),
    ("workers::oauth::client", Import(WORKER_OAUTH)),
    (
        "workers::oauth::token_source",
        Import(&[
            "core::*",
            "ports",
            "crypto",
            "time",
            "telemetry",
            "eventlog",
            "cluster",
            "workers::redact",
            "http_client",
            "workers::sealed_store",
            "workers::oauth::client",
        ]),
    ),
    (
        "workers::credentials",
        Import(&[
            "core::*",
            "crypto",
            "ports",
            "telemetry",
            "eventlog",
            "workers::redact",
            "workers::sealed_store",
            "workers::mcp",
        ]),
    ),
    (
        "workers::runtime",
        ImportAllAboveBut(&["adapters", "http", "views", "jobs"]),
    ),
    // The dispatcher, the context, and the handlers of commands and jobs.
    ("workers", ImportAllAboveBut(&["adapters", "http"])),
    ("app", ImportAllAboveBut(&[])),
    (
        "cli",
        Import(&[
            "core::*",
            "crypto",
            "config",
            "time",
            "telemetry",
            "http_client",
            "http",
            "workers::*",
            "app",
        ]),
    ),
    ("main", Import(&["cli", "workers::*"])),
    ("lib", Import(&[])),
];

const WORKER_BASE: &[&str] = &["core::*", "ports", "crypto", "time", "telemetry"];
const WORKER_OAUTH: &[&str] = &[
    "core::*",
    "ports",
    "crypto",
    "time",
    "telemetry",
    "eventlog",
    "cluster",
    "workers::redact",
    "http_client",
    "workers::sealed_store",
];

/// Paths inside an allowed row that a module must not import all the same.
const FORBIDDEN_PATHS: &[(&str, &str)] = &[
    ("http", "eventlog::appender"),
    ("http", "crypto::seal::Opener"),
    ("http", "crypto::Opener"),
    ("http", "ports::vault::Vault"),
    ("http", "ports::Vault"),
];

/// Returns the module path of a file: `src/core/event/mod.rs` is `core::event`.
pub fn module_of(path: &str) -> String {
    let path = path.strip_prefix("src/").unwrap_or(path);
    let path = path.trim_end_matches(".rs").trim_end_matches("/mod");
    path.replace('/', "::")
}

/// Returns whether a module is another module or lies inside it.
fn is_within(module: &str, outer: &str) -> bool {
    module
        .strip_prefix(outer)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Returns the number of the row of a module.
fn row_of(module: &str) -> Option<usize> {
    let rows = ALLOWED_IMPORTS.iter().enumerate();
    let matching = rows.filter(|(_, (row, _))| is_within(module, row));
    matching
        .max_by_key(|(_, (row, _))| row.len())
        .map(|(number, _)| number)
}

fn is_allowed(importer: usize, imported: usize) -> bool {
    let (row, may) = &ALLOWED_IMPORTS[importer];
    let (target, _) = &ALLOWED_IMPORTS[imported];
    let names = |entry: &&str| match entry.strip_suffix("::*") {
        Some(outer) => is_within(target, outer),
        None => target == entry,
    };
    row == target
        || match may {
            Import(rows) => rows.iter().any(names),
            ImportAllAboveBut(rows) => imported < importer && !rows.iter().any(names),
        }
}

/// Returns the paths, from the root of the crate, that a file names: in `use` and everywhere else.
pub fn imported_paths(path: &str, text: &str, modules: &BTreeSet<String>) -> BTreeSet<String> {
    let own = module_of(path);
    let is_root = own == "lib";
    let tokens = tokens(text);
    let mut inner_modules: Vec<(String, i32)> = vec![];
    let mut aliases: BTreeMap<String, String> = BTreeMap::new();
    let mut found = BTreeSet::new();
    let mut depth = 0;
    let mut position = 0;
    while position < tokens.len() {
        let token = tokens[position];
        depth += i32::from(token == "{") - i32::from(token == "}");
        if token == "mod" && tokens.get(position + 2) == Some(&"{") {
            inner_modules.push((tokens[position + 1].to_owned(), depth));
        }
        inner_modules.retain(|(_, outer)| token != "}" || depth > *outer);
        let is_path = tokens.get(position + 1) == Some(&"::");
        let is_inside_path = position > 0 && ["::", "."].contains(&tokens[position - 1]);
        if is_path && !is_inside_path {
            let mut current: Vec<&str> = own.split("::").filter(|_| !is_root).collect();
            current.extend(inner_modules.iter().map(|(name, _)| name.as_str()));
            let child = [current.join("::"), token.to_owned()].join("::");
            let start = match token {
                "crate" if own != "main" => Some(String::new()),
                "mcp_api" => Some(String::new()),
                "self" => Some(current.join("::")),
                "super" => Some(current[..current.len().saturating_sub(1)].join("::")),
                _ if modules.contains(&child) => Some(child),
                _ => aliases.get(token).cloned(),
            };
            if let Some(start) = start {
                let (paths, next) = read_path_tree(&tokens, position + 1, &start);
                for path in &paths {
                    if let Some((_, name)) = path.rsplit_once("::")
                        && modules.contains(path)
                    {
                        aliases.insert(name.to_owned(), path.clone());
                    }
                }
                found.extend(paths);
                position = next;
                continue;
            }
        }
        position += 1;
    }
    found
}

/// Reads what follows a path: `::a::b`, `::{a, b::c}`, `::super::a`. Returns the whole paths and the next position.
fn read_path_tree(tokens: &[&str], mut position: usize, start: &str) -> (Vec<String>, usize) {
    let mut path: Vec<String> = start
        .split("::")
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect();
    while tokens.get(position) == Some(&"::") {
        position += 1;
        let token = tokens.get(position).copied().unwrap_or_default();
        if token == "{" {
            return read_group(tokens, position + 1, &path.join("::"));
        }
        position += 1;
        match token {
            "super" => {
                path.pop();
            }
            "self" | "*" => {}
            "<" => return (vec![path.join("::")], position),
            name => path.push(name.to_owned()),
        }
    }
    (vec![path.join("::")], position)
}

fn read_group(tokens: &[&str], mut position: usize, start: &str) -> (Vec<String>, usize) {
    let mut paths = Vec::new();
    while position < tokens.len() && tokens[position] != "}" {
        let token = tokens[position];
        if token == "as" {
            position += 2;
        } else if token == "," {
            position += 1;
        } else {
            let part = match token {
                "self" | "*" => start.to_owned(),
                name => format!("{start}::{name}"),
            };
            let (inner, next) = read_path_tree(tokens, position + 1, &part);
            paths.extend(
                inner
                    .into_iter()
                    .map(|path| path.trim_start_matches("::").to_owned()),
            );
            position = next;
        }
    }
    (paths, position + 1)
}

/// Returns what is wrong with the imports of one file.
pub fn import_faults(path: &str, text: &str, modules: &BTreeSet<String>) -> Vec<String> {
    let own = module_of(path);
    let Some(own_row) = row_of(&own) else {
        return vec![format!(
            "{own} has no row in ALLOWED_IMPORTS; add the module to the table"
        )];
    };
    let mut faults = BTreeSet::new();
    for imported in imported_paths(path, text, modules) {
        let Some(row) = row_of(&imported) else {
            continue;
        };
        let (own_name, name) = (ALLOWED_IMPORTS[own_row].0, ALLOWED_IMPORTS[row].0);
        if !is_allowed(own_row, row) {
            faults.insert(format!("{own_name} must not import {name}"));
        }
        for (module, forbidden) in FORBIDDEN_PATHS {
            if is_within(&own, module) && is_within(&imported, forbidden) {
                faults.insert(format!("{module} must not import {forbidden}"));
            }
        }
    }
    faults.into_iter().collect()
}

/// Returns the rows that import a row below them.
pub fn table_faults() -> Vec<String> {
    let mut faults = Vec::new();
    for (number, (row, _)) in ALLOWED_IMPORTS.iter().enumerate() {
        for (below, (imported, _)) in ALLOWED_IMPORTS.iter().enumerate().skip(number + 1) {
            if is_allowed(number, below) {
                faults.push(format!(
                    "{row} may import {imported}, which stands below it"
                ));
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(path: &str, line: &str) -> Vec<String> {
        let modules = ["http::jobs", "workers::mcp::mux"].map(str::to_owned);
        import_faults(path, line, &BTreeSet::from(modules))
    }

    #[test]
    fn every_import_rule_can_fail() {
        for (path, line, fault) in [
            (
                "src/core/ids.rs",
                "use crate::ports::Bus;",
                "core must not import ports",
            ),
            (
                "src/core/mod.rs",
                "use super::ports::Bus;",
                "core must not import ports",
            ),
            (
                "src/core/ids.rs",
                "use super::super::ports::Bus;",
                "core must not import ports",
            ),
            (
                "src/core/ids.rs",
                "use super::model::job::Job;",
                "core must not import core::model",
            ),
            (
                "src/core/model/job.rs",
                "use crate::core::event::Event;",
                "core::model must not import core::event",
            ),
            (
                "src/core/catalog/mod.rs",
                "use crate::core::decide;",
                "core::catalog must not import core::decide",
            ),
            (
                "src/http/tools/mod.rs",
                "use crate::workers::Workers;",
                "http must not import workers",
            ),
            (
                "src/http/tools/mod.rs",
                "use crate::eventlog::appender::Appender;",
                "http must not import eventlog::appender",
            ),
            (
                "src/http/mod.rs",
                "use super::{adapters, core};",
                "http must not import adapters",
            ),
            (
                "src/http/state.rs",
                "fn f(_: crate::crypto::seal::Opener) {}",
                "http must not import crypto::seal::Opener",
            ),
            (
                "src/http/state.rs",
                "use crate::ports::{bus::Bus, vault::Vault};",
                "http must not import ports::vault::Vault",
            ),
            (
                "workers/mcp/mux.rs",
                "use crate::{core::ids::{A, B}, http};",
                "workers::mcp must not import http",
            ),
            (
                "workers/mcp/mux.rs",
                "use super::super::runtime::Handle;",
                "workers::mcp must not import workers::runtime",
            ),
            (
                "workers/mcp/mod.rs",
                "mod tests { use super::super::runtime::X; }",
                "workers::mcp must not import workers::runtime",
            ),
            (
                "workers/tools.rs",
                "use crate::adapters::bus_local;",
                "workers must not import adapters",
            ),
            (
                "src/eventlog/projection.rs",
                "use crate::jobs::client;",
                "eventlog must not import jobs",
            ),
            (
                "src/main.rs",
                "use mcp_api::app::serve;",
                "main must not import app",
            ),
            ("src/novel/mod.rs", "", "novel has no row"),
        ] {
            let found = faults(path, line);
            assert!(
                found.iter().any(|found| found.contains(fault)),
                "{path}: {line}: {found:?}"
            );
        }
    }

    #[test]
    fn an_allowed_import_is_no_fault() {
        for (path, line) in [
            (
                "src/http/tools/mod.rs",
                "use crate::crypto::Sealer; // crate::workers is a comment",
            ),
            (
                "src/http/tools/mod.rs",
                "use super::jobs::{self, wait}; fn f() { jobs::wait() }",
            ),
            (
                "src/core/ids.rs",
                "const TEXT: &str = \"use crate::http;\";",
            ),
            (
                "src/app/mod.rs",
                "use crate::adapters::store_sqlite::SqliteStore;",
            ),
            (
                "workers/mcp/mod.rs",
                "use mux::Mux; mod tests { use super::*; }",
            ),
            (
                "workers/tools.rs",
                "use super::runtime::manager::ServerManager;",
            ),
        ] {
            assert_eq!(faults(path, line), [""; 0], "{path}: {line}");
        }
    }
}
