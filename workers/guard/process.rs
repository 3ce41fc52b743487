//! `mcp-api guard FD -- COMMAND [ARGS]`: the parent of one child, in a process of its own.
//!
//! It is the subreaper of everything the child starts, so a grandchild that left the process group
//! is still found. The child itself lives in a Landlock domain where the kernel has one: it can
//! neither look into other processes nor send them signals. No threads, no async: what is single and
//! small can be trusted to be there at the end.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use landlock::{ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr, Scope};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, getpid, getppid, kill_process, kill_process_group,
    pidfd_open, set_child_subreaper, set_parent_process_death_signal, wait,
};
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};

use super::orphans::children;
use super::{MESSAGE, RENEW, TERMINATE};

/// The child could not be started, as shells say it.
const CANNOT_START: u8 = 127;
/// How long the last ones may take to die of SIGKILL.
const REAP: Duration = Duration::from_secs(2);

/// Runs as the guard. `pipe` is the descriptor on which the worker speaks.
pub fn run(pipe: RawFd, command_line: &[String]) -> ExitCode {
    let Some((command, args)) = command_line.split_first() else {
        return ExitCode::from(CANNOT_START);
    };
    match guard(pipe, command, args) {
        Ok(status) => {
            let code = status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            ExitCode::from(code as u8)
        }
        Err(error) => {
            eprintln!("cannot start {command}: {error}");
            ExitCode::from(CANNOT_START)
        }
    }
}

fn guard(pipe: RawFd, command: &str, args: &[String]) -> std::io::Result<ExitStatus> {
    if pipe <= 2 {
        return Err(std::io::Error::other(
            "the guard is started by a worker, not by hand",
        ));
    }
    // SAFETY: the worker left this descriptor open for us and nothing else in this process knows it.
    #[allow(unsafe_code)]
    let pipe = unsafe { OwnedFd::from_raw_fd(pipe) };
    fcntl_setfd(&pipe, FdFlags::CLOEXEC)?;
    set_child_subreaper(Some(getpid()))?;
    let guard = getpid();
    let mut child = Command::new(command);
    child.args(args).process_group(0);
    // SAFETY: between fork and exec of a single-threaded process; only system calls and small allocations.
    #[allow(unsafe_code)]
    unsafe {
        child.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            if getppid() != Some(guard) {
                return Err(std::io::Error::other("the guard is gone"));
            }
            leave_looking();
            confine()
        });
    }
    let child = child.spawn()?;
    let child = Pid::from_child(&child);
    // The streams are the child's alone: their ends must be seen when it closes them.
    let nothing = fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    rustix::stdio::dup2_stdin(&nothing)?;
    rustix::stdio::dup2_stdout(&nothing)?;
    rustix::stdio::dup2_stderr(&nothing)?;
    let status = watch(&pipe, child)?;
    Ok(status)
}

/// Gives up, for the child and all after it, the capabilities with which root reads `environ` and `maps`
/// of any process past Landlock: to trace, to measure, and the one that stands for both. Who is not root
/// has none of them and is refused, which is as good.
fn leave_looking() {
    for capability in [
        CapabilitySet::SYS_PTRACE,
        CapabilitySet::SYS_ADMIN,
        CapabilitySet::PERFMON,
    ] {
        let _ = remove_capability_from_bounding_set(capability);
    }
}

/// A Landlock domain that forbids next to nothing in the file system: being in it is what keeps the
/// child from tracing, reading or signalling processes outside. Older kernels do less, or nothing.
fn confine() -> std::io::Result<()> {
    let confined = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::MakeBlock)
        .and_then(|ruleset| ruleset.scope(Scope::from_all(ABI::V6)))
        .and_then(|ruleset| ruleset.create())
        .and_then(|ruleset| ruleset.restrict_self());
    confined.map(drop).map_err(std::io::Error::other)
}

/// Waits for the child's end, the worker's end or the end of the time, whichever comes first.
fn watch(pipe: &OwnedFd, child: Pid) -> std::io::Result<ExitStatus> {
    let pidfd = pidfd_open(child, PidfdFlags::empty())?;
    let mut lives_until = Instant::now() + Duration::from_secs(60);
    let mut speaking = true;
    let mut status = None;
    loop {
        let (said, ended) = wait_for(pipe.as_fd(), speaking, pidfd.as_fd(), lives_until)?;
        if ended {
            break;
        }
        if said {
            match hear(pipe.as_fd()) {
                Some((RENEW, time)) => lives_until = Instant::now() + time,
                Some((TERMINATE, time)) => {
                    let _ = kill_process_group(child, Signal::TERM);
                    (speaking, lives_until) = (false, Instant::now() + time);
                }
                // The worker is gone.
                _ => break,
            }
        } else if Instant::now() >= lives_until {
            break;
        }
        // Orphans of the child that have ended, and perhaps the child itself.
        status = reap(child);
        if status.is_some() {
            break;
        }
    }
    Ok(kill_all(child, status))
}

/// Whether the worker has said something, and whether the child has ended.
fn wait_for(
    pipe: BorrowedFd<'_>,
    speaking: bool,
    child: BorrowedFd<'_>,
    until: Instant,
) -> std::io::Result<(bool, bool)> {
    let left = until.saturating_duration_since(Instant::now());
    let limit = Timespec {
        tv_sec: left.as_secs() as i64,
        tv_nsec: i64::from(left.subsec_nanos()),
    };
    let pipe_events = if speaking {
        PollFlags::IN
    } else {
        PollFlags::empty()
    };
    let mut fds = [
        PollFd::from_borrowed_fd(pipe, pipe_events),
        PollFd::from_borrowed_fd(child, PollFlags::IN),
    ];
    match poll(&mut fds, Some(&limit)) {
        Ok(_) => Ok((
            speaking && !fds[0].revents().is_empty(),
            !fds[1].revents().is_empty(),
        )),
        Err(rustix::io::Errno::INTR) => Ok((false, false)),
        Err(error) => Err(error.into()),
    }
}

/// The next message; `None` when the pipe has ended.
fn hear(pipe: BorrowedFd<'_>) -> Option<(u8, Duration)> {
    let mut message = [0u8; MESSAGE];
    // A message is far below PIPE_BUF: it comes whole or not at all.
    let length = rustix::io::read(pipe, &mut message).ok()?;
    let [what, ms @ ..] = message;
    (length == MESSAGE).then(|| {
        (
            what,
            Duration::from_millis(u64::from(u32::from_be_bytes(ms))),
        )
    })
}

fn reap(child: Pid) -> Option<ExitStatus> {
    let mut status = None;
    while let Ok(Some((pid, ended))) = wait(WaitOptions::NOHANG) {
        if pid == child {
            status = Some(ExitStatus::from_raw(ended.as_raw()));
        }
    }
    status
}

/// Kills the child's group, then whatever has come to us as an orphan, until nobody is left.
fn kill_all(child: Pid, mut status: Option<ExitStatus>) -> ExitStatus {
    let _ = kill_process_group(child, Signal::KILL);
    let give_up = Instant::now() + REAP;
    loop {
        status = status.or(reap(child));
        let left = children();
        if left.is_empty() || Instant::now() > give_up {
            return status.unwrap_or(ExitStatus::from_raw(9));
        }
        for pid in left {
            let _ = kill_process(pid, Signal::KILL);
        }
        // Waits for one of them to end, not for a time.
        if let Ok(Some((pid, ended))) = wait(WaitOptions::empty())
            && pid == child
        {
            status = Some(ExitStatus::from_raw(ended.as_raw()));
        }
    }
}
