//! Inspects processes and sends signals to them.

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

/// Returns the state and the parent of a process, or `None` if no process has this id.
fn stat(pid: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// Returns whether a process runs. A zombie does not run.
pub fn is_alive(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != 'Z')
}

/// Waits until a fixture server executes a number of calls. Each call has its own thread.
pub async fn under_way(pid: u32, calls: usize) {
    wait_until("the server executes the calls", async || {
        threads(pid) > calls
    })
    .await;
}

/// Waits until a fixture server executes no call, and the thread of its last call has ended.
pub async fn idle(pid: u32) {
    wait_until("the server executes no call", async || threads(pid) == 1).await;
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

pub fn children_of(parent: u32) -> impl Iterator<Item = u32> {
    pids().filter(move |pid| stat(*pid).is_some_and(|(_, found)| found == parent))
}

/// Returns the name of a process, which the process may have chosen.
pub fn name_of(pid: u32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim_end().to_owned())
}

/// Returns the bytes of memory that a process shares with no other process.
pub fn private_memory(pid: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("a process");
    let figures = ["Private_Clean:", "Private_Dirty:"].map(|name| {
        let figure = rollup.lines().find_map(|line| line.strip_prefix(name));
        let kib = figure.and_then(|figure| figure.trim().strip_suffix(" kB"));
        kib.and_then(|kib| kib.parse::<u64>().ok())
            .expect("a figure")
    });
    figures.iter().sum::<u64>() << 10
}

/// Returns the zombies among the children and grandchildren of a program.
pub fn zombies_of(program: u32) -> Vec<u32> {
    let family = children_of(program).chain(children_of(program).flat_map(children_of));
    family
        .filter(|pid| stat(*pid).is_some_and(|(state, _)| state == 'Z'))
        .collect()
}

/// Returns the processes with a folder in their environment: the program, its children and grandchildren.
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

/// Checks that no process with a folder in its environment survives. A guard needs a moment to notice the end of its
/// worker.
pub fn assert_no_process_left(dir: &Path) {
    let is_empty = block_until(|| left_of(dir).is_empty());
    let left = left_of(dir);
    assert!(is_empty, "processes outlived the program: {left:?}");
}
