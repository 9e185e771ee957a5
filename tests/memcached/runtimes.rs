//! Several runtimes in one process: each gets on, whatever the others do.

use tokio::runtime::Runtime;
use tokio::time::timeout;
use traffik::{Backend, FixedWindow, Key, LockOptions, Locks, Memcached, Values};

use crate::world::{PATIENCE, builder, hit, limit, url};
use test_support::servers::{MemcachedServer, wait, wait_until};

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// One of everything, on the same keys each time.
async fn everything(backend: &Memcached) {
    let limits = [limit("1000000/h", FixedWindow::new())];
    let key = Key::value("v");
    assert!(hit(backend, "a", &limits).await.unwrap().is_allowed());
    backend.set(&key, b"1", None).await.unwrap();
    assert_eq!(backend.get(&key).await.unwrap().as_deref(), Some(&b"1"[..]));
    let guard = backend.lock("l", LockOptions::new()).await.unwrap();
    assert!(guard.release().await.unwrap());
    backend.ready().await.unwrap();
}

#[test]
fn a_runtime_that_stands_still_holds_up_no_other() {
    let server = MemcachedServer::start();
    let backend = builder(&server).pool_size(2).build().unwrap();
    let (still, other) = (runtime(), runtime());
    still.block_on(everything(&backend));
    // It stops in the midst of calls that use up its connections and have the turn of both keys.
    still.block_on(async {
        for _ in 0..8 {
            let backend = backend.clone();
            tokio::spawn(async move {
                loop {
                    let limits = [limit("1000000/h", FixedWindow::new())];
                    drop(hit(&backend, "a", &limits).await);
                    drop(backend.set(&Key::value("v"), b"1", None).await);
                }
            });
        }
        let before = server.stat("cmd_set");
        let under_way = async || server.stat("cmd_set") > before + 20;
        wait::eventually("the calls are under way", PATIENCE, under_way).await;
    });
    other.block_on(async {
        for _ in 0..20 {
            timeout(PATIENCE * 2, everything(&backend)).await.expect("it gets on");
        }
    });
    drop(still);
    other.block_on(everything(&backend));
}

#[test]
fn runtimes_side_by_side_disturb_no_hit() {
    let server = MemcachedServer::start();
    // As a service has it.
    let backend = Memcached::builder().url(url(&server)).namespace("test").build().unwrap();
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let backend = backend.clone();
            std::thread::spawn(move || {
                let limits = [limit("1000000/h", FixedWindow::new())];
                let mut errors = Vec::new();
                // A runtime that ends leaves nothing behind for the next one.
                for _ in 0..5 {
                    let runtime = runtime();
                    for number in 0..20 {
                        let key = if number % 2 == 0 { "shared" } else { "own" };
                        let key = format!("{key}{}", if number % 2 == 0 { 0 } else { thread });
                        let decision = runtime.block_on(hit(&backend, &key, &limits));
                        errors.extend(decision.err().map(|error| error.to_string()));
                    }
                }
                errors
            })
        })
        .collect();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), Vec::<String>::new());
    }
}

#[test]
fn connections_of_a_runtime_end_with_it() {
    let server = MemcachedServer::start();
    let backend = builder(&server).build().unwrap();
    let open = || (0..20).map(|_| server.stat("curr_connections")).min().unwrap();
    let before = open();
    for _ in 0..30 {
        runtime().block_on(everything(&backend));
    }
    // The library's own thread, which releases locks, keeps one for all of them.
    wait_until("the connections are closed", PATIENCE, || open() <= before + 1);
}

#[test]
fn without_a_runtime_a_call_says_so() {
    let server = MemcachedServer::start();
    let backend = builder(&server).track_keys(true).build().unwrap();
    let limits = [limit("5/h", FixedWindow::new())];
    let error = at_once(hit(&backend, "a", &limits)).unwrap_err();
    assert_eq!(error.kind(), traffik::ErrorKind::Misconfigured);
    assert!(error.to_string().contains("tokio runtime"), "{error}");
    for error in [
        at_once(backend.get(&Key::value("v"))).map(drop).unwrap_err(),
        at_once(backend.ready()).unwrap_err(),
        at_once(backend.clear()).unwrap_err(),
        at_once(backend.initialize()).unwrap_err(),
    ] {
        assert_eq!(error.kind(), traffik::ErrorKind::Misconfigured, "{error}");
    }
}

/// What a future says that waits for nothing.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(output) => output,
        std::task::Poll::Pending => panic!("it waits"),
    }
}
