//! The guard: the parent of one child, in a process of its own that the starter has forked.
//!
//! The guard is the subreaper of all processes that the child starts, so it finds a grandchild that left the process
//! group. If the kernel has Landlock, the child can neither read other processes nor send them signals. The guard has no
//! threads and no async code, because it must still work when everything else fails.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode, ExitStatus};
use std::time::Duration;
use tokio::time::Instant;

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, Scope,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, getpid, getppid, kill_process, kill_process_group,
    pidfd_open, set_child_subreaper, set_parent_process_death_signal, setpgid, wait,
};
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set, set_name};

use super::cgroup::ChildGroup;
use super::orphans::children;
use super::program::{self, Program};
use super::request::GuardDescriptors;
use super::{MESSAGE, RENEW, TERMINATE};
use crate::time::clock::monotonic;

/// The exit code of shells for a program that cannot be started.
const CANNOT_START: u8 = 127;
/// How long all processes may take to die of SIGKILL.
const KILL_TIME: Duration = Duration::from_secs(2);

/// Runs the guard in the process that the starter has forked.
pub(super) fn run(descriptors: GuardDescriptors) -> ExitCode {
    let GuardDescriptors {
        life,
        program,
        stdin,
        stdout,
        stderr,
    } = descriptors;
    if let Err(error) = leave_starter([stdin, stdout, stderr]) {
        return cannot_start("the guard", &error);
    }
    // A worker that has not registered this guard sends no message, and then the child must not start.
    let time = match read_message(life.as_fd()) {
        Some((RENEW, time)) if !time.is_zero() => time,
        _ => return ExitCode::FAILURE,
    };
    let lives_until = monotonic() + time;
    let program = match program::read(program) {
        Ok(program) => program,
        Err(error) => return cannot_start("the program", &error),
    };
    let command = program.command.clone();
    match guard(&life, program, lives_until) {
        Ok(status) => {
            let code = status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            ExitCode::from(code as u8)
        }
        Err(error) => cannot_start(&command, &error),
    }
}

fn cannot_start(name: &str, error: &std::io::Error) -> ExitCode {
    eprintln!("cannot start {name}: {error}");
    ExitCode::from(CANNOT_START)
}

/// Replaces the streams of the starter with the streams of the child, so this process has no socket of the starter.
fn leave_starter([stdin, stdout, stderr]: [OwnedFd; 3]) -> std::io::Result<()> {
    rustix::stdio::dup2_stderr(&stderr)?;
    rustix::stdio::dup2_stdout(&stdout)?;
    rustix::stdio::dup2_stdin(&stdin)?;
    setpgid(None, None)?;
    let _ = set_name(c"mcp-api-guard");
    Ok(())
}

fn guard(life: &OwnedFd, program: Program, lives_until: Instant) -> std::io::Result<ExitStatus> {
    set_child_subreaper(Some(getpid()))?;
    let group = ChildGroup::create();
    let child = spawn_child(program, group.as_ref())?;
    detach_streams()?;
    watch(life, child, lives_until, group.as_ref())
}

fn spawn_child(program: Program, group: Option<&ChildGroup>) -> std::io::Result<Pid> {
    let guard = getpid();
    let entrance = group.map(ChildGroup::entrance).transpose()?;
    let mut child = Command::new(program.command);
    child
        .args(program.args)
        .envs(program.variables)
        .process_group(0);
    // SAFETY: this runs between fork and exec of a single-threaded process. It makes system calls and small allocations.
    #[allow(unsafe_code)]
    unsafe {
        child.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            if getppid() != Some(guard) {
                return Err(std::io::Error::other("the guard is gone"));
            }
            if let Some(entrance) = &entrance {
                entrance.enter();
            }
            drop_capabilities();
            confine()
        });
    }
    Ok(Pid::from_child(&child.spawn()?))
}

/// Closes the guard's ends of the child's streams, so that a reader sees when the child closes them.
fn detach_streams() -> std::io::Result<()> {
    let null = fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}

/// Removes the capabilities with which root reads other processes in spite of Landlock. A user other than root does not
/// have them, and the removal fails without harm.
fn drop_capabilities() {
    for capability in [
        CapabilitySet::SYS_PTRACE,
        CapabilitySet::SYS_ADMIN,
        CapabilitySet::PERFMON,
    ] {
        let _ = remove_capability_from_bounding_set(capability);
    }
}

/// Moves the child into a Landlock domain. The domain forbids almost nothing in the file system, but a process in a domain
/// cannot trace, read or signal processes outside. Older kernels do less, or nothing.
///
/// Every domain forbids renames and links between folders unless a rule allows them. The cache of uv needs them.
fn confine() -> std::io::Result<()> {
    let root = PathFd::new("/").map_err(std::io::Error::other)?;
    let confined = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::MakeBlock | AccessFs::Refer)
        .and_then(|ruleset| ruleset.scope(Scope::from_all(ABI::V6)))
        .and_then(|ruleset| ruleset.create())
        .and_then(|ruleset| ruleset.add_rule(PathBeneath::new(root, AccessFs::Refer)))
        .and_then(|ruleset| ruleset.restrict_self());
    confined.map_err(std::io::Error::other)?;
    Ok(())
}

/// Waits for the end of the child, of the worker or of the time. Then all processes are killed.
fn watch(
    pipe: &OwnedFd,
    child: Pid,
    mut lives_until: Instant,
    group: Option<&ChildGroup>,
) -> std::io::Result<ExitStatus> {
    let pidfd = pidfd_open(child, PidfdFlags::empty())?;
    let mut reads_pipe = true;
    let mut status = None;
    loop {
        let happened = wait_for(pipe.as_fd(), reads_pipe, pidfd.as_fd(), lives_until)?;
        if happened.child_ended {
            break;
        }
        if happened.has_message {
            match read_message(pipe.as_fd()) {
                Some((RENEW, time)) => lives_until = monotonic() + time,
                Some((TERMINATE, time)) => {
                    let _ = kill_process_group(child, Signal::TERM);
                    reads_pipe = false;
                    lives_until = monotonic() + time;
                }
                // The worker is gone.
                _ => break,
            }
        } else if monotonic() >= lives_until {
            break;
        }
        // Reaps ended orphans of the child, and perhaps the child.
        status = reap(child);
        if status.is_some() {
            break;
        }
    }
    if let Some(group) = group {
        group.kill();
    }
    Ok(kill_all(child, status))
}

/// The result of a wait.
struct Happened {
    has_message: bool,
    child_ended: bool,
}

/// Waits for a message, for the end of the child or for a moment.
fn wait_for(
    pipe: BorrowedFd<'_>,
    reads_pipe: bool,
    child: BorrowedFd<'_>,
    until: Instant,
) -> std::io::Result<Happened> {
    let left = until.saturating_duration_since(monotonic());
    let limit = Timespec {
        tv_sec: left.as_secs() as i64,
        tv_nsec: i64::from(left.subsec_nanos()),
    };
    let pipe_events = if reads_pipe {
        PollFlags::IN
    } else {
        PollFlags::empty()
    };
    let mut fds = [
        PollFd::from_borrowed_fd(pipe, pipe_events),
        PollFd::from_borrowed_fd(child, PollFlags::IN),
    ];
    match poll(&mut fds, Some(&limit)) {
        Ok(_) => Ok(Happened {
            has_message: reads_pipe && !fds[0].revents().is_empty(),
            child_ended: !fds[1].revents().is_empty(),
        }),
        Err(rustix::io::Errno::INTR) => Ok(Happened {
            has_message: false,
            child_ended: false,
        }),
        Err(error) => Err(error.into()),
    }
}

/// Reads the next message. `None`: the pipe is closed, because the worker is gone.
fn read_message(pipe: BorrowedFd<'_>) -> Option<(u8, Duration)> {
    let mut message = [0u8; MESSAGE];
    // A message is shorter than PIPE_BUF, so it arrives whole.
    let length = rustix::io::read(pipe, &mut message).ok()?;
    let [kind, ms @ ..] = message;
    let time = Duration::from_millis(u64::from(u32::from_be_bytes(ms)));
    (length == MESSAGE).then_some((kind, time))
}

/// Reaps the processes that have ended, and returns the status of the child if it is one of them.
fn reap(child: Pid) -> Option<ExitStatus> {
    let mut status = None;
    while let Ok(Some((pid, ended))) = wait(WaitOptions::NOHANG) {
        if pid == child {
            status = Some(ExitStatus::from_raw(ended.as_raw()));
        }
    }
    status
}

/// Kills the process group of the child, then all orphans, until none is left.
fn kill_all(child: Pid, mut status: Option<ExitStatus>) -> ExitStatus {
    let _ = kill_process_group(child, Signal::KILL);
    let give_up = monotonic() + KILL_TIME;
    loop {
        status = status.or(reap(child));
        let mut left = 0;
        // Each process is killed as soon as it is seen, before it can fork again.
        for pid in children() {
            left += 1;
            let _ = kill_process(pid, Signal::KILL);
        }
        if left == 0 || monotonic() > give_up {
            return status.unwrap_or(ExitStatus::from_raw(9));
        }
        // Waits until one of them has ended.
        if let Ok(Some((pid, ended))) = wait(WaitOptions::empty())
            && pid == child
        {
            status = Some(ExitStatus::from_raw(ended.as_raw()));
        }
    }
}
