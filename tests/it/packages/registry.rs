//! A registry of npm and an index of PyPI on loopback, with packages that a test describes.

use std::net::TcpListener;
use std::process::{Child, Command};

use serde_json::{Value, json};

use super::start_with;
use crate::harness::{App, fixture, python};
use crate::wait::wait_until;

/// The running registry. Dropping it kills it.
pub struct Registry {
    url: String,
    child: Child,
}

/// Returns a package that ends without the variable `API_KEY`.
pub fn needs_key(name: &str, version: &str, server_json: &Value) -> Value {
    json!({ "name": name, "version": version, "needsKey": true, "serverJson": server_json.to_string() })
}

/// Returns a package that starts without a variable. `None`: it has no `server.json`.
pub fn keyless(name: &str, server_json: Option<&str>) -> Value {
    json!({ "name": name, "version": "1.0.0", "needsKey": false, "serverJson": server_json })
}

impl Registry {
    pub async fn start(packages: &[Value]) -> Self {
        Self::start_for(packages, "").await
    }

    /// Starts a registry for one user, `name:password`. An empty text: for everybody.
    pub async fn start_for(packages: &[Value], user: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let mut command = Command::new(python());
        command.args([fixture("registry.py"), port.to_string()]);
        command.args([json!(packages).to_string(), user.to_owned()]);
        let registry = Self {
            url: format!("http://127.0.0.1:{port}"),
            child: command.spawn().expect("a registry"),
        };
        wait_until("the registry listens", async || {
            let connected = tokio::net::TcpStream::connect(("127.0.0.1", port)).await;
            connected.is_ok()
        })
        .await;
        registry
    }

    /// Returns the URL of the index of PyPI.
    pub fn index(&self) -> String {
        format!("{}/simple", self.url)
    }

    /// Starts the program, whose packages come from this registry.
    pub fn app(&self) -> App {
        self.app_with(&[])
    }

    /// Starts the program with further variables, which win.
    pub fn app_with(&self, more: &[(&str, &str)]) -> App {
        let index = self.index();
        // The ports of registries repeat, so the caches of other tests may hold other packages.
        let cache = self.url.replace(['/', ':'], "-");
        let cache = format!("{}/{cache}", env!("CARGO_TARGET_TMPDIR"));
        let _ = std::fs::remove_dir_all(&cache);
        let own = [
            ("npm_config_registry", self.url.as_str()),
            ("npm_config_cache", &cache),
            ("PIP_INDEX_URL", &index),
            ("PIP_CACHE_DIR", &cache),
        ];
        let all: Vec<_> = own.into_iter().chain(more.iter().copied()).collect();
        start_with(&all)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
