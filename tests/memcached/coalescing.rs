//! Hits on one key that are decided together: what one caller does is no matter to the others.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::time::timeout;
use traffik::strategy::{Answer, CorruptState, Op, State, StrategyId};
use traffik::{Decision, FixedWindow, Limit, Memcached, Rate, Strategy, Timestamp, TokenBucket};

use crate::world::{PATIENCE, backend, hit, limit};
use test_support::servers::MemcachedServer;

/// A user's strategy with a mistake in it.
#[derive(Debug)]
struct Panics;

impl Strategy for Panics {
    fn evaluate(
        &self,
        _: &Rate,
        _: &mut State,
        _: Timestamp,
        _: u32,
        _: Op,
    ) -> Result<Answer, CorruptState> {
        panic!("a mistake in a user's strategy");
    }

    fn id(&self) -> StrategyId {
        StrategyId::of("panics")
    }
}

type Hit = Pin<Box<dyn Future<Output = Result<Decision, traffik::BackendError>> + Send>>;

fn start(backend: &Arc<Memcached>, limits: &Arc<[Limit; 1]>) -> Hit {
    let (backend, limits) = (Arc::clone(backend), Arc::clone(limits));
    Box::pin(async move { hit(&*backend, "hot", &*limits).await })
}

/// Polls it once, with nobody to wake: it is under way then. `None` if it is already decided.
fn begin(mut hit: Hit) -> Option<Hit> {
    match hit.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Pending => Some(hit),
        Poll::Ready(decision) => {
            assert!(decision.is_ok(), "{decision:?}");
            None
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_of_a_strategy_is_seen_by_its_own_caller_alone() {
    const PANICS: usize = 10;
    const OTHERS: u32 = 320;
    let server = MemcachedServer::start();
    let backend = Arc::new(backend(&server));
    let sane = Arc::new([limit("1000/30d", FixedWindow::new())]);
    let panicking = Arc::new([limit("1000/30d", Panics)]);
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..OTHERS {
        tasks.spawn(start(&backend, &sane));
        if task % (OTHERS / 10) == 0 {
            tasks.spawn(start(&backend, &panicking));
        }
    }
    let (mut panics, mut allowed) = (0, 0);
    while let Some(outcome) = tasks.join_next().await {
        match outcome {
            Ok(decision) => allowed += u32::from(decision.unwrap().is_allowed()),
            Err(error) => {
                let panic = error.into_panic();
                let text = panic.downcast_ref::<&str>().unwrap();
                assert_eq!(*text, "a mistake in a user's strategy");
                panics += 1;
            }
        }
    }
    assert_eq!((panics, allowed), (PANICS, OTHERS));
    assert_eq!(hit(&*backend, "hot", &*sane).await.unwrap().remaining(), 1000 - OTHERS - 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hit_that_is_dropped_on_a_plain_thread_fails_no_other() {
    let server = MemcachedServer::start();
    let backend = Arc::new(backend(&server));
    let limits = Arc::new([limit("1000/30d", TokenBucket::new())]);
    assert!(hit(&*backend, "hot", &*limits).await.unwrap().is_allowed());
    for round in 0..20 {
        server.pause();
        // The server may serve some before it stands still.
        let first = std::iter::repeat_with(|| begin(start(&backend, &limits))).find_map(|it| it);
        let others: Vec<_> = (0..20).filter_map(|_| begin(start(&backend, &limits))).collect();
        std::thread::spawn(move || drop(first)).join().unwrap();
        server.resume();
        for other in others {
            let decision = timeout(PATIENCE, other).await.expect("it does not hang");
            assert!(decision.is_ok(), "round {round}: {decision:?}");
        }
    }
}

#[tokio::test]
async fn a_hit_that_nobody_polls_holds_up_no_other() {
    let server = MemcachedServer::start();
    let backend = Arc::new(backend(&server));
    let limits = Arc::new([limit("1000/30d", TokenBucket::new())]);
    let unpolled =
        begin(start(&backend, &limits)).expect("a thread for all decides nothing by itself");
    for _ in 0..5 {
        let decision = timeout(PATIENCE, start(&backend, &limits)).await;
        assert!(decision.expect("it does not hang").is_ok());
    }
    assert_eq!(unpolled.await.unwrap().remaining(), 999, "it came first");
}
