//! Rules for one file: crates, the purity of `core`, the environment, the form and the code style.

use super::imports::module_of;
use super::source::tokens;

/// Crates that reach outside the program or shape its interfaces, and the only modules that may name them.
const CRATES: &[(&str, &[&str])] = &[
    ("rusqlite", &["adapters"]),
    ("async_nats", &["adapters"]),
    ("mongodb", &["adapters"]),
    ("rmcp", &["workers"]),
    ("landlock", &["workers"]),
    // The guard starter forks.
    ("libc", &["workers"]),
    // The command line ends the echo of a terminal.
    ("rustix", &["workers", "app", "http", "cli"]),
    ("aes_gcm", &["crypto"]),
    ("argon2", &["crypto"]),
    ("hkdf", &["crypto"]),
    ("hmac", &["crypto"]),
    ("axum", &["http", "app", "config"]),
    ("utoipa", &["http", "views"]),
    ("utoipa_axum", &["http"]),
    ("utoipa_swagger_ui", &["http"]),
    ("schemars", &["core", "views"]),
    ("cookie", &["http"]),
    ("subtle", &["http", "crypto"]),
    ("jsonwebtoken", &["http"]),
    ("ring", &["http", "http_client"]),
    ("prometheus_client", &["telemetry"]),
    ("tracing_subscriber", &["telemetry", "config"]),
    ("dotenvy", &["config"]),
    ("hyper", &["workers", "http", "http_client", "cli"]),
    ("hyper_rustls", &["http_client"]),
    ("hyper_util", &["workers", "http", "http_client"]),
    ("rustls", &["http_client"]),
    ("aho_corasick", &["workers"]),
    ("clap", &["cli", "main"]),
    ("backon", &["time"]),
    // The catalog shares its tables between positions, and the redactor shares its index between calls.
    ("imbl", &["core", "workers"]),
    ("mimalloc", &["main"]),
];

/// Names that `core` must not contain, because it takes values and returns values.
const IMPURE: &[&str] = &[
    "async",
    "await",
    "tokio",
    "async_trait",
    "SystemTime",
    "Instant",
    "getrandom",
    "now_v7",
    "new_v4",
    "env",
    "fs",
    "io",
    "net",
    "process",
    "thread",
    "Mutex",
    "RwLock",
    "tracing",
    "println",
];

/// Names of the standard library that are impure only behind `std::`.
const IMPURE_IN_STD: &[&str] = &["env", "fs", "io", "net", "process", "thread"];

/// The files that read the environment, each with its reason.
const READS_ENVIRONMENT: &[&str] = &[
    "src/config/env.rs",
    // The demo counts the variables that its server does not receive.
    "src/cli/demo/story.rs",
    // Passes PATH and similar variables on to the guards, whose environment starts empty.
    "workers/guard/start.rs",
];

/// Token sequences that the code style replaces, and their replacement.
const STYLE: &[(&[&str], &str)] = &[
    (
        &["Option", "<", "Option", "<"],
        "`Option<Option<_>>`; use `Update<T>`",
    ),
    (
        &["PoisonError"],
        "`PoisonError`; use the locks of parking_lot",
    ),
    (&["true", "=>"], "a match on a bool; use `if`"),
    (&["=>", "drop", "("], "`drop` as a match arm; use a block"),
];

/// The files of the program that wait for a fixed time, each with its reason. All retries wait with
/// `src/time/retry.rs`.
const WAITS: &[&str] = &[
    "src/time/retry.rs",
    // The deadline of work that must wait.
    "src/time/limit.rs",
    // The load balancer learns from `/readyz` that the process ends.
    "src/app/mod.rs",
    // The process before this process releases its folder within a second. No runtime exists yet.
    "src/app/data_dir.rs",
    // The system has no free file for a new connection.
    "src/http/listener/mod.rs",
    // Readers of the log that run for as long as the process retry at a fixed interval.
    "src/http/events/broadcaster.rs",
    "src/eventlog/projection.rs",
    // The client of NATS reconnects by itself. These files wait for its next state.
    "src/adapters/bus_nats/job_consumer.rs",
    "src/adapters/bus_nats/subscription.rs",
    "src/adapters/bus_nats/inbox.rs",
    // The delay of a job that its worker returned.
    "src/adapters/bus_local.rs",
    // Stores wait for the locks and the elections of their database.
    "src/adapters/store_sqlite/writer.rs",
    "src/adapters/store_sqlite/copy.rs",
    "src/adapters/store_mongo/log.rs",
    // A command ends the pause of a retry policy.
    "workers/runtime/supervisor.rs",
    "workers/runtime/upgrade.rs",
    // Leases, and the reports of other workers, are valid for a time.
    "workers/runtime/lease.rs",
    "workers/runtime/manager.rs",
    "workers/oauth/refresh.rs",
    "workers/keys.rs",
    // Intervals of maintenance and of records in the log.
    "workers/runtime/description_sync.rs",
    "workers/runtime/tool_sync.rs",
    "workers/jobs/progress.rs",
    "workers/packages/cleanup.rs",
    "workers/log.rs",
    "workers/secrets.rs",
    // The protocol: timeouts of calls, and pauses that the server or its configuration chooses.
    "workers/mcp/call.rs",
    "workers/mcp/http/asking_sessions.rs",
    "workers/mcp/stderr.rs",
    "workers/mcp/http/http_sse.rs",
    "workers/mcp/http/notifications.rs",
    "workers/mcp/http/resume.rs",
    "workers/mcp/http/session.rs",
    // A guard has no runtime.
    "workers/guard/cgroup.rs",
    "workers/guard/orphans.rs",
];

/// The files of `tests/it` that sleep, each with its reason. All other tests wait for a condition (`wait.rs`).
const SLEEPS: &[&str] = &[
    "tests/it/wait.rs",
    // The moment of a kill or the pause between two faults is random.
    "tests/it/chaos.rs",
    "tests/it/keys.rs",
    "tests/it/store_contract/kill.rs",
    // A scripted peer is slow.
    "tests/it/bus_contract/asks.rs",
    "tests/it/bus_contract/interim.rs",
    "tests/it/remote/script.rs",
    "tests/it/remote/wrong.rs",
];

/// The largest number of lines of a file.
pub const MAX_LINES: usize = 500;

fn contains(tokens: &[&str], sequence: &[&str]) -> bool {
    tokens
        .windows(sequence.len())
        .any(|window| window == sequence)
}

/// Returns what is wrong with a file of the program, apart from its imports and names.
pub fn program_faults(path: &str, text: &str) -> Vec<String> {
    let module = module_of(path);
    let top = module.split("::").next().unwrap_or_default();
    let tokens = tokens(text);
    let mut faults = Vec::new();
    for (name, modules) in CRATES {
        if !modules.contains(&top) && contains(&tokens, &[name, "::"]) {
            faults.push(format!("{top} must not use the crate {name}"));
        }
    }
    if top == "core" {
        for name in IMPURE {
            let is_found = if IMPURE_IN_STD.contains(name) {
                contains(&tokens, &["std", "::", name])
            } else {
                contains(&tokens, &[name])
            };
            if is_found {
                faults.push(format!("core is pure and must not contain `{name}`"));
            }
        }
    }
    let reads = ["var", "vars", "var_os", "vars_os"]
        .iter()
        .any(|name| contains(&tokens, &["env", "::", name]));
    if reads && !READS_ENVIRONMENT.contains(&path) {
        faults.push("reads the environment; only src/config does".into());
    }
    let reads_clock =
        contains(&tokens, &["SystemTime"]) || contains(&tokens, &["Instant", "::", "now"]);
    if path != "src/time/clock.rs" && reads_clock {
        faults.push("reads the clock; use src/time/clock.rs".into());
    }
    let waits = contains(&tokens, &["sleep", "("]) || contains(&tokens, &["sleep_until", "("]);
    if waits && !WAITS.contains(&path) {
        faults.push("waits for a fixed time; retry with a policy of src/time/retry.rs".into());
    }
    for (sequence, fault) in STYLE {
        if contains(&tokens, sequence) {
            faults.push(format!("contains {fault}"));
        }
    }
    faults
}

/// Returns what is wrong with the form of a file, tests included.
pub fn form_faults(path: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let purpose: Vec<_> = text
        .lines()
        .map_while(|line| line.strip_prefix("//!"))
        .collect();
    let first_paragraph = purpose.iter().take_while(|line| !line.trim().is_empty());
    // The documentation of the library is src/README.md.
    if !first_paragraph.into_iter().any(|line| line.contains('.')) && path != "src/lib.rs" {
        faults.push("does not begin with a sentence on its purpose".into());
    }
    let sleeps = contains(&tokens(text), &["sleep", "("]);
    if path.starts_with("tests/it/") && sleeps && !SLEEPS.contains(&path) {
        faults.push("sleeps; wait for a condition with `wait_until`".into());
    }
    if text.lines().count() > MAX_LINES {
        faults.push(format!("has more than {MAX_LINES} lines; split it"));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::super::source::sources;
    use super::*;

    #[test]
    fn every_rule_can_fail() {
        for (path, line, fault) in [
            (
                "src/core/ids.rs",
                "async fn f() {}",
                "core is pure and must not contain `async`",
            ),
            (
                "src/core/ids.rs",
                "let now = std::time::SystemTime::now();",
                "core is pure",
            ),
            (
                "src/core/ids.rs",
                "let id = Uuid::now_v7();",
                "core is pure",
            ),
            ("src/core/ids.rs", "use std::fs;", "core is pure"),
            (
                "src/core/ids.rs",
                "use utoipa::ToSchema;",
                "core must not use the crate utoipa",
            ),
            (
                "src/http/state.rs",
                "use schemars::JsonSchema;",
                "http must not use the crate schemars",
            ),
            (
                "workers/tools.rs",
                "let c = rusqlite::Connection::open(p);",
                "must not use the crate rusqlite",
            ),
            (
                "workers/tools.rs",
                "use std::env; let path = env::var_os(\"PATH\");",
                "reads the environment",
            ),
            (
                "workers/tools.rs",
                "let now = SystemTime::now();",
                "reads the clock",
            ),
            (
                "workers/tools.rs",
                "let start = tokio::time::Instant::now();",
                "reads the clock",
            ),
            (
                "workers/tools.rs",
                "static START: LazyLock<Instant> = LazyLock::new(Instant::now);",
                "reads the clock",
            ),
            (
                "workers/tools.rs",
                "tokio::time::sleep(PAUSE).await;",
                "waits for a fixed time",
            ),
            (
                "workers/tools.rs",
                "use backon::ExponentialBuilder; ExponentialBuilder::default()",
                "must not use the crate backon",
            ),
            (
                "workers/tools.rs",
                "let a: Option<Option<u8>> = None;",
                "contains `Option<Option<_>>`",
            ),
            (
                "workers/tools.rs",
                "lock().unwrap_or_else(PoisonError::into_inner)",
                "contains `PoisonError`",
            ),
            (
                "workers/tools.rs",
                "match a { true => 1, false => 2 }",
                "contains a match on a bool",
            ),
            (
                "workers/tools.rs",
                "match a { Some(b) => drop(b), None => {} }",
                "contains `drop`",
            ),
        ] {
            let faults = program_faults(path, line);
            assert!(
                faults.iter().any(|found| found.contains(fault)),
                "{path}: {line}: {faults:?}"
            );
        }
        for text in [
            "",
            "use a::b;\n//! Too late.",
            "//!\n//! After a gap.",
            "//! no sentence\n",
            "// Not a doc.\n",
        ] {
            assert!(
                form_faults("src/core/ids.rs", text)[0].contains("sentence"),
                "{text:?}"
            );
        }
        let sleeping = form_faults("tests/it/jobs.rs", "//! A.\nfn f() { thread::sleep(a); }");
        assert!(sleeping[0].contains("sleeps"));
        let long = format!("//! Long.\n{}", "\n".repeat(MAX_LINES));
        assert!(form_faults("src/core/ids.rs", &long)[0].contains("more than 500 lines"));
    }

    #[test]
    fn every_file_that_may_wait_waits() {
        let files = ["src", "workers"].into_iter().flat_map(sources);
        let waiting: Vec<_> = files
            .filter(|file| file.text.contains("sleep"))
            .map(|file| file.path)
            .collect();
        for path in WAITS {
            assert!(
                waiting.iter().any(|file| file == path),
                "{path} does not wait; remove it from the list"
            );
        }
    }

    #[test]
    fn code_that_follows_the_rules_has_no_fault() {
        for (path, line) in [
            (
                "src/core/ids.rs",
                "// No tokio, no std::fs. \nconst A: &str = \"async\";",
            ),
            ("src/config/env.rs", "std::env::vars_os()"),
            ("src/time/clock.rs", "SystemTime::now(); Instant::now()"),
            ("src/time/retry.rs", "sleep(pause).await"),
            ("workers/tools.rs", "pauses.wait().await; monotonic()"),
            ("src/http/state.rs", "use utoipa::ToSchema;"),
        ] {
            assert_eq!(program_faults(path, line), [""; 0], "{path}: {line}");
        }
        assert_eq!(
            form_faults("src/core/ids.rs", "//! Does a thing.\n"),
            [""; 0]
        );
    }
}
