//! Names that the project has retired: no declaration uses them again.

use std::collections::BTreeSet;

use super::source::tokens;

/// Words that no declared name contains, in any spelling: `what_to_do`, `WhatToDo`.
const BANNED_WORDS: &[&str] = &[
    "anew",
    "anybody",
    "away",
    "desk",
    "everybody",
    "nobody",
    "seat",
    "shelf",
    "somebody",
    "told",
    "untold",
    "whatever",
    "what",
    "whoever",
];

/// Names that mean nothing alone. As a part of a longer name they are allowed: `command_line`, `dead_letter`.
const BANNED_NAMES: &[&str] = &[
    "board", "door", "hand", "house", "its", "lane", "letter", "letters", "of", "place", "room",
    "some", "there",
];

/// Names that no type has. A variable may have them: a line of text is a `line`.
const BANNED_TYPES: &[&str] = &["Line", "Word", "Words"];

/// Returns the banned names that a file declares: types, functions, fields, variants, modules, constants,
/// parameters and variables.
pub fn name_faults(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for name in declared_names(text) {
        if is_banned(&name) {
            faults.push(format!("declares `{name}`; use a name of docs/glossary.md"));
        }
    }
    faults
}

fn is_banned(name: &str) -> bool {
    let words = words_of(name);
    let is_alone = words.len() == 1 && BANNED_NAMES.contains(&words[0].as_str());
    is_alone
        || BANNED_TYPES.contains(&name)
        || words
            .iter()
            .any(|word| BANNED_WORDS.contains(&word.as_str()))
}

/// Splits `snake_case` and `CamelCase` into lowercase words.
fn words_of(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut is_after_capital = false;
    for c in name.chars() {
        if c == '_' || (c.is_uppercase() && !is_after_capital) {
            words.push(String::new());
        }
        is_after_capital = c.is_uppercase();
        if c != '_' {
            words.last_mut().expect("one word").extend(c.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Returns every name that a file declares.
fn declared_names(text: &str) -> BTreeSet<String> {
    let tokens = tokens(text);
    let mut names = BTreeSet::new();
    for (position, token) in tokens.iter().enumerate() {
        let after = &tokens[position + 1..];
        let Some(name) = after.first().filter(|name| is_name(name)) else {
            continue;
        };
        match *token {
            "mod" | "trait" | "type" | "const" | "static" => {
                names.insert((*name).to_owned());
            }
            "fn" => {
                names.insert((*name).to_owned());
                names.extend(parameters(after));
            }
            "struct" | "enum" | "union" => {
                names.insert((*name).to_owned());
                names.extend(members(after));
            }
            _ => {}
        }
    }
    for (position, _) in tokens
        .iter()
        .enumerate()
        .filter(|(_, token)| **token == "let")
    {
        names.extend(variables(&tokens[position + 1..]));
    }
    names
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
        && !["fn", "mut", "ref"].contains(&token)
}

/// Returns the tokens between the first opening sign and the closing sign that belongs to it.
fn group<'a>(tokens: &'a [&'a str], open: &str, close: &str) -> &'a [&'a str] {
    let Some(start) = tokens
        .iter()
        .position(|token| *token == open || *token == ";")
    else {
        return &[];
    };
    let mut depth = 0;
    for (position, token) in tokens.iter().enumerate().skip(start) {
        depth += i32::from(*token == open) - i32::from(*token == close);
        if depth == 0 {
            return tokens.get(start + 1..position).unwrap_or_default();
        }
    }
    &[]
}

fn parameters(after: &[&str]) -> Vec<String> {
    let inside = group(after, "(", ")");
    let pairs = inside
        .windows(2)
        .filter(|pair| pair[1] == ":" && is_name(pair[0]));
    pairs.map(|pair| pair[0].to_owned()).collect()
}

/// Returns the fields of a struct, or the variants of an enum and their fields.
fn members(after: &[&str]) -> Vec<String> {
    let inside = group(after, "{", "}");
    let mut names = Vec::new();
    let mut depth = 0;
    for (position, token) in inside.iter().enumerate() {
        depth +=
            i32::from(["(", "[", "<"].contains(token)) - i32::from([")", "]", ">"].contains(token));
        let next = inside.get(position + 1).copied().unwrap_or(",");
        let is_variant =
            [",", "(", "{", "="].contains(&next) && token.starts_with(char::is_uppercase);
        if depth == 0 && is_name(token) && (next == ":" || is_variant) {
            names.push((*token).to_owned());
        }
    }
    names
}

/// Returns the variables of the pattern that follows `let`.
fn variables(after: &[&str]) -> Vec<String> {
    let after = &after[usize::from(after.first() == Some(&"mut"))..];
    if after.get(1) == Some(&":") {
        return vec![after[0].to_owned()];
    }
    let end = after
        .iter()
        .position(|token| ["=", ";"].contains(token))
        .unwrap_or(0);
    let pattern = &after[..end];
    let names = pattern.iter().enumerate().filter(|(position, token)| {
        let next = pattern.get(position + 1).copied().unwrap_or_default();
        is_name(token)
            && token.starts_with(char::is_lowercase)
            && !["::", ":", "{", "("].contains(&next)
    });
    names.map(|(_, token)| (*token).to_owned()).collect()
}

#[test]
fn every_kind_of_declaration_is_read() {
    for line in [
        "struct Shelf;",
        "struct A { shelf: u8 }",
        "struct A { #[serde(rename = \"x\")] pub(crate) shelf: Option<u8>, b: u8 }",
        "enum A { B, OfShelf }",
        "enum A { B(u8), C { shelf: u8 } }",
        "trait ShelfReader {}",
        "type Shelf = u8;",
        "mod shelf;",
        "const SHELF: u8 = 1;",
        "pub async fn put_on_shelf() {}",
        "fn f<T: Into<u8>>(a: &T, shelf: u8) {}",
        "fn f() { let shelf = 1; }",
        "fn f() { if let Some((a, mut shelf)) = x {} }",
        "fn f() { let lane = 1; }",
        "fn f() { let mut lane: u8 = 1; }",
        "struct Line { a: u8 }",
    ] {
        assert_eq!(name_faults(line).len(), 1, "{line}");
    }
}

#[test]
fn a_name_of_the_glossary_is_allowed() {
    for line in [
        "struct CommandLine { command_line: u8, replaced: u8, passwords: Vec<u8>, dead_letter: u8 }",
        "// fn shelf() {}",
        "const NAME: &str = \"fn shelf() {}\";",
        "fn f() { let line = 1; }",
        "fn f() { shelf.open(); let x: shelf::Shelf = 1; }",
    ] {
        assert_eq!(name_faults(line), [""; 0], "{line}");
    }
}
