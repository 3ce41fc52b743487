//! Rules for the sources that the compiler does not check: layers, crates, names, form and documents.

mod circles;
mod docs;
mod imports;
mod names;
mod opt_out;
mod rules;
mod source;

use std::collections::{BTreeMap, BTreeSet};

use circles::circle_faults;
use imports::{import_faults, module_of, table_faults};
use names::name_faults;
use rules::{form_faults, program_faults};
use source::{Source, sources};

/// Violations that exist, one per line as `<file>: <violation>`. The list only becomes shorter: the owner of the
/// file's folder repairs the file and removes the line.
const KNOWN_VIOLATIONS: &str = include_str!("known_violations.txt");

/// Returns all violations of all files, as `<file>: <violation>`.
fn violations() -> BTreeSet<String> {
    let program: Vec<Source> = ["src", "workers"].into_iter().flat_map(sources).collect();
    let modules: BTreeSet<_> = program.iter().map(|file| module_of(&file.path)).collect();
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for Source { path, text } in &program {
        let faults = found.entry(path.clone()).or_default();
        faults.extend(import_faults(path, text, &modules));
        faults.extend(program_faults(path, text));
    }
    for (path, fault) in circle_faults(&program) {
        found.entry(path).or_default().insert(fault);
    }
    for Source { path, text } in program.iter().chain(&sources("tests")) {
        let faults = found.entry(path.clone()).or_default();
        faults.extend(form_faults(path, text));
        faults.extend(name_faults(text));
    }
    let lines = found
        .iter()
        .flat_map(|(path, faults)| faults.iter().map(move |fault| format!("{path}: {fault}")));
    lines.collect()
}

/// Prints all violations, for `known_violations.txt`, and returns those that are not known.
fn new_violations(found: impl IntoIterator<Item = String>) -> Vec<String> {
    let known: BTreeSet<_> = KNOWN_VIOLATIONS.lines().collect();
    let mut new = Vec::new();
    for line in found {
        println!("VIOLATION {line}");
        if !known.contains(line.as_str()) {
            new.push(line);
        }
    }
    new
}

#[test]
fn sources_follow_the_rules() {
    let new = new_violations(violations());
    assert!(new.is_empty(), "\n{}", new.join("\n"));
}

#[test]
fn no_row_of_the_import_table_imports_a_row_below_it() {
    let faults = table_faults();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}
