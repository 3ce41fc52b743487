//! Starts the real program on a new folder and a free port, and sends HTTP requests to it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::failure_report;
use crate::process::owned;
pub use crate::process::{Process, Services, command};
use crate::processes::{assert_no_process_left, signal};
pub use crate::wait::PATIENCE;
use crate::wait::{block_until, wait_at_most};

/// The running program: one process, or a facade and three workers with real services if `MCP_TEST_DISTRIBUTED` is set.
/// Dropping it kills all processes, and fails the test if a child process survives.
pub struct App {
    pub url: String,
    pub dir: TempDir,
    pub http: reqwest::Client,
    env: Vec<(String, String)>,
    /// The first process answers HTTP requests.
    pub processes: Vec<Process>,
    pub services: Option<Services>,
}

/// A response.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

/// The number of workers of a distributed program.
const WORKERS: usize = 3;

impl App {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts the program with further variables on an empty folder.
    pub fn start_with(env: &[(&str, &str)]) -> Self {
        match std::env::var_os("MCP_TEST_DISTRIBUTED") {
            Some(_) => Self::distributed(WORKERS, env),
            None => Self::embedded_with(env),
        }
    }

    /// Starts one process in both setups.
    pub fn embedded() -> Self {
        Self::embedded_with(&[])
    }

    pub fn embedded_with(env: &[(&str, &str)]) -> Self {
        Self::start_on(None, 0, env)
    }

    /// Starts a facade and workers in both setups.
    pub fn distributed(workers: usize, env: &[(&str, &str)]) -> Self {
        Self::start_on(Some(Services::start()), workers, env)
    }

    pub fn start_on(services: Option<Services>, workers: usize, env: &[(&str, &str)]) -> Self {
        Self::start_in(
            TempDir::new().expect("a temporary folder"),
            services,
            workers,
            env,
        )
    }

    /// Starts the program on a folder that may hold data.
    pub fn start_in(
        dir: TempDir,
        services: Option<Services>,
        workers: usize,
        env: &[(&str, &str)],
    ) -> Self {
        failure_report::keep_panics();
        let mut app = Self {
            url: String::new(),
            dir,
            http: reqwest::Client::new(),
            env: owned(env),
            processes: vec![],
            services,
        };
        app.start_all(workers);
        app
    }

    fn start_all(&mut self, workers: usize) {
        let roles = if self.services.is_some() {
            &["api", "worker"][..]
        } else {
            &["api,worker"]
        };
        let starts: Vec<_> = (0..=workers)
            .map(|n| {
                let env = self.env_of(roles[n.min(roles.len() - 1)]);
                let (dir, log) = (
                    self.dir.path().to_owned(),
                    self.dir.path().join(format!("log.{n}")),
                );
                // All processes start at once, because each start takes a while.
                std::thread::spawn(move || Process::start(&dir, log, env))
            })
            .collect();
        self.processes = starts
            .into_iter()
            .map(|start| start.join().expect("a process"))
            .collect();
        self.url = self.processes[0].url.clone();
    }

    fn env_of(&self, roles: &str) -> Vec<(String, String)> {
        let mut env = self
            .services
            .as_ref()
            .map(Services::env)
            .unwrap_or_default();
        if self.services.is_some() {
            env.push(("ROLES".into(), roles.into()));
        }
        env.extend(self.env.iter().cloned());
        env
    }

    /// Starts one more process with roles, and returns its number.
    pub fn add(&mut self, roles: &str) -> usize {
        self.add_with(roles, &[])
    }

    /// Starts one more process with roles and further variables, and returns its number.
    pub fn add_with(&mut self, roles: &str, more: &[(&str, &str)]) -> usize {
        let log = self
            .dir
            .path()
            .join(format!("log.{}", self.processes.len()));
        let env = [self.env_of(roles), owned(more)].concat();
        self.processes
            .push(Process::start(self.dir.path(), log, env));
        self.processes.len() - 1
    }

    /// Starts the ended program again on the same folder, with these variables only.
    pub fn restart_with(&mut self, env: &[(&str, &str)]) {
        self.env = owned(env);
        self.restart();
    }

    /// Starts the ended program again on the same folder.
    pub fn restart(&mut self) {
        self.start_all(self.processes.len() - 1);
    }

    /// Kills the program with SIGKILL and starts it again on the same folder.
    pub fn kill_and_restart(&mut self) {
        self.kill();
        self.restart();
    }

    pub fn kill(&mut self) {
        self.processes.iter_mut().for_each(Process::kill);
    }

    pub fn pid(&self) -> u32 {
        self.processes[0].pid()
    }

    /// Sends SIGTERM and waits until all processes have ended.
    pub fn terminate(&mut self) -> std::process::ExitStatus {
        self.processes
            .iter()
            .for_each(|process| signal(process.pid(), "TERM"));
        self.wait()
    }

    /// Waits until all processes have ended.
    pub fn wait(&mut self) -> std::process::ExitStatus {
        let ends: Vec<_> = self.processes.iter_mut().map(Process::wait).collect();
        ends[0]
    }

    /// Returns the log of all processes.
    pub fn log(&self) -> String {
        let logs = self
            .processes
            .iter()
            .map(|process| fs::read_to_string(&process.log).expect("a log"));
        logs.collect()
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
        let mut request = self
            .http
            .request(method, format!("{}{path}", self.url))
            .timeout(PATIENCE * 3);
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
        let mut body =
            json!({ "name": name, "command": python(), "args": ["-u", fixture("server.py")] });
        body.as_object_mut()
            .expect("an object")
            .extend(more.as_object().expect("an object").clone());
        self.post("/mcp/servers", body).await
    }

    pub async fn set_secret(&self, user: &str, server: &str, name: &str, value: &str) {
        let body = json!({ "username": user, "serverName": server, "secretName": name, "secretValue": value });
        self.post("/secrets/set", body).await.ok();
    }

    pub async fn call(&self, user: &str, server: &str, tool: &str, args: Value) -> Answer {
        let body =
            json!({ "username": user, "serverName": server, "methodName": tool, "args": args });
        self.post("/mcp/tool/call", body).await
    }

    /// Calls a tool and returns its text result.
    pub async fn text(&self, server: &str, tool: &str, args: Value) -> String {
        let answer = self.call("default", server, tool, args).await.ok();
        answer["data"]["content"]
            .as_str()
            .expect("a text")
            .to_owned()
    }

    /// Returns the process id of a fixture server.
    pub async fn pid_of(&self, server: &str) -> u32 {
        self.text(server, "pid", json!({}))
            .await
            .parse()
            .expect("a pid")
    }

    /// Waits until a fixture server executes no call, and returns its process id. From then on, its threads count the
    /// calls.
    pub async fn idle(&self, server: &str) -> u32 {
        let pid = self.pid_of(server).await;
        crate::processes::idle(pid).await;
        pid
    }

    pub async fn server(&self, name: &str) -> Value {
        self.get(&format!("/mcp/servers/{name}")).await.ok()["server"].take()
    }

    /// Returns all events as `<type> <subject>`.
    pub async fn happened(&self) -> Vec<String> {
        let events = self.get("/events?limit=1000").await.ok();
        let events = events["events"].as_array().expect("events");
        let line = |event: &Value| {
            Some(format!(
                "{} {}",
                event["type"].as_str()?,
                event["subject"].as_str()?
            ))
        };
        events
            .iter()
            .map(|event| line(event).expect("texts"))
            .collect()
    }

    /// Returns one value of `/metrics`: the line that begins with the name and contains all labels.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let text = self.get("/metrics").await.body;
        figure(text.as_str().expect("a text"), name, labels)
    }

    /// Returns the sum of one value of `/metrics` over all processes.
    pub async fn total(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let mut total = 0.0;
        for process in &self.processes {
            let request = self.http.get(format!("{}/metrics", process.url));
            let text = answer(request).await.body;
            total += figure(text.as_str().expect("a text"), name, labels).unwrap_or_default();
        }
        total
    }

    /// Sends a request as raw bytes, and returns the status, the head and the body of the response.
    pub async fn raw(&self, request: &str) -> (u16, String, Value) {
        let mut stream = TcpStream::connect(self.url.strip_prefix("http://").expect("a URL"))
            .await
            .expect("connected");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut text = String::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_string(&mut text)).await;
        read.expect("an answer that ends").expect("an answer");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .expect("a status");
        (
            status,
            head.to_ascii_lowercase(),
            serde_json::from_str(body).unwrap_or(Value::String(body.into())),
        )
    }

    /// Gets a path until its body fulfills a condition, and returns that body.
    pub async fn until(&self, path: &str, is_reached: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let found = wait_at_most(PATIENCE, async || {
            last = self.get(path).await.body;
            is_reached(&last).then(|| last.clone())
        })
        .await;
        found.unwrap_or_else(|| panic!("{path} never fulfilled the condition: {last}"))
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.processes.iter_mut().for_each(|process| {
            let _ = process.child.kill();
            let _ = process.child.wait();
        });
        if !std::thread::panicking() {
            assert_no_process_left(self.dir.path());
        } else {
            let logs = self.processes.iter().map(|process| process.log.as_path());
            failure_report::print(&logs.collect::<Vec<_>>());
        }
    }
}

impl Answer {
    /// Returns the body of a success.
    pub fn ok(self) -> Value {
        assert_eq!(
            (self.status, &self.body["success"]),
            (200, &json!(true)),
            "{}",
            self.body
        );
        self.body
    }

    /// Checks the status and the code of a failure, and returns its sentence.
    pub fn fails(self, status: u16, code: &str) -> String {
        assert_eq!(
            (self.status, &self.body["code"]),
            (status, &json!(code)),
            "{}",
            self.body
        );
        assert_eq!(self.body["success"], false, "{}", self.body);
        self.body["error"].as_str().expect("a sentence").to_owned()
    }
}

/// Returns one value of the text of `/metrics`.
fn figure(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let labels: Vec<_> = labels
        .iter()
        .map(|(key, value)| format!("{key}=\"{value}\""))
        .collect();
    let line = text.lines().find(|line| {
        line.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|label| line.contains(label))
    });
    let figure = line?.rsplit_once(' ').expect("a figure").1;
    Some(figure.parse().expect("a number"))
}

/// Sends a request and returns the response with its JSON.
pub async fn answer(request: reqwest::RequestBuilder) -> Answer {
    let response = request.send().await.expect("an answer");
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = response.text().await.expect("a body");
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Answer {
        status,
        headers,
        body,
    }
}

/// Starts the program, which must refuse to start, and returns its error output.
pub fn refused(dir: &Path, env: &[(&str, &str)]) -> String {
    let mut command = command(dir, &owned(env));
    let mut child = command
        .arg("serve")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program");
    if !block_until(|| child.try_wait().expect("a child").is_some()) {
        let _ = child.kill();
        panic!("the program does not refuse to start with {env:?}");
    }
    let output = child.wait_with_output().expect("its output");
    assert!(!output.status.success(), "it ended as if all were well");
    String::from_utf8(output.stderr).expect("UTF-8")
}

/// Returns the path of the Python interpreter, because `python3` may be a script that starts slowly.
pub fn python() -> &'static str {
    static PYTHON: LazyLock<String> = LazyLock::new(|| {
        let asked = Command::new("python3")
            .args(["-c", "import sys; print(sys.executable)"])
            .output();
        String::from_utf8(asked.expect("python3").stdout)
            .expect("a path")
            .trim()
            .to_owned()
    });
    &PYTHON
}

pub fn fixture(name: &str) -> String {
    format!("{}/tests/it/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))
}
