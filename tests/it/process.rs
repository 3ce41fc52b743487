//! A process of the program, and the services that the processes of a test share.

use std::fs;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::LazyLock;

use serde_json::Value;

use crate::failure_report::last_lines;
use crate::services::mongod::Mongod;
use crate::services::nats::{Nats, Version};
use crate::wait::block_until;

/// A key of 32 bytes, because a passphrase is slow on purpose.
pub const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

/// A process of the program, with its log and its variables. Dropping it kills the process.
pub struct Process {
    pub child: Child,
    pub url: String,
    pub env: Vec<(String, String)>,
    pub log: PathBuf,
}

/// The services of a distributed program: its own NATS server and its own database.
pub struct Services {
    pub nats: Nats,
    pub mongo_url: String,
}

impl Services {
    pub fn start() -> Self {
        Self::with_nats(Nats::start(Version::Newest))
    }

    /// Uses a running NATS server and a new database.
    pub fn with_nats(nats: Nats) -> Self {
        let database = format!("t{}", uuid::Uuid::new_v4().simple());
        let mongo_url = Mongod::shared().replacen("/?", &format!("/{database}?"), 1);
        Self { nats, mongo_url }
    }

    /// Returns the variables that every process needs.
    pub fn env(&self) -> Vec<(String, String)> {
        owned(&[
            ("NATS_URL", &self.nats.url()),
            ("MONGO_URL", &self.mongo_url),
            ("SECRETS_KEY", KEY),
        ])
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    /// Starts the program and waits until it listens.
    pub fn start(dir: &Path, log: PathBuf, env: Vec<(String, String)>) -> Self {
        // Without a command, the program serves.
        let command = command(dir, &env);
        Self::spawn(command, log, env)
    }

    /// Starts the program with a limit of open files that it cannot raise.
    pub fn start_with_file_limit(
        dir: &Path,
        log: PathBuf,
        env: Vec<(String, String)>,
        files: u32,
    ) -> Self {
        let program = command(dir, &env);
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &format!("ulimit -n {files} && exec \"$0\"")])
            .arg(program.get_program())
            .env_clear()
            .current_dir(dir);
        let variables = program.get_envs();
        shell.envs(variables.filter_map(|(name, value)| Some((name, value?))));
        Self::spawn(shell, log, env)
    }

    fn spawn(mut command: Command, log: PathBuf, env: Vec<(String, String)>) -> Self {
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .expect("a log");
        let before = file.metadata().expect("a log").len();
        let child = command
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .expect("the program");
        let mut process = Self {
            child,
            url: String::new(),
            env,
            log,
        };
        let is_ready = block_until(|| {
            process.url = listening_url(&process.log, before).unwrap_or_default();
            if !process.url.is_empty() {
                return true;
            }
            if let Some(status) = process.child.try_wait().expect("a child") {
                let log = log_after(&process.log, before);
                panic!("the program ended at start ({status}):\n{log}");
            }
            false
        });
        assert!(
            is_ready,
            "the program does not listen:\n{}",
            log_after(&process.log, before)
        );
        process
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("reaped");
    }

    /// Starts the ended process again with the same variables.
    pub fn restart(&mut self, dir: &Path) {
        *self = Self::start(dir, self.log.clone(), self.env.clone());
    }

    pub fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        block_until(|| {
            status = self.child.try_wait().expect("a child");
            status.is_some()
        });
        status.expect("the program ends after SIGTERM")
    }
}

/// Returns the end of a log after its first bytes.
fn log_after(log: &Path, skipped_bytes: u64) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = text.get(skipped_bytes as usize..).unwrap_or_default();
    last_lines(&String::from_utf8_lossy(text))
}

/// Returns the URL that a log names after its first bytes, once the program listens.
fn listening_url(log: &Path, skipped_bytes: u64) -> Option<String> {
    let mut lines = BufReader::new(File::open(log).expect("the log"));
    lines.seek_relative(skipped_bytes as i64).expect("the log");
    lines.lines().map_while(Result::ok).find_map(|line| {
        let line: Value = serde_json::from_str(&line).ok()?;
        let is_listening = line["message"] == "listening";
        let address = line["addr"].as_str().filter(|_| is_listening)?;
        Some(format!("http://{address}"))
    })
}

/// Returns the path of the program. `MCP_TEST_PROGRAM` names the program of another version: a test of a repaired defect
/// must fail on it.
pub fn binary() -> &'static str {
    static PROGRAM: LazyLock<Option<String>> =
        LazyLock::new(|| std::env::var("MCP_TEST_PROGRAM").ok());
    PROGRAM.as_deref().unwrap_or(env!("CARGO_BIN_EXE_mcp-api"))
}

/// Returns a command for the program with only the variables of this machine that it needs.
pub fn command(dir: &Path, env: &[(String, String)]) -> Command {
    let mut command = Command::new(binary());
    command.env_clear().current_dir(dir);
    for name in ["PATH", "HOME", "USER", "LANG", "TMPDIR"] {
        command.envs(std::env::var_os(name).map(|value| (name, value)));
    }
    // Every process of this test has the folder in its environment, so that a survivor is found.
    command
        .env("DATA_DIR", dir.join("data"))
        .env("PORT", "0")
        .env("LOG_FORMAT", "json")
        .env("TMPDIR", dir);
    command.envs(env.iter().map(|(k, v)| (k, v)));
    command
}

pub fn owned(env: &[(&str, &str)]) -> Vec<(String, String)> {
    env.iter()
        .map(|&(k, v)| (k.to_owned(), v.to_owned()))
        .collect()
}
