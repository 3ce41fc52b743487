//! Starts the real program on a folder and a port of its own, and speaks HTTP to it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long anything in a test may take before it counts as never.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A running program. Dropped, it is killed, and all its children must be gone with it.
pub struct App {
    pub url: String,
    pub dir: TempDir,
    pub http: reqwest::Client,
    env: Vec<(String, String)>,
    child: Child,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl App {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts with further variables, on an empty folder.
    pub fn start_with(env: &[(&str, &str)]) -> Self {
        let env = env.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
        Self::start_in(TempDir::new().expect("a temporary folder"), env)
    }

    fn start_in(dir: TempDir, env: Vec<(String, String)>) -> Self {
        let (child, url) = spawn(dir.path(), &env);
        Self { url, dir, http: reqwest::Client::new(), env, child }
    }

    /// Kills the program with SIGKILL and starts it again on the same folder.
    pub fn kill_and_restart(&mut self) {
        self.kill();
        (self.child, self.url) = spawn(self.dir.path(), &self.env);
    }

    pub fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("reaped");
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGTERM and waits for the end.
    pub fn terminate(&mut self) -> std::process::ExitStatus {
        signal(self.pid(), "TERM");
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(Instant::now() < until, "the program does not end after SIGTERM");
            std::thread::yield_now();
        }
    }

    /// Everything the program has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).expect("the log")
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(Method::POST, path, Some(body)).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.send(Method::PUT, path, Some(body)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, None).await
    }

    pub async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let mut request = self.http.request(method, format!("{}{path}", self.url)).timeout(PATIENCE * 3);
        if let Some(body) = body {
            request = request.json(&body);
        }
        answer(request).await
    }

    /// Registers the fixture server of `fixtures/server.py`.
    pub async fn register_fixture(&self, name: &str) -> Answer {
        self.register(name, json!({})).await
    }

    /// Registers the fixture server with further fields.
    pub async fn register(&self, name: &str, more: Value) -> Answer {
        let mut body = json!({ "name": name, "command": "python3", "args": ["-u", fixture("server.py")] });
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        self.post("/mcp/servers", body).await
    }

    pub async fn set_secret(&self, user: &str, server: &str, name: &str, value: &str) {
        let body = json!({ "username": user, "serverName": server, "secretName": name, "secretValue": value });
        self.post("/secrets/set", body).await.ok();
    }

    pub async fn call(&self, user: &str, server: &str, tool: &str, args: Value) -> Answer {
        let body = json!({ "username": user, "serverName": server, "methodName": tool, "args": args });
        self.post("/mcp/tool/call", body).await
    }

    /// Asks until the answer is as wanted: for a level that will be reached, however long it takes.
    pub async fn until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + PATIENCE;
        loop {
            let answer = self.get(path).await;
            if wanted(&answer.body) {
                return answer.body;
            }
            assert!(Instant::now() < until, "{path} never became as wanted: {}", answer.body);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !std::thread::panicking() {
            assert_nobody_left(self.dir.path());
        } else {
            eprintln!("--- the program's log\n{}", self.log());
        }
    }
}

impl Answer {
    /// The body of a success.
    pub fn ok(self) -> Value {
        assert_eq!((self.status, &self.body["success"]), (200, &json!(true)), "{}", self.body);
        self.body
    }

    /// Checks a failure's status and code, and gives its sentence.
    pub fn fails(self, status: u16, code: &str) -> String {
        assert_eq!((self.status, &self.body["code"]), (status, &json!(code)), "{}", self.body);
        assert_eq!(self.body["success"], false, "{}", self.body);
        self.body["error"].as_str().expect("a sentence").to_owned()
    }
}

/// Sends a request and reads its JSON.
pub async fn answer(request: reqwest::RequestBuilder) -> Answer {
    let response = request.send().await.expect("an answer");
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = response.text().await.expect("a body");
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Answer { status, headers, body }
}

/// The program's own binary.
pub fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_mcp-api")
}

pub fn fixture(name: &str) -> String {
    format!("{}/tests/it/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))
}

pub fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").args([format!("-{name}"), pid.to_string()]).status().expect("kill");
    assert!(sent.success(), "signal {name} to {pid}");
}

/// The program with nothing of this machine's environment but what it needs.
pub fn command(dir: &Path, env: &[(String, String)]) -> Command {
    let mut command = Command::new(binary());
    command.env_clear().current_dir(dir);
    for name in ["PATH", "HOME", "USER", "LANG", "TMPDIR"] {
        command.envs(std::env::var_os(name).map(|value| (name, value)));
    }
    // Every process of this test has the folder in its environment: that is how a survivor is found.
    command.env("DATA_DIR", dir.join("data")).env("PORT", "0").env("LOG_FORMAT", "json").env("TMPDIR", dir);
    command.envs(env.iter().map(|(k, v)| (k, v)));
    command
}

fn spawn(dir: &Path, env: &[(String, String)]) -> (Child, String) {
    let log = File::options().create(true).append(true).open(dir.join("log")).expect("a log");
    let before = log.metadata().expect("a log").len();
    let mut child = command(dir, env).arg("serve").stdout(Stdio::null()).stderr(log).spawn().expect("the program");
    let until = Instant::now() + PATIENCE;
    loop {
        let mut log = BufReader::new(File::open(dir.join("log")).expect("the log"));
        log.seek_relative(before as i64).expect("the log");
        let listening = log.lines().map_while(Result::ok).find_map(|line| {
            let line: Value = serde_json::from_str(&line).ok()?;
            (line["message"] == "listening").then(|| line["addr"].as_str().map(str::to_owned))?
        });
        if let Some(address) = listening {
            return (child, format!("http://{address}"));
        }
        if let Some(status) = child.try_wait().expect("a child") {
            panic!(
                "the program ended at start ({status}):\n{}",
                fs::read_to_string(dir.join("log")).unwrap_or_default()
            );
        }
        assert!(Instant::now() < until, "the program does not listen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Processes that have this folder in their environment: the program's children and theirs.
pub fn left_of(dir: &Path) -> Vec<(u32, String)> {
    let needle = format!("TMPDIR={}", dir.display());
    let pids = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let ours = pids.filter(|pid| {
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environ.split(|byte| *byte == 0).any(|variable| variable == needle.as_bytes())
    });
    ours.map(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        (pid, String::from_utf8_lossy(&line).replace('\0', " "))
    })
    .collect()
}

/// Guards need a moment to see that their worker is gone; longer than that and somebody has leaked.
pub fn assert_nobody_left(dir: &Path) {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let left = left_of(dir);
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < until, "processes outlived the program: {left:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
