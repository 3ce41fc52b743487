//! Checks that the links and the paths in the documents of the project lead to files that exist.

use std::fs;
use std::path::Path;

use super::source::files_under;

/// The folders whose Markdown files belong to the project.
const FOLDERS: &[&str] = &["docs", "schemas", "src", "tests", "workers"];

/// The beginnings of a path from the root of the project.
const ROOTS: &[&str] = &["src/", "workers/", "tests/", "schemas/", "docs/", ".ci/"];

/// Returns the documents of the project: the Markdown files of the root and of all folders.
fn documents() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut documents = Vec::new();
    for entry in fs::read_dir(root).expect("the root exists") {
        let name = entry.expect("the entry can be read").file_name();
        let name = name.into_string().expect("a path is UTF-8");
        if name.ends_with(".md") {
            documents.push(name);
        }
    }
    documents.extend(FOLDERS.iter().flat_map(|folder| files_under(folder, "md")));
    documents
}

/// Returns the targets of the relative links of a document.
fn links(text: &str) -> Vec<&str> {
    let parts = text.split("](").skip(1);
    let targets = parts.filter_map(|part| part.split([')', ' ']).next());
    targets
        .filter(|target| !target.contains("://") && !target.starts_with("mailto:"))
        .collect()
}

/// Returns the paths of the project that a document names between backticks.
fn named_paths(text: &str) -> Vec<&str> {
    let mut paths = Vec::new();
    for line in text.lines() {
        for code in line.split('`').skip(1).step_by(2) {
            let words = code
                .split([' ', '"', '\'', '(', ')'])
                .map(|word| word.trim_start_matches("./"));
            paths.extend(words.filter(|word| ROOTS.iter().any(|root| word.starts_with(root))));
        }
    }
    paths
}

/// Returns whether a path exists. A pattern such as `src/{a,b}.rs`, `src/*.rs` or `src/<name>` is checked up to
/// the folder before its first sign, and a line number is ignored.
fn exists(path: &str) -> bool {
    let fixed = path.split(['{', '*', '<', '…']).next().unwrap_or_default();
    let fixed = if fixed.len() < path.len() {
        fixed.rsplit_once('/').map_or("", |(folder, _)| folder)
    } else {
        fixed.split([':', '#', ',', ';']).next().unwrap_or_default()
    };
    Path::new(env!("CARGO_MANIFEST_DIR")).join(fixed).exists()
}

/// Returns the anchors of the headings of a document, as GitHub makes them.
fn anchors(text: &str) -> Vec<String> {
    let headings = text
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| line.trim_start_matches('#').trim());
    let anchor = |heading: &str| {
        let kept = heading
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.collect::<String>().to_lowercase().replace(' ', "-")
    };
    headings.map(anchor).collect()
}

/// Returns what is wrong with the links and paths of a document.
fn document_faults(path: &str, text: &str) -> Vec<String> {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut faults = Vec::new();
    for link in links(text) {
        let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
        let target = if file.is_empty() {
            root.join(path)
        } else {
            root.join(folder).join(file)
        };
        if !target.exists() {
            faults.push(format!("{path}: the link `{link}` leads to no file"));
        } else if !anchor.is_empty()
            && target
                .extension()
                .is_some_and(|extension| extension == "md")
        {
            let text = if file.is_empty() {
                text.to_owned()
            } else {
                fs::read_to_string(&target).expect("a document")
            };
            if !anchors(&text).iter().any(|found| found == anchor) {
                faults.push(format!("{path}: the link `{link}` leads to no heading"));
            }
        }
    }
    for named in named_paths(text) {
        if !exists(named) {
            faults.push(format!("{path}: `{named}` does not exist"));
        }
    }
    faults
}

#[test]
fn every_link_and_every_path_in_the_documents_leads_to_a_file() {
    let mut faults = Vec::new();
    for path in documents() {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(&path));
        faults.extend(document_faults(&path, &text.expect("a document is UTF-8")));
    }
    let faults = super::new_violations(faults);
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_rule_for_documents_can_fail() {
    let faults = |text: &str| document_faults("docs/page.md", text).join("\n");
    assert!(faults("[a](absent.md)").contains("leads to no file"));
    assert!(faults("[a](../README.md#absent-heading)").contains("leads to no heading"));
    assert!(faults("[a](#absent)\n# Present").contains("leads to no file"));
    assert!(faults("See `src/absent.rs`.").contains("does not exist"));
    assert!(faults("Run `./tests/absent`.").contains("does not exist"));
    assert!(faults("See `src/absent/*.rs`.").contains("does not exist"));
    let right = "[a](../README.md) [b](https://h/src/absent.rs) `src/main.rs` `src/core/*/mod.rs` `src/{a,b}` `cargo`";
    assert_eq!(faults(right), "");
}
