//! The worker's side of the guard starter: starts it once, asks it for guards, and replaces it when it fails.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::Pid;

use super::cgroup;
use super::orphans::{self, Registration};
use super::request::{GuardDescriptors, receive_reply, send_request};
use super::{PASSED_ON, not_wanted};

/// How long the starter may take to start a guard. The first time includes the start of the starter.
const REPLY_LIMIT: Duration = Duration::from_secs(10);

/// The starter of this worker. Its memory is the memory that all guards share.
static STARTER: Mutex<Option<Starter>> = Mutex::new(None);

/// A running starter. If it is dropped, it is killed; the guards that it has started continue.
struct Starter {
    process: Child,
    socket: OwnedFd,
    _registration: Registration,
}

/// Starts a guard and registers it. Blocks until the starter replies, ten seconds at most for each of two attempts.
///
/// # Errors
/// The error of the system.
pub(super) fn start_guard(
    descriptors: &GuardDescriptors,
    is_wanted: impl Fn() -> bool,
) -> io::Result<Registration> {
    // Before the guard is registered, it looks like an orphan.
    let pause = orphans::pause_rounds();
    let mut starter = STARTER.lock();
    if !is_wanted() {
        return Err(not_wanted());
    }
    let guard = match request_guard(&mut starter, descriptors) {
        Ok(guard) => guard,
        Err(error) => {
            tracing::warn!(%error, "the guard starter does not answer; starting another guard starter");
            // A guard that the lost starter has started waits for its first message. The message for the next guard must not
            // reach the lost guard.
            orphans::kill_unregistered(&pause);
            request_guard(&mut starter, descriptors)?
        }
    };
    Ok(orphans::register(guard?))
}

/// Asks the starter for a guard. A starter that fails is removed. The inner error prevents the start of this guard only.
fn request_guard(
    starter: &mut Option<Starter>,
    descriptors: &GuardDescriptors,
) -> io::Result<Result<Pid, Errno>> {
    let running = match starter.take() {
        Some(running) => running,
        None => Starter::launch()?,
    };
    let reply = running.request(descriptors)?;
    *starter = Some(running);
    Ok(reply)
}

/// Reaps a starter that has ended, for example because it was killed.
pub(super) fn reap_ended_starter() {
    let mut starter = STARTER.lock();
    let has_ended = |running: &mut Starter| !matches!(running.process.try_wait(), Ok(None));
    if starter.as_mut().is_some_and(has_ended) {
        *starter = None;
    }
}

impl Starter {
    fn launch() -> io::Result<Self> {
        let kind = SocketType::SEQPACKET;
        let (socket, remote) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
        for limit in [Timeout::Send, Timeout::Recv] {
            set_socket_timeout(&socket, limit, Some(REPLY_LIMIT))?;
        }
        // The running binary, even if its file was replaced. Its own process group does not get the Ctrl-C of a terminal.
        let process = Command::new("/proc/self/exe")
            .arg0("mcp-api")
            .arg("guard-starter")
            .arg(cgroup::worker_token())
            .env_clear()
            .envs(passed_on_variables())
            .process_group(0)
            .stdin(Stdio::from(remote))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let pid = Pid::from_child(&process);
        Ok(Self {
            process,
            socket,
            _registration: orphans::register(pid),
        })
    }

    fn request(&self, descriptors: &GuardDescriptors) -> io::Result<Result<Pid, Errno>> {
        send_request(self.socket.as_fd(), descriptors)?;
        receive_reply(self.socket.as_fd())
    }
}

impl Drop for Starter {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn passed_on_variables() -> impl Iterator<Item = (&'static str, std::ffi::OsString)> {
    let names = PASSED_ON.into_iter();
    names.filter_map(|name| Some((name, std::env::var_os(name)?)))
}
