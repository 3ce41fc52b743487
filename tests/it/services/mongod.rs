//! A real mongod: a single server or a member of a replica set.

use std::net::TcpStream;
use std::sync::LazyLock;

use mongodb::bson::{Document, doc};
use tempfile::TempDir;

use super::{Service, free_port, installed, spawn};
use crate::wait::{block_until, wait_until};

const FLAGS: &str = "--bind_ip 127.0.0.1 --nounixsocket --oplogSize 50 --wiredTigerCacheSizeGB 0.25 \
    --wiredTigerEngineConfigString log=(prealloc=false,file_max=2MB) --networkMessageCompressors disabled \
    --setParameter diagnosticDataCollectionEnabled=false --setParameter ttlMonitorSleepSecs=1 \
    --setParameter enableTestCommands=1";

/// A mongod process.
pub struct Mongod {
    pub port: u16,
    more: Vec<String>,
    dir: TempDir,
    service: Option<Service>,
}

impl Mongod {
    /// Starts a single server.
    pub fn standalone() -> Self {
        Self::start_with(&[])
    }

    pub fn start_with(more: &[&str]) -> Self {
        let more = more.iter().map(|text| text.to_string()).collect();
        let mut mongod = Self {
            port: free_port(),
            more,
            dir: TempDir::new().expect("a temporary folder"),
            service: None,
        };
        mongod.restart();
        mongod
    }

    /// Starts a replica set with a number of members.
    pub async fn set(members: usize) -> Vec<Self> {
        let set: Vec<_> = (0..members)
            .map(|_| Self::start_with(&["--replSet", "rs0"]))
            .collect();
        let hosts = set.iter().enumerate();
        let hosts: Vec<_> = hosts
            .map(|(n, m)| doc! { "_id": n as i32, "host": format!("127.0.0.1:{}", m.port) })
            .collect();
        // A short election keeps the tests short.
        let settings = doc! { "electionTimeoutMillis": 2000, "heartbeatIntervalMillis": 500 };
        let config = doc! { "_id": "rs0", "members": hosts, "settings": settings };
        let one = format!("mongodb://127.0.0.1:{}/?directConnection=true", set[0].port);
        command(&one, doc! { "replSetInitiate": config }).await;
        wait_until("the members elect a primary", async || {
            let hello = command(&one, doc! { "hello": 1 }).await;
            hello.get("primary").is_some()
        })
        .await;
        set
    }

    /// Returns the URL of a replica set with one member that all tests share, or `MONGO_URL` if it is set.
    pub fn shared() -> &'static str {
        static SHARED: LazyLock<(Vec<Mongod>, String)> = LazyLock::new(|| {
            if let Ok(url) = std::env::var("MONGO_URL") {
                return (vec![], url);
            }
            // A thread of its own, because a runtime cannot block on another runtime.
            let start = || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                runtime.expect("a runtime").block_on(Mongod::set(1))
            };
            let set = std::thread::spawn(start).join().expect("a replica set");
            let url = Mongod::url(&set);
            (set, url)
        });
        &SHARED.1
    }

    /// Returns the URL of a replica set or a single server.
    pub fn url(set: &[Self]) -> String {
        let hosts: Vec<_> = set
            .iter()
            .map(|m| format!("127.0.0.1:{}", m.port))
            .collect();
        let options = if set[0].more.is_empty() {
            ""
        } else {
            "?replicaSet=rs0"
        };
        format!("mongodb://{}/{options}", hosts.join(","))
    }

    pub fn kill(&mut self) {
        self.service = None;
    }

    /// Starts the ended server again on the same port and files.
    pub fn restart(&mut self) {
        let mut args: Vec<String> = FLAGS.split_whitespace().map(str::to_owned).collect();
        args.extend(["--port".into(), self.port.to_string()]);
        args.extend(["--dbpath".into(), self.dir.path().display().to_string()]);
        args.extend(self.more.iter().cloned());
        self.service = Some(spawn(self.dir.path(), &installed("mongod/mongod"), &args));
        let is_listening = block_until(|| TcpStream::connect(("127.0.0.1", self.port)).is_ok());
        assert!(is_listening, "mongod does not listen");
    }
}

/// Runs a command on the database admin.
pub async fn command(url: &str, command: Document) -> Document {
    let client = mongodb::Client::with_uri_str(url).await.expect("a client");
    client
        .database("admin")
        .run_command(command)
        .await
        .expect("an answer")
}
