//! A server that is a child process: its process, its session and its calls.

use std::collections::BTreeMap;
use std::process::ExitStatus;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use rmcp::model::ClientConfig;
use rmcp::service::{RoleClient, RunningService};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::call::{CallError, ClientOptions, ConnectError, UserRequest, call_over};
use super::handshake::Handshake;
use super::host::NotificationSink;
use super::line_reader::LineReader;
use super::mux::Mux;
use super::resource_watch::subscribe_over;
use super::rmcp_bridge::{client_config, new_bridge};
use super::stderr::read_stderr;
use super::tool_list::list_over;
use super::writer::write_all;
use crate::core::model::tool::Tools;
use crate::time::clock::now_ms;
use crate::workers::guard;
use crate::workers::guard::Process;

/// The longest wait for the exit status and the last lines of an ended child.
const EXIT_WAIT: Duration = Duration::from_millis(500);

/// The program to start.
pub struct StdioTarget<'a> {
    pub command: &'a str,
    pub args: &'a [String],
    pub env: &'a BTreeMap<String, String>,
    /// Further variables, which are credentials.
    pub secret_env: &'a [(String, Zeroizing<String>)],
    /// The set that renews the child's life.
    pub children: &'a guard::ChildSet,
    /// The time until the guard kills a child without a renewal.
    pub ttl: Duration,
    /// A child that reads nothing for this time is closed.
    pub stall_limit: Duration,
    /// Kept until the connection is dropped, for example the files of a package.
    pub resources: Option<Box<dyn Send + Sync>>,
}

/// A connected child process.
pub struct StdioConnection {
    mux: Arc<Mux>,
    sink: Arc<dyn NotificationSink>,
    process: Mutex<Option<Process>>,
    tasks: Vec<JoinHandle<()>>,
    /// Cancelled when the standard error has ended and all its lines were logged.
    stderr_drained: CancellationToken,
    /// Answers requests of the server.
    _session: RunningService<RoleClient, ClientConfig>,
    initialize: Arc<OnceLock<Bytes>>,
    result_limit: usize,
    pub started_at: u64,
    _resources: Option<Box<dyn Send + Sync>>,
}

/// A child whose session is not open yet. Dropping it kills the child.
struct StartingChild {
    mux: Arc<Mux>,
    /// `None` after the session was opened.
    process: Option<Process>,
    tasks: Vec<JoinHandle<()>>,
    stderr_drained: CancellationToken,
}

impl StdioConnection {
    /// Starts the child, opens the session and lists the tools. Dropping the future kills the child.
    pub async fn connect(
        target: StdioTarget<'_>,
        options: ClientOptions,
    ) -> Result<(Self, Tools), ConnectError> {
        let ClientOptions {
            sink,
            watch,
            result_limit,
        } = options;
        let started_at = now_ms();
        let env = target.env.iter();
        let env = env.map(|(name, value)| (name.as_str(), value.as_str()));
        let secret_env = target.secret_env.iter();
        let secret_env = secret_env.map(|(name, value)| (name.as_str(), value.as_str()));
        let env = env.chain(secret_env);
        let child = guard::spawn(target.command, target.args, env, target.ttl)
            .map_err(|error| format!("it cannot be started: {error}"))?;
        target.children.add(&child.process);
        let mux = Mux::new();
        let (bridge, rmcp) = new_bridge(mux.clone());
        let initialize = rmcp.initialize_result();
        let reader = LineReader {
            mux: mux.clone(),
            sink: sink.clone(),
            result_limit,
            rmcp,
        };
        let mut starting = StartingChild::new(child, reader, target.stall_limit);
        let opened = async {
            let session = rmcp::serve_client(client_config(), bridge)
                .await
                .map_err(|error| error.to_string())?;
            let tools = list_over(&mux, &*sink, result_limit)
                .await
                .map_err(|error| error.to_string())?;
            Ok::<_, String>((session, tools))
        };
        let (session, tools) = match opened.await {
            Ok(opened) => opened,
            Err(reason) => return Err(starting.connect_error(reason).await),
        };
        let subscribing = subscribe_over(mux.clone(), sink.clone(), watch);
        starting.tasks.push(tokio::spawn(subscribing));
        let connection = Self {
            mux,
            sink,
            process: Mutex::new(starting.process.take()),
            tasks: std::mem::take(&mut starting.tasks),
            stderr_drained: starting.stderr_drained.clone(),
            _session: session,
            initialize,
            result_limit,
            started_at,
            _resources: target.resources,
        };
        Ok((connection, tools))
    }

    pub async fn list_tools(&self) -> Result<Tools, ConnectError> {
        Ok(list_over(&self.mux, &*self.sink, self.result_limit).await?)
    }

    pub async fn call(&self, call: UserRequest<'_>) -> Result<Bytes, CallError> {
        call_over(&self.mux, call).await
    }

    pub fn handshake(&self) -> Option<Handshake> {
        self.initialize.get().cloned().map(Handshake::Initialize)
    }

    pub fn is_closed(&self) -> bool {
        self.mux.is_closed()
    }

    pub async fn closed(&self) {
        self.mux.closed().await;
    }

    /// Waits until no call is running.
    pub async fn idle(&self) {
        self.mux.idle().await;
    }

    /// Returns the reason for the end of a closed connection. A child that still runs is stopped.
    pub async fn why_it_ended(&self) -> String {
        let Some(mut process) = self.process.lock().await.take() else {
            return "it was stopped".into();
        };
        let ended = tokio::time::timeout(EXIT_WAIT, process.ended()).await;
        self.drain_stderr().await;
        if let Ok(Ok(status)) = ended {
            return exit_reason(status);
        }
        process.stop().await;
        self.mux
            .close_reason()
            .unwrap_or_else(|| "it was closed".into())
    }

    pub async fn drain_stderr(&self) {
        wait_for_stderr(&self.stderr_drained).await;
    }

    /// Closes the standard input, then sends SIGTERM, then SIGKILL. Running calls end.
    pub async fn stop(&self) {
        // The writer drops the standard input of the child when the mux is closed.
        self.mux.close("it was stopped");
        if let Some(process) = self.process.lock().await.take() {
            process.stop().await;
        }
    }

    pub async fn kill(&self) {
        self.mux.close("it was stopped");
        drop(self.process.lock().await.take());
    }
}

impl Drop for StdioConnection {
    fn drop(&mut self) {
        self.mux.close("it was dropped");
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl StartingChild {
    /// Starts the tasks that read and write the pipes of a child.
    fn new(child: guard::GuardedChild, reader: LineReader, stall_limit: Duration) -> Self {
        let mux = reader.mux.clone();
        let stderr_drained = CancellationToken::new();
        let stderr_end = stderr_drained.clone().drop_guard();
        let stderr = read_stderr(child.stderr, reader.sink.clone());
        let tasks = vec![
            tokio::spawn(write_all(child.stdin, mux.clone(), stall_limit)),
            tokio::spawn(reader.read_all(child.stdout)),
            tokio::spawn(async move {
                stderr.await;
                drop(stderr_end);
            }),
        ];
        Self {
            mux,
            process: Some(child.process),
            tasks,
            stderr_drained,
        }
    }

    /// Returns why the child did not open a session: its exit status if it has ended, otherwise `reason`.
    async fn connect_error(&mut self, reason: String) -> ConnectError {
        let not_opened = format!("its session was not opened: {reason}");
        if !self.mux.is_closed() {
            return not_opened.into();
        }
        let Some(process) = &mut self.process else {
            return not_opened.into();
        };
        match tokio::time::timeout(EXIT_WAIT, process.ended()).await {
            Ok(Ok(status)) => {
                wait_for_stderr(&self.stderr_drained).await;
                start_exit_reason(status).into()
            }
            Ok(Err(_)) | Err(_) => not_opened.into(),
        }
    }
}

impl Drop for StartingChild {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.mux.close("it was dropped");
        }
    }
}

/// Another process may keep the standard error open, so the wait is limited.
async fn wait_for_stderr(drained: &CancellationToken) {
    let _ = tokio::time::timeout(EXIT_WAIT, drained.cancelled()).await;
}

/// Returns the reason for a child that ended before its session was open.
fn start_exit_reason(status: ExitStatus) -> String {
    let reason = exit_reason(status);
    match status.code() {
        Some(127) | None => reason,
        Some(_) => format!(
            "{reason} before it answered; if it asks for a key or a setting, set the variable in `env`"
        ),
    }
}

/// The guard ends like the child, with the codes of shells: 127 for a program that cannot be started, 128 and more for a
/// signal.
fn exit_reason(status: ExitStatus) -> String {
    match status.code() {
        Some(127) => {
            "there is no such program, it cannot be run, or its arguments and variables are too long"
                .into()
        }
        Some(code @ 129..) => format!("it was killed by signal {}", code - 128),
        Some(code) => format!("it exited with code {code}"),
        None => "its guard was killed".into(),
    }
}
