//! The server, the proxy and the stores that the old data need.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::{fs, io};

use mongodb::bson::Document;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use crate::process::owned;
use crate::remote::script::Script;

use super::{SECRETS_KEY, fixture};

/// Starts a proxy that connects every tunnel to one address, and returns the URL of the proxy.
async fn start_proxy(to: SocketAddr) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(tunnel(client, to));
        }
    });
    format!("http://{address}")
}

async fn tunnel(mut client: TcpStream, to: SocketAddr) -> io::Result<()> {
    let mut head = vec![];
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    let mut server = TcpStream::connect(to).await?;
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}

/// The server behind `tools.example.com`, and the variables of the program.
pub struct Surroundings {
    pub script: Script,
    pub env: Vec<(String, String)>,
}

impl Surroundings {
    pub async fn start() -> Self {
        let script = Script::start(|_| None).await;
        let address = script
            .url
            .trim_start_matches("http://")
            .trim_end_matches("/mcp")
            .parse()
            .expect("an address");
        let proxy = start_proxy(address).await;
        // Without Python, the stored installation job fails before it asks a package index.
        let env = [
            ("SECRETS_KEY", SECRETS_KEY),
            ("PYTHON_BIN", "no-such-python"),
            ("HTTP_PROXY", &proxy),
        ];
        let env = owned(&env);
        Self { script, env }
    }

    pub fn env(&self) -> Vec<(&str, &str)> {
        self.env
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect()
    }
}

/// Unpacks `stores.tar.gz` and returns the folder: `data` is a `DATA_DIR`, `mongo` holds the dumped collections.
pub fn unpack() -> TempDir {
    let dir = TempDir::new().expect("a temporary folder");
    let status = Command::new("tar")
        .arg("-xzf")
        .arg(fixture("stores.tar.gz"))
        .current_dir(dir.path())
        .status();
    assert!(status.expect("tar").success());
    dir
}

/// Loads the dumped collections into the database.
pub async fn load_dump(dump: &Path, url: &str) {
    let client = mongodb::Client::with_uri_str(url).await.expect("a client");
    let database = client.default_database().expect("a database");
    for entry in fs::read_dir(dump).expect("a dump") {
        let path = entry.expect("a file").path();
        let mut file = BufReader::new(File::open(&path).expect("a dump"));
        let mut documents = vec![];
        while !file.fill_buf().expect("a dump").is_empty() {
            documents.push(Document::from_reader(&mut file).expect("a document"));
        }
        let name = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .expect("a name");
        database
            .collection::<Document>(name)
            .insert_many(documents)
            .await
            .expect("inserted");
    }
}
