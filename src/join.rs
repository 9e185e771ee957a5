//! [`join_all`]: waits for several futures at the same time.

use std::future::poll_fn;
use std::task::Poll;

/// Runs some futures to their ends, and returns what each gave, in their order. Polls all that are pending
/// when one is woken, so for those that are few or seldom wait.
pub(crate) async fn join_all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut pending: Vec<_> = futures.map(Box::pin).map(Some).collect();
    let mut done: Vec<Option<F::Output>> = pending.iter().map(|_| None).collect();
    poll_fn(|cx| {
        for (future, done) in pending.iter_mut().zip(&mut done) {
            let Some(work) = future else { continue };
            if let Poll::Ready(output) = work.as_mut().poll(cx) {
                (*future, *done) = (None, Some(output));
            }
        }
        if pending.iter().all(Option::is_none) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::monotonic_now;

    #[tokio::test(start_paused = true)]
    async fn all_wait_at_the_same_time_and_keep_their_order() {
        let start = monotonic_now();
        let wait = |number: u64| async move {
            tokio::time::sleep(Duration::from_secs(5 - number)).await;
            number
        };
        assert_eq!(join_all((0..5).map(wait)).await, [0, 1, 2, 3, 4]);
        assert_eq!(start.elapsed(), Duration::from_secs(5));
        assert!(join_all((0..0).map(wait)).await.is_empty());
    }
}
