//! The named retry policies. The command client retries asks that no worker has started. Workers
//! retry store calls, starts of servers and token requests, and execute interrupted jobs again. The
//! start of the program retries services. Commands of the command line retry requests. Two places repeat a call at once, without a policy, because
//! the server has refused it before it started: `workers/tools.rs` and `workers/mcp/http/session.rs`.

use std::future::Future;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::{Instant, sleep};

use super::clock;
use crate::core::failure::{Code, Failure};

/// An ask that no worker has started, because the worker is busy or has just left. The caller
/// waits, so the pauses are short: 5 to 200 ms with jitter, at most 2 seconds in all.
pub const ASK_NOT_STARTED: RetryPolicy = RetryPolicy {
    pauses: exponential(5, 200).with_jitter(),
    limit: Some(Duration::from_secs(2)),
};

/// A store call that failed because the store is unavailable: 100 ms to 1 s with jitter, at most
/// 60 seconds in all.
pub const STORE_CALL: RetryPolicy = RetryPolicy {
    pauses: exponential(100, 1_000).with_jitter(),
    limit: Some(Duration::from_secs(60)),
};

/// A job that was interrupted before its work started, or whose end could not be stored. The
/// pauses are 500 ms to 2 s with jitter, without a limit, because the job's lease decides when
/// the worker gives up.
pub const INTERRUPTED_JOB: RetryPolicy = RetryPolicy {
    pauses: exponential(500, 2_000).with_jitter(),
    limit: None,
};

/// A token request that the authorization server has not executed, because it is busy or not
/// reachable: 500 ms to 4 s with jitter. The last attempt starts after at most 3 seconds of attempts
/// and one pause. The server may ask for other pauses.
pub const TOKEN_REQUEST: RetryPolicy = RetryPolicy {
    pauses: exponential(500, 4_000).with_jitter(),
    limit: Some(Duration::from_secs(3)),
};

/// A service (NATS, MongoDB) that is not reachable when the program starts: every 500 ms, at most
/// 60 seconds in all.
pub const SERVICE_AT_START: RetryPolicy = RetryPolicy {
    pauses: exponential(500, 500),
    limit: Some(Duration::from_secs(60)),
};

/// The lease for a refresh that another worker holds: every 100 ms, at most 55 seconds in all.
pub const REFRESH_LEASE: RetryPolicy = RetryPolicy {
    pauses: exponential(100, 100),
    limit: Some(Duration::from_secs(55)),
};

/// A refresh whose worker was lost: 100 ms to 1 s with jitter, at most 60 seconds in all. The log and the
/// lease make sure that one refresh runs.
pub const LOST_REFRESH: RetryPolicy = RetryPolicy {
    pauses: exponential(100, 1_000).with_jitter(),
    limit: Some(Duration::from_secs(60)),
};

/// A server that cannot start, or the new version of its package: 500 ms to 60 s with jitter.
pub const SERVER_START: RetryPolicy = RetryPolicy {
    pauses: exponential(500, 60_000).with_jitter(),
    limit: None,
};

/// A server that crashes soon after each start: 500 ms to 5 s with jitter.
pub const SERVER_CRASH: RetryPolicy = RetryPolicy {
    pauses: exponential(500, 5_000).with_jitter(),
    limit: None,
};

/// The lease of a server while the store is unavailable: 500 ms to 2 s with jitter.
pub const SERVER_LEASE: RetryPolicy = RetryPolicy {
    pauses: exponential(500, 2_000).with_jitter(),
    limit: None,
};

/// The claims and the lease of a worker's job runner while the store is unavailable: every 500 ms.
pub const JOB_CLAIM: RetryPolicy = RetryPolicy {
    pauses: exponential(500, 500),
    limit: None,
};

/// The lock of a package folder that another process holds: every 50 ms. A process that needs a complete
/// folder gives up after 5 seconds. A process that may build the folder waits without a limit.
pub const PACKAGE_LOCK: RetryPolicy = RetryPolicy {
    pauses: exponential(50, 50),
    limit: Some(Duration::from_secs(5)),
};

/// The removal of a folder in which a killed installer may still write: every 50 ms, at most 1 second in
/// all.
pub const FOLDER_REMOVAL: RetryPolicy = RetryPolicy {
    pauses: exponential(50, 50),
    limit: Some(Duration::from_secs(1)),
};

/// A request of the command line to an API that is starting, busy or not reachable: every second, at most
/// 30 seconds in all.
pub const API_REQUEST: RetryPolicy = RetryPolicy {
    pauses: exponential(1_000, 1_000),
    limit: Some(Duration::from_secs(30)),
};

/// The next request of a command with `--follow`: every second.
pub const API_FOLLOW: RetryPolicy = RetryPolicy {
    pauses: exponential(1_000, 1_000),
    limit: None,
};

/// The pauses between two attempts, and the total time after which the last error is final.
#[derive(Clone, Copy)]
pub struct RetryPolicy {
    pauses: ExponentialBuilder,
    limit: Option<Duration>,
}

const fn exponential(first_ms: u64, longest_ms: u64) -> ExponentialBuilder {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(first_ms))
        .with_max_delay(Duration::from_millis(longest_ms))
        .without_max_times()
}

impl RetryPolicy {
    /// Starts the attempts of one operation now.
    pub fn start(&self) -> Attempts {
        Attempts {
            pauses: self.pauses(),
            deadline: self.limit.map(|limit| clock::monotonic() + limit),
        }
    }

    /// Returns the pauses without the limit, for a caller that checks the limit itself.
    pub fn pauses(&self) -> Pauses {
        Pauses(self.pauses.build())
    }

    /// Returns the pause after this number of failures. The first failure has number 1.
    pub fn pause_after(&self, failures: u32) -> Duration {
        let before = failures.saturating_sub(1) as usize;
        self.pauses.build().nth(before).unwrap_or_default()
    }

    /// Returns the total time after which the last error is final.
    pub fn limit(&self) -> Option<Duration> {
        self.limit
    }

    /// Returns whether another attempt is allowed after this time.
    pub fn allows(&self, elapsed: Duration) -> bool {
        self.limit.is_none_or(|limit| elapsed < limit)
    }

    /// Repeats `operation` while it fails with an error that `is_retryable` accepts and the limit
    /// is not reached. Dropping the future ends the attempts.
    ///
    /// # Errors
    /// Returns the error of the last attempt.
    pub async fn retry<T, E, F: Future<Output = Result<T, E>>>(
        &self,
        is_retryable: impl Fn(&E) -> bool,
        mut operation: impl FnMut() -> F,
    ) -> Result<T, E> {
        let mut attempts = self.start();
        loop {
            match operation().await {
                Err(error) if is_retryable(&error) => {
                    if !attempts.wait().await {
                        return Err(error);
                    }
                }
                result => return result,
            }
        }
    }
}

/// The growing pauses between attempts, without an end.
pub struct Pauses(ExponentialBackoff);

impl Pauses {
    /// Returns the pause before the next attempt.
    pub fn next_pause(&mut self) -> Duration {
        // A policy has no greatest number of attempts, so the iterator does not end.
        self.0.next().unwrap_or_default()
    }

    /// Waits before the next attempt.
    pub async fn wait(&mut self) {
        sleep(self.next_pause()).await;
    }
}

/// The attempts of one operation.
pub struct Attempts {
    pauses: Pauses,
    deadline: Option<Instant>,
}

impl Attempts {
    /// Returns the pause before the next attempt, or `None` if the limit is reached.
    pub fn next_pause(&mut self) -> Option<Duration> {
        if self
            .deadline
            .is_some_and(|deadline| clock::monotonic() >= deadline)
        {
            return None;
        }
        Some(self.pauses.next_pause())
    }

    /// Waits before the next attempt. Returns `false` at once if the limit is reached.
    pub async fn wait(&mut self) -> bool {
        self.wait_or(None).await
    }

    /// Waits before the next attempt, for the pause that a server asks for if there is one. Returns
    /// `false` at once if the limit is reached.
    pub async fn wait_or(&mut self, requested: Option<Duration>) -> bool {
        let Some(pause) = self.next_pause() else {
            return false;
        };
        sleep(requested.unwrap_or(pause)).await;
        true
    }
}

/// Repeats a store call after [`STORE_CALL`] while its failure says that the store is unavailable.
/// The operation must be safe to repeat, because a store may have executed a call whose reply was
/// lost.
///
/// # Errors
/// Returns the failure of the last attempt.
pub async fn retry_store_call<T, F: Future<Output = Result<T, Failure>>>(
    operation: impl FnMut() -> F,
) -> Result<T, Failure> {
    STORE_CALL.retry(is_unavailable, operation).await
}

fn is_unavailable(failure: &Failure) -> bool {
    failure.code == Code::Unavailable
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const SHORT: RetryPolicy = RetryPolicy {
        pauses: exponential(1, 2),
        limit: Some(Duration::from_millis(50)),
    };

    #[tokio::test]
    async fn an_operation_is_repeated_until_it_succeeds() {
        let attempts = Cell::new(0);
        let result = INTERRUPTED_NOW
            .retry(is_unavailable, async || {
                attempts.set(attempts.get() + 1);
                if attempts.get() < 4 {
                    return Err(Failure::unavailable("not yet"));
                }
                Ok(attempts.get())
            })
            .await;
        assert_eq!(result.ok(), Some(4));
    }

    #[tokio::test]
    async fn another_error_is_final_at_once() {
        let attempts = Cell::new(0);
        let result: Result<(), _> = SHORT
            .retry(is_unavailable, async || {
                attempts.set(attempts.get() + 1);
                Err(Failure::invalid("never"))
            })
            .await;
        assert_eq!(
            result.map_err(|failure| failure.code),
            Err(Code::InvalidRequest)
        );
        assert_eq!(attempts.get(), 1);
    }

    #[tokio::test]
    async fn the_limit_makes_the_last_error_final() {
        let attempts = Cell::new(0);
        let result: Result<(), _> = SHORT
            .retry(is_unavailable, async || {
                attempts.set(attempts.get() + 1);
                Err(Failure::unavailable("away"))
            })
            .await;
        assert!(result.is_err());
        assert!(attempts.get() > 1, "the operation ran once");
    }

    #[test]
    fn a_policy_without_a_limit_always_has_a_next_pause() {
        let mut attempts = INTERRUPTED_JOB.start();
        for _ in 0..200 {
            let pause = attempts.next_pause().expect("a pause");
            assert!(pause >= Duration::from_millis(500));
            assert!(pause <= Duration::from_secs(4), "{pause:?}");
        }
    }

    #[tokio::test]
    async fn a_wait_lasts_as_long_as_the_server_asks_and_ends_at_the_limit() {
        let requested = Duration::from_millis(60);
        let start = clock::monotonic();
        let mut attempts = SHORT.start();
        assert!(attempts.wait_or(Some(requested)).await);
        assert!(clock::monotonic() - start >= requested);
        // The limit of 50 ms is over.
        assert!(!attempts.wait().await);
    }

    #[test]
    fn the_pause_after_more_failures_is_longer_and_has_a_maximum() {
        // The jitter at most doubles a pause.
        let between = |failures, least, most| {
            let pause = SERVER_CRASH.pause_after(failures).as_millis();
            assert!(
                (least..=most).contains(&pause),
                "{failures} failures: {pause} ms"
            );
        };
        between(1, 500, 1_000);
        between(3, 2_000, 4_000);
        between(100, 5_000, 10_000);
    }

    /// Without a limit, and fast enough for a test.
    const INTERRUPTED_NOW: RetryPolicy = RetryPolicy {
        pauses: exponential(1, 2),
        limit: None,
    };
}
