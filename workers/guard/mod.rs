//! Starts children under guards, so that every child has a parent that ends it.
//!
//! The worker holds one end of a pipe, the guard the other end. Through the pipe the worker extends the life of the child
//! ([`ChildSet::renew`]) or ends it ([`Process::stop`]). When the pipe closes because the worker is gone, the guard kills
//! the child and all processes that the child has started.
//!
//! The guard starter is a process that forks the guards, so they share its memory. The starter and the guards get the
//! passed-on variables of the host only. The command line and the `env` of a server reach the guard as a file, and the
//! guard passes them to the child. So a variable such as `LD_PRELOAD` has no effect in the guard.

mod cgroup;
mod orphans;
mod process;
mod program;
mod request;
mod running;
mod start;
mod starter;

use std::fs::File;
use std::io;
use std::io::{PipeWriter, Write};
use std::os::fd::OwnedFd;
use std::process::ExitStatus;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::unix::pipe;

pub use self::cgroup::{claim_groups, remove_abandoned_groups};
pub use self::orphans::{become_subreaper, processes_left};
use self::request::GuardDescriptors;
use self::running::RunningGuard;
pub use self::starter::run as run_starter;

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
    pub stdout: pipe::Receiver,
    pub stderr: pipe::Receiver,
    pub process: Process,
}

/// A running child. If it is dropped, the child and all processes that it has started are killed.
pub struct Process {
    /// `None` only while the process is dropped.
    guard: Option<RunningGuard>,
    life: Arc<LifePipe>,
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

/// Starts `command` under a guard with the passed-on variables and `env`, which wins. `left` is the time that the child may
/// live from now on; it is asked again after a slow start. Without a renewal the guard then kills the child.
///
/// # Errors
/// The error of the system, and an error if an argument or a variable contains a zero byte.
pub async fn spawn<'a>(
    command: &str,
    args: &[String],
    env: impl Iterator<Item = (&'a str, &'a str)>,
    left: impl Fn() -> Duration + Send + Sync + 'static,
) -> io::Result<GuardedChild> {
    let program = program::write(command, args, env)?;
    let (life_read, life_write) = io::pipe()?;
    let (stdin_read, stdin_write) = io::pipe()?;
    let (stdout_read, stdout_write) = io::pipe()?;
    let (stderr_read, stderr_write) = io::pipe()?;
    let stdin = pipe::Sender::from_owned_fd(OwnedFd::from(stdin_write))?;
    let stdout = pipe::Receiver::from_owned_fd(OwnedFd::from(stdout_read))?;
    let stderr = pipe::Receiver::from_owned_fd(OwnedFd::from(stderr_read))?;
    let life = LifePipe::new(life_write)?;
    let descriptors = GuardDescriptors {
        life: life_read.into(),
        program,
        stdin: stdin_read.into(),
        stdout: stdout_write.into(),
        stderr: stderr_write.into(),
    };
    // The starter may be slow, and other tasks of this thread must not wait for it. If the caller drops this future or the
    // lease ends during the wait, the worker must not run the command.
    let caller = Arc::new(());
    let waiting = Arc::downgrade(&caller);
    let left = move || match waiting.strong_count() {
        0 => Duration::ZERO,
        _ => left(),
    };
    let start = move || Process::start(&descriptors, life, left);
    let process = tokio::task::spawn_blocking(start)
        .await
        .map_err(io::Error::other)??;
    drop(caller);
    Ok(GuardedChild {
        stdin,
        stdout,
        stderr,
        process,
    })
}

fn not_wanted() -> io::Error {
    let sentence = "the lease of the server ended, or the request was cancelled, before the start";
    io::Error::new(io::ErrorKind::TimedOut, sentence)
}

impl Process {
    /// Starts a guard, and lets its child live for the time that is left then. Blocks until the guard runs.
    fn start(
        descriptors: &GuardDescriptors,
        life: LifePipe,
        left: impl Fn() -> Duration,
    ) -> io::Result<Self> {
        let guard = RunningGuard::start(descriptors, || !left().is_zero())?;
        let left = left();
        if left.is_zero() {
            // The pipe closes without a message, so the guard ends without a child.
            return Err(not_wanted());
        }
        // The guard starts the child after this message.
        life.renew(left);
        Ok(Self {
            guard: Some(guard),
            life: Arc::new(life),
        })
    }

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

impl Drop for Process {
    fn drop(&mut self) {
        let Some(mut guard) = self.guard.take().filter(|guard| !guard.has_ended()) else {
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
