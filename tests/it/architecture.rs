//! The house's rules that the compiler does not know, checked on the sources themselves.

use std::fs;
use std::path::Path;

/// Who may use whom: `core <- ports, seal <- execute, follow, adapters <- http | workers <- app <- main`.
/// Config turns texts into types (a key among them); telemetry, metrics and config serve the rooms above them.
const MAY_USE: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("ports", &["core"]),
    ("seal", &["core", "ports"]),
    ("config", &["core", "seal"]),
    ("telemetry", &["core", "config"]),
    ("metrics", &["core"]),
    ("snapshots", &["core", "ports"]),
    ("follow", &["core", "ports", "snapshots"]),
    ("execute", &["core", "ports", "follow", "telemetry"]),
    ("board", &["core", "ports"]),
    (
        "queue",
        &[
            "core",
            "ports",
            "seal",
            "config",
            "telemetry",
            "follow",
            "execute",
            "board",
        ],
    ),
    ("view", &["core"]),
    ("ask", &["core", "ports", "follow", "board", "telemetry"]),
    ("adapters", &["core", "ports"]),
    (
        "http",
        &[
            "core",
            "ports",
            "seal",
            "config",
            "telemetry",
            "metrics",
            "snapshots",
            "follow",
            "queue",
            "view",
            "board",
            "ask",
        ],
    ),
    (
        "workers",
        &[
            "core",
            "ports",
            "seal",
            "config",
            "telemetry",
            "metrics",
            "follow",
            "execute",
            "queue",
            "view",
            "board",
            "ask",
        ],
    ),
    (
        "app",
        &[
            "core", "ports", "seal", "config", "metrics", "follow", "execute", "queue", "board",
            "adapters", "http", "workers",
        ],
    ),
    // The schemas are made from the types of core, http and config; the demo knows what a guard passes on; the
    // import opens what an original has sealed.
    (
        "cli",
        &[
            "core",
            "seal",
            "config",
            "telemetry",
            "http",
            "workers",
            "app",
        ],
    ),
    ("main", &["cli", "workers"]),
    ("lib", &[]),
];

/// Crates that bring a part of the world in, and the only rooms that may.
const CRATES: &[(&str, &[&str])] = &[
    ("rusqlite", &["adapters"]),
    ("async_nats", &["adapters"]),
    ("mongodb", &["adapters"]),
    ("rmcp", &["workers"]),
    ("landlock", &["workers"]),
    ("rustix", &["workers", "app"]),
    ("aes_gcm", &["seal"]),
    ("argon2", &["seal"]),
    ("hkdf", &["seal"]),
    ("axum", &["http", "app", "config"]),
    ("utoipa_axum", &["http"]),
    ("utoipa_swagger_ui", &["http"]),
    ("prometheus_client", &["metrics"]),
    ("dotenvy", &["config"]),
    ("reqwest", &["cli"]),
    ("hyper", &["workers"]),
    ("hyper_rustls", &["workers"]),
    ("hyper_util", &["workers"]),
    ("rustls", &["workers"]),
    ("clap", &["cli", "main"]),
];

/// What a pure room has no use for: time, chance, waiting, and everything outside.
const IMPURE: &[&str] = &[
    "async ",
    ".await",
    "tokio",
    "async_trait",
    "SystemTime",
    "Instant",
    "getrandom",
    "now_v7",
    "new_v4",
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::process",
    "std::thread",
    "Mutex",
    "Atomic",
    "tracing",
    "println!",
];

/// Who reads the environment, and why.
const READS_ENVIRONMENT: &[&str] = &[
    "src/config/env.rs",
    // The demo counts what its server does not see.
    "src/cli/demo/story.rs",
    // Passes PATH and its like on to a child, whose environment is made anew.
    "workers/guard/mod.rs",
];

const MAX_LINES: usize = 400;

/// The room of a file: its folder under `src`, or its own name there.
fn room(path: &str) -> &str {
    let path = path.strip_prefix("src/").unwrap_or(path);
    path.split('/')
        .next()
        .unwrap_or(path)
        .trim_end_matches(".rs")
}

/// The code without its comments.
fn code(text: &str) -> String {
    let code = |line: &str| match line.trim_start().starts_with("//") {
        true => String::new(),
        false => line.split(" // ").next().unwrap_or_default().to_owned(),
    };
    text.lines().map(code).collect::<Vec<_>>().join("\n")
}

/// What follows a text, wherever it begins as a word of its own.
fn words<'a>(code: &'a str, word: &str) -> impl Iterator<Item = &'a str> {
    let alone = |(at, word): (usize, &str)| {
        let inside = code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        (!inside).then(|| &code[at + word.len()..])
    };
    code.match_indices(word)
        .filter_map(alone)
        .collect::<Vec<_>>()
        .into_iter()
}

/// The first names after `crate::`, in `crate::a::b` and in `crate::{a, b::c}`.
fn names(after: &str) -> Vec<String> {
    let name = |text: &str| {
        text.trim()
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect::<String>()
    };
    let Some(group) = after.strip_prefix('{') else {
        return vec![name(after)];
    };
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for c in group.chars() {
        match c {
            '}' if depth == 0 => break,
            ',' if depth == 0 => parts.push(String::new()),
            c => {
                depth += i32::from(c == '{') - i32::from(c == '}');
                parts.last_mut().expect("a part").push(c);
            }
        }
    }
    parts
        .iter()
        .map(|part| name(part))
        .filter(|name| !name.is_empty())
        .collect()
}

/// What is wrong with a file.
fn faults(path: &str, text: &str) -> Vec<String> {
    let (room, code) = (room(path), code(text));
    let mut faults = Vec::new();
    let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == room) else {
        return vec![format!(
            "{room} is no room of the house; give it a line in the table"
        )];
    };
    let own_crate = if room == "main" {
        "mcp_api::"
    } else {
        "crate::"
    };
    let mut used: Vec<String> = words(&code, own_crate).flat_map(names).collect();
    // In a room's top file `super` is the whole house, and in the files below `super::super`.
    let top = path == format!("src/{room}.rs") || path.ends_with(&format!("{room}/mod.rs"));
    let house = if top { "super::" } else { "super::super::" };
    let is_room = |name: &String| MAY_USE.iter().any(|(room, _)| name == room);
    used.extend(words(&code, house).flat_map(names).filter(is_room));
    for used in used
        .iter()
        .filter(|used| *used != room && !allowed.contains(&used.as_str()))
    {
        faults.push(format!("{room} must not use {used}"));
    }
    for (name, rooms) in CRATES {
        if !rooms.contains(&room) && words(&code, &format!("{name}::")).next().is_some() {
            faults.push(format!("{room} must not use the crate {name}"));
        }
    }
    if room == "core" {
        let impure = IMPURE.iter().filter(|word| code.contains(**word));
        faults.extend(impure.map(|word| format!("core is pure and has no `{}`", word.trim())));
    }
    // The door seals; it can neither open a secret nor fetch one.
    if room == "http" {
        let forbidden = ["Opener", "Vault"]
            .into_iter()
            .filter(|name| words(&code, name).next().is_some());
        faults.extend(forbidden.map(|name| format!("http must not name {name}")));
    }
    if !READS_ENVIRONMENT.contains(&path)
        && words(&code, "env::").any(|after| after.starts_with("var"))
    {
        faults.push("reads the environment".into());
    }
    faults.extend(form_faults(path, text));
    faults
}

/// What is wrong with a file's form, tests included.
fn form_faults(path: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let about: Vec<_> = text
        .lines()
        .map_while(|line| line.strip_prefix("//!"))
        .collect();
    let sentence = about
        .iter()
        .take_while(|line| !line.trim().is_empty())
        .any(|line| line.contains('.'));
    // The library's front page is its README.
    if !sentence && path != "src/lib.rs" {
        faults.push("does not open with a sentence on its job".into());
    }
    let lines = text.lines().count();
    if lines > MAX_LINES {
        faults.push(format!(
            "has {lines} lines; past {MAX_LINES} it asks for a second room"
        ));
    }
    faults
}

/// All Rust files under a folder, by their paths from the project's root.
fn sources(folder: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    let mut folders = vec![root.join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path
                    .strip_prefix(root)
                    .expect("under the root")
                    .to_str()
                    .expect("UTF-8")
                    .to_owned();
                files.push((name, fs::read_to_string(&path).expect("a source")));
            }
        }
    }
    assert!(
        files.len() > 5,
        "{folder} has hardly any sources: is this the right place?"
    );
    files
}

#[test]
fn the_house_is_in_order() {
    let of_the_program = ["src", "workers"].into_iter().flat_map(sources);
    let faults = of_the_program
        .map(|(path, text)| (faults(&path, &text), path))
        .chain(
            sources("tests")
                .into_iter()
                .map(|(path, text)| (form_faults(&path, &text), path)),
        );
    let faults: Vec<_> = faults
        .flat_map(|(faults, path)| faults.into_iter().map(move |f| format!("{path}: {f}")))
        .collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn the_table_has_no_circle() {
    for (n, (room, uses)) in MAY_USE.iter().enumerate() {
        for used in *uses {
            let below = MAY_USE[..n].iter().any(|(room, _)| room == used);
            assert!(
                below,
                "{room} uses {used}, which does not stand above it in the table"
            );
        }
    }
}

/// A guard counts only after it was seen to fail: every rule, on a file that breaks it.
#[test]
fn every_rule_can_fail() {
    let broken = [
        (
            "src/core/tool.rs",
            "use crate::ports::Ask;",
            "core must not use ports",
        ),
        (
            "src/core/mod.rs",
            "use super::ports::Ask;",
            "core must not use ports",
        ),
        (
            "src/core/tool.rs",
            "use super::super::ports::Ask;",
            "core must not use ports",
        ),
        (
            "src/core/tool.rs",
            "async fn f() {}",
            "core is pure and has no `async`",
        ),
        (
            "src/core/tool.rs",
            "let now = std::time::SystemTime::now();",
            "core is pure",
        ),
        (
            "src/core/tool.rs",
            "let id = Uuid::now_v7();",
            "core is pure",
        ),
        (
            "src/http/tools.rs",
            "use crate::workers::Workers;",
            "http must not use workers",
        ),
        (
            "src/http/tools.rs",
            "fn f(_: crate::execute::Execute) {}",
            "http must not use execute",
        ),
        (
            "src/http/mod.rs",
            "use super::{workers, core};",
            "http must not use workers",
        ),
        (
            "src/http/tools.rs",
            "use crate::seal::{Opener, Sealer};",
            "http must not name Opener",
        ),
        (
            "workers/mcp/pool.rs",
            "use crate::{core::names::{A, B}, http};",
            "workers must not use http",
        ),
        (
            "workers/tools.rs",
            "use crate::adapters::store_sqlite::SqliteStore;",
            "workers must not use adapters",
        ),
        (
            "workers/tools.rs",
            "let c = rusqlite::Connection::open(p);",
            "must not use the crate rusqlite",
        ),
        (
            "workers/tools.rs",
            "use std::env;\nlet path = env::var_os(\"PATH\");",
            "reads the environment",
        ),
        (
            "src/follow.rs",
            "use super::execute::Execute;",
            "follow must not use execute",
        ),
        (
            "src/main.rs",
            "use mcp_api::app::serve;",
            "main must not use app",
        ),
        ("src/novel/mod.rs", "", "novel is no room of the house"),
    ];
    for (path, line, fault) in broken {
        let text = format!("//! Does a thing.\n{line}\n");
        assert!(
            faults(path, &text)
                .iter()
                .any(|found| found.contains(fault)),
            "{path}: {line}"
        );
    }
    let form = |text: &str| form_faults("src/core/tool.rs", text);
    assert_eq!(form("//! Does a thing.\n"), [""; 0]);
    for text in [
        "",
        "use a::b;\n//! Too late.",
        "//!\n//! After a gap.",
        "//! no sentence\n",
        "// Not a doc.\n",
    ] {
        assert!(form(text)[0].contains("sentence"), "{text:?}");
    }
    assert!(form(&format!("//! Long.\n{}", "\n".repeat(MAX_LINES)))[0].contains("401 lines"));
    // What is allowed is not a fault, nor is what stands in a comment.
    for (path, line) in [
        (
            "src/http/tools.rs",
            "use crate::seal::Sealer; // crate::workers is not for us",
        ),
        ("src/core/tool.rs", "// No tokio, no crate::http."),
        (
            "src/app.rs",
            "use crate::adapters::store_sqlite::SqliteStore;",
        ),
        ("src/config/env.rs", "std::env::vars_os()"),
        ("src/ports.rs", "use mycrate::http;"),
    ] {
        assert_eq!(
            faults(path, &format!("//! Does a thing.\n{line}\n")),
            [""; 0],
            "{path}: {line}"
        );
    }
}
