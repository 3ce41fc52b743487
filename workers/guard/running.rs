//! A running guard, as the worker sees it: its end, and the end of the processes that it leaves.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, waitpid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

use super::orphans::{self, Registration};
use super::request::GuardDescriptors;
use super::start;

/// While a task waits for the end of a guard, it looks at the guard this often.
const EXIT_CHECK: Duration = Duration::from_millis(500);

pub(super) struct RunningGuard {
    process: AsyncFd<OwnedFd>,
    registration: Registration,
    /// The status of a guard that has ended.
    status: Option<ExitStatus>,
}

impl RunningGuard {
    /// Starts a guard, if it is still wanted when its turn comes. Blocks until the guard runs.
    ///
    /// # Errors
    /// The error of the system.
    pub(super) fn start(
        descriptors: &GuardDescriptors,
        is_wanted: impl Fn() -> bool,
    ) -> io::Result<Self> {
        let registration = start::start_guard(descriptors, is_wanted)?;
        // The id is valid, because only this worker reaps the guard.
        let process = pidfd_open(registration.pid(), PidfdFlags::empty())?;
        // SAFETY: the `AsyncFd` owns the descriptor, and no code closes or replaces it.
        #[allow(unsafe_code)]
        let process = unsafe { AsyncFd::register_with_interest(process, Interest::READABLE) }?;
        Ok(Self {
            process,
            registration,
            status: None,
        })
    }

    pub(super) fn has_ended(&self) -> bool {
        self.status.is_some()
    }

    /// Waits until the guard and all processes that it leaves are gone.
    pub(super) async fn ended(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        let status = self.exit_status().await?;
        self.status = Some(status);
        // A guard that was killed, or that was slower than its child forks, leaves orphans to this process.
        let guard = self.registration.pid();
        let _ = tokio::task::spawn_blocking(move || {
            orphans::kill_orphans(guard);
            start::reap_ended_starter();
        })
        .await;
        Ok(status)
    }

    async fn exit_status(&self) -> io::Result<ExitStatus> {
        loop {
            // The descriptor of a process becomes readable when the process ends. The kernel says so once, so a wait without
            // a limit could last for ever after a lost event.
            let ready = timeout(EXIT_CHECK, self.process.readable()).await;
            if let Some((_, status)) = waitpid(Some(self.registration.pid()), WaitOptions::NOHANG)?
            {
                return Ok(ExitStatus::from_raw(status.as_raw()));
            }
            if let Ok(ready) = ready {
                ready?.clear_ready();
            }
        }
    }

    /// Kills the guard, and all processes that it leaves.
    pub(super) async fn kill(&mut self) {
        if !self.has_ended() {
            let _ = pidfd_send_signal(self.process.get_ref(), Signal::KILL);
        }
        let _ = self.ended().await;
    }
}
