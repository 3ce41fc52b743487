//! A control group for one child, where the system allows it: the kernel kills all its processes at once.
//!
//! A child that forks faster than the guard kills cannot leave its group. Without cgroup v2, or without the right to
//! create a group, the guard and the worker kill the processes one by one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::{Pid, getpid, getppid};
use uuid::Uuid;

use crate::time::clock::monotonic;

const MOUNT: &str = "/sys/fs/cgroup";
/// The mount of v2 on a system that uses v1 for its controllers (the hybrid layout of systemd).
const HYBRID: &str = "unified";
/// The beginning of the names of all groups.
const PREFIX: &str = "mcp-api-";
/// How long the processes of a group may take to die.
const KILL_TIME: Duration = Duration::from_secs(2);
const KILL_POLL: Duration = Duration::from_millis(5);
/// A group without a process that is older belongs to a guard that was killed together with its worker.
const ABANDONED: Duration = Duration::from_secs(60);
/// Groups inside each other that are removed with a group. A child may have created them.
const MAX_DEPTH: usize = 16;

/// The part of the names of groups that belongs to one program, because another one may have guards with the same ids: in
/// another container, or later.
static TOKEN: OnceLock<String> = OnceLock::new();

/// Names the groups of this process after the lock of its data folder, so that the next process of the folder finds them if it
/// starts in the same control group. Kills what an earlier process of the folder has left, if its guards were killed too.
pub fn claim_groups(lock: &File) {
    let Ok(lock) = lock.metadata() else {
        return;
    };
    // Under one kernel, no two files have both numbers in common, whatever containers they are in.
    let token = format!("{:x}-{:x}", lock.dev(), lock.ino());
    if TOKEN.set(token).is_err() {
        return;
    }
    let beginning = format!("{PREFIX}{}-", worker_token());
    let mut left = sibling_groups(&beginning);
    left.retain(|group| {
        let name = group.file_name().unwrap_or_default().to_string_lossy();
        !is_guard(name.trim_start_matches(&beginning))
    });
    if left.iter().any(|group| has_processes(group)) {
        tracing::warn!(
            "killing the processes that an earlier program of this data folder has left"
        );
    }
    left.retain(|group| begin_to_kill(group));
    wait_for_deaths(&left);
    for group in left {
        remove_group(&group, MAX_DEPTH);
    }
}

/// Returns whether a process is a guard of this data folder. Such a guard ends its child itself.
fn is_guard(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/cmdline"))
        .is_ok_and(|line| line.split('\0').any(|word| word == worker_token()))
}

/// Returns the token of this worker, which its starter gets as an argument.
pub(super) fn worker_token() -> &'static str {
    TOKEN.get_or_init(|| Uuid::new_v4().simple().to_string())
}

/// Sets the token of the worker in the starter, whose forks are the guards.
pub(super) fn set_worker_token(token: String) {
    let _ = TOKEN.set(token);
}

/// The control group of one child. If it is dropped, it is removed.
pub(super) struct ChildGroup {
    folder: PathBuf,
    processes: File,
}

impl ChildGroup {
    /// Creates the group of the child of this guard. `None`: the system does not allow it.
    pub(super) fn create() -> Option<Self> {
        let folder = folder_of(getpid())?;
        match fs::create_dir(&folder) {
            Ok(()) => {}
            // An earlier guard of this data folder had the same id, so it has ended.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                kill_group(&folder);
                remove_group(&folder, MAX_DEPTH);
                fs::create_dir(&folder).ok()?;
            }
            Err(_) => return None,
        }
        let processes = File::options()
            .write(true)
            .open(folder.join("cgroup.procs"));
        // Linux 5.14 and later can kill a group.
        let can_kill = folder.join("cgroup.kill").exists();
        match processes {
            Ok(processes) if can_kill => Some(Self { folder, processes }),
            _ => {
                let _ = fs::remove_dir(&folder);
                None
            }
        }
    }

    /// Returns another handle of the group's process list, for the child between fork and exec.
    pub(super) fn entrance(&self) -> io::Result<GroupEntrance> {
        Ok(GroupEntrance(self.processes.try_clone()?))
    }

    /// Kills all processes of the group.
    pub(super) fn kill(&self) {
        kill_group(&self.folder);
    }
}

/// The process list of a group.
pub(super) struct GroupEntrance(File);

impl GroupEntrance {
    /// Moves the calling process into the group. The function may be called between fork and exec.
    pub(super) fn enter(&self) {
        let _ = rustix::io::write(self.0.as_fd(), b"0");
    }
}

impl Drop for ChildGroup {
    fn drop(&mut self) {
        remove_group(&self.folder, MAX_DEPTH);
    }
}

/// Kills and removes the group that a killed guard has left, if there is one.
pub(super) fn kill_left_group(guard: Pid) {
    if let Some(folder) = folder_of(guard)
        && folder.exists()
    {
        kill_group(&folder);
        remove_group(&folder, MAX_DEPTH);
    }
}

/// Removes the groups of guards that were killed together with their workers.
pub fn remove_abandoned_groups() {
    for group in sibling_groups(PREFIX) {
        let modified = fs::metadata(&group).and_then(|metadata| metadata.modified());
        let age = modified.ok().and_then(|modified| modified.elapsed().ok());
        let is_old = age.is_some_and(|age| age >= ABANDONED);
        if is_old && !has_processes(&group) {
            remove_group(&group, MAX_DEPTH);
        }
    }
}

/// Returns the groups beside those of this worker whose names begin so.
fn sibling_groups(beginning: &str) -> Vec<PathBuf> {
    let folder = folder_of(getpid());
    let parent = folder.as_deref().and_then(Path::parent);
    let mut groups: Vec<_> = parent.into_iter().flat_map(groups_in).collect();
    groups.retain(|group| {
        let name = group.file_name().unwrap_or_default();
        name.to_string_lossy().starts_with(beginning)
    });
    groups
}

/// Kills all processes of a group.
fn kill_group(folder: &Path) {
    if begin_to_kill(folder) {
        wait_for_deaths(&[folder.to_owned()]);
    }
}

/// Makes the kernel kill all processes of a group. A child that runs as root may have moved other processes into it; with the
/// guard or the worker among them, the processes are killed one by one instead. Returns whether the kernel does it.
fn begin_to_kill(folder: &Path) -> bool {
    if holds_program(folder, MAX_DEPTH) {
        return false;
    }
    let kill = File::options().write(true).open(folder.join("cgroup.kill"));
    kill.and_then(|mut kill| kill.write_all(b"1")).is_ok()
}

/// Waits until groups have no processes. One limit holds for all groups.
fn wait_for_deaths(folders: &[PathBuf]) {
    let give_up = monotonic() + KILL_TIME;
    while folders.iter().any(|folder| has_processes(folder)) && monotonic() < give_up {
        std::thread::sleep(KILL_POLL);
    }
}

/// Returns whether this process or its parent is in a group, or in a group inside it.
fn holds_program(folder: &Path, depth: usize) -> bool {
    let own = [Some(getpid()), getppid()];
    let own = own.map(|pid| pid.map_or(0, |pid| pid.as_raw_nonzero().get()));
    let processes = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    let mut ids = processes.lines().filter_map(|line| line.parse().ok());
    ids.any(|id: i32| own.contains(&id))
        || (depth > 0 && groups_in(folder).any(|group| holds_program(&group, depth - 1)))
}

/// Removes a group without processes and the groups inside it.
fn remove_group(folder: &Path, depth: usize) {
    if fs::remove_dir(folder).is_ok() || depth == 0 {
        return;
    }
    for group in groups_in(folder) {
        remove_group(&group, depth - 1);
    }
    let _ = fs::remove_dir(folder);
}

fn groups_in(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
}

fn has_processes(folder: &Path) -> bool {
    fs::read_to_string(folder.join("cgroup.events"))
        .is_ok_and(|events| events.lines().any(|line| line == "populated 1"))
}

/// Returns the folder of the group for the child of a guard. `None`: cgroup v2 is not mounted.
fn folder_of(guard: Pid) -> Option<PathBuf> {
    let mount = find_v2(Path::new(MOUNT))?;
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = own_group(&groups)?;
    let name = format!("{PREFIX}{}-{}", worker_token(), guard.as_raw_nonzero());
    Some(mount.join(own.trim_start_matches('/')).join(name))
}

/// Finds cgroup v2 under its usual mount.
fn find_v2(mount: &Path) -> Option<PathBuf> {
    // Only the root of a mount of v2 has this file.
    let is_v2 = |folder: &PathBuf| folder.join("cgroup.controllers").exists();
    [mount.to_owned(), mount.join(HYBRID)]
        .into_iter()
        .find(is_v2)
}

/// Returns the cgroup v2 path in `/proc/self/cgroup`.
fn own_group(groups: &str) -> Option<&str> {
    groups.lines().find_map(|line| line.strip_prefix("0::"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_2_is_found_alone_and_beside_version_1() {
        let mount = tempfile::tempdir().expect("a folder");
        let hybrid = mount.path().join(HYBRID);
        fs::create_dir(&hybrid).expect("a folder");
        assert_eq!(find_v2(mount.path()), None);
        fs::write(hybrid.join("cgroup.controllers"), "").expect("a file");
        assert_eq!(find_v2(mount.path()), Some(hybrid));
        fs::write(mount.path().join("cgroup.controllers"), "").expect("a file");
        assert_eq!(find_v2(mount.path()).as_deref(), Some(mount.path()));
    }

    #[test]
    fn the_line_of_version_2_names_the_group() {
        let groups = "9:name=systemd:/\n1:cpu:/x\n0::/system.slice/mcp.service\n";
        assert_eq!(own_group(groups), Some("/system.slice/mcp.service"));
        assert_eq!(own_group("1:cpu:/\n"), None);
    }
}
