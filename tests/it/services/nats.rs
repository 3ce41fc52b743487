//! A real nats-server with JetStream.

use std::fs;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{Service, free_port, installed, spawn};
use crate::harness::PATIENCE;

/// The newest, and the oldest that is supported.
pub const NEWEST: &str = "nats/nats-server";
pub const DEBIAN: &str = "nats-debian/usr/sbin/nats-server";

pub struct Nats {
    program: &'static str,
    port: u16,
    dir: TempDir,
    service: Option<Service>,
}

impl Nats {
    pub fn start() -> Self {
        Self::start_with(NEWEST, "")
    }

    /// Starts a server of that version with further configuration.
    pub fn start_with(program: &'static str, config: &str) -> Self {
        let dir = TempDir::new().expect("a temporary folder");
        let port = free_port();
        let config = format!(
            "listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: \"{}\" }}\n{config}\n",
            dir.path().display()
        );
        fs::write(dir.path().join("nats.conf"), config).expect("a configuration");
        let mut nats = Self { program, port, dir, service: None };
        nats.restart();
        nats
    }

    pub fn is_there(program: &str) -> bool {
        fs::exists(installed(program)).expect("a folder")
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn kill(&mut self) {
        self.service = None;
    }

    /// Starts it again on the same port and the same files. It must have ended.
    pub fn restart(&mut self) {
        let config = self.dir.path().join("nats.conf").display().to_string();
        self.service = Some(spawn(self.dir.path(), &installed(self.program), &["-c".into(), config]));
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(Instant::now() < until, "nats-server does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn signal(&self, name: &str) {
        self.service.as_ref().expect("it runs").signal(name);
    }
}
