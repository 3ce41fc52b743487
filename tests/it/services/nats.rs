//! A real nats-server with JetStream in its own folder.

use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::free_port;
use crate::wait::block_until;

/// The configuration of JetStream, with its store in the folder of the server.
pub const JETSTREAM: &str = "jetstream { store_dir: store }";

/// The version of nats-server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Newest,
    /// 2.9.10 of Debian 12, the oldest supported version.
    Debian,
}

impl Version {
    fn program(self) -> PathBuf {
        let folder = match self {
            Self::Newest => "nats",
            Self::Debian => "nats-debian",
        };
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("target/services")
            .join(folder)
            .join("nats-server")
    }

    pub fn is_there(self) -> bool {
        self.program().exists()
    }
}

/// A nats-server. It is killed and its folder is removed when the value is dropped or the tests are killed.
pub struct Nats {
    pub port: u16,
    pub folder: PathBuf,
    version: Version,
    running: Option<Running>,
}

struct Running {
    server: Child,
    /// Kills the server when the input of the watchdog ends.
    watchdog: Child,
    leash: Option<ChildStdin>,
}

impl Nats {
    pub fn start(version: Version) -> Self {
        Self::with_config(version, |_| JETSTREAM.into())
    }

    /// Starts a server with further lines of configuration. They may name files in the folder of the server.
    pub fn with_config(version: Version, config: impl FnOnce(&Path) -> String) -> Self {
        assert!(
            version.is_there(),
            "{version:?}: nats-server is missing; tests/services/install brings it"
        );
        let folder = tempfile::tempdir().expect("a folder").keep();
        let port = free_port();
        let text = format!("listen: \"127.0.0.1:{port}\"\n{}\n", config(&folder));
        fs::write(folder.join("nats.conf"), text).expect("a configuration");
        let mut nats = Self {
            port,
            folder,
            version,
            running: None,
        };
        nats.restart();
        nats
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Kills the server. Its stored data stays.
    pub fn kill(&mut self) {
        self.end("keep");
    }

    /// Starts the server again on the same port and data.
    pub fn restart(&mut self) {
        self.kill();
        let log = fs::File::create(self.folder.join("log")).expect("a log");
        let server = Command::new(self.version.program())
            .arg("--config")
            .arg("nats.conf")
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file"))
            .stderr(log)
            .spawn()
            .expect("nats-server");
        let mut watchdog = Command::new("sh")
            .args([
                "-c",
                r#"read -r word; kill -9 "$1"; [ "$word" = keep ] || rm -rf "$2""#,
                "watchdog",
            ])
            .arg(server.id().to_string())
            .arg(&self.folder)
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh");
        let leash = watchdog.stdin.take();
        self.running = Some(Running {
            server,
            watchdog,
            leash,
        });
        let is_ready = block_until(|| {
            let running = self.running.as_mut().expect("a running server");
            let has_ended = running
                .server
                .try_wait()
                .is_ok_and(|status| status.is_some());
            has_ended || self.greets()
        });
        let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        assert!(
            is_ready && self.greets(),
            "nats-server does not start:\n{log}"
        );
    }

    fn greets(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) else {
            return false;
        };
        let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
        let mut beginning = [0; 4];
        stream.read_exact(&mut beginning).is_ok() && beginning == *b"INFO"
    }

    /// Stops the server like a machine that hangs: its connections stay open.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        // A stopped process goes on for a moment, until each of its threads receives the signal.
        let running = self.running.as_ref().expect("a running server");
        let tasks = format!("/proc/{}/task", running.server.id());
        let is_stopped = |task: fs::DirEntry| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            // The state follows the name, which is in brackets.
            stat.rsplit_once(") ")
                .is_none_or(|(_, rest)| rest.starts_with('T'))
        };
        let is_paused = block_until(|| {
            let mut threads = fs::read_dir(&tasks).expect("the threads").flatten();
            threads.all(is_stopped)
        });
        assert!(is_paused, "nats-server does not stop");
    }

    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let running = self.running.as_ref().expect("a running server");
        kill_process(Pid::from_child(&running.server), signal).expect("a signal");
    }

    fn end(&mut self, instruction: &str) {
        use std::io::Write;
        let Some(mut running) = self.running.take() else {
            return;
        };
        if let Some(mut leash) = running.leash.take() {
            let _ = writeln!(leash, "{instruction}");
        }
        let _ = running.watchdog.wait();
        let _ = running.server.wait();
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.end("remove");
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Returns the URL of the server that all tests share. Each test uses its own prefix. `NATS_URL` replaces the newest
/// version. Returns `None` if the version is not installed.
pub fn shared(version: Version) -> Option<String> {
    static NEWEST: OnceLock<Nats> = OnceLock::new();
    static DEBIAN: OnceLock<Nats> = OnceLock::new();
    let server = match version {
        Version::Newest => match std::env::var("NATS_URL") {
            Ok(url) => return Some(url),
            Err(_) => &NEWEST,
        },
        Version::Debian if !version.is_there() => return None,
        Version::Debian => &DEBIAN,
    };
    Some(server.get_or_init(|| Nats::start(version)).url())
}
