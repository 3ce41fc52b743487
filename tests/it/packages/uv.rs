//! Python packages with uv and with pip: which of them installs, and that both install the same.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::registry::{Registry, keyless};
use super::{start, start_with, uv_program};
use crate::harness::App;
use crate::processes::left_of;

const PIP: (&str, &str) = ("UV_BIN", "none");

/// Returns the request for the time server, which does not start.
fn time(server: &str) -> Value {
    json!({ "name": "mcp-server-time", "version": "2026.10.19", "serverName": server, "runtime": "python" })
}

/// Returns the folders of the Python packages that the program has built.
pub fn environments(app: &App) -> Vec<PathBuf> {
    let versions = app.packages().join("python/.versions");
    let entries = fs::read_dir(versions).into_iter().flatten().flatten();
    let folders = entries.map(|entry| entry.path());
    folders
        .filter(|folder| {
            folder.join("requirements.txt").exists() && folder.join("pyvenv.cfg").exists()
        })
        .collect()
}

fn metadata_folders(environment: &Path) -> Vec<PathBuf> {
    let libraries = fs::read_dir(environment.join("lib"))
        .expect("a folder")
        .flatten();
    let packages = libraries.flat_map(|library| {
        fs::read_dir(library.path().join("site-packages"))
            .into_iter()
            .flatten()
            .flatten()
    });
    let folders = packages.map(|entry| entry.path());
    folders
        .filter(|folder| {
            folder
                .extension()
                .is_some_and(|extension| extension == "dist-info")
        })
        .collect()
}

/// Returns the distributions of an environment with their versions.
fn distributions(environment: &Path) -> BTreeSet<String> {
    let folders = metadata_folders(environment).into_iter();
    folders
        .map(|folder| {
            folder
                .file_name()
                .expect("a name")
                .to_string_lossy()
                .to_lowercase()
        })
        .collect()
}

/// Returns the program that has installed the only environment: `uv` or `pip`.
pub fn installer_of(app: &App) -> String {
    let built = environments(app);
    assert_eq!(built.len(), 1, "{built:?}");
    let installers: BTreeSet<_> = metadata_folders(&built[0])
        .iter()
        .map(|folder| fs::read_to_string(folder.join("INSTALLER")).expect("an installer"))
        .map(|text| text.trim().to_owned())
        .collect();
    let installers: Vec<_> = installers.into_iter().collect();
    installers.join(", ")
}

/// Returns the requirements of the lockfile: all names with versions, and whether each has a hash.
fn locked(app: &App) -> (BTreeSet<String>, bool) {
    let lockfile = environments(app)[0].join("requirements.txt");
    let lockfile = fs::read_to_string(lockfile).expect("a lockfile");
    let pins = lockfile.lines().filter_map(|line| line.split(' ').next());
    let has_hashes = lockfile
        .lines()
        .all(|line| line.contains(" --hash=sha256:"));
    // pip writes each name as its project spells it.
    let normalized = pins.map(|pin| pin.to_lowercase().replace('_', "-"));
    (normalized.collect(), has_hashes)
}

#[tokio::test]
async fn uv_and_pip_install_the_same() {
    let (with_uv, with_pip) = (start(), start_with(&[PIP]));
    for app in [&with_uv, &with_pip] {
        let installed = app.install(time("time")).await.ok();
        assert_eq!(installed["server"]["status"], "connected", "{installed}");
        let said = app
            .text(
                "time",
                "get_current_time",
                json!({ "timezone": "Europe/Vienna" }),
            )
            .await;
        assert!(said.contains("Europe/Vienna"), "{said}");
    }
    assert_eq!(installer_of(&with_uv), "uv");
    assert_eq!(installer_of(&with_pip), "pip");
    let of_uv = distributions(&environments(&with_uv)[0]);
    assert_eq!(of_uv, distributions(&environments(&with_pip)[0]));
    assert!(
        of_uv.contains("mcp_server_time-2026.10.19.dist-info"),
        "{of_uv:?}"
    );
    assert_eq!(locked(&with_uv), locked(&with_pip));
    assert!(locked(&with_uv).1, "each requirement has a hash");
    for app in [with_uv, with_pip] {
        app.delete("/packages/time").await.ok();
        app.until_no_package_is_left().await;
    }
}

/// A server that could write into a file of uv's cache would change the files of other servers.
#[tokio::test]
async fn no_file_of_a_package_is_shared_with_the_cache() {
    use std::os::unix::fs::MetadataExt as _;
    let app = start();
    app.install(time("time")).await.ok();
    let folders = metadata_folders(&environments(&app)[0]);
    for file in folders.iter().map(|folder| folder.join("METADATA")) {
        assert_eq!(
            fs::metadata(&file).expect("a file").nlink(),
            1,
            "{}",
            file.display()
        );
    }
}

#[tokio::test]
async fn a_worker_without_uv_installs_it_once() {
    let folders = std::env::var("PATH").expect("a path");
    let without_uv = std::env::split_paths(&folders).filter(|folder| !folder.join("uv").exists());
    let path = std::env::join_paths(without_uv).expect("a path");
    let app = start_with(&[("UV_BIN", ""), ("PATH", &path.to_string_lossy())]);
    app.install(time("time")).await.ok();
    assert_eq!(installer_of(&app), "uv");
    let tools = || {
        let versions = fs::read_dir(app.packages().join("python/.versions")).expect("a folder");
        let names = versions.flatten().map(|entry| entry.path());
        let folders =
            names.filter(|path| path.join("bin/uv").exists() && path.join(".complete").exists());
        folders.collect::<Vec<_>>()
    };
    let installed = tools();
    assert_eq!(installed.len(), 1, "{installed:?}");
    let written = fs::metadata(installed[0].join("bin/uv"))
        .expect("a program")
        .modified()
        .expect("a time");
    app.delete("/packages/time").await.ok();
    app.until_no_package_is_left().await;
    // The tool stays, and the next installation uses it.
    app.install(time("again")).await.ok();
    assert_eq!(tools(), installed);
    let now = fs::metadata(installed[0].join("bin/uv"))
        .expect("a program")
        .modified()
        .expect("a time");
    assert_eq!(now, written);
}

#[tokio::test]
async fn pip_installs_if_no_uv_can_be_had() {
    let registry = Registry::start(&[keyless("py-demo", None)]).await;
    for choice in ["", "/no/such/uv", "/bin/true", "none"] {
        let path = std::env::var("PATH").expect("a path");
        let without_uv = std::env::split_paths(&path).filter(|folder| !folder.join("uv").exists());
        let path = std::env::join_paths(without_uv).expect("a path");
        let app = registry.app_with(&[("UV_BIN", choice), ("PATH", &path.to_string_lossy())]);
        let body = json!({ "name": "py-demo", "serverName": "demo", "runtime": "python" });
        let installed = app.install(body).await.ok();
        assert_eq!(
            installed["server"]["status"], "connected",
            "{choice}: {installed}"
        );
        assert_eq!(installer_of(&app), "pip", "{choice}");
        let warned = app.log().contains("Python packages are installed with pip");
        assert_eq!(warned, choice != "none", "{choice}");
    }
}

/// Writes a uv of a test: a shell script.
fn script(folder: &Path, text: &str) -> String {
    let path = folder.join("uv-of-the-test");
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("a script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a mode");
    path.to_string_lossy().into_owned()
}

#[tokio::test]
async fn pip_repeats_the_work_if_uv_fails_for_an_unknown_reason() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let broken = "test \"$1\" = --version && echo uv 0.13.9 && exit; echo panic >&2; exit 3";
    let registry = Registry::start(&[keyless("py-demo", None)]).await;
    let app = registry.app_with(&[("UV_BIN", &script(folder.path(), broken))]);
    let body = json!({ "name": "py-demo", "serverName": "demo", "runtime": "python" });
    let installed = app.install(body).await.ok();
    assert_eq!(installed["server"]["status"], "connected", "{installed}");
    assert_eq!(installer_of(&app), "pip");
}

#[tokio::test]
async fn uv_sees_the_variables_of_installers_only() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let seen = folder.path().join("seen");
    let recording = format!("env >>'{}'; exec '{}' \"$@\"", seen.display(), uv_program());
    let registry = Registry::start(&[keyless("py-demo", None)]).await;
    let app = registry.app_with(&[
        ("UV_BIN", &script(folder.path(), &recording)),
        ("ADMIN_SECRET_OF_THE_TEST", "hush-1"),
        ("SECRETS_KEYS_OLD", "hush-hush-hush-2"),
    ]);
    let body = json!({ "name": "py-demo", "serverName": "demo", "runtime": "python" });
    app.install(body).await.ok();
    assert_eq!(installer_of(&app), "uv");
    let seen = fs::read_to_string(seen).expect("variables");
    assert!(!seen.contains("hush"), "{seen}");
    let allowed = [
        "PATH", "HOME", "USER", "LANG", "TMPDIR", "PWD", "SHLVL", "_", "OLDPWD",
    ];
    let prefixes = [
        "npm_config_",
        "NODE_",
        "PIP_",
        "UV_",
        "SSL_CERT_",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
    ];
    let is_proxy = |name: &str| name.to_lowercase().ends_with("_proxy");
    for line in seen.lines() {
        let name = line.split('=').next().unwrap_or_default();
        let is_allowed =
            allowed.contains(&name) || prefixes.iter().any(|prefix| name.starts_with(prefix));
        assert!(is_allowed || is_proxy(name), "{name}");
        assert_ne!(name, "UV_BIN");
    }
}

#[tokio::test]
async fn pip_and_uv_name_the_same_causes() {
    let uv = uv_program();
    for installer in ["none", &uv] {
        let app = start_with(&[("UV_BIN", installer)]);
        let install = |name: &str, version: &str, more: Value| {
            let mut body =
                json!({ "name": name, "version": version, "serverName": "m", "runtime": "python" });
            body.as_object_mut()
                .expect("an object")
                .extend(more.as_object().expect("an object").clone());
            app.install(body)
        };
        let said = install("mcp-server-nope-not-there", "latest", json!({})).await;
        let said = said.fails(404, "package_not_found");
        assert!(
            said.starts_with("The package index has no package mcp-server-nope"),
            "{said}"
        );
        let said = install("mcp-server-time", "9.9", json!({}))
            .await
            .fails(400, "invalid_request");
        assert_eq!(
            said,
            "The package index has no version 9.9 of mcp-server-time"
        );
        let conflict = json!({ "pipDependencies": ["pydantic<2"] });
        let said = install("mcp-server-time", "2026.10.19", conflict)
            .await
            .fails(400, "invalid_request");
        assert!(said.contains("contradict each other"), "{said}");
        let missing = json!({ "pipDependencies": ["six==0.0.0.1"] });
        let said = install("mcp-server-time", "2026.10.19", missing)
            .await
            .fails(502, "upstream_error");
        assert!(
            said.contains("has not all that mcp-server-time needs"),
            "{said}"
        );
        let unreachable = json!({ "pipIndexUrl": "http://ana:hush-hush-7@127.0.0.1:9/simple" });
        let failed = install("mcp-server-time", "2026.10.19", unreachable).await;
        assert!(
            !failed.body.to_string().contains("hush-hush-7"),
            "{}",
            failed.body
        );
        let said = failed.fails(502, "upstream_error");
        assert!(said.contains("cannot reach its registry"), "{said}");
        assert!(!app.log().contains("pip repeats"), "each cause is clear");
        app.until_no_package_is_left().await;
    }
}

#[tokio::test]
async fn an_interrupted_installation_leaves_no_process_and_no_folder() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let begun = folder.path().join("begun");
    let hanging = format!(
        "test \"$1\" = --version && echo uv 0.13.9 && exit; touch '{}'; exec sleep 600",
        begun.display()
    );
    let mut app = start_with(&[("UV_BIN", &script(folder.path(), &hanging))]);
    let request = app
        .http
        .post(format!("{}/packages/install", app.url))
        .header("prefer", "respond-async")
        .json(&time("time"));
    assert_eq!(crate::harness::answer(request).await.status, 202);
    crate::wait::wait_until("uv runs", async || begun.exists()).await;
    for process in &mut app.processes {
        process.kill();
    }
    crate::wait::wait_until("uv has ended with its worker", async || {
        left_of(app.dir.path()).is_empty()
    })
    .await;
}
