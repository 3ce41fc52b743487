//! Looks at processes from outside, and signals them.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::wait::{block_until, wait_until};

pub fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill")
        .args([format!("-{name}"), pid.to_string()])
        .status()
        .expect("kill");
    assert!(sent.success(), "signal {name} to {pid}");
}

/// The state and the parent of a process; `None` when there is none of that id.
fn stat(pid: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// Whether a process runs. One that has ended and waits to be reaped does not.
pub fn is_alive(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != 'Z')
}

/// Waits until a fixture server works on so many calls: each has a thread of its own.
pub async fn under_way(pid: u32, calls: usize) {
    wait_until("the calls are under way", async || threads(pid) > calls).await;
}

/// Waits until a fixture server has no call left, the thread of its last answer included.
pub async fn idle(pid: u32) {
    wait_until("it is idle", async || threads(pid) == 1).await;
}

fn threads(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let threads = status
        .lines()
        .find_map(|line| line.strip_prefix("Threads:")?.trim().parse().ok());
    threads.unwrap_or(0)
}

pub fn parent_of(pid: u32) -> u32 {
    stat(pid).expect("a process").1
}

fn pids() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .expect("/proc")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Ended processes that a parent has not reaped, among the program's children and theirs.
pub fn zombies_of(program: u32) -> Vec<u32> {
    let children =
        |of: u32| pids().filter(move |pid| stat(*pid).is_some_and(|(_, parent)| parent == of));
    let family = children(program).chain(children(program).flat_map(children));
    family
        .filter(|pid| stat(*pid).is_some_and(|(state, _)| state == 'Z'))
        .collect()
}

/// Processes that have this folder in their environment: the program's children and theirs.
pub fn left_of(dir: &Path) -> Vec<(u32, String)> {
    let needle = format!("TMPDIR={}", dir.display());
    let ours = pids().filter(|pid| {
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environ
            .split(|byte| *byte == 0)
            .any(|variable| variable == needle.as_bytes())
    });
    ours.map(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        (pid, String::from_utf8_lossy(&line).replace('\0', " "))
    })
    .collect()
}

/// Guards need a moment to see that their worker is gone; longer than that and somebody has leaked.
pub fn assert_nobody_left(dir: &Path) {
    let is_empty = block_until(|| left_of(dir).is_empty());
    let left = left_of(dir);
    assert!(is_empty, "processes outlived the program: {left:?}");
}
