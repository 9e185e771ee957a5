//! f22: a future that is dropped takes its connection with it.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

use traffik::{FixedWindow, Key, LockOptions, Locks, Memcached, TokenBucket, Values};

use crate::world::{PATIENCE, builder, hit, limit};
use test_support::servers::{Abandoned, MemcachedServer, wait};

fn rounds() -> u64 {
    if std::env::var_os("TRAFFIK_SOAK").is_some() { 100_000 } else { 4_000 }
}

/// Polls a future at most that often.
async fn polled<T>(times: u64, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut left = times;
    std::future::poll_fn(move |cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(cx).map(Some)
    })
    .await
}

async fn one_round(backend: &Memcached, number: u64) {
    let name = format!("v{}", number % 50);
    let key = Key::value(&name);
    let bucket = [limit("4000000000/h", TokenBucket::new())];
    let fixed = [limit("4000000/h", FixedWindow::new())];
    let patience = number % 7;
    match number % 6 {
        0 => drop(polled(patience, backend.set(&key, name.as_bytes(), None)).await),
        1 => drop(polled(patience, hit(backend, &name, &bucket)).await),
        2 => drop(polled(patience, hit(backend, &name, &fixed)).await),
        3 => drop(polled(patience, backend.lock(&name, LockOptions::new())).await),
        4 => drop(polled(patience, backend.multi_get(&[key, Key::value("v1")])).await),
        _ => drop(polled(patience, backend.get(&key)).await),
    }
    // Whoever comes next must see its own value.
    let found = backend.get(&key).await.unwrap();
    assert!(found.as_deref().is_none_or(|value| value == name.as_bytes()), "{found:?} for {name}");
    let allowed = hit(backend, &name, &bucket).await.unwrap();
    assert_eq!(allowed.limit(), 4_000_000_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f22_nobody_reads_the_reply_of_one_who_was_cancelled() {
    let server = MemcachedServer::start();
    let backend = Arc::new(builder(&server).pool_size(4).build().unwrap());
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (backend, next) = (Arc::clone(&backend), Arc::clone(&next));
        tasks.spawn(async move {
            loop {
                // Spread over all kinds and patiences.
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= rounds() {
                    break;
                }
                one_round(&backend, number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40).await;
            }
        });
    }
    tasks.join_all().await;
    let abandoned = Abandoned::now();
    for number in 0..50 {
        let (name, at_once) = (format!("v{number}"), LockOptions::new().blocking(false));
        let _free = wait::heals(&name, PATIENCE, || backend.lock(&name, at_once)).await;
        abandoned.is_free(&name);
    }
    assert!(server.stat("curr_connections") <= 4 + 2 + 8, "no connection leaks");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f22_who_waits_on_a_hot_key_loses_nothing_by_one_who_was_cancelled() {
    const LIMIT: usize = 200;
    let server = MemcachedServer::start();
    let backend = Arc::new(builder(&server).build().unwrap());
    for (round, strategy) in ["bucket", "window"].into_iter().enumerate() {
        let limits = match strategy {
            "bucket" => [limit("200/366d", TokenBucket::new())],
            _ => [limit("200/30d", FixedWindow::new())],
        };
        let limits = Arc::new(limits);
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..64u64 {
            let (backend, limits) = (Arc::clone(&backend), Arc::clone(&limits));
            tasks.spawn(async move {
                let (mut admitted, mut cancelled) = (0, 0);
                for number in 0..20 {
                    let call = hit(&*backend, strategy, &*limits);
                    match polled((task + number) % 5 * 2, call).await {
                        Some(decision) => admitted += usize::from(decision.unwrap().is_allowed()),
                        None => cancelled += 1,
                    }
                }
                (admitted, cancelled)
            });
        }
        let counts = tasks.join_all().await;
        let admitted: usize = counts.iter().map(|(admitted, _)| admitted).sum();
        let cancelled: usize = counts.iter().map(|(_, cancelled)| cancelled).sum();
        assert!(cancelled > 64, "round {round}: {cancelled} cancelled");
        // Those who were cancelled may have been counted, and nobody else.
        let mut rest = 0;
        while hit(&*backend, strategy, &*limits).await.unwrap().is_allowed() {
            rest += 1;
        }
        assert!(admitted + rest <= LIMIT, "{strategy}: {admitted} and {rest}");
        assert!(
            admitted + rest + cancelled >= LIMIT,
            "{strategy}: {admitted}, {rest}, {cancelled}"
        );
    }
}

#[test]
fn f28_a_backend_outlives_its_runtimes() {
    let server = MemcachedServer::start();
    let backend = builder(&server).build().unwrap();
    let limits = [limit("2000/30d", TokenBucket::new())];
    for number in 0..1000u32 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // Connections, and a task that decides for others, end with their runtime.
        let decision = runtime.block_on(async {
            for _ in 0..4 {
                let backend = backend.clone();
                tokio::spawn(async move {
                    let limits = [limit("2000/30d", TokenBucket::new())];
                    drop(hit(&backend, "other", &limits).await);
                });
            }
            tokio::task::yield_now().await;
            hit(&backend, "a", &limits).await.unwrap()
        });
        assert_eq!(decision.remaining(), 1999 - number);
    }
}
