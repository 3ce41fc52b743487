//! The settings of this process: signals, descriptors, and what other processes may read of it.

use std::io;

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};
use tokio::signal::unix::{SignalKind, signal};

/// The number of open files that the program asks for.
const WANTED_FILES: u64 = 65_536;

/// Returns a future that ends at SIGTERM or Ctrl-C. Signals count from this call on.
///
/// # Errors
/// Returns an error if the signal handlers cannot be registered.
pub fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Forbids other processes of the same user to read the memory and the environment of this process.
pub(super) fn forbid_inspection() {
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "other processes of this user can read the memory of this process");
    }
}

/// Raises the limit of open files and returns it. A server needs five descriptors and a connection
/// one, so the usual 1,024 are too few for 200 servers.
pub(super) fn raise_file_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(WANTED_FILES).min(WANTED_FILES);
    // No current limit means that the number of files is unlimited.
    let Some(current) = current.filter(|current| *current < wanted) else {
        return current.unwrap_or(WANTED_FILES);
    };
    let raised = Rlimit {
        current: Some(wanted),
        maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => wanted,
        Err(error) => {
            tracing::warn!(%error, "the limit of open files cannot be raised");
            current
        }
    }
}
