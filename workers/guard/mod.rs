//! Starts children under `mcp-api guard`, so that every child has an owner whatever happens to it.
//!
//! The worker holds one end of a pipe, the guard the other. On it the worker says how long the
//! child may live on ([`ChildSet::renew`]) or that it shall end ([`Process::stop`]); when the pipe closes
//! because the worker is gone, killed or not, the guard kills the child and all it has started.

mod orphans;
mod process;

use std::fs::File;
use std::io;
use std::io::{PipeWriter, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use rustix::io::{FdFlags, fcntl_setfd};
use tokio::net::unix::pipe;
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

pub use self::orphans::become_subreaper;
pub use self::process::run;

/// What of the host's environment a child sees; everything else is the server's own `env`.
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
/// How long a child may take after SIGTERM.
const TERM_GRACE: Duration = Duration::from_secs(5);
/// How long a child may take after its standard input was closed.
pub const STDIN_GRACE: Duration = Duration::from_secs(2);

/// One message to the guard: a letter and four bytes of milliseconds.
const MESSAGE: usize = 5;
const RENEW: u8 = b'L';
const TERMINATE: u8 = b'T';

/// A child, its three streams and its life.
pub struct GuardedChild {
    pub stdin: pipe::Sender,
    pub stdout: ChildStdout,
    pub stderr: ChildStderr,
    pub process: Process,
}

/// A running child. Dropped, it is killed with all it has started.
pub struct Process {
    guard: Child,
    life: Arc<LifePipe>,
    _known: orphans::GuardRegistration,
}

/// The children that a server has at the moment, starting or stopping or anything in between: usually one, and two
/// while it gets another version. It keeps no child alive: the pipe closes when the [`Process`] goes.
#[derive(Default)]
pub struct ChildSet(Mutex<Vec<Weak<LifePipe>>>);

impl ChildSet {
    pub fn add(&self, process: &Process) {
        let mut lives = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lives.retain(|life| life.strong_count() > 0);
        lives.push(Arc::downgrade(&process.life));
    }

    /// What is there may live for that long from now.
    pub fn renew(&self, ttl: Duration) {
        let lives = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lives
            .iter()
            .filter_map(Weak::upgrade)
            .for_each(|life| life.renew(ttl));
    }
}

/// Starts `command` under a guard, with the environment it is allowed to see and `env`, which wins.
/// Without a renewal it is killed after `ttl`.
pub fn spawn<'a>(
    command: &str,
    args: &[String],
    env: impl Iterator<Item = (&'a String, &'a String)>,
    ttl: Duration,
) -> io::Result<GuardedChild> {
    let (life_read, life_write) = io::pipe()?;
    let (stdin_read, stdin_write) = io::pipe()?;
    let stdin = pipe::Sender::from_owned_fd(OwnedFd::from(stdin_write))?;
    let life = Arc::new(LifePipe::new(life_write)?);
    life.renew(ttl);
    // The binary itself, also when its file was replaced since.
    let mut guard = Command::new("/proc/self/exe");
    guard
        .arg0("mcp-api")
        .arg("guard")
        .arg(life_read.as_raw_fd().to_string())
        .arg("--")
        .arg(command)
        .args(args);
    guard.env_clear();
    guard.envs(
        PASSED_ON
            .iter()
            .filter_map(|name| std::env::var_os(name).map(|value| (name, value))),
    );
    guard.envs(env).process_group(0);
    guard
        .stdin(Stdio::from(OwnedFd::from(stdin_read)))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let (mut guard, known) = {
        // Only while this lock is held is the pipe's end inherited, and only by this guard.
        let mut guards = orphans::guards();
        fcntl_setfd(&life_read, FdFlags::empty())?;
        let guard = guard.spawn();
        drop(life_read);
        let guard = guard?;
        let pid = guard
            .id()
            .ok_or_else(|| io::Error::other("a guard without a process"))?;
        (guard, orphans::known(&mut guards, pid as i32))
    };
    let (Some(stdout), Some(stderr)) = (guard.stdout.take(), guard.stderr.take()) else {
        return Err(io::Error::other("a child's output was not piped"));
    };
    Ok(GuardedChild {
        stdin,
        stdout,
        stderr,
        process: Process {
            guard,
            life,
            _known: known,
        },
    })
}

impl Process {
    /// Waits until the child and all it had started are gone.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        let status = self.guard.wait().await?;
        if status.code().is_none() {
            // Somebody killed the guard. Its child dies with it; what that had started has come to us.
            let _ = tokio::task::spawn_blocking(orphans::kill).await;
        }
        Ok(status)
    }

    /// Ends it: its standard input must be closed already. After two seconds SIGTERM to its process
    /// group, after five more SIGKILL to everything.
    pub async fn stop(mut self) {
        if tokio::time::timeout(STDIN_GRACE, self.ended())
            .await
            .is_ok()
        {
            return;
        }
        self.life.terminate();
        // The guard keeps the time from here on; a guard that does not is killed itself.
        if tokio::time::timeout(TERM_GRACE * 2, self.ended())
            .await
            .is_err()
        {
            let _ = self.guard.kill().await;
        }
    }
}

/// The worker's end of the pipe to a guard.
struct LifePipe(File);

impl LifePipe {
    fn new(pipe: PipeWriter) -> io::Result<Self> {
        let pipe = OwnedFd::from(pipe);
        // A stopped guard must not stop the worker.
        rustix::io::ioctl_fionbio(&pipe, true)?;
        Ok(Self(File::from(pipe)))
    }

    /// The child may live for that long from now.
    fn renew(&self, ttl: Duration) {
        self.say(RENEW, ttl.as_millis().min(u128::from(u32::MAX)) as u32);
    }

    fn terminate(&self) {
        self.say(TERMINATE, TERM_GRACE.as_millis() as u32);
    }

    fn say(&self, what: u8, ms: u32) {
        let [a, b, c, d] = ms.to_be_bytes();
        // A guard that has ended, or reads nothing, needs no message: its child's output ends too.
        let _ = (&self.0).write_all(&[what, a, b, c, d]);
    }
}
