//! Masking a large text takes long and needs many times its memory.

use parking_lot::{Mutex, MutexGuard};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::Semaphore;
use tokio::task::block_in_place;

/// The largest text in bytes that always runs on a thread of the runtime.
const SMALL: usize = 16 * 1024;

/// The threads that mask large texts, or wait for their turn. Guards and the store need other threads of the pool.
static THREADS: Semaphore = Semaphore::const_new(128);

/// The views of a large text need much memory, so one large text is masked at a time.
static TURN: Mutex<()> = Mutex::new(());

/// Runs `mask` for texts of so many bytes. While it masks large texts, another thread runs the other tasks of this thread.
pub fn off_runtime<T>(bytes: usize, mask: impl FnOnce() -> T) -> T {
    if bytes <= SMALL || !can_leave_thread() {
        return mask();
    }
    match THREADS.try_acquire() {
        Ok(_thread) => block_in_place(mask),
        Err(_) => mask(),
    }
}

/// Waits until no other large text is masked. A small text needs no turn.
pub(super) fn turn(bytes: usize) -> Option<MutexGuard<'static, ()>> {
    (bytes > SMALL).then(|| TURN.lock())
}

/// Whether this thread belongs to a runtime that can replace it.
fn can_leave_thread() -> bool {
    let runtime = Handle::try_current();
    runtime.is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// Returns whether another task of the only thread runs while a text of so many bytes is masked.
    async fn lets_others_run(bytes: usize) -> bool {
        let (begun, begins) = tokio::sync::oneshot::channel();
        let (other, others) = mpsc::channel();
        let masking = tokio::spawn(async move {
            let _ = begun.send(());
            off_runtime(bytes, || {
                others.recv_timeout(Duration::from_secs(2)).is_ok()
            })
        });
        begins.await.expect("the masking begins");
        tokio::spawn(async move { other.send(()) });
        masking.await.expect("masked")
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_large_text_stops_no_other_task_of_its_thread() {
        assert!(lets_others_run(SMALL + 1).await);
        assert!(!lets_others_run(SMALL).await);
    }

    #[test]
    fn a_text_is_masked_without_a_runtime_too() {
        assert_eq!(off_runtime(SMALL + 1, || 7), 7);
    }
}
