//! f22: a future that is dropped takes its connection with it.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use traffik::{Backend, FixedWindow, Key, LockOptions, Memcached, TokenBucket};

use crate::servers::MemcachedServer;
use crate::world::{builder, hit, limit};

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
    tokio::time::sleep(Duration::from_secs(1)).await;
    for number in 0..50 {
        let taken = backend.lock(&format!("v{number}"), LockOptions::new().blocking(false)).await;
        assert!(taken.is_ok(), "no lock stays held: v{number} {taken:?}");
    }
    assert!(server.stat("curr_connections") <= 4 + 2 + 8, "no connection leaks");
}
