//! The settings of pip reach uv: indexes and their credentials, in variables, configuration files and netrc.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::registry::{Registry, keyless};
use super::uv::installer_of;
use crate::harness::App;

const PASSWORD: &str = "hush-hush-9";

fn demo() -> Value {
    json!({ "name": "py-demo", "serverName": "demo", "runtime": "python" })
}

/// Returns the URL of the index, with the user and the password.
fn with_user_info(registry: &Registry) -> String {
    let index = registry.index();
    index.replacen("://", &format!("://ana:{PASSWORD}@"), 1)
}

async fn assert_installed_by_uv(app: &App, body: Value) {
    let installed = app.install(body).await.ok();
    assert_eq!(installed["server"]["status"], "connected", "{installed}");
    assert_eq!(installer_of(app), "uv");
    let events = app.get("/events?limit=1000").await.ok().to_string();
    for text in [installed.to_string(), app.log(), events] {
        assert!(!text.contains(PASSWORD), "{text}");
    }
}

async fn registry() -> Registry {
    let packages = [keyless("py-demo", None)];
    Registry::start_for(&packages, &format!("ana:{PASSWORD}")).await
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(path, text).expect("a file");
}

#[tokio::test]
async fn an_index_without_credentials_is_refused() {
    let registry = registry().await;
    let app = registry.app();
    let said = app.install(demo()).await.fails(502, "upstream_error");
    assert!(said.contains("does not let us in"), "{said}");
    app.until_no_package_is_left().await;
}

#[tokio::test]
async fn the_index_of_an_installation_reaches_uv() {
    let registry = registry().await;
    let app = registry.app_with(&[("PIP_INDEX_URL", "http://127.0.0.1:9/simple")]);
    let mut body = demo();
    body["pipIndexUrl"] = json!(with_user_info(&registry));
    assert_installed_by_uv(&app, body).await;
}

#[tokio::test]
async fn the_configuration_file_of_pip_reaches_uv() {
    let registry = registry().await;
    let home = tempfile::TempDir::new().expect("a folder");
    let index = with_user_info(&registry);
    let text = format!(
        "[global]\nindex-url = http://127.0.0.1:9/simple\n[install]\nindex-url = {index}\n"
    );
    write(&home.path().join(".config/pip/pip.conf"), &text);
    let app = registry.app_with(&[
        ("PIP_INDEX_URL", ""),
        ("HOME", &home.path().to_string_lossy()),
    ]);
    assert_installed_by_uv(&app, demo()).await;
}

#[tokio::test]
async fn netrc_reaches_uv() {
    let registry = registry().await;
    let home = tempfile::TempDir::new().expect("a folder");
    let text = format!("machine 127.0.0.1\nlogin ana\npassword {PASSWORD}\n");
    write(&home.path().join(".netrc"), &text);
    let app = registry.app_with(&[("HOME", &home.path().to_string_lossy())]);
    assert_installed_by_uv(&app, demo()).await;
}

#[tokio::test]
async fn a_further_index_has_the_newest_version() {
    let old = Registry::start(&[keyless("py-demo", None)]).await;
    let newer =
        json!({ "name": "py-demo", "version": "2.0.0", "needsKey": false, "serverJson": null });
    let new = Registry::start(&[newer]).await;
    for (index, extra) in [(old.index(), new.index()), (new.index(), old.index())] {
        let app = old.app_with(&[("PIP_INDEX_URL", &index), ("PIP_EXTRA_INDEX_URL", &extra)]);
        let installed = app.install(demo()).await.ok();
        assert_eq!(installed["package"]["version"], "2.0.0", "{installed}");
        assert_eq!(installer_of(&app), "uv");
    }
}

#[tokio::test]
async fn pip_installs_with_a_setting_that_uv_does_not_have() {
    let registry = Registry::start(&[keyless("py-demo", None)]).await;
    let app = registry.app_with(&[("PIP_PREFER_BINARY", "1")]);
    let installed = app.install(demo()).await.ok();
    assert_eq!(installed["server"]["status"], "connected", "{installed}");
    assert_eq!(installer_of(&app), "pip");
}
