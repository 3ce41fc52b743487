//! What a killed guard leaves behind comes to the worker, and ends there.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, io};

use rustix::process::{
    Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, waitpid,
};

/// How long they may take to die of SIGKILL.
const LIMIT: Duration = Duration::from_secs(2);

/// The guards of this worker. Every other child of it is an orphan.
static GUARDS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// A guard's place among the known ones, until it is waited for.
pub struct GuardRegistration(i32);

impl Drop for GuardRegistration {
    fn drop(&mut self) {
        guards().remove(&self.0);
    }
}

/// Held while a guard is being started: until it is known it must not be taken for an orphan.
pub fn guards() -> MutexGuard<'static, BTreeSet<i32>> {
    GUARDS.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn known(guards: &mut BTreeSet<i32>, pid: i32) -> GuardRegistration {
    guards.insert(pid);
    GuardRegistration(pid)
}

/// From now on what loses its guard becomes this process's child.
pub fn become_subreaper() -> io::Result<()> {
    Ok(set_child_subreaper(Some(getpid()))?)
}

/// Kills all orphans, and what they leave behind in turn. Blocks until they are gone.
pub fn kill() {
    let guards = guards();
    let give_up = Instant::now() + LIMIT;
    loop {
        let orphans: Vec<Pid> = children()
            .into_iter()
            .filter(|pid| !guards.contains(&pid.as_raw_nonzero().get()))
            .collect();
        if orphans.is_empty() || Instant::now() > give_up {
            return;
        }
        for pid in orphans {
            let _ = kill_process(pid, Signal::KILL);
            let _ = waitpid(Some(pid), WaitOptions::empty());
        }
    }
}

/// The processes whose parent is this one.
pub fn children() -> Vec<Pid> {
    let own = getpid().as_raw_nonzero().get();
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| parent(*pid) == Some(own))
        .filter_map(Pid::from_raw)
        .collect()
}

fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; the parent is the second field after it.
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}
