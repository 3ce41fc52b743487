//! Starts children under `mcp-api guard`, so that every child has a parent that ends it.
//!
//! The worker holds one end of a pipe, the guard the other end. Through the pipe the worker extends the life of the child
//! ([`ChildSet::renew`]) or ends it ([`Process::stop`]). When the pipe closes because the worker is gone, the guard kills
//! the child and all processes that the child has started.
//!
//! The guard gets the passed-on variables of the host only. The `env` of a server reaches the guard as a file, and the
//! guard passes it to the child. So a variable such as `LD_PRELOAD` has no effect in the guard.

mod cgroup;
mod environment;
mod orphans;
mod process;

use std::fs::File;
use std::io;
use std::io::{PipeWriter, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::io::{FdFlags, fcntl_setfd};
use tokio::net::unix::pipe;
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

pub use self::orphans::{become_subreaper, processes_left};
pub use self::process::run;

/// The variables of the host that a child gets. All other variables come from the `env` of the server.
pub const PASSED_ON: [&str; 13] = [
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "TMPDIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
];
/// How long a child may run after SIGTERM.
const TERM_GRACE: Duration = Duration::from_secs(5);
/// How long a child may run after its standard input was closed.
pub const STDIN_GRACE: Duration = Duration::from_secs(2);
/// How long a guard may take to end after its pipe was closed. A stopped guard does not notice the end of its pipe.
const DROP_GRACE: Duration = Duration::from_secs(5);

/// A message to the guard: a letter and milliseconds as four bytes.
const MESSAGE: usize = 5;
const RENEW: u8 = b'L';
const TERMINATE: u8 = b'T';

/// A child, its three streams and its process.
pub struct GuardedChild {
    pub stdin: pipe::Sender,
    pub stdout: ChildStdout,
    pub stderr: ChildStderr,
    pub process: Process,
}

/// A running child. If it is dropped, the child and all processes that it has started are killed.
pub struct Process {
    /// `None` only while the process is dropped.
    guard: Option<RunningGuard>,
    life: Arc<LifePipe>,
}

struct RunningGuard {
    process: Child,
    has_ended: bool,
    registration: orphans::GuardRegistration,
}

/// The children that a server has at the moment: usually one, and two during an upgrade. The set keeps no child alive.
#[derive(Default)]
pub struct ChildSet(Mutex<Vec<Weak<LifePipe>>>);

impl ChildSet {
    pub fn add(&self, process: &Process) {
        let mut lives = self.0.lock();
        lives.retain(|life| life.strong_count() > 0);
        lives.push(Arc::downgrade(&process.life));
    }

    /// Lets the children live for `ttl` from now on.
    pub fn renew(&self, ttl: Duration) {
        for life in self.0.lock().iter().filter_map(Weak::upgrade) {
            life.renew(ttl);
        }
    }
}

/// Starts `command` under a guard with the passed-on variables and `env`, which wins. Without a renewal the guard kills
/// the child after `ttl`.
///
/// # Errors
/// The error of the system, and an error if a variable contains a zero byte.
pub fn spawn<'a>(
    command: &str,
    args: &[String],
    env: impl Iterator<Item = (&'a str, &'a str)>,
    ttl: Duration,
) -> io::Result<GuardedChild> {
    let environment = environment::write(env)?;
    let (life_read, life_write) = io::pipe()?;
    let (stdin_read, stdin_write) = io::pipe()?;
    let stdin = pipe::Sender::from_owned_fd(OwnedFd::from(stdin_write))?;
    let life = Arc::new(LifePipe::new(life_write)?);
    life.renew(ttl);
    // The running binary, even if its file was replaced.
    let mut guard = Command::new("/proc/self/exe");
    guard
        .arg0("mcp-api")
        .arg("guard")
        .arg(life_read.as_raw_fd().to_string())
        .arg(environment.as_raw_fd().to_string())
        .arg("--")
        .arg(command)
        .args(args)
        .env_clear()
        .envs(passed_on_variables())
        .process_group(0)
        .stdin(Stdio::from(OwnedFd::from(stdin_read)))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let (mut process, registration) = {
        // Only the guard inherits both descriptors, because they are inheritable only while this lock is held.
        let mut guards = orphans::guards();
        fcntl_setfd(&life_read, FdFlags::empty())?;
        fcntl_setfd(&environment, FdFlags::empty())?;
        let spawned = guard.spawn();
        drop(life_read);
        drop(environment);
        let process = spawned?;
        let pid = process
            .id()
            .ok_or_else(|| io::Error::other("the guard has no process id"))?;
        let registration = orphans::register(&mut guards, pid as i32);
        (process, registration)
    };
    let (Some(stdout), Some(stderr)) = (process.stdout.take(), process.stderr.take()) else {
        return Err(io::Error::other("the output of a child is no pipe"));
    };
    let guard = RunningGuard {
        process,
        has_ended: false,
        registration,
    };
    Ok(GuardedChild {
        stdin,
        stdout,
        stderr,
        process: Process {
            guard: Some(guard),
            life,
        },
    })
}

fn passed_on_variables() -> impl Iterator<Item = (&'static str, std::ffi::OsString)> {
    let names = PASSED_ON.into_iter();
    names.filter_map(|name| Some((name, std::env::var_os(name)?)))
}

impl Process {
    /// Waits until the child and all processes that it has started are gone.
    ///
    /// # Errors
    /// The error of the system.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        match &mut self.guard {
            Some(guard) => guard.ended().await,
            None => Err(io::Error::other("the process is dropped")),
        }
    }

    /// Ends the child. Its standard input must be closed already. After two seconds the process group gets SIGTERM. After
    /// five more seconds all processes get SIGKILL.
    pub async fn stop(mut self) {
        let ended = tokio::time::timeout(STDIN_GRACE, self.ended()).await;
        if ended.is_ok() {
            return;
        }
        self.life.terminate();
        // The guard kills in time. A guard that does not, because it is stopped, is killed itself.
        let ended = tokio::time::timeout(TERM_GRACE * 2, self.ended()).await;
        if let (Err(_), Some(guard)) = (ended, &mut self.guard) {
            guard.kill().await;
        }
    }
}

impl RunningGuard {
    async fn ended(&mut self) -> io::Result<ExitStatus> {
        let status = self.process.wait().await?;
        if !self.has_ended {
            self.has_ended = true;
            // A guard that was killed, or that was slower than its child forks, leaves orphans to this process.
            let guard = self.registration.pid();
            let _ = tokio::task::spawn_blocking(move || orphans::kill_orphans(guard)).await;
        }
        Ok(status)
    }

    /// Kills the guard, and all processes that it leaves.
    async fn kill(&mut self) {
        let _ = self.process.start_kill();
        let _ = self.ended().await;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let Some(mut guard) = self.guard.take().filter(|guard| !guard.has_ended) else {
            return;
        };
        // The pipe closes with this process, and the guard kills the child.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let ended = tokio::time::timeout(DROP_GRACE, guard.ended()).await;
                if ended.is_err() {
                    guard.kill().await;
                }
            });
        }
    }
}

/// The worker's end of the pipe to a guard.
struct LifePipe(File);

impl LifePipe {
    fn new(pipe: PipeWriter) -> io::Result<Self> {
        let pipe = OwnedFd::from(pipe);
        // A stopped guard must not block the worker.
        rustix::io::ioctl_fionbio(&pipe, true)?;
        Ok(Self(File::from(pipe)))
    }

    /// Lets the child live for `ttl` from now on.
    fn renew(&self, ttl: Duration) {
        self.send(RENEW, ttl.as_millis().min(u128::from(u32::MAX)) as u32);
    }

    fn terminate(&self) {
        self.send(TERMINATE, TERM_GRACE.as_millis() as u32);
    }

    fn send(&self, kind: u8, ms: u32) {
        let mut message = [kind; MESSAGE];
        message[1..].copy_from_slice(&ms.to_be_bytes());
        // A guard that has ended or does not read needs no message, because the output of its child ends too.
        let _ = (&self.0).write_all(&message);
    }
}
