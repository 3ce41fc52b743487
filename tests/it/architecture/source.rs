//! Reads the Rust files of the project and splits them into tokens without comments and texts.

use std::fs;
use std::path::Path;

/// A Rust file: its path from the root of the project, and its text.
pub struct Source {
    pub path: String,
    pub text: String,
}

/// Returns all Rust files under a folder, sorted by path.
pub fn sources(folder: &str) -> Vec<Source> {
    let mut files = Vec::new();
    for path in files_under(folder, "rs") {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(&path));
        files.push(Source {
            text: text.expect("a Rust file is UTF-8"),
            path,
        });
    }
    assert!(
        files.len() > 5,
        "{folder} has hardly any Rust files: is this the right folder?"
    );
    files
}

/// Returns the paths of all files with an extension under a folder, from the root of the project.
pub fn files_under(folder: &str, extension: &str) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    let mut folders = vec![root.join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("the folder exists") {
            let path = entry.expect("the entry can be read").path();
            let name = path.strip_prefix(root).expect("a path under the root");
            let name = name.to_str().expect("a path is UTF-8").to_owned();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                paths.push(name);
            }
        }
    }
    paths.sort();
    paths
}

/// Returns the identifiers and signs of a text. `::`, `=>` and `->` are one token each.
/// A comment is no token. A text literal is the token `"`, and a lifetime is the token `'`.
pub fn tokens(text: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (token, length) = next_token(rest, first);
        tokens.extend(token);
        rest = &rest[length..];
    }
    tokens
}

/// Returns the first token of a text, if it begins with one, and the number of bytes to skip.
fn next_token(text: &str, first: char) -> (Option<&str>, usize) {
    if first.is_whitespace() {
        return (None, first.len_utf8());
    }
    if text.starts_with("//") {
        return (None, text.find('\n').unwrap_or(text.len()));
    }
    if text.starts_with("/*") {
        return (None, text.find("*/").map_or(text.len(), |end| end + 2));
    }
    if let Some(length) = literal_length(text) {
        return (Some("\""), length);
    }
    if first == '\'' {
        let length = text[1..].find(|c: char| !is_word(c)).unwrap_or(0);
        return (Some("'"), 1 + length);
    }
    if is_word(first) {
        let length = text.find(|c: char| !is_word(c)).unwrap_or(text.len());
        return (Some(&text[..length]), length);
    }
    let pair = ["::", "=>", "->"]
        .iter()
        .find(|pair| text.starts_with(**pair));
    let length = pair.map_or(first.len_utf8(), |pair| pair.len());
    (Some(&text[..length]), length)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Returns the length of the text or character literal that a text begins with, if it does.
fn literal_length(text: &str) -> Option<usize> {
    if let Some(after) = text.strip_prefix('\'') {
        let mut chars = after.chars();
        let first = chars.next()?;
        if first == '\\' {
            return Some(3 + after[2..].find('\'')? + 1);
        }
        return (chars.next()? == '\'').then(|| 2 + first.len_utf8());
    }
    let prefix = text.find(|c: char| !c.is_ascii_lowercase())?;
    if !["", "b", "c", "r", "br", "cr"].contains(&&text[..prefix]) {
        return None;
    }
    let hashes = text[prefix..].len() - text[prefix..].trim_start_matches('#').len();
    let start = prefix + hashes + 1;
    if !text[prefix + hashes..].starts_with('"') || (hashes > 0 && !text[..prefix].ends_with('r')) {
        return None;
    }
    if text[..prefix].ends_with('r') {
        let end = format!("\"{}", "#".repeat(hashes));
        return Some(start + text[start..].find(&end)? + end.len());
    }
    let mut is_escaped = false;
    let end = text[start..].find(|c: char| {
        let is_end = c == '"' && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        is_end
    });
    end.map(|end| start + end + 1)
}

#[test]
fn comments_and_literals_are_no_code() {
    let text = r##"fn a<'b>() -> &'b str { /* x */ f('"', '\'', "y\"z", br#"w"#, b'\\') } // v"##;
    assert_eq!(
        tokens(text).join(" "),
        "fn a < ' > ( ) -> & ' str { f ( \" , \" , \" , \" , b \" ) }"
    );
}
