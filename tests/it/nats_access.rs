//! Access to NATS: passwords, credentials, TLS and the permissions of users.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

use crate::bus_contract::ask;
use crate::harness::{App, PATIENCE};
use crate::process::Services;
use crate::services::nats::{JETSTREAM, Nats, Version};
use mcp_api::adapters::bus_nats::{NatsBus, NatsOptions};
use mcp_api::core::command::{Area, Command as _, NAMES, RegisterServer};
use mcp_api::core::ids::{Position, ServerId};
use mcp_api::core::model::tool_call::CallTool;
use mcp_api::ports::bus::{Ask, AskHandler, Bus, Busy, Reply, Target};
use mcp_api::telemetry::error::error_chain;

struct Echo;

#[async_trait]
impl AskHandler for Echo {
    async fn handle(&self, ask: Ask) -> Result<Reply, Busy> {
        Ok(Reply {
            position: Position(0),
            outcome: Ok(ask.body),
        })
    }
}

async fn works(options: NatsOptions) {
    let bus = NatsBus::connect(options).await.expect("a bus");
    let _serving = bus.subscribe(Target::AnyWorker(Area::Tools), Arc::new(Echo));
    let answer = bus
        .request(ask(Target::AnyWorker(Area::Tools), "hello", PATIENCE))
        .await
        .expect("an answer");
    assert_eq!(answer.outcome.expect("a success"), "hello");
}

/// Returns the text of a refusal, which arrives soon and holds no secret.
async fn refused(options: NatsOptions) -> String {
    let start = Instant::now();
    let error = NatsBus::connect(options).await.err().expect("refused");
    let said = error_chain(&error);
    assert!(
        start.elapsed() < Duration::from_secs(30),
        "{:?}",
        start.elapsed()
    );
    assert!(said.contains("NATS") && !said.contains("hunter2"), "{said}");
    said
}

#[tokio::test]
async fn a_password_in_the_address_is_used_and_never_shown() {
    let server = Nats::with_config(Version::Newest, |_| {
        format!("{JETSTREAM}\nauthorization {{ user: me, password: \"hunter2@home\" }}")
    });
    let url =
        |user: &str| NatsOptions::new(vec![format!("nats://{user}127.0.0.1:{}", server.port)]);
    works(url("me:hunter2%40home@")).await;
    for user in ["", "me:hunter2@", "hunter2@"] {
        let said = refused(url(user)).await;
        assert!(said.contains("refuses the user, password"), "{said}");
    }
    // The client tries the second address.
    let mut both = url("me:hunter2%40home@");
    both.urls
        .insert(0, "nats://me:hunter2%40home@127.0.0.1:1".into());
    works(both).await;
    let closed = NatsOptions::new(vec!["nats://me:hunter2@127.0.0.1:1".into()]);
    assert!(
        refused(closed)
            .await
            .starts_with("NATS at 127.0.0.1:1 cannot be reached")
    );
}

/// Returns a signed JWT of NATS.
fn jwt(issuer: &KeyPair, name: &str, subject: &KeyPair, nats: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = part(&json!({"typ": "JWT", "alg": "ed25519-nkey"}));
    let (issuer_key, subject) = (issuer.public_key(), subject.public_key());
    let claims = json!({"jti": name, "iat": 1, "iss": issuer_key, "name": name, "sub": subject, "nats": nats});
    let text = format!("{header}.{}", part(&claims));
    let signature = issuer.sign(text.as_bytes()).expect("a signature");
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[tokio::test]
async fn a_credentials_file_gives_access() {
    let [operator, system, account, user] = [
        KeyPair::new_operator(),
        KeyPair::new_account(),
        KeyPair::new_account(),
        KeyPair::new_user(),
    ];
    let mut unlimited = json!({"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1,
        "wildcards": true, "conn": -1, "leaf": -1});
    let system_claims = json!({"type": "account", "version": 2, "limits": unlimited});
    for limit in ["mem_storage", "disk_storage", "streams", "consumer"] {
        unlimited[limit] = json!(-1);
    }
    let account_claims = json!({"type": "account", "version": 2, "limits": unlimited});
    let operator_claims =
        json!({"type": "operator", "version": 2, "system_account": system.public_key()});
    let user_claims = json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1});
    let mut creds = Default::default();
    let server = Nats::with_config(Version::Newest, |folder| {
        creds = folder.join("user.creds");
        let user_jwt = jwt(&account, "user", &user, &user_claims);
        let seed = user.seed().expect("a seed");
        let text = format!(
            "-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        );
        fs::write(&creds, text).expect("credentials");
        format!(
            "{JETSTREAM}\noperator: {}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload {{\n{}: {}\n{}: {}\n}}",
            jwt(&operator, "operator", &operator, &operator_claims),
            system.public_key(),
            system.public_key(),
            jwt(&operator, "system", &system, &system_claims),
            account.public_key(),
            jwt(&operator, "account", &account, &account_claims),
        )
    });
    works(NatsOptions {
        creds: Some(creds.clone()),
        ..NatsOptions::new(vec![server.url()])
    })
    .await;
    refused(NatsOptions::new(vec![server.url()])).await;
    let missing = creds.with_file_name("none.creds");
    let said = refused(NatsOptions {
        creds: Some(missing),
        ..NatsOptions::new(vec![server.url()])
    })
    .await;
    assert!(said.contains("none.creds"), "{said}");
}

fn openssl(folder: &Path, line: &str) {
    let ran = Command::new("openssl")
        .current_dir(folder)
        .args(line.split(' '))
        .output()
        .expect("openssl");
    assert!(
        ran.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&ran.stderr)
    );
}

#[tokio::test]
async fn tls_checks_the_certificate_of_the_server() {
    let mut certificates = Default::default();
    let server = Nats::with_config(Version::Newest, |folder| {
        certificates = folder.to_owned();
        let key = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2";
        for ca in ["ca", "other"] {
            openssl(
                folder,
                &format!("{key} -keyout {ca}.key -out {ca}.pem -subj /CN={ca}"),
            );
        }
        openssl(
            folder,
            &format!(
                "{key} -CA ca.pem -CAkey ca.key -keyout server.key -out server.pem -subj /CN=localhost \
                 -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE"
            ),
        );
        format!("{JETSTREAM}\ntls {{ cert_file: server.pem, key_file: server.key }}")
    });
    let with = |scheme: &str, host: &str, ca: Option<&str>| NatsOptions {
        ca: ca.map(|ca| certificates.join(ca)),
        ..NatsOptions::new(vec![format!("{scheme}://{host}:{}", server.port)])
    };
    works(with("tls", "localhost", Some("ca.pem"))).await;
    // The client uses TLS if the server requires it.
    works(with("nats", "localhost", Some("ca.pem"))).await;
    for (host, ca) in [
        ("localhost", Some("other.pem")),
        ("localhost", None),
        ("127.0.0.1", Some("ca.pem")),
    ] {
        refused(with("tls", host, ca)).await;
    }
    // The client sends nothing to a server without TLS if the address requires TLS.
    let plain = Nats::start(Version::Newest);
    let mut options = with("tls", "localhost", Some("ca.pem"));
    options.urls = vec![format!("tls://me:hunter2@localhost:{}", plain.port)];
    refused(options).await;
}

/// A producer with the rights of `schemas/README.md`, a program with the rights of a facade to owners, and the program.
const USERS: &str = r#"
    authorization { users: [
        { user: "mcp", password: "all" },
        { user: "producer", password: "some", permissions: {
            publish: ["mcp.v1.job.>", "mcp.v1.ask.tools.call", "$JS.API.INFO"], subscribe: ["_INBOX.>"] } },
        { user: "caller", password: "some", permissions: {
            publish: ["mcp.v1.ask.owner.*"], subscribe: ["_INBOX.>"] } } ] }"#;

async fn connect_as(nats: &Nats, user: &str) -> async_nats::Client {
    let options = async_nats::ConnectOptions::with_user_and_password(user.into(), "some".into());
    options.connect(nats.url()).await.expect("a connection")
}

/// Sends an ask that names a command in its header, and returns its status and its body.
async fn ask_for(
    client: &async_nats::Client,
    subject: &str,
    command: &str,
    body: &Value,
) -> (String, Value) {
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Mcp-Command", command);
    headers.insert("Mcp-Call", r#"{"user":"ana","server":"s","tool":"t"}"#);
    let reply = client
        .request_with_headers(subject.to_owned(), headers, body.to_string().into())
        .await
        .expect("a reply");
    let headers = reply.headers.expect("headers");
    let status = headers.get("Mcp-Status").expect("a status").to_string();
    let body = serde_json::from_slice(&reply.payload).unwrap_or_default();
    (status, body)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subject_carries_its_own_command_only() {
    let nats = Nats::with_config(Version::Newest, |_| format!("{JETSTREAM}\n{USERS}"));
    let all = nats.url().replace("//", "//mcp:all@");
    let options = NatsOptions::new(vec![all]);
    let bus = NatsBus::connect(options).await.expect("a bus");
    let owner = Target::Owner(ServerId(uuid::Uuid::from_u128(7)));
    let handler = Arc::new(Commands::default());
    let _pool = bus.subscribe(Target::AnyWorker(Area::Tools), handler.clone());
    let _owner = bus.subscribe(owner, handler.clone());
    bus.flush().await;
    let owner_subject = format!("mcp.v1.ask.owner.{}", uuid::Uuid::from_u128(7));
    let mut refused = 0;
    for (user, subject) in [
        ("producer", "mcp.v1.ask.tools.call"),
        ("caller", &*owner_subject),
    ] {
        let client = connect_as(&nats, user).await;
        for command in NAMES {
            let (status, body) = ask_for(&client, subject, command, &json!({})).await;
            if *command == CallTool::NAME {
                assert_eq!(status, "ok", "{body}");
                continue;
            }
            refused += 1;
            assert_eq!(
                (&*status, &body["code"]),
                ("failed", &json!("forbidden")),
                "{user} {command}: {body}"
            );
        }
    }
    assert_eq!(bus.refused_asks(), refused);
    assert_eq!(*handler.0.lock(), [CallTool::NAME; 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_registers_no_server() {
    let users = format!("{JETSTREAM}\n{USERS}\nno_auth_user: mcp");
    let nats = Nats::with_config(Version::Newest, |_| users);
    let producer = connect_as(&nats, "producer").await;
    let app = App::start_on(Some(Services::with_nats(nats)), 1, &[]);
    let started = app.dir.path().join("started");
    let register = json!({
        "id": uuid::Uuid::now_v7(),
        "server": uuid::Uuid::now_v7(),
        "name": "foreign",
        "config": { "transportType": "stdio", "command": "touch", "args": [&started] },
        "enabled": true,
    });
    let subject = "mcp.v1.ask.tools.call";
    let (status, body) = ask_for(&producer, subject, RegisterServer::NAME, &register).await;
    assert!(!started.exists(), "a producer has started a program");
    assert_eq!(
        (&*status, &body["code"]),
        ("failed", &json!("forbidden")),
        "{body}"
    );
    app.get("/mcp/servers/foreign")
        .await
        .fails(404, "server_not_found");
}

/// Records the commands that arrive.
#[derive(Default)]
struct Commands(parking_lot::Mutex<Vec<&'static str>>);

#[async_trait]
impl AskHandler for Commands {
    async fn handle(&self, ask: Ask) -> Result<Reply, Busy> {
        self.0.lock().push(ask.command);
        Ok(Reply {
            position: Position(0),
            outcome: Ok("{}".into()),
        })
    }
}
