//! Masking a large text takes long and needs many times its memory.

use parking_lot::Mutex;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::block_in_place;

/// The largest text in bytes that a thread of the runtime masks.
const SMALL: usize = 16 * 1024;

/// Large texts are masked one at a time, so that the memory for it is limited.
static TURN: Mutex<()> = Mutex::new(());

/// Runs `mask` for a text of so many bytes. While it masks a large text, another thread runs the other tasks of this thread.
/// `mask` must not call this function.
pub(super) fn in_turn<T>(bytes: usize, mask: impl FnOnce() -> T) -> T {
    if bytes <= SMALL {
        return mask();
    }
    let masked = || {
        let _turn = TURN.lock();
        mask()
    };
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => block_in_place(masked),
        _ => masked(),
    }
}
