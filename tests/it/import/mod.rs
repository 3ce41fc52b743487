//! `mcp-api import` reads a database of the predecessor and imports it into one process and into many processes.

mod predecessor;

use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use crate::harness::{App, fixture};
use crate::packages;
use crate::packages::{MEMORY, MEMORY_OLD};
use crate::process::{command, owned};

use predecessor::{GHP_TEST, Predecessor, with_packages};

async fn argument(app: &App, user: &str, server: &str, name: &str) -> Value {
    let answer = app.call(user, server, "arguments", json!({})).await.ok();
    let args: Value =
        serde_json::from_str(answer["data"]["content"].as_str().expect("a text")).expect("JSON");
    args[name].clone()
}

async fn assert_imported(app: &App) {
    let predecessor = Predecessor::fill(&[]).await;
    let before = predecessor.all().await;
    let (success, output) = predecessor.import(app, &[]);
    assert!(
        success && output.contains("servers: 4 to import, 0 exist already"),
        "{output}"
    );
    assert!(
        output.contains("secrets: 3 to import") && output.contains("Nothing was changed"),
        "{output}"
    );
    assert!(output.contains("OAuth tokens: 1 to import"), "{output}");
    assert_eq!(app.get("/mcp/servers").await.ok()["servers"], json!([]));

    let (success, output) = predecessor.import(app, &["--apply"]);
    assert!(
        output.contains("OAuth tokens: 1 imported, 0 exist already"),
        "{output}"
    );
    assert!(
        success
            && output.contains("servers: 4 imported")
            && output.contains("secrets: 3 imported, 0 exist"),
        "{output}"
    );
    let all = app.server("all.of-it").await;
    assert_eq!(
        (&all["status"], &all["startupTimeout"]),
        (&json!("connected"), &json!(20_000))
    );
    assert_eq!(
        (&all["secretNames"], &all["env"]),
        (
            &json!(["TOKEN", "OTHER", "THIRD"]),
            &json!({ "COLOUR": "blue" })
        )
    );
    let off = app.server("off").await;
    assert_eq!(
        (&off["enabled"], &off["transportType"]),
        (&json!(false), &json!("stdio"))
    );
    let remote = app.server("remote").await;
    assert_eq!(
        remote["headers"],
        json!({ "Authorization": "***", "X-Team": "***" })
    );
    assert_eq!(remote["reconnectionOptions"]["maxRetries"], 3);
    assert_eq!(argument(app, "ana", "plain", "token").await, "ghp_test");
    assert_eq!(argument(app, "ana", "all.of-it", "TOKEN").await, "ghp_test");
    assert_eq!(argument(app, "ben", "plain", "token").await, Value::Null);

    // A second import changes no existing data, not even data that changed after the first import.
    app.set_secret("ana", "plain", "token", "newer").await;
    app.put("/mcp/servers/off/enable", json!({})).await.ok();
    let events = app.happened().await;
    let (success, output) = predecessor.import(app, &["--apply"]);
    assert!(
        success && output.contains("servers: 0 imported, 4 exist already"),
        "{output}"
    );
    assert!(
        output.contains("secrets: 0 imported, 3 exist already"),
        "{output}"
    );
    assert!(
        output.contains("OAuth tokens: 0 imported, 1 exist already"),
        "{output}"
    );
    assert_eq!(argument(app, "ana", "plain", "token").await, "newer");
    assert_eq!(argument(app, "ana", "off", "plain").await, "ghp_test");
    assert_eq!(app.happened().await, events);
    app.put(
        "/mcp/servers/plain",
        json!({ "args": ["-u", fixture("server.py"), "more"] }),
    )
    .await
    .ok();
    let (success, output) = predecessor.import(app, &[]);
    assert!(
        !success
            && output
                .contains("the server plain: a server of this name exists with another `args`"),
        "{output}"
    );
    assert_eq!(predecessor.all().await, before, "it is only read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_predecessor_is_imported_into_one_process() {
    assert_imported(&App::embedded()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_predecessor_is_imported_into_many_processes() {
    let app = App::distributed(2, &[]);
    app.until("/readyz", |body| body["success"] == true).await;
    assert_imported(&app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_that_cannot_be_imported_is_reported_and_the_rest_is_imported() {
    let app = App::embedded();
    let secret = |key: &str, more: Document| {
        let mut secret = doc! { "username": "ana", "key": key, "value": GHP_TEST };
        secret.extend(more);
        secret
    };
    let more = [
        (
            "mcp",
            vec![
                doc! { "name": "a b", "command": "true" },
                doc! { "name": "nothing" },
                doc! { "name": "odd", "command": "true", "args": [1] },
                doc! { "name": "ws", "transportType": "websocket", "url": "ws://h" },
                doc! { "name": "plain", "command": "another" },
                doc! { "name": "odder", "command": "true" },
            ],
        ),
        (
            "secrets",
            vec![
                secret("alone", doc! {}),
                secret("nobody.token", doc! {}),
                secret("odd.token", doc! {}),
                secret("odder.token", doc! {}),
                secret("token", doc! { "server": "elsewhere" }),
                secret(
                    "plain.other",
                    doc! { "value": GHP_TEST.replacen("00", "01", 1) },
                ),
                secret("plain.third", doc! { "username": "" }),
                secret("plain.token", doc! { "server": "plain" }),
            ],
        ),
        (
            "packages",
            vec![
                doc! { "name": "half", "version": "latest", "installPath": "packages/half", "status": "error" },
                doc! { "name": "pkg", "version": "1.0.0", "mcpServerId": "gone", "installPath": "packages/pkg" },
                doc! { "name": "^pkg", "version": "1.0.0", "mcpServerId": "odder", "installPath": "packages/pkg" },
            ],
        ),
        (
            "mcpOAuthTokens",
            vec![doc! { "serverName": "remote", "accessToken": "nothing that opens" }],
        ),
    ];
    let predecessor = Predecessor::fill(&more).await;
    let wanted = [
        "the server a b: the name must be 1 to 64 letters",
        "the server nothing: command is missing",
        "the server odd: args[0]: must be a string",
        "the server ws: the transportType websocket",
        "the server plain: the name exists twice",
        "the secret alone of ana: it names no server",
        "the secret nobody.token of ana: it names no server",
        "the secret token of ana for odd: the server does not exist",
        "the secret token of ana for elsewhere: the server does not exist",
        "the secret plain.other of ana: the SECRETS_KEY of the predecessor does not open it",
        "the secret plain.third of : the name of the user must be",
        "the package half: it was never installed (status error) and has no server",
        "the package pkg of the server gone: this server does not exist any more",
        "the package ^pkg of the server odder: name: must be the name of a package",
        "the secret token of ana for odder: the server does not exist",
        "the OAuth tokens of all users for remote: the SECRETS_KEY of the predecessor does not open `accessToken`",
    ];
    for args in [&[][..], &["--apply"]] {
        let (success, output) = predecessor.import(&app, args);
        assert!(!success);
        for wanted in wanted {
            assert!(output.contains(wanted), "{wanted} is not in: {output}");
        }
        // Both spellings of a secret are one secret.
        assert!(
            output.contains("servers: 4 ") && output.contains("secrets: 3 "),
            "{output}"
        );
    }
    assert_eq!(argument(&app, "ana", "plain", "token").await, "ghp_test");

    let run = |env: &[(&str, &str)]| {
        let output = command(app.dir.path(), &owned(env))
            .args(["import", "--url", &app.url])
            .output()
            .expect("run");
        assert!(!output.status.success());
        String::from_utf8(output.stderr).expect("UTF-8")
    };
    assert!(run(&[]).contains("IMPORT_MONGO_URL is missing"));
    assert!(run(&[("IMPORT_MONGO_URL", "mongodb://h")]).contains("IMPORT_SECRETS_KEY is missing"));
    assert!(
        run(&[("IMPORT_MONGO_URL", "http://h"), ("SECRETS_KEY", "k")])
            .contains("IMPORT_MONGO_URL must begin")
    );
    let wrong = [
        ("IMPORT_MONGO_URL", &*predecessor.url),
        ("SECRETS_KEY", "another"),
    ];
    let output = command(app.dir.path(), &owned(&wrong))
        .args(["import", "--url", &app.url])
        .output()
        .expect("run");
    let output = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(
        output.contains("IMPORT_SECRETS_KEY opens none of the secrets"),
        "{output}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn imported_packages_are_installed_with_their_servers() {
    let app = packages::start();
    app.register_fixture("taken").await.ok();
    let predecessor = with_packages(&app).await;
    let before = predecessor.all().await;
    let taken = format!("the package {MEMORY} of the server taken: a server of this name exists");
    let (_, output) = predecessor.import(&app, &[]);
    assert!(
        output.contains("packages: 3 to install, 0 exist already") && output.contains(&taken),
        "{output}"
    );
    assert!(
        output.contains("servers: 0 to import") && output.contains("secrets: 2 to import"),
        "{output}"
    );
    assert!(
        output.contains(
            "mcp_server_time of the server time: its status is upgrading, and the import inst"
        ),
        "{output}"
    );
    assert_eq!(app.get("/packages").await.ok()["packages"], json!([]));

    let (success, output) = predecessor.import(&app, &["--apply"]);
    assert!(
        !success
            && output.contains("packages: 2 installed, 0 exist already")
            && output.contains(&taken),
        "{output}"
    );
    assert!(
        output.contains(&format!("installed {MEMORY} as memory: {MEMORY_OLD}\n")),
        "{output}"
    );
    assert!(
        output.contains("not installed: mcp_server_time as hidden\n"),
        "{output}"
    );
    assert!(
        output.contains("mcp_server_time of the server hidden: uv cannot reach its registry"),
        "{output}"
    );
    assert!(
        output.contains("the secret token of ana for hidden: the server does not exist"),
        "{output}"
    );
    assert!(output.contains("secrets: 1 imported"), "{output}");
    let memory = app.server("memory").await;
    assert_eq!(
        (&memory["status"], &memory["startupTimeout"]),
        (&json!("connected"), &json!(50_000))
    );
    assert!(
        memory["env"]["MEMORY_FILE_PATH"]
            .as_str()
            .is_some_and(|path| path.ends_with("/memory.json")),
        "{memory}"
    );
    let time = app.server("time").await;
    assert_eq!(
        (&time["enabled"], &time["args"][4]),
        (&json!(false), &json!("Europe/Paris"))
    );
    assert_eq!(
        app.get("/packages/by-id/time").await.ok()["package"]["version"],
        "2026.10.10"
    );
    app.get("/mcp/servers/hidden")
        .await
        .fails(404, "server_not_found");

    let (_, output) = predecessor.import(&app, &["--apply"]);
    assert!(
        output.contains("packages: 0 installed, 2 exist already"),
        "{output}"
    );
    assert!(
        output.contains("secrets: 0 imported, 1 exist already"),
        "{output}"
    );
    assert_eq!(predecessor.all().await, before, "it is only read");
    assert!(!app.log().contains("h-u-s-h"));
}

#[tokio::test]
async fn a_dry_run_registers_nothing() {
    let app = App::embedded();
    let body = json!({ "name": "fixture", "command": "true" });
    app.post("/mcp/servers?dryRun=true", body.clone())
        .await
        .ok();
    app.post("/mcp/servers?dryRun=true", json!({ "name": "fixture" }))
        .await
        .fails(400, "invalid_request");
    app.post("/mcp/servers?dryRun=perhaps", body.clone())
        .await
        .fails(400, "invalid_request");
    let package = json!({ "name": "pkg", "serverName": "fixture" });
    app.post("/packages/install?dryRun=true", package.clone())
        .await
        .ok();
    app.post("/packages/install?dryRun=true", json!({ "name": "pkg" }))
        .await
        .fails(400, "invalid_request");
    assert_eq!(app.get("/jobs").await.ok()["jobs"], json!([]));
    assert_eq!(app.happened().await, [""; 0]);
    app.post("/mcp/servers", body.clone()).await;
    app.post("/mcp/servers?dryRun=true", body)
        .await
        .fails(409, "server_already_exists");
    app.post("/packages/install?dryRun=true", package)
        .await
        .fails(409, "server_already_exists");
}
