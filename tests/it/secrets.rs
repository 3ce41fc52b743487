//! `/secrets`: set, replace, delete; and the keys of the deployment.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{App, refused};
use crate::wait::wait_until;

const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

/// Returns the argument `token` that the tool gets in a call of this user.
async fn seen(app: &App, user: &str) -> Value {
    let answer = app.call(user, "fixture", "arguments", json!({})).await.ok();
    let args: Value =
        serde_json::from_str(answer["data"]["content"].as_str().expect("a text")).expect("JSON");
    args["token"].clone()
}

fn request(user: &str, name: &str) -> Value {
    json!({ "username": user, "serverName": "fixture", "secretName": name })
}

#[tokio::test]
async fn secrets_are_set_replaced_and_deleted() {
    let app = App::start();
    app.register_fixture("fixture").await.ok();
    assert_eq!(seen(&app, "ana").await, Value::Null);
    for value in ["first", "second", "", "a\"\\\n\u{7f}€😀"] {
        app.set_secret("ana", "fixture", "token", value).await;
        assert_eq!(seen(&app, "ana").await, value);
        assert_eq!(seen(&app, "ben").await, Value::Null);
    }
    app.set_secret("ben", "fixture", "token", "ben's").await;
    app.post("/secrets/delete", request("ana", "token"))
        .await
        .ok();
    assert_eq!(
        (seen(&app, "ana").await, seen(&app, "ben").await),
        (Value::Null, json!("ben's"))
    );
    app.post("/secrets/delete", request("ana", "token"))
        .await
        .fails(404, "secret_not_found");
    // The dotted form is the same secret, to delete it too.
    app.post("/secrets/delete", request("ben", "fixture.token"))
        .await
        .ok();
    assert_eq!(seen(&app, "ben").await, Value::Null);
    // Without a user name the user is `default`.
    app.post(
        "/secrets/set",
        json!({ "serverName": "fixture", "secretName": "token", "secretValue": "d" }),
    )
    .await
    .ok();
    assert_eq!(seen(&app, "default").await, "d");
}

#[tokio::test]
async fn a_secret_reaches_its_own_server_only() {
    let app = App::start();
    app.register_fixture("fixture").await.ok();
    app.register_fixture("other").await.ok();
    app.set_secret("ana", "other", "token", "for the other")
        .await;
    assert_eq!(seen(&app, "ana").await, Value::Null);
}

#[tokio::test]
async fn an_error_names_the_field_and_not_the_value() {
    let app = App::start();
    app.register("fixture", json!({ "enabled": false }))
        .await
        .ok();
    let good = json!({ "username": "ana", "serverName": "fixture", "secretName": "token", "secretValue": "v-a-l-u-e" });
    for (field, value, status, code) in [
        ("serverName", json!("nobody"), 404, "server_not_found"),
        ("serverName", json!("a v-a-l-u-e"), 400, "invalid_request"),
        ("secretName", json!(""), 400, "invalid_request"),
        ("secretName", json!("v-a-l-u-e\n"), 400, "invalid_request"),
        ("username", json!(["v-a-l-u-e"]), 400, "invalid_request"),
        (
            "secretValue",
            json!({ "v-a-l-u-e": 1 }),
            400,
            "invalid_request",
        ),
        ("secretValue", json!(12345678), 400, "invalid_request"),
        ("value", json!("v-a-l-u-e"), 400, "invalid_request"),
    ] {
        let mut body = good.clone();
        body[field] = value;
        let error = app
            .post("/secrets/set", body.clone())
            .await
            .fails(status, code);
        assert!(
            !error.contains("v-a-l-u-e") && !error.contains("12345678"),
            "{error}"
        );
        assert!(status == 404 || error.contains(field), "{field}: {error}");
    }
    let body = json!({ "username": "ana", "serverName": "nobody", "secretName": "token" });
    app.post("/secrets/delete", body)
        .await
        .fails(404, "server_not_found");
    app.post("/secrets/delete", request("ana", "token"))
        .await
        .fails(404, "secret_not_found");
}

#[tokio::test]
async fn no_route_reads_a_secret() {
    let app = App::start();
    app.register("fixture", json!({ "enabled": false }))
        .await
        .ok();
    app.set_secret("ana", "fixture", "token", "v-a-l-u-e").await;
    for path in [
        "/secrets",
        "/secrets/set",
        "/secrets/ana",
        "/secrets/ana/fixture/token",
    ] {
        let answer = app.get(path).await;
        assert!(
            [404, 405].contains(&answer.status),
            "{path}: {}",
            answer.body
        );
    }
    let paths = app.get("/openapi.json").await.body;
    let paths: Vec<_> = paths["paths"]
        .as_object()
        .expect("paths")
        .keys()
        .filter(|p| p.contains("secret"))
        .collect();
    assert_eq!(
        paths,
        [
            "/connect/{name}/secrets",
            "/connect/{name}/secrets/delete",
            "/secrets/delete",
            "/secrets/set",
        ]
    );
    let shown = app.server("fixture").await.to_string();
    assert!(
        !shown.contains("v-a-l-u-e") && !shown.contains("token"),
        "{shown}"
    );
}

#[tokio::test]
async fn secrets_survive_a_kill_with_the_generated_key() {
    let mut app = App::embedded();
    app.register_fixture("fixture").await.ok();
    app.set_secret("ana", "fixture", "token", "kept").await;
    let key = app.data().join("secrets.key");
    assert_eq!(
        fs::metadata(&key).expect("a key file").permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(
        fs::metadata(app.data())
            .expect("a folder")
            .permissions()
            .mode()
            & 0o777,
        0o700
    );
    for file in ["mcp-api.sqlite", "mcp-api.sqlite-wal"] {
        assert_eq!(
            fs::metadata(app.data().join(file))
                .expect("a file")
                .permissions()
                .mode()
                & 0o777,
            0o600,
            "{file}"
        );
    }
    let text = fs::read_to_string(&key).expect("a key");
    assert!(
        text.trim().len() == 64 && !app.log().contains(text.trim()),
        "32 bytes in hex, and nowhere else"
    );
    app.kill_and_restart();
    assert_eq!(seen(&app, "ana").await, "kept");

    app.kill();
    fs::write(&key, HEX).expect("written");
    let said = refused(app.dir.path(), &[]);
    assert!(
        said.contains("SECRETS_KEY is not the key") && !said.contains(HEX),
        "{said}"
    );
    fs::write(&key, "").expect("written");
    let said = refused(app.dir.path(), &[]);
    assert!(
        said.contains("secrets.key") || said.contains("SECRETS_KEY"),
        "{said}"
    );
    fs::write(&key, text).expect("written");
    app.restart();
    assert_eq!(seen(&app, "ana").await, "kept");
}

#[tokio::test]
async fn a_passphrase_is_a_key_and_another_passphrase_is_refused() {
    let mut app = App::embedded_with(&[("SECRETS_KEY", "correct horse battery staple")]);
    app.register_fixture("fixture").await.ok();
    app.set_secret("ana", "fixture", "token", "kept").await;
    assert!(
        !app.data().join("secrets.key").exists(),
        "a given key means that no key is generated"
    );
    app.kill_and_restart();
    assert_eq!(seen(&app, "ana").await, "kept");
    app.kill();
    let said = refused(app.dir.path(), &[("SECRETS_KEY", "wrong horse")]);
    assert!(
        said.contains("SECRETS_KEY is not the key") && said.contains("SECRETS_KEYS_OLD"),
        "{said}"
    );
    assert!(!said.contains("horse"), "{said}");
    // Without SECRETS_KEY the program refuses to start and generates no key.
    let said = refused(app.dir.path(), &[]);
    assert!(said.contains("SECRETS_KEY is missing"), "{said}");
    assert!(
        !app.data().join("secrets.key").exists(),
        "a refused start leaves no key"
    );
    app.restart();
    assert_eq!(seen(&app, "ana").await, "kept");
}

#[tokio::test]
async fn a_listed_old_key_opens_its_values() {
    let mut app = App::start_with(&[("SECRETS_KEY", "the first passphrase")]);
    app.register_fixture("fixture").await.ok();
    app.set_secret("ana", "fixture", "token", "of the first key")
        .await;
    app.kill();
    app.restart_with(&[
        ("SECRETS_KEY", HEX),
        ("SECRETS_KEYS_OLD", "another, the first passphrase"),
    ]);
    assert_eq!(seen(&app, "ana").await, "of the first key");
    app.set_secret("ben", "fixture", "token", "of the second key")
        .await;
    app.kill();
    // The old key again, with the new key listed, as during a rollout.
    app.restart_with(&[
        ("SECRETS_KEY", "the first passphrase"),
        ("SECRETS_KEYS_OLD", HEX),
    ]);
    assert_eq!(
        (seen(&app, "ana").await, seen(&app, "ben").await),
        (json!("of the first key"), json!("of the second key"))
    );
}

#[test]
fn an_empty_key_file_is_no_key() {
    let dir = TempDir::new().expect("a folder");
    fs::create_dir_all(dir.path().join("data")).expect("a folder");
    fs::write(dir.path().join("data/secrets.key"), "\n").expect("written");
    let said = refused(dir.path(), &[]);
    assert!(said.contains("secrets.key is empty"), "{said}");
}

#[test]
fn an_unreadable_key_file_is_named() {
    let dir = TempDir::new().expect("a folder");
    fs::create_dir_all(dir.path().join("data/secrets.key")).expect("a folder in its place");
    let said = refused(dir.path(), &[]);
    assert!(said.contains("DATA_DIR"), "{said}");
}

#[tokio::test]
async fn a_deleted_secret_soon_leaves_the_write_ahead_log() {
    let mut app = App::embedded();
    app.register_fixture("fixture").await.ok();
    let log = app.data().join("mcp-api.sqlite-wal");
    let is_empty = || fs::metadata(&log).map_or(true, |file| file.len() == 0);
    app.set_secret("ana", "fixture", "token", "hers alone")
        .await;
    assert!(!is_empty(), "the secret is in the write-ahead log");
    let body = json!({ "username": "ana", "serverName": "fixture", "secretName": "token" });
    app.post("/secrets/delete", body.clone()).await.ok();
    wait_until("the running program empties the log", async || is_empty()).await;

    app.set_secret("ana", "fixture", "token", "hers alone")
        .await;
    app.post("/secrets/delete", body).await.ok();
    app.terminate();
    assert!(is_empty(), "the ended program leaves a write-ahead log");
}
