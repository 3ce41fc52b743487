//! A running stdio server: its process, its protocol session and the calls to it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rmcp::model::{ClientCapabilities, ClientConfig, Implementation, ProtocolVersion};
use rmcp::service::{RoleClient, RunningService};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::connection::{CallError, ConnectionDeps, ToolCall, call_over};
use super::mux::Mux;
use super::rmcp_bridge;
use super::tool_list::list_over;
use crate::core::model::tool::Tools;
use crate::time::clock::now_ms;
use crate::workers::guard;
use crate::workers::guard::Process;
use crate::workers::install::PackageHandle;
use crate::workers::redact::Redactor;
use crate::workers::runtime::log_buffer::LogBuffer;

/// How long an ended child's last words are waited for.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Bytes of standard error read in a second; beyond, the child waits.
const STDERR_PER_SECOND: usize = 1 << 20;
/// Bytes of a line of standard error that are masked and logged. The rest of a longer line is dropped.
const MAX_LINE: usize = 64 * 1024;

/// A connected server.
pub struct Stdio {
    mux: Arc<Mux>,
    process: Mutex<Option<Process>>,
    tasks: Vec<JoinHandle<()>>,
    /// Cancelled when its standard error has ended and was read.
    silent: CancellationToken,
    /// Answers pings and whatever else the server asks.
    _session: RunningService<RoleClient, ClientConfig>,
    result_limit: usize,
    pub started_at: u64,
    /// Its files stay as long as it may read them.
    _package: Option<PackageHandle>,
}

/// A child whose session is not open yet. Dropped, it is killed.
struct Starting {
    mux: Arc<Mux>,
    /// Taken when the session is open.
    process: Option<Process>,
    tasks: Vec<JoinHandle<()>>,
    silent: CancellationToken,
}

impl Stdio {
    /// Starts the server, opens the session and asks for the tools. The caller sets the time limit
    /// and may drop this at any moment: then the child is killed.
    pub async fn connect(
        command: &str,
        args: &[String],
        env: &BTreeMap<String, String>,
        package: Option<PackageHandle>,
        shared: &ConnectionDeps,
    ) -> Result<(Self, Tools), String> {
        let started_at = now_ms();
        let child = guard::spawn(command, args, env.iter(), shared.ttl)
            .map_err(|error| format!("it cannot be started: {error}"))?;
        shared.child.add(&child.process);
        let (mux, frames) = Mux::new();
        let ConnectionDeps {
            hearing,
            result_limit,
            ..
        } = shared.clone();
        let (log_buffer, redactor) = (hearing.log_buffer.clone(), hearing.redactor.clone());
        let (tap, reader) = rmcp_bridge::new_bridge(mux.clone(), hearing, result_limit);
        let (silent, printed) = (
            CancellationToken::new(),
            read_stderr(child.stderr, log_buffer, redactor),
        );
        let ended = silent.clone().drop_guard();
        let tasks = vec![
            tokio::spawn(rmcp_bridge::write_all(child.stdin, mux.clone(), frames)),
            tokio::spawn(reader.read_all(child.stdout)),
            tokio::spawn(async move {
                printed.await;
                drop(ended);
            }),
        ];
        let mut starting = Starting {
            mux: mux.clone(),
            process: Some(child.process),
            tasks,
            silent,
        };
        let opened = async {
            let session = rmcp::serve_client(client(), tap)
                .await
                .map_err(|error| error.to_string())?;
            let tools = list_over(&mux, result_limit).await?;
            Ok::<_, String>((session, tools))
        };
        match opened.await {
            Ok((session, tools)) => {
                let (process, tasks) = (
                    starting.process.take().into(),
                    std::mem::take(&mut starting.tasks),
                );
                let silent = starting.silent.clone();
                let (_session, _package) = (session, package);
                Ok((
                    Self {
                        mux,
                        process,
                        tasks,
                        silent,
                        _session,
                        result_limit,
                        started_at,
                        _package,
                    },
                    tools,
                ))
            }
            Err(reason) => match starting.why_it_ended().await {
                Some(ended) => Err(ended),
                None => Err(format!("its session was not opened: {reason}")),
            },
        }
    }

    /// Asks again what the server offers.
    pub async fn list_tools(&self) -> Result<Tools, String> {
        list_over(&self.mux, self.result_limit).await
    }

    /// Calls a tool and gives the raw CallToolResult.
    pub async fn call(&self, call: ToolCall<'_>) -> Result<Bytes, CallError> {
        call_over(&self.mux, call).await
    }

    pub fn is_closed(&self) -> bool {
        self.mux.is_closed()
    }

    /// Waits until the server has closed its output.
    pub async fn closed(&self) {
        self.mux.closed().await;
    }

    /// Waits until no call is running.
    pub async fn idle(&self) {
        self.mux.idle().await;
    }

    /// Why it ended, once its output is closed. Whatever is left of it is stopped.
    pub async fn why_it_ended(&self) -> String {
        let Some(process) = self.process.lock().await.take() else {
            return "it was stopped".into();
        };
        why(process, &self.silent).await
    }

    /// Waits until what an ended server has printed can be read in its ring.
    pub async fn last_words(&self) {
        last_words(&self.silent).await;
    }

    /// Stops the server: standard input closed, SIGTERM, SIGKILL. Calls under way end.
    pub async fn stop(&self) {
        self.mux.close();
        // The writer holds the child's standard input, and drops it when the mux is closed.
        if let Some(process) = self.process.lock().await.take() {
            process.stop().await;
        }
    }

    /// Ends the server at once.
    pub async fn kill(&self) {
        self.mux.close();
        drop(self.process.lock().await.take());
    }
}

impl Drop for Stdio {
    fn drop(&mut self) {
        self.mux.close();
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Starting {
    /// If the child has ended: how.
    async fn why_it_ended(&mut self) -> Option<String> {
        if !self.mux.is_closed() {
            return None;
        }
        let status = tokio::time::timeout(LAST_WORDS, self.process.as_mut()?.ended())
            .await
            .ok()?
            .ok()?;
        last_words(&self.silent).await;
        let ended = exited(status);
        Some(match status.code() {
            Some(127) => ended,
            _ => format!(
                "{ended} before it answered; if it asks for a key or a setting (see details), set the variable in `env`"
            ),
        })
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.mux.close();
        }
    }
}

async fn why(mut process: Process, silent: &CancellationToken) -> String {
    let ended = tokio::time::timeout(LAST_WORDS, process.ended()).await;
    last_words(silent).await;
    match ended {
        Ok(Ok(status)) => exited(status),
        _ => {
            process.stop().await;
            "it closed its output".into()
        }
    }
}

/// Somebody else may hold its standard error open: then what is there by now must do.
async fn last_words(silent: &CancellationToken) {
    let _ = tokio::time::timeout(LAST_WORDS, silent.cancelled()).await;
}

/// The guard ends as the child did, and as shells say it: 127 not started, 128 and more by signal.
fn exited(status: std::process::ExitStatus) -> String {
    match status.code() {
        Some(127) => "there is no such program, or it cannot be run".into(),
        Some(code @ 129..) => format!("it was killed by signal {}", code - 128),
        Some(code) => format!("it exited with code {code}"),
        None => "its guard was killed".into(),
    }
}

pub fn client() -> ClientConfig {
    ClientConfig::new(
        ClientCapabilities::default(),
        Implementation::new("mcp-api", env!("CARGO_PKG_VERSION")),
    )
    .with_protocol_version(ProtocolVersion::LATEST_WITH_INITIALIZE)
}

/// Standard error, line by line, into the ring. A child that prints without end is slowed down, not
/// followed.
async fn read_stderr(
    from: impl AsyncRead + Unpin,
    log_buffer: Arc<LogBuffer>,
    redactor: Arc<Redactor>,
) {
    let mut from = BufReader::with_capacity(64 * 1024, from);
    let mut line = Vec::new();
    let (mut read, mut since) = (0, tokio::time::Instant::now());
    loop {
        let Ok(buffer) = from.fill_buf().await else {
            return;
        };
        if buffer.is_empty() {
            if !line.is_empty() {
                log_buffer.push("stderr", &redactor.mask(&String::from_utf8_lossy(&line)));
            }
            return;
        }
        let newline = memchr::memchr(b'\n', buffer);
        let taken = newline.map_or(buffer.len(), |at| at + 1);
        // What is beyond a buffer's length of one line is not kept, nor could a secret in it be shown.
        let room = MAX_LINE
            .saturating_sub(line.len())
            .min(newline.unwrap_or(taken));
        line.extend_from_slice(&buffer[..room]);
        from.consume(taken);
        read += taken;
        if newline.is_some() {
            let text = String::from_utf8_lossy(&line);
            if !text.trim().is_empty() {
                let masked = if line.len() < MAX_LINE {
                    redactor.mask(text.trim_end())
                } else {
                    redactor.mask_cut(&line)
                };
                log_buffer.push("stderr", &masked);
            }
            line.clear();
        }
        if since.elapsed() >= Duration::from_secs(1) {
            (read, since) = (0, tokio::time::Instant::now());
        } else if read > STDERR_PER_SECOND {
            log_buffer.push(
                "transport",
                "the server floods its standard error; it is being slowed down",
            );
            tokio::time::sleep_until(since + Duration::from_secs(1)).await;
        }
    }
}
