//! The only way in which a test waits: for a condition, and never for a fixed time.

use std::time::{Duration, Instant};

/// The time after which a test gives up. It is much longer than any condition takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The time between two looks at a condition.
const INTERVAL: Duration = Duration::from_millis(10);

/// Waits until a condition holds. Panics with the description after `PATIENCE`.
pub async fn wait_until(description: &str, mut is_reached: impl AsyncFnMut() -> bool) {
    wait_for(description, async || is_reached().await.then_some(())).await;
}

/// Waits until a value exists, and returns it. Panics with the description after `PATIENCE`.
pub async fn wait_for<T>(description: &str, find: impl AsyncFnMut() -> Option<T>) -> T {
    let found = wait_at_most(PATIENCE, find).await;
    found.unwrap_or_else(|| panic!("this never happened: {description}"))
}

/// Waits until a value exists. Returns `None` if it does not exist after a time.
pub async fn wait_at_most<T>(
    patience: Duration,
    mut find: impl AsyncFnMut() -> Option<T>,
) -> Option<T> {
    let end = Instant::now() + patience;
    loop {
        if let Some(value) = find().await {
            return Some(value);
        }
        if Instant::now() > end {
            return None;
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Waits on a thread without a runtime. Returns whether the condition holds before `PATIENCE` ends.
pub fn block_until(mut is_reached: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + PATIENCE;
    while !is_reached() {
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(INTERVAL);
    }
    true
}
