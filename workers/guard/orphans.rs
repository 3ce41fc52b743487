//! The processes that a guard leaves behind become children of the worker, and the worker kills them.

use std::collections::BTreeMap;
use std::num::NonZeroI32;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use std::{fs, io};

use parking_lot::{Mutex, MutexGuard};
use rustix::process::{
    Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, waitpid,
};

use super::cgroup;
use crate::time::clock::monotonic;

/// How long the end of a server waits for the end of its orphans.
const WAIT: Duration = Duration::from_secs(2);
/// Pause between two rounds in the background.
const BACKGROUND_PAUSE: Duration = Duration::from_millis(5);

/// The guards of this worker and their starter, with the number of each registration. Every other child of the worker is an
/// orphan.
static REGISTERED: Mutex<BTreeMap<NonZeroI32, u64>> = Mutex::new(BTreeMap::new());
/// The number of the next registration.
static NEXT: AtomicU64 = AtomicU64::new(0);
/// Held while a round kills orphans, and while a guard is started that is not registered yet.
static ROUNDS: Mutex<()> = Mutex::new(());
/// A background thread kills orphans.
static IS_KILLING: AtomicBool = AtomicBool::new(false);
/// The orphans that the last round of the background thread has seen.
static LEFT: AtomicUsize = AtomicUsize::new(0);

/// The registration of a guard or of the starter, until the worker has waited for its end.
pub(super) struct Registration {
    pid: Pid,
    number: u64,
}

impl Registration {
    pub(super) fn pid(&self) -> Pid {
        self.pid
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut registered = REGISTERED.lock();
        let pid = self.pid.as_raw_nonzero();
        // The system may have given the id to another guard, which has a registration of its own.
        if registered.get(&pid) == Some(&self.number) {
            registered.remove(&pid);
        }
    }
}

/// No round kills orphans while this value exists.
pub(super) struct RoundPause(#[expect(dead_code, reason = "held")] MutexGuard<'static, ()>);

/// Keeps all rounds from killing orphans. The worker starts and registers a guard during the pause, so no round takes it for an
/// orphan.
pub(super) fn pause_rounds() -> RoundPause {
    RoundPause(ROUNDS.lock())
}

pub(super) fn register(pid: Pid) -> Registration {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    REGISTERED.lock().insert(pid.as_raw_nonzero(), number);
    Registration { pid, number }
}

/// Makes this process the parent of all processes that lose their guard.
///
/// # Errors
/// The error of the system.
pub fn become_subreaper() -> io::Result<()> {
    Ok(set_child_subreaper(Some(getpid()))?)
}

/// Kills the processes that a guard has left, and the processes that they leave in turn. Blocks until they are gone, two
/// seconds at most for each step. Orphans that are left then are killed in the background.
pub(super) fn kill_orphans(guard: Pid) {
    cgroup::kill_left_group(guard);
    let give_up = monotonic() + WAIT;
    while monotonic() < give_up {
        if kill_round() == 0 {
            return;
        }
    }
    let left = kill_round();
    if left == 0 || IS_KILLING.swap(true, Ordering::AcqRel) {
        return;
    }
    tracing::warn!(
        left,
        "a server leaves processes that fork faster than they are killed; the worker continues to kill them"
    );
    LEFT.store(left, Ordering::Release);
    std::thread::spawn(|| {
        loop {
            let left = kill_round();
            LEFT.store(left, Ordering::Release);
            if left == 0 {
                break;
            }
            std::thread::sleep(BACKGROUND_PAUSE);
        }
        IS_KILLING.store(false, Ordering::Release);
        tracing::info!("no process is left of a server that forked without end");
    });
}

/// Returns the number of processes of ended servers that this worker still kills in the background. The number is 0 unless
/// such processes fork faster than they are killed.
pub fn processes_left() -> usize {
    LEFT.load(Ordering::Acquire)
}

/// Kills the processes that are not registered, two seconds at most. The caller holds the pause, so no other task starts a
/// guard.
pub(super) fn kill_unregistered(_: &RoundPause) {
    let give_up = monotonic() + WAIT;
    while kill_children() > 0 && monotonic() < give_up {}
}

/// Kills and reaps the orphans of this moment, and returns their number.
fn kill_round() -> usize {
    let _pause = pause_rounds();
    kill_children()
}

/// Kills and reaps the children that are not registered, and returns their number.
fn kill_children() -> usize {
    // The registration of a guard may end during the round, and its id may then belong to another process.
    let registered = REGISTERED.lock().clone();
    let mut orphans = 0;
    // Each orphan is killed as soon as it is seen, before it can fork again.
    for pid in children() {
        if !registered.contains_key(&pid.as_raw_nonzero()) {
            orphans += 1;
            let _ = kill_process(pid, Signal::KILL);
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
    }
    orphans
}

/// Returns the children of this process, one by one while the process table is read.
pub(super) fn children() -> impl Iterator<Item = Pid> {
    let own = getpid().as_raw_nonzero().get();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(move |pid| parent(*pid) == Some(own))
        .filter_map(Pid::from_raw)
}

fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain anything. The parent is the second field after it.
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}
