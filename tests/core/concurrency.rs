//! Exactness in memory under concurrency: 64 tasks, a frozen clock, every strategy.

use std::sync::Arc;

use traffik::{
    FixedWindow, Gcra, InMemory, LeakyBucket, ManualClock, Rate, SlidingWindowCounter,
    SlidingWindowLog, Strategy, Throttle, TokenBucket,
};

const TASKS: u64 = 64;
const HITS: u64 = 1_000;
const LIMIT: u32 = 5_000;
const ROUNDS: usize = 20;

async fn admitted(throttle: Throttle, key: &'static str) -> u64 {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..TASKS {
        let throttle = throttle.clone();
        tasks.spawn(async move {
            let mut admitted = 0;
            for hit in 0..HITS {
                admitted += u64::from(throttle.hit(key).await.unwrap().is_allowed());
                if hit % 100 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            admitted
        });
    }
    tasks.join_all().await.into_iter().sum()
}

async fn admits_exactly_the_limit(strategy: impl Strategy) {
    let strategy: Arc<dyn Strategy> = Arc::new(strategy);
    for round in 0..ROUNDS {
        let backend = InMemory::builder().clock(ManualClock::new()).build().unwrap();
        let throttle = Throttle::builder("concurrency")
            .limit(Rate::per_hour(LIMIT), Arc::clone(&strategy))
            .backend(backend)
            .build()
            .unwrap();
        let admitted = admitted(throttle, "hot").await;
        assert_eq!(admitted, u64::from(LIMIT), "{strategy:?}, round {round}");
    }
}

macro_rules! exact {
    ($($name:ident: $strategy:expr;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
        async fn $name() {
            admits_exactly_the_limit($strategy).await;
        }
    )*};
}

exact! {
    fixed_window: FixedWindow::new();
    sliding_window_counter: SlidingWindowCounter::new();
    sliding_window_log: SlidingWindowLog::new().max_entries(LIMIT);
    token_bucket: TokenBucket::new();
    leaky_bucket: LeakyBucket::new();
    gcra: Gcra::new();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn token_bucket_with_debt() {
    for _ in 0..ROUNDS {
        let backend = InMemory::builder().clock(ManualClock::new()).build().unwrap();
        let throttle = Throttle::builder("concurrency:debt")
            .limit(Rate::per_hour(LIMIT - 1_000), TokenBucket::new().max_debt(1_000))
            .backend(backend)
            .build()
            .unwrap();
        assert_eq!(admitted(throttle, "hot").await, u64::from(LIMIT));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn several_limits() {
    for _ in 0..ROUNDS {
        let backend = InMemory::builder().clock(ManualClock::new()).build().unwrap();
        let throttle = Throttle::builder("concurrency:several")
            .limit(Rate::per_hour(LIMIT), TokenBucket::new())
            .limit(Rate::per_day(LIMIT + 10), FixedWindow::new())
            .backend(backend)
            .build()
            .unwrap();
        assert_eq!(admitted(throttle, "hot").await, u64::from(LIMIT));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn long_keys_and_refunds() {
    let backend = InMemory::builder().clock(ManualClock::new()).build().unwrap();
    let throttle = Throttle::builder("concurrency:refunds")
        .rate(Rate::per_hour(LIMIT))
        .backend(backend)
        .build()
        .unwrap();
    let key = "a key that is longer than what fits into a slot of the table";
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..TASKS {
        let throttle = throttle.clone();
        tasks.spawn(async move {
            for _ in 0..HITS {
                if let Some(receipt) = throttle.hit(key).await.unwrap().receipt() {
                    throttle.refund(key, receipt).await.unwrap();
                }
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(throttle.peek(key).await.unwrap().remaining(), LIMIT, "all was given back");
    assert_eq!(admitted(throttle, key).await, u64::from(LIMIT));
}
