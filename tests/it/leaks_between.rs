//! NATS and MongoDB see no secret while clients set secrets and servers use and print them.

use std::sync::{Arc, Mutex};

use futures::TryStreamExt;
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Answer, App, answer};
use crate::leaks::{KEY, SECRETS, TOKEN, clean, clean_everywhere};
use crate::process::Services;

/// A proxy in front of NATS that records all bytes. A subscriber would change the behavior of the bus.
struct Tap {
    url: String,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Tap {
    async fn before(nats: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("nats://{}", listener.local_addr().expect("an address"));
        let to = nats.replace("nats://", "");
        let heard = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let all = heard.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = TcpStream::connect(&to)
                    .await
                    .expect("the server")
                    .into_split();
                tokio::spawn(record(from_client, to_server, all.clone()));
                tokio::spawn(record(from_server, to_client, all.clone()));
            }
        });
        Self { url, heard }
    }
}

/// Forwards and records one direction of a connection.
async fn record(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, all: Arc<Mutex<Vec<Vec<u8>>>>) {
    let number = {
        let mut all = all.lock().expect("heard");
        all.push(vec![]);
        all.len() - 1
    };
    let mut buffer = vec![0; 1 << 16];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        all.lock().expect("heard")[number].extend_from_slice(&buffer[..read]);
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

async fn post(app: &App, path: &str, body: Value) -> Answer {
    answer(
        app.http
            .post(format!("{}{path}", app.url))
            .bearer_auth(TOKEN)
            .json(&body),
    )
    .await
}

/// Sets a secret, and makes the server use and print it.
async fn use_secret(app: &App, n: usize, secret: &str) {
    let user = format!("user-{n}");
    let set = json!({ "username": user, "serverName": "fixture", "secretName": "token", "secretValue": secret });
    post(app, "/secrets/set", set).await.ok();
    let call = |tool: &str, args: Value| json!({ "username": user, "serverName": "fixture", "methodName": tool, "args": args });
    let echo = post(
        app,
        "/mcp/tool/call",
        call("echo", json!({ "message": format!("spied-{n}") })),
    )
    .await;
    assert_eq!(echo.ok()["data"]["content"], format!("spied-{n}"));
    // A result belongs to its user, so it is not masked.
    for how in ["error", "go error", "no error", "crash"] {
        post(app, "/mcp/tool/call", call("leak", json!({ "how": how })))
            .await
            .fails(502, "upstream_error");
    }
    let later = app
        .http
        .post(format!("{}/mcp/tool/call", app.url))
        .header("Prefer", "respond-async");
    let later = later
        .bearer_auth(TOKEN)
        .json(&call("leak", json!({ "how": "error" })))
        .send()
        .await
        .expect("an answer");
    let job: Value = later.json().await.expect("JSON");
    let path = format!(
        "{}/jobs/{}?username={user}&wait=30s",
        app.url,
        job["jobId"].as_str().expect("an id")
    );
    let ended = answer(app.http.get(path).bearer_auth(TOKEN)).await.ok();
    assert_eq!(ended["job"]["state"], "failed", "{ended}");
}

/// Returns all documents as bytes.
async fn documents(app: &App) -> Vec<(String, Vec<u8>)> {
    let url = &app.services.as_ref().expect("services").mongo_url;
    let client = mongodb::Client::with_uri_str(url).await.expect("connected");
    let database = client.default_database().expect("a database");
    let mut all = vec![];
    for name in database.list_collection_names().await.expect("names") {
        let found = database
            .collection::<Document>(&name)
            .find(doc! {})
            .await
            .expect("documents");
        let found: Vec<Document> = found.try_collect().await.expect("documents");
        all.extend(
            found
                .iter()
                .map(|document| (name.clone(), document.to_vec().expect("BSON"))),
        );
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_the_bus_nor_mongodb_sees_a_secret() {
    let services = Services::start();
    let tap = Tap::before(&services.nats.url()).await;
    let env = [
        ("RUST_LOG", "trace"),
        ("SECRETS_KEY", KEY),
        ("ADMIN_TOKEN", TOKEN),
        ("NATS_URL", &tap.url),
    ];
    let app = App::start_on(Some(services), 2, &env);
    let child = json!({ "name": "fixture", "command": crate::harness::python(), "args": ["-u", crate::harness::fixture("server.py")] });
    post(&app, "/mcp/servers", child).await.ok();
    let headers = json!({ "Authorization": format!("Bearer {}", SECRETS[0]) });
    let remote = json!({ "name": "remote", "url": "https://localhost:9/mcp", "transportType": "streamable_http", "headers": headers, "enabled": false });
    post(&app, "/mcp/servers", remote).await.ok();
    let tokens = json!({ "accessToken": SECRETS[0], "refreshToken": SECRETS[0], "clientId": "c", "redirectUri": "https://h/cb" });
    post(&app, "/mcp/servers/remote/oauth", tokens).await.ok();
    for (n, secret) in SECRETS.iter().enumerate() {
        use_secret(&app, n, secret).await;
    }
    let hidden = [&SECRETS[..], &[KEY, TOKEN]].concat();
    let heard = tap.heard.lock().expect("heard").clone();
    let found = |text: &str| {
        heard
            .iter()
            .any(|stream| stream.windows(text.len()).any(|at| at == text.as_bytes()))
    };
    assert!(found("spied-0") && found("spied-3"), "the proxy records");
    for stream in &heard {
        clean("the bus", stream, &hidden);
    }
    let documents = documents(&app).await;
    for kind in ["mcpapi_log", "mcpapi_secrets", "mcpapi_keys"] {
        assert!(
            documents.iter().any(|(name, _)| name == kind),
            "{kind} is searched"
        );
    }
    for (name, bytes) in &documents {
        clean(name, bytes, &hidden);
    }
    clean_everywhere(&app, &hidden).await;
}
