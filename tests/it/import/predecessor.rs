//! A database as the predecessor writes it.

use std::process::Output;

use mongodb::bson::{Document, doc};
use mongodb::{Client, Database};

use crate::harness::{App, fixture, python};
use crate::packages::{MEMORY, MEMORY_OLD};
use crate::process::{command, owned};
use crate::services::mongod::Mongod;

pub const KEY: &str = "secret";

/// The secret `ghp_test`, sealed by the predecessor with the key above (AES-256-GCM under SHA-256 of the key, without
/// associated data).
pub const GHP_TEST: &str =
    "000102030405060708090a0b:c85e1392ad5356a43f59a8f276f475a3:cebed4d41da616f5";

pub struct Predecessor {
    pub database: Database,
    pub url: String,
}

impl Predecessor {
    pub async fn fill(more: &[(&str, Vec<Document>)]) -> Self {
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

    /// Returns a predecessor with these collections only.
    pub async fn with_collections(collections: &[(&str, Vec<Document>)]) -> Self {
        let name = format!("o{}", uuid::Uuid::new_v4().simple());
        let url = Mongod::shared().replacen("/?", &format!("/{name}?"), 1);
        let database = Client::with_uri_str(&url)
            .await
            .expect("a client")
            .database(&name);
        let predecessor = Self { database, url };
        for (collection, documents) in collections {
            let collection = predecessor.database.collection::<Document>(collection);
            collection
                .insert_many(documents.clone())
                .await
                .expect("filled");
        }
        predecessor
    }

    /// Returns all documents, to check that the import writes nothing.
    pub async fn all(&self) -> Vec<Document> {
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

    pub fn import(&self, app: &App, more: &[&str]) -> (bool, String) {
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
        let output = [
            String::from_utf8(stdout).expect("UTF-8"),
            String::from_utf8(stderr).expect("UTF-8"),
        ]
        .concat();
        for secret in ["ghp_test", "h-u-s-h", GHP_TEST] {
            assert!(!output.contains(secret), "{output}");
        }
        (status.success(), output)
    }
}

/// Returns a predecessor with packages and their servers.
pub async fn with_packages(app: &App) -> Predecessor {
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
