//! Packages from the real npm and PyPI.

mod credentials;
mod install;
mod python;
mod registry;
mod server_json;
mod spread;
mod upgrade;
mod uv;
mod uv_settings;
mod wrong;

use std::path::PathBuf;

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, App, answer};
use crate::wait::wait_until;

pub const MEMORY: &str = "@modelcontextprotocol/server-memory";
pub const MEMORY_OLD: &str = "2026.1.26";
pub const MEMORY_NEW: &str = "2026.8.31";

/// Returns the variables of this machine for installers, and caches that all tests share.
pub fn env() -> Vec<(String, String)> {
    let passed = [
        "NODE_EXTRA_CA_CERTS",
        "SSL_CERT_FILE",
        "PIP_CERT",
        "PIP_DEFAULT_TIMEOUT",
    ];
    let passed = passed
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)));
    let cache = |name: &str| {
        format!(
            "{}/target/services/cache/{name}",
            env!("CARGO_MANIFEST_DIR")
        )
    };
    let own = [
        ("npm_config_cache", cache("npm")),
        ("npm_config_prefer_offline", "true".to_owned()),
        ("PIP_CACHE_DIR", cache("pip")),
        ("UV_BIN", uv_program()),
    ];
    passed
        .chain(
            own.into_iter()
                .map(|(name, value)| (name.to_owned(), value)),
        )
        .collect()
}

/// Returns the uv that `tests/services/install` has installed.
pub fn uv_program() -> String {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/target/services/uv/bin/uv");
    let is_there = std::path::Path::new(program).exists();
    assert!(is_there, "run tests/services/install first");
    program.to_owned()
}

/// Starts the program with the variables for installers.
pub fn start() -> App {
    start_with(&[])
}

pub fn start_with(more: &[(&str, &str)]) -> App {
    let env = env();
    let env: Vec<_> = env
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_str()))
        .chain(more.iter().copied())
        .collect();
    App::start_with(&env)
}

impl App {
    /// Installs a package and waits for it, as long as networks are slow.
    pub async fn install(&self, body: Value) -> Answer {
        self.slowly(Method::POST, "/packages/install", Some(body))
            .await
    }

    pub async fn upgrade(&self, server: &str, body: Option<Value>) -> Answer {
        self.slowly(Method::PUT, &format!("/packages/{server}/upgrade"), body)
            .await
    }

    pub async fn slowly(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        if let Some(body) = body {
            request = request.json(&body);
        }
        answer(request.timeout(std::time::Duration::from_secs(300))).await
    }

    pub async fn install_memory(&self, server: &str, version: &str) -> Answer {
        let file = self.dir.path().join(format!("{server}.json"));
        let env = json!({ "MEMORY_FILE_PATH": file });
        self.install(
            json!({ "name": MEMORY, "version": version, "serverName": server, "env": env }),
        )
        .await
    }

    pub fn packages(&self) -> PathBuf {
        self.data().join("packages")
    }

    /// The folders of what was built, of npm and of Python.
    pub fn versions(&self) -> Vec<String> {
        let shelves = [
            self.packages().join(".versions"),
            self.packages().join("python/.versions"),
        ];
        let entries = shelves
            .iter()
            .flat_map(|shelf| std::fs::read_dir(shelf).into_iter().flatten().flatten());
        let names = entries.map(|entry| entry.file_name().into_string().expect("UTF-8"));
        let is_tool = |name: &String| name.starts_with("pip-") || name.starts_with("uv-");
        names.filter(|name| !is_tool(name)).collect()
    }

    /// Waits until no folder of a package is left.
    pub async fn until_no_package_is_left(&self) {
        wait_until("all built packages are removed", async || {
            self.versions().is_empty()
        })
        .await;
    }
}
