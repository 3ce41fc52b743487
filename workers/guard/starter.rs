//! `mcp-api guard-starter`: the process that starts the guards of a worker.
//!
//! A guard that is forked shares the memory of its starter until one of both changes it: the relocated addresses of the
//! program and the state of the allocator. A guard that executes the program again has its own copy of both.
//!
//! The standard input is the socket of the worker. The starter ends when the worker closes its end. The starter has no
//! threads and no async code, because a process with threads must not fork without a new program.

use std::io;
use std::os::fd::BorrowedFd;
use std::process::ExitCode;
use std::ptr::null_mut;

use rustix::io::Errno;
use rustix::process::Pid;
use rustix::thread::set_name;

use super::request::{receive_request, send_reply};
use super::{cgroup, process};

/// Starts a guard for each request of the worker. The function returns in the guards too, when they end.
pub fn run(worker_token: String) -> ExitCode {
    cgroup::set_worker_token(worker_token);
    let _ = set_name(c"guard-starter");
    let socket = rustix::stdio::stdin();
    match start_guards(socket) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("mcp-api: only a worker starts the guard starter: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start_guards(socket: BorrowedFd<'_>) -> io::Result<ExitCode> {
    while let Some(descriptors) = receive_request(socket)? {
        match fork_guard() {
            Ok(None) => return Ok(process::run(descriptors)),
            Ok(Some(guard)) => send_reply(socket, Ok(guard))?,
            Err(error) => send_reply(socket, Err(error))?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Forks this process, and returns the id of the new process, or `None` in the new process. The parent of the new process
/// is the worker, so the worker can wait for it.
fn fork_guard() -> Result<Option<Pid>, Errno> {
    let flags = libc::c_long::from(libc::CLONE_PARENT | libc::SIGCHLD);
    let unused = null_mut::<libc::c_void>();
    // SAFETY: without CLONE_VM and without a stack, this is a fork. This process has one thread, so no lock is held and
    // the new process may do everything that this process may do.
    #[allow(unsafe_code)]
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, unused, unused, unused, unused) };
    if pid < 0 {
        return Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::AGAIN));
    }
    Ok(Pid::from_raw(pid as i32))
}
