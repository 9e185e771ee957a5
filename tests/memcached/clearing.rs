//! `clear`, with tracked keys and without.

use std::sync::Arc;

use parking_lot::Mutex;
use traffik::{Backend, ErrorKind, FixedWindow, Key, LifespanExt, LockOptions, TokenBucket};

use crate::servers::MemcachedServer;
use crate::world::{backend, builder, hit, limit};

/// Log lines, as they are written.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn without_tracked_keys_a_lifespan_warns_once_and_leaves_them() {
    let server = MemcachedServer::start();
    let backend = builder(&server).persistent(false).build().unwrap();
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    let _default = tracing::subscriber::set_default(subscriber);
    let life = backend.lifespan().await.unwrap();
    let error = backend.clear().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    backend.set(&Key::value("a"), b"1", None).await.unwrap();
    life.close().await.unwrap();
    let log = String::from_utf8(lines.0.lock().clone()).unwrap();
    assert_eq!(log.matches("left the backend as it is").count(), 1, "{log}");
    backend.initialize().await.unwrap();
    assert!(backend.get(&Key::value("a")).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tracked_keys_are_cleared_by_any_process_also_when_they_come_again() {
    let server = MemcachedServer::start();
    let one = Arc::new(builder(&server).track_keys(true).build().unwrap());
    let other = builder(&server).track_keys(true).build().unwrap();
    let numbers = Arc::new([limit("5/30d", FixedWindow::new())]);
    let buckets = Arc::new([limit("5/30d", TokenBucket::new())]);
    let held = one.lock("kept", LockOptions::new()).await.unwrap();
    for _ in 0..2 {
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..300 {
            let one = Arc::clone(&one);
            let limits = if task % 2 == 0 { Arc::clone(&numbers) } else { Arc::clone(&buckets) };
            tasks.spawn(async move {
                hit(&*one, &format!("key {task}"), &*limits).await.unwrap().remaining()
            });
        }
        let left = tasks.join_all().await;
        assert!(left.iter().all(|left| *left == 4), "each key is new: {left:?}");
        other.clear().await.unwrap();
    }
    assert!(held.is_valid() && held.release().await.unwrap(), "locks stay");
    assert_eq!(one.settings().count(traffik::backend::Counter::Untracked), 0);
}

#[tokio::test]
async fn flush_all_takes_everything() {
    let server = MemcachedServer::start();
    let backend = backend(&server);
    server.command("set theirs 0 0 1\r\n1\r\n");
    backend.set(&Key::value("a"), b"1", None).await.unwrap();
    backend.flush_all_of_dedicated_servers().await.unwrap();
    assert_eq!(backend.get(&Key::value("a")).await.unwrap(), None);
    assert_eq!(server.command("get theirs\r\n"), "END\r\n");
}

/// Fills all lists of names, written down at that minute.
fn fill_lists(server: &MemcachedServer, minute: u64) {
    for shard in 0..64 {
        let mut text = String::new();
        for number in 0.. {
            let line = format!("{minute} /v/old:{shard}:{number}\n");
            if text.len() + line.len() > 128 * 1024 {
                break;
            }
            text.push_str(&line);
        }
        let length = text.len();
        let reply = server.command(&format!("set test/k/{shard} 0 0 {length}\r\n{text}\r\n"));
        assert_eq!(reply, "STORED\r\n");
    }
}

#[tokio::test]
async fn names_that_do_not_fit_are_counted_and_old_ones_make_room() {
    let server = MemcachedServer::start();
    let untracked = |backend: &traffik::Memcached| {
        backend.settings().count(traffik::backend::Counter::Untracked)
    };
    // Of the far future, so never old.
    fill_lists(&server, 1 << 40);
    let full = builder(&server).track_keys(true).build().unwrap();
    let limits = [limit("5/30d", FixedWindow::new())];
    assert!(hit(&full, "a", &limits).await.unwrap().is_allowed(), "the hit is served all the same");
    assert_eq!(untracked(&full), 1);
    assert!(hit(&full, "a", &limits).await.unwrap().is_allowed());
    assert_eq!(untracked(&full), 1, "counted once");

    fill_lists(&server, 1);
    let compacted = builder(&server).track_keys(true).build().unwrap();
    assert!(hit(&compacted, "b", &limits).await.unwrap().is_allowed());
    assert_eq!(untracked(&compacted), 0, "names whose items are gone make room");
    compacted.clear().await.unwrap();
    assert_eq!(hit(&compacted, "b", &limits).await.unwrap().remaining(), 4, "and it was cleared");
}
