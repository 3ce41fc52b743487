//! The MongoDB store with a primary that dies, with an unreachable server, and with TLS.

use std::collections::HashMap;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use mongodb::IndexModel;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Document, doc};
use tempfile::TempDir;

use crate::harness::PATIENCE;
use crate::samples::{command_id, small_entry, value_id};
use crate::services::mongod;
use crate::services::mongod::Mongod;
use crate::wait::wait_until;
use mcp_api::adapters::store_mongo::{MongoOptions, MongoStore};
use mcp_api::core::ids::{CommandId, LeaseId, Position, WorkerId};
use mcp_api::eventlog::snapshot;
use mcp_api::ports::event_log::{AppendError, EventLog, ReadLimit};
use mcp_api::ports::leases::Leases;
use mcp_api::ports::vault::{Sealed, Vault, WrappingChange};

async fn connect(url: &str) -> Arc<MongoStore> {
    let until = Instant::now() + PATIENCE;
    loop {
        let options = MongoOptions {
            url: url.into(),
            database: "test".into(),
            secrets: "secrets".into(),
        };
        match MongoStore::connect(options).await {
            Ok(store) => return Arc::new(store),
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
    }
}

/// Appends until the time is over, and returns the acknowledged entries.
async fn append(store: Arc<MongoStore>, until: Instant) -> HashMap<CommandId, Position> {
    let mut acknowledged = HashMap::new();
    while Instant::now() < until {
        let Ok(head) = store.head().await else {
            continue;
        };
        let (next, id) = (head.next(), command_id());
        match store.append(&small_entry(next.0, id), &[]).await {
            Ok(()) => drop(acknowledged.insert(id, next)),
            Err(AppendError::Taken | AppendError::Store(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_primary_loses_no_acknowledged_entry() {
    let mut set = Mongod::set(3).await;
    let url = Mongod::url(&set);
    let store = connect(&url).await;
    let until = Instant::now() + Duration::from_secs(12);
    let appenders: Vec<_> = (0..4)
        .map(|_| tokio::spawn(append(store.clone(), until)))
        .collect();
    wait_until("the primary has stored some appends", async || {
        store.head().await.is_ok_and(|head| head >= Position(100))
    })
    .await;
    let one = format!("mongodb://127.0.0.1:{}/?directConnection=true", set[0].port);
    let hello = mongod::command(&one, mongodb::bson::doc! { "hello": 1 }).await;
    let primary: u16 = hello
        .get_str("primary")
        .expect("a primary")
        .rsplit_once(':')
        .expect("a port")
        .1
        .parse()
        .expect("a port");
    let primary = set
        .iter()
        .position(|member| member.port == primary)
        .expect("one of ours");
    let (before, killed) = (store.head().await.expect("a head"), Instant::now());
    set[primary].kill();
    wait_until("another takes writes", async || {
        store.head().await.is_ok_and(|head| head > before)
    })
    .await;
    println!(
        "appends went on {:?} after their primary was killed",
        killed.elapsed()
    );
    let mut acknowledged = HashMap::new();
    for appender in appenders {
        acknowledged.extend(appender.await.expect("an appender"));
    }
    set[primary].restart();
    let store = connect(&url).await;
    let read = store
        .read(Position(0), ReadLimit::entries(1_000_000))
        .await
        .expect("entries");
    let positions: Vec<u64> = read.iter().map(|entry| entry.position.0).collect();
    assert_eq!(
        positions,
        (1..=positions.len() as u64).collect::<Vec<_>>(),
        "no gap"
    );
    let stored: HashMap<_, _> = read
        .iter()
        .map(|entry| (entry.commits[0].command_id, entry.position))
        .collect();
    println!(
        "{} acknowledged of {} stored",
        acknowledged.len(),
        stored.len()
    );
    assert!(acknowledged.len() > 20, "too few to show anything");
    for (id, position) in acknowledged {
        assert_eq!(
            stored.get(&id),
            Some(&position),
            "an acknowledged append is where it was said to be"
        );
    }
}

#[tokio::test]
async fn a_snapshot_may_be_larger_than_a_document() {
    let store = connect(&Mongod::shared().replacen("/?", "/large?", 1)).await;
    let large = Arc::new(crate::memory::with_jobs(100_000));
    assert!(crate::samples::snapshot(&large).len() > 20 << 20);
    snapshot::save_snapshot(&*store, large.clone())
        .await
        .expect("saved");
    let read = snapshot::load_snapshot(&*store)
        .await
        .expect("an answer")
        .expect("a snapshot");
    assert!(
        crate::samples::snapshot(&read) == crate::samples::snapshot(&large),
        "the newest, and whole"
    );
}

#[tokio::test]
async fn a_lease_whose_document_is_gone_does_not_start_again() {
    let url = Mongod::shared().replacen("/?", "/forgotten?", 1);
    let store = connect(&url).await;
    let (lease, holder) = (LeaseId(value_id().0), WorkerId(value_id().0));
    let take = async || {
        store
            .acquire(lease, holder, PATIENCE)
            .await
            .expect("an answer")
            .expect("it is free")
    };
    let first = take().await;
    store.release(lease, holder).await.expect("released");
    let client = mongodb::Client::with_uri_str(&url)
        .await
        .expect("connected");
    let leases = client
        .default_database()
        .expect("a database")
        .collection::<Document>("mcpapi_leases");
    // MongoDB removes the document after a while, because of a TTL index.
    let indexes: Vec<_> = leases
        .list_indexes()
        .await
        .expect("indexes")
        .try_collect()
        .await
        .expect("indexes");
    let expires = |index: &IndexModel| {
        index
            .options
            .as_ref()
            .is_some_and(|options| options.expire_after.is_some())
    };
    assert!(
        indexes
            .iter()
            .any(|index| expires(index) && index.keys.contains_key("until")),
        "{indexes:?}"
    );
    leases.delete_many(doc! {}).await.expect("deleted");
    assert!(take().await > first);
}

#[tokio::test]
async fn an_unreachable_server_is_an_error_within_a_second() {
    let mut server = Mongod::standalone();
    let store = connect(&Mongod::url(std::slice::from_ref(&server))).await;
    store
        .append(&small_entry(1, command_id()), &[])
        .await
        .expect("appended");
    server.kill();
    // The first call may detect the failure.
    let _ = store.head().await;
    for _ in 0..3 {
        let began = Instant::now();
        assert!(matches!(
            store.append(&small_entry(2, command_id()), &[]).await,
            Err(AppendError::Store(_))
        ));
        assert!(store.head().await.is_err());
        assert!(
            began.elapsed() < Duration::from_secs(15),
            "{:?} for two",
            began.elapsed()
        );
    }
    server.restart();
    wait_until("it is back", async || {
        store
            .append(&small_entry(2, command_id()), &[])
            .await
            .is_ok()
    })
    .await;
}

#[tokio::test]
async fn tls_accepts_only_a_server_with_a_trusted_certificate() {
    let dir = TempDir::new().expect("a folder");
    let path = |name: &str| dir.path().join(name).display().to_string();
    let openssl = |args: &[&str]| {
        let done = Command::new("openssl")
            .args(args)
            .current_dir(dir.path())
            .output()
            .expect("openssl");
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
    };
    openssl(&[
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=test CA",
        "-keyout",
        "ca.key",
        "-out",
        "ca.pem",
    ]);
    openssl(&[
        "req",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=localhost",
        "-keyout",
        "key.pem",
        "-out",
        "request.pem",
    ]);
    std::fs::write(path("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1").expect("a file");
    openssl(&[
        "x509",
        "-req",
        "-in",
        "request.pem",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "2",
        "-extfile",
        "names",
        "-out",
        "cert.pem",
    ]);
    let both = [
        std::fs::read(path("cert.pem")),
        std::fs::read(path("key.pem")),
    ]
    .map(|file| file.expect("a file"))
    .concat();
    std::fs::write(path("both.pem"), both).expect("a file");
    let (both, ca) = (path("both.pem"), path("ca.pem"));
    let server = Mongod::start_with(&["--tlsMode", "requireTLS", "--tlsCertificateKeyFile", &both]);
    let base = format!("mongodb://127.0.0.1:{}/?directConnection=true", server.port);
    let store = connect(&format!("{base}&tls=true&tlsCAFile={ca}")).await;
    store
        .append(&small_entry(1, command_id()), &[])
        .await
        .expect("appended over TLS");
    for wrong in [format!("{base}&tls=true"), base.clone()] {
        let options = MongoOptions {
            url: wrong,
            database: "test".into(),
            secrets: "secrets".into(),
        };
        assert!(
            MongoStore::connect(options).await.is_err(),
            "a certificate of an unknown authority, or no certificate"
        );
    }
}

/// An earlier version stored the wrapping and the value in one field of the document.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_of_an_earlier_version_is_read_and_rewrapped() {
    let mongod = Mongod::standalone();
    let url = format!("mongodb://127.0.0.1:{}/", mongod.port);
    let store = connect(&url).await;
    let (id, all) = (
        value_id(),
        [[1; Sealed::WRAPPING], [7; Sealed::WRAPPING]].concat(),
    );
    let vault = mongodb::Client::with_uri_str(&url)
        .await
        .expect("a client")
        .database("test");
    let vault = vault.collection::<Document>("mcpapi_secrets");
    let sealed = Binary {
        subtype: BinarySubtype::Generic,
        bytes: all.clone(),
    };
    let earlier =
        doc! { "_id": id.to_string(), "putAt": mongodb::bson::DateTime::now(), "sealed": sealed };
    vault.insert_one(earlier).await.expect("put");

    let is = async |bytes: &[u8]| {
        store.get(&[id]).await.expect("got") == [Some(Sealed(bytes.to_vec().into()))]
    };
    store
        .put(id, Sealed(vec![9; 100].into()))
        .await
        .expect("put again");
    assert!(is(&all).await);
    let (from, rest) = Sealed(all.clone().into()).split();
    assert!(store.wrappings(None, 2).await.expect("wrappings") == [(id, from.clone())]);
    let to = vec![2; Sealed::WRAPPING];
    for (given, from) in [
        (0, rest.slice(..Sealed::WRAPPING)),
        (1, from.clone()),
        (0, from),
    ] {
        let change = WrappingChange {
            id,
            from,
            to: to.clone().into(),
        };
        assert_eq!(store.rewrap(vec![change]).await.expect("an answer"), given);
    }
    assert!(is(&[to, rest.to_vec()].concat()).await);
}
