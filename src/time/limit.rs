//! Time limits of work that is usually ready at once.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use tokio::task::coop::{Unconstrained, unconstrained};
use tokio::time::{Instant, Sleep, sleep_until};

/// Waits for a future until its deadline. Returns `None` if the future is not ready by then.
///
/// A future that is ready at its first poll costs no look at the clock and no timer: `deadline` is called only if the
/// caller has to wait.
pub async fn before<F: Future>(deadline: impl FnOnce() -> Instant, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut deadline = Some(deadline);
    // The timer also fires if the future uses up the budget of its task at every poll.
    let mut timer = pin!(None::<Unconstrained<Sleep>>);
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        if let Some(deadline) = deadline.take() {
            timer.set(Some(unconstrained(sleep_until(deadline()))));
        }
        match timer.as_mut().as_pin_mut() {
            Some(timer) => timer.poll(cx).map(|()| None),
            None => Poll::Pending,
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::time::Duration;

    use super::*;
    use crate::time::clock::monotonic;

    #[tokio::test]
    async fn a_ready_future_asks_for_no_deadline() {
        let output = before(|| panic!("the clock is not needed"), ready(7)).await;
        assert_eq!(output, Some(7));
    }

    #[tokio::test(start_paused = true)]
    async fn a_future_has_until_its_deadline() {
        let start = monotonic();
        let deadline = start + Duration::from_secs(3);
        let in_time = before(|| deadline, tokio::time::sleep(Duration::from_secs(2))).await;
        assert_eq!((in_time, start.elapsed().as_secs()), (Some(()), 2));
        assert_eq!(before(|| deadline, pending::<()>()).await, None);
        assert_eq!(start.elapsed().as_secs(), 3);
    }

    #[tokio::test]
    async fn a_future_that_uses_up_the_budget_of_its_task_still_ends_at_its_deadline() {
        let deadline = monotonic() + Duration::from_millis(20);
        let busy = async {
            loop {
                tokio::task::coop::consume_budget().await;
            }
        };
        let ended = before(|| deadline, busy);
        let ended = tokio::time::timeout(Duration::from_secs(30), ended).await;
        assert_eq!(ended, Ok(None::<()>));
    }

    #[tokio::test(start_paused = true)]
    async fn a_future_that_becomes_ready_at_its_deadline_counts() {
        let deadline = monotonic() + Duration::from_secs(1);
        let future = tokio::time::sleep_until(deadline);
        assert_eq!(before(|| deadline, future).await, Some(()));
    }
}
