//! A server that is a child process: its process, its session and its calls.

mod exclusive;
mod listen;
mod opening;

use std::collections::BTreeMap;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

pub use self::exclusive::{ExclusiveCalls, NotAsked};
use self::listen::listen;
use self::opening::{FirstRequest, OpenError, Opened, Opening};
use super::call::{CallError, ClientOptions, ConnectError, UserRequest, call_over};
use super::handshake::Handshake;
use super::host::{ChildLifetime, NotificationSink};
use super::jsonrpc::note;
use super::line_reader::LineReader;
use super::mux::Mux;
use super::resource_watch::subscribe_over;
use super::rmcp_bridge::{client_config, new_bridge};
use super::stderr::read_stderr;
use super::tool_list::list_over;
use super::writer::write_all;
use crate::core::mcp::version::Era;
use crate::core::model::remote::ProtocolMode;
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
    /// The time until the guard kills a child without a renewal. A second child has less of it.
    pub lifetime: Arc<dyn ChildLifetime>,
    /// A child that reads nothing for this time is closed.
    pub stall_limit: Duration,
    /// How the server spoke when it was started last.
    pub protocol: Option<ProtocolMode>,
    /// A child with sessions may ask the clients of its calls, which then run one at a time.
    pub may_ask: bool,
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
    opened: Opened,
    /// Runs the calls, if the child may ask their clients.
    exclusive: Option<Arc<ExclusiveCalls>>,
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

/// A child that has listed its tools.
struct StartedChild {
    child: StartingChild,
    opened: Opened,
    exclusive: Option<Arc<ExclusiveCalls>>,
    tools: Tools,
    started_at: u64,
}

impl StdioConnection {
    /// Starts the child, opens the session and lists the tools. If the child does not take the first request, the client
    /// starts a second child and sends the other first request. Dropping the future kills the child.
    pub async fn connect(
        mut target: StdioTarget<'_>,
        options: ClientOptions,
    ) -> Result<(Self, Tools), ConnectError> {
        let resources = target.resources.take();
        let first = FirstRequest::for_known(target.protocol);
        let started = match StartedChild::start(&target, &options, first).await {
            Err(OpenError::WrongFirstRequest(reason)) => {
                let text = format!(
                    "the worker starts it again and sends the other first request: {reason}"
                );
                note(&*options.sink, &text);
                options.sink.started_again();
                StartedChild::start(&target, &options, first.other()).await
            }
            started => started,
        };
        let started = started.map_err(|error| error.to_string())?;
        if target.protocol != Some(started.mode()) {
            options.sink.protocol_detected(started.mode()).await;
        }
        let (connection, tools) = started.into_connection(options, resources);
        Ok((connection, tools))
    }

    pub async fn list_tools(&self) -> Result<Tools, ConnectError> {
        let era = self.opened.era();
        Ok(list_over(&self.mux, era, &*self.sink, self.result_limit).await?)
    }

    pub async fn call(&self, call: &UserRequest<'_>) -> Result<Bytes, CallError> {
        match &self.exclusive {
            Some(exclusive) => Box::pin(exclusive.call(call)).await,
            None => call_over(&self.mux, self.opened.era(), call).await,
        }
    }

    pub fn handshake(&self) -> Option<Handshake> {
        self.opened.handshake()
    }

    /// Whether the server speaks 2026-07-28. Its results may ask for input.
    pub fn is_modern(&self) -> bool {
        self.opened.era() == Era::Modern
    }

    pub fn is_closed(&self) -> bool {
        self.mux.is_closed()
    }

    pub async fn closed(&self) {
        self.mux.closed().await;
    }

    /// Whether the client has closed the connection in order to start the child again.
    pub fn is_replaced(&self) -> bool {
        self.mux.is_replaced()
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

impl StartedChild {
    /// Starts a child, sends it the first request, opens a session if the child has sessions, and lists the tools.
    async fn start(
        target: &StdioTarget<'_>,
        options: &ClientOptions,
        first: FirstRequest,
    ) -> Result<Self, OpenError> {
        let started_at = now_ms();
        let child = spawn(target).await.map_err(OpenError::Failed)?;
        let mux = Mux::new();
        let (bridge, rmcp) = new_bridge(mux.clone());
        let exclusive = target.may_ask.then(|| ExclusiveCalls::new(mux.clone()));
        let opening = Opening {
            mux: mux.clone(),
            bridge,
            config: client_config(target.may_ask),
            initialize: rmcp.initialize_result(),
        };
        let reader = LineReader {
            mux: mux.clone(),
            sink: options.sink.clone(),
            result_limit: options.result_limit,
            rmcp,
            exclusive: exclusive.clone(),
        };
        let mut child = StartingChild::new(child, reader, target.stall_limit);
        let opened = match opening.open(first).await {
            Ok(opened) => opened,
            Err(error) => return Err(child.open_error(error).await),
        };
        if opened.era() == Era::Modern {
            // Begins before the list, so that the child reports each change of the list.
            let (sink, watch) = (options.sink.clone(), options.watch.clone());
            child
                .tasks
                .push(tokio::spawn(listen(mux.clone(), sink, watch)));
        }
        let sink = &*options.sink;
        match list_over(&mux, opened.era(), sink, options.result_limit).await {
            Ok(tools) => Ok(Self {
                child,
                exclusive: exclusive.filter(|_| opened.era() == Era::Legacy),
                opened,
                tools,
                started_at,
            }),
            Err(error) => Err(child.open_error(OpenError::Failed(error.to_string())).await),
        }
    }

    fn mode(&self) -> ProtocolMode {
        match self.opened.era() {
            Era::Modern => ProtocolMode::Stateless,
            Era::Legacy => ProtocolMode::Session,
        }
    }

    /// Begins to subscribe to resources in a session.
    fn into_connection(
        self,
        options: ClientOptions,
        resources: Option<Box<dyn Send + Sync>>,
    ) -> (StdioConnection, Tools) {
        let mut child = self.child;
        let ClientOptions {
            sink,
            watch,
            result_limit,
        } = options;
        let mux = child.mux.clone();
        if self.opened.era() == Era::Legacy {
            let subscribing = subscribe_over(mux.clone(), sink.clone(), watch);
            child.tasks.push(tokio::spawn(subscribing));
        }
        let connection = StdioConnection {
            mux,
            sink,
            process: Mutex::new(child.process.take()),
            tasks: std::mem::take(&mut child.tasks),
            stderr_drained: child.stderr_drained.clone(),
            opened: self.opened,
            exclusive: self.exclusive,
            result_limit,
            started_at: self.started_at,
            _resources: resources,
        };
        (connection, self.tools)
    }
}

/// Starts the process of a server under a guard.
async fn spawn(target: &StdioTarget<'_>) -> Result<guard::GuardedChild, String> {
    let env = target.env.iter();
    let env = env.map(|(name, value)| (name.as_str(), value.as_str()));
    let secret_env = target.secret_env.iter();
    let secret_env = secret_env.map(|(name, value)| (name.as_str(), value.as_str()));
    let lifetime = target.lifetime.clone();
    let left = move || lifetime.left();
    let child = guard::spawn(target.command, target.args, env.chain(secret_env), left)
        .await
        .map_err(|error| format!("it cannot be started: {error}"))?;
    target.children.add(&child.process);
    // A renewal between the start and this moment has not reached the child.
    target.children.renew(target.lifetime.left());
    Ok(child)
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

    /// Returns why the child did not open a session, and stops it before another child is started.
    async fn open_error(&mut self, error: OpenError) -> OpenError {
        let error = self.explain(error).await;
        if let (OpenError::WrongFirstRequest(_), Some(process)) = (&error, self.process.take()) {
            // The next child may need what this one holds.
            self.mux.close("it was stopped");
            process.stop().await;
        }
        error
    }

    /// Replaces the reason by the exit status of a child that has ended. A program that cannot be run needs no second start.
    async fn explain(&mut self, error: OpenError) -> OpenError {
        let ended = match &mut self.process {
            Some(process) if self.mux.is_closed() => {
                tokio::time::timeout(EXIT_WAIT, process.ended()).await
            }
            _ => return not_opened(error),
        };
        let Ok(Ok(status)) = ended else {
            return not_opened(error);
        };
        wait_for_stderr(&self.stderr_drained).await;
        let reason = start_exit_reason(status);
        match error {
            OpenError::WrongFirstRequest(_) if status.code() != Some(127) => {
                OpenError::WrongFirstRequest(reason)
            }
            _ => OpenError::Failed(reason),
        }
    }
}

fn not_opened(error: OpenError) -> OpenError {
    let text = |reason| format!("its session was not opened: {reason}");
    match error {
        OpenError::WrongFirstRequest(reason) => OpenError::WrongFirstRequest(text(reason)),
        OpenError::Failed(reason) => OpenError::Failed(text(reason)),
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
