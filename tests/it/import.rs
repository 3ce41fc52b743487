//! `mcp-api import`: a database in the original's shapes, taken over into one process and into many.

use std::process::Output;

use mongodb::bson::{Document, doc};
use mongodb::{Client, Database};
use serde_json::{Value, json};

use crate::harness::{App, fixture, python};
use crate::packages;
use crate::packages::{MEMORY, MEMORY_OLD};
use crate::process::{command, owned};
use crate::services::mongod::Mongod;

const KEY: &str = "secret";

/// As the original seals. The first is a value of its own, with the key above; the others were made by its
/// algorithm (AES-256-GCM under SHA-256 of the key, no associated data).
const GHP_TEST: &str = "000102030405060708090a0b:c85e1392ad5356a43f59a8f276f475a3:cebed4d41da616f5";

struct Predecessor {
    database: Database,
    url: String,
}

impl Predecessor {
    async fn fill(more: &[(&str, Vec<Document>)]) -> Self {
        let server = |name: &str| doc! { "name": name, "command": python(), "args": ["-u", fixture("server.py")] };
        let mut all = server("all.of-it");
        all.extend(doc! {
            "transportType": "stdio", "env": { "COLOUR": "blue" }, "secretNames": ["TOKEN", "all.of-it.OTHER"],
            "secretName": "THIRD", "enabled": true, "startupTimeout": 20000.0, "status": "connected", "logs": ["x"],
            "toolsList": [{ "name": "echo" }], "__v": 0,
        });
        let mut off = server("off");
        off.extend(doc! { "enabled": false, "env": {}, "secretNames": mongodb::bson::Bson::Null });
        let remote = doc! {
            "name": "remote", "transportType": "streamable_http", "url": "http://127.0.0.1:9/mcp", "enabled": false,
            "headers": { "Authorization": "Bearer h-u-s-h", "X-Team": "blue" }, "sessionId": "session-1",
            "reconnectionOptions": { "maxRetries": 3, "initialReconnectionDelay": 100.0 },
        };
        let secret = |key: &str| doc! { "username": "ana", "key": key, "value": GHP_TEST };
        let mut of_a_field = secret("plain");
        of_a_field.extend(doc! { "server": "off" });
        let servers = vec![server("plain"), all, off, remote];
        let secrets = vec![secret("plain.token"), secret("all.of-it.TOKEN"), of_a_field];
        let tokens = vec![doc! {
            "serverName": "remote", "username": "ana", "tokenType": "Bearer", "accessToken": GHP_TEST,
            "refreshToken": GHP_TEST, "clientId": "client", "redirectUri": "https://h/callback", "scopes": ["a"],
            "expiresAt": mongodb::bson::DateTime::from_millis(4_000_000_000_000),
        }];
        let all = [
            ("mcp", servers),
            ("secrets", secrets),
            ("mcpOAuthTokens", tokens),
        ];
        Self::with_collections(&[&all, more].concat()).await
    }

    /// One that has nothing else.
    async fn with_collections(collections: &[(&str, Vec<Document>)]) -> Self {
        let name = format!("o{}", uuid::Uuid::new_v4().simple());
        let url = Mongod::shared().replacen("/?", &format!("/{name}?"), 1);
        let database = Client::with_uri_str(&url)
            .await
            .expect("a client")
            .database(&name);
        let original = Self { database, url };
        for (collection, documents) in collections {
            let collection = original.database.collection::<Document>(collection);
            collection
                .insert_many(documents.clone())
                .await
                .expect("filled");
        }
        original
    }

    /// Everything in it, to be sure that nothing was written.
    async fn all(&self) -> Vec<Document> {
        use futures::TryStreamExt;
        let mut all = vec![];
        let mut names = self.database.list_collection_names().await.expect("names");
        names.sort();
        for name in names.iter().filter(|name| !name.starts_with("mcpapi_")) {
            let found = self
                .database
                .collection::<Document>(name)
                .find(doc! {})
                .await
                .expect("found");
            all.extend(found.try_collect::<Vec<_>>().await.expect("documents"));
        }
        all
    }

    fn import(&self, app: &App, more: &[&str]) -> (bool, String) {
        let env = [
            ("IMPORT_MONGO_URL", &*self.url),
            ("IMPORT_SECRETS_KEY", KEY),
        ];
        let mut import = command(app.dir.path(), &owned(&env));
        let Output {
            status,
            stdout,
            stderr,
        } = import
            .args(["import", "--url", &app.url])
            .args(more)
            .output()
            .expect("run");
        let said = [
            String::from_utf8(stdout).expect("UTF-8"),
            String::from_utf8(stderr).expect("UTF-8"),
        ]
        .concat();
        for secret in ["ghp_test", "h-u-s-h", GHP_TEST] {
            assert!(!said.contains(secret), "{said}");
        }
        (status.success(), said)
    }
}

async fn argument(app: &App, user: &str, server: &str, name: &str) -> Value {
    let answer = app.call(user, server, "arguments", json!({})).await.ok();
    let args: Value =
        serde_json::from_str(answer["data"]["content"].as_str().expect("a text")).expect("JSON");
    args[name].clone()
}

async fn assert_imported(app: &App) {
    let original = Predecessor::fill(&[]).await;
    let before = original.all().await;
    let (well, said) = original.import(app, &[]);
    assert!(
        well && said.contains("servers: 4 to import, 0 exist already"),
        "{said}"
    );
    assert!(
        said.contains("secrets: 3 to import") && said.contains("Nothing was changed"),
        "{said}"
    );
    assert!(said.contains("OAuth tokens: 1 to import"), "{said}");
    assert_eq!(app.get("/mcp/servers").await.ok()["servers"], json!([]));

    let (well, said) = original.import(app, &["--apply"]);
    assert!(
        said.contains("OAuth tokens: 1 imported, 0 exist already"),
        "{said}"
    );
    assert!(
        well && said.contains("servers: 4 imported")
            && said.contains("secrets: 3 imported, 0 exist"),
        "{said}"
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

    // Again: nothing is changed that is there, also not what was changed since.
    app.set_secret("ana", "plain", "token", "newer").await;
    app.put("/mcp/servers/off/enable", json!({})).await.ok();
    let events = app.happened().await;
    let (well, said) = original.import(app, &["--apply"]);
    assert!(
        well && said.contains("servers: 0 imported, 4 exist already"),
        "{said}"
    );
    assert!(
        said.contains("secrets: 0 imported, 3 exist already"),
        "{said}"
    );
    assert!(
        said.contains("OAuth tokens: 0 imported, 1 exist already"),
        "{said}"
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
    let (well, said) = original.import(app, &[]);
    assert!(
        !well
            && said.contains("the server plain: a server of this name exists with another `args`"),
        "{said}"
    );
    assert_eq!(original.all().await, before, "it is only read");
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
    let original = Predecessor::fill(&more).await;
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
        let (well, said) = original.import(&app, args);
        assert!(!well);
        for wanted in wanted {
            assert!(said.contains(wanted), "{wanted} is not in: {said}");
        }
        // The same secret in both spellings is one.
        assert!(
            said.contains("servers: 4 ") && said.contains("secrets: 3 "),
            "{said}"
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
        ("IMPORT_MONGO_URL", &*original.url),
        ("SECRETS_KEY", "another"),
    ];
    let output = command(app.dir.path(), &owned(&wrong))
        .args(["import", "--url", &app.url])
        .output()
        .expect("run");
    let said = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(
        said.contains("IMPORT_SECRETS_KEY opens none of the secrets"),
        "{said}"
    );
}

/// Packages as the original writes them down, each with its server.
async fn with_packages(app: &App) -> Predecessor {
    let folder = "packages/modelcontextprotocol-server-memory";
    let memory = |server: &str| {
        doc! { "name": MEMORY, "version": MEMORY_OLD, "installPath": folder, "status": "installed",
        "mcpServerId": server, "enabled": true, "installed": mongodb::bson::DateTime::now() }
    };
    let file = app
        .dir
        .path()
        .join("memory.json")
        .to_string_lossy()
        .into_owned();
    let main = format!("./{folder}/node_modules/{MEMORY}/dist/index.js");
    let node =
        |name: &str| doc! { "name": name, "command": "node", "args": [&*main], "enabled": true };
    let mut memory_server = node("memory");
    memory_server
        .extend(doc! { "env": { "MEMORY_FILE_PATH": file }, "startupTimeout": 50_000.0, "status": "connected" });
    let venv = |server: &str| format!("packages/python/{server}");
    let time = |server: &str| {
        doc! { "name": "mcp_server_time", "version": "2026.10.10", "runtime": "python", "pythonModule": "mcp_server_time",
        "pythonArgs": ["--local-timezone", "Europe/Vienna"], "installPath": venv(server), "venvPath": venv(server),
        "status": "upgrading", "mcpServerId": server }
    };
    let python = |name: &str| {
        doc! { "name": name, "command": format!("{}/bin/python", venv(name)),
        "args": ["-m", "mcp_server_time", "--local-timezone", "Europe/Paris"], "enabled": false }
    };
    let mut hidden = time("hidden");
    hidden.extend(doc! { "pipIndexUrl": "http://ana:h-u-s-h@127.0.0.1:9/simple" });
    let secret = |key: &str| doc! { "username": "ana", "key": key, "value": GHP_TEST };
    Predecessor::with_collections(&[
        (
            "packages",
            vec![memory("memory"), memory("taken"), time("time"), hidden],
        ),
        (
            "mcp",
            vec![
                memory_server,
                node("taken"),
                python("time"),
                python("hidden"),
            ],
        ),
        (
            "secrets",
            vec![secret("memory.token"), secret("hidden.token")],
        ),
    ])
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn imported_packages_are_installed_with_their_servers() {
    let app = packages::start();
    app.register_fixture("taken").await.ok();
    let original = with_packages(&app).await;
    let before = original.all().await;
    let taken = format!("the package {MEMORY} of the server taken: a server of this name exists");
    let (_, said) = original.import(&app, &[]);
    assert!(
        said.contains("packages: 3 to install, 0 exist already") && said.contains(&taken),
        "{said}"
    );
    assert!(
        said.contains("servers: 0 to import") && said.contains("secrets: 2 to import"),
        "{said}"
    );
    assert!(
        said.contains(
            "mcp_server_time of the server time: its status is upgrading, and the import inst"
        ),
        "{said}"
    );
    assert_eq!(app.get("/packages").await.ok()["packages"], json!([]));

    let (well, said) = original.import(&app, &["--apply"]);
    assert!(
        !well && said.contains("packages: 2 installed, 0 exist already") && said.contains(&taken),
        "{said}"
    );
    assert!(
        said.contains(&format!("installed {MEMORY} as memory: {MEMORY_OLD}\n")),
        "{said}"
    );
    assert!(
        said.contains("not installed: mcp_server_time as hidden\n"),
        "{said}"
    );
    assert!(
        said.contains("mcp_server_time of the server hidden: pip cannot reach its registry"),
        "{said}"
    );
    assert!(
        said.contains("the secret token of ana for hidden: the server does not exist"),
        "{said}"
    );
    assert!(said.contains("secrets: 1 imported"), "{said}");
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

    let (_, said) = original.import(&app, &["--apply"]);
    assert!(
        said.contains("packages: 0 installed, 2 exist already"),
        "{said}"
    );
    assert!(
        said.contains("secrets: 0 imported, 1 exist already"),
        "{said}"
    );
    assert_eq!(original.all().await, before, "it is only read");
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
