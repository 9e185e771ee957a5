//! Snapshots in files: restarts, writers that die, and what is in the folder.

use std::io::{BufRead, BufReader, Cursor};
use std::path::Path;
use std::pin::pin;
use std::process::{Command, Stdio};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use test_support::Log;
use test_support::servers::dir::TempDir;
use traffik::{
    Backend, BuildError, Denial, ErrorKind, InMemory, Key, LifespanExt, ManualClock, RestoreError,
    Throttle, Values,
};

fn limited(backend: &InMemory) -> Throttle {
    Throttle::builder("t").rate("5/h").backend(backend.clone()).build().unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A service that starts, serves one hit, and ends; returns what was left.
async fn serve_once(file: &Path) -> u32 {
    let backend = InMemory::builder().snapshot_file(file).build().unwrap();
    let life = backend.lifespan().await.unwrap();
    let left = limited(&backend).hit(("a key", "that is longer than sixteen bytes")).await.unwrap();
    life.close().await.unwrap();
    left.remaining()
}

#[tokio::test]
async fn limits_survive_a_restart() {
    let folder = TempDir::new();
    let file = folder.join("limits");
    for left in [4, 3, 2, 1, 0] {
        assert_eq!(serve_once(&file).await, left);
    }
    assert_eq!(names(folder.path()), ["limits"]);
    let backend = InMemory::builder().restore(&file).build().unwrap();
    let throttle = limited(&backend);
    let denied = throttle.hit(("a key", "that is longer than sixteen bytes")).await.unwrap();
    assert_eq!(denied.denial(), Some(Denial::Limited));
    assert_eq!(throttle.peek("another").await.unwrap().remaining(), 5);
}

#[tokio::test]
async fn a_later_lifespan_of_the_same_backend_goes_on_and_writes_again() {
    let folder = TempDir::new();
    let file = folder.join("limits");
    let backend = InMemory::builder().snapshot_file(&file).build().unwrap();
    let throttle = limited(&backend);
    for left in [4, 3, 2] {
        let outer = backend.lifespan().await.unwrap();
        let inner = backend.lifespan().await.unwrap();
        assert_eq!(throttle.hit("a").await.unwrap().remaining(), left);
        inner.close().await.unwrap();
        outer.close().await.unwrap();
        let next = InMemory::builder().restore(&file).build().unwrap();
        assert_eq!(limited(&next).peek("a").await.unwrap().remaining(), left);
    }
}

#[tokio::test]
async fn what_was_cleared_by_hand_is_gone_from_the_file_too() {
    let folder = TempDir::new();
    let file = folder.join("limits");
    assert_eq!(serve_once(&file).await, 4);
    let backend = InMemory::builder().snapshot_file(&file).build().unwrap();
    let life = backend.lifespan().await.unwrap();
    backend.clear().await.unwrap();
    life.close().await.unwrap();
    assert_eq!(serve_once(&file).await, 4);
}

#[tokio::test]
async fn a_close_that_cannot_write_says_so_and_can_be_repeated() {
    let folder = TempDir::new();
    let sub = folder.join("sub");
    std::fs::create_dir(&sub).unwrap();
    let file = sub.join("limits");
    let backend = InMemory::builder().snapshot_file(&file).build().unwrap();
    let life = backend.lifespan().await.unwrap();
    let _ = limited(&backend).hit("a").await.unwrap();
    std::fs::remove_dir(&sub).unwrap();
    let error = life.close().await.unwrap_err();
    assert_eq!((error.operation(), error.kind()), ("close", ErrorKind::Other));
    assert!(error.to_string().contains("sub/limits\" could not be written"), "{error}");
    assert!(limited(&backend).hit("a").await.is_err(), "closed all the same");
    assert_eq!(backend.key_count(), 1, "and nothing is lost");
    assert!(backend.close().await.is_err());
    // Elsewhere, while it cannot be done there.
    backend.write_snapshot(folder.join("elsewhere")).await.unwrap();

    std::fs::create_dir(&sub).unwrap();
    backend.close().await.unwrap();
    let next = InMemory::builder().restore(&file).build().unwrap();
    assert_eq!(limited(&next).peek("a").await.unwrap().remaining(), 4);
    // What was written is not written again, for a process that came next may have.
    std::fs::write(&file, b"of another process").unwrap();
    backend.close().await.unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), b"of another process");
}

#[tokio::test(start_paused = true)]
async fn it_is_written_in_the_background_too() {
    let folder = TempDir::new();
    let file = folder.join("limits");
    let every = Duration::from_secs(60);
    let backend = InMemory::builder().snapshot_file(&file).snapshot_every(every).build().unwrap();
    let life = backend.lifespan().await.unwrap();
    let throttle = limited(&backend);
    for left in [4, 3] {
        assert_eq!(throttle.hit("a").await.unwrap().remaining(), left);
        // The pause of the task and its write, and no more: another minute begins then.
        tokio::time::sleep(every + Duration::from_secs(1)).await;
        let seen = InMemory::builder().restore(&file).build().unwrap();
        assert_eq!(limited(&seen).peek("a").await.unwrap().remaining(), left);
    }
    drop(life);
    let _ = throttle.hit("a").await.unwrap();
    tokio::time::sleep(every * 3).await;
    let seen = InMemory::builder().restore(&file).build().unwrap();
    assert_eq!(limited(&seen).peek("a").await.unwrap().remaining(), 3, "no lifespan, no task");
}

#[tokio::test]
async fn a_missing_file_is_a_first_start_only_where_that_was_said() {
    let folder = TempDir::new();
    let missing = folder.join("missing");
    let kind = |error: BuildError| match error {
        BuildError::Restore { source: RestoreError::Io { kind, .. }, .. } => kind,
        other => panic!("{other}"),
    };
    let error = InMemory::builder().restore(&missing).build().unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
    assert_eq!(kind(error), std::io::ErrorKind::NotFound);
    for builder in [
        InMemory::builder().restore_existing(&missing),
        InMemory::builder().snapshot_file(&missing),
    ] {
        assert_eq!(builder.build().unwrap().restored(), None);
    }
    // A folder that is not there is a mistake, and no first start.
    let nowhere = folder.join("nowhere/limits");
    for builder in [
        InMemory::builder().restore_existing(&nowhere),
        InMemory::builder().snapshot_file(&nowhere),
    ] {
        let error = builder.build().unwrap_err();
        assert!(error.to_string().contains("there is no folder"), "{error}");
        assert_eq!(kind(error), std::io::ErrorKind::NotFound);
    }
    std::fs::write(&missing, b"").unwrap();
    let error = InMemory::builder().snapshot_file(&missing).build().unwrap_err();
    assert!(error.to_string().contains("damaged at byte 0"), "an empty file is none: {error}");
    assert_eq!(std::fs::read(&missing).unwrap(), b"", "and is left for who wants to look");
}

#[tokio::test]
async fn settings_that_contradict_each_other_are_refused() {
    let builders = [
        (
            InMemory::builder().snapshot_every(Duration::from_secs(1)),
            "snapshot_every without a file",
        ),
        (
            InMemory::builder().snapshot_file("limits").snapshot_every(Duration::ZERO),
            "snapshot_every is zero",
        ),
        (
            InMemory::builder().snapshot_file("limits").persistent(false),
            "persistent is false beside snapshot_file",
        ),
        (
            InMemory::builder().snapshot_file("limits").restore("other"),
            "restore beside snapshot_file",
        ),
        (
            InMemory::builder().snapshot_file("limits").restore_from(Cursor::new([])),
            "restore beside snapshot_file",
        ),
        (InMemory::builder().snapshot_file(".."), "snapshot_file has no file name"),
    ];
    for (builder, problem) in builders {
        let error = builder.build().unwrap_err().to_string();
        assert!(error.starts_with(problem), "{error}");
    }
    let error = InMemory::new().write_snapshot("/").await.unwrap_err();
    assert!(error.to_string().contains("it has no file name"), "{error}");
}

#[cfg(unix)]
#[tokio::test]
async fn only_its_owner_can_read_it() {
    use std::os::unix::fs::PermissionsExt;

    let folder = TempDir::new();
    let file = folder.join("limits");
    // One that everybody could read is replaced by one that nobody else can.
    std::fs::write(&file, b"").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    InMemory::new().write_snapshot(&file).await.unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
}

/// Of one backend and of two, to the same file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_at_once_are_both_written() {
    let folder = TempDir::new();
    let file = folder.join("limits");
    let (one, two) = (InMemory::new(), InMemory::new());
    for backend in [&one, &two] {
        for key in 0..3000u32 {
            let _ = limited(backend).hit(key).await.unwrap();
        }
    }
    for _ in 0..20 {
        let written = tokio::join!(
            tokio::spawn({
                let (one, file) = (one.clone(), file.clone());
                async move { one.write_snapshot(file).await }
            }),
            tokio::spawn({
                let (one, file) = (one.clone(), file.clone());
                async move { one.write_snapshot(file).await }
            }),
            tokio::spawn({
                let (two, file) = (two.clone(), file.clone());
                async move { two.write_snapshot(file).await }
            }),
        );
        for outcome in [written.0, written.1, written.2] {
            outcome.unwrap().unwrap();
        }
        assert_eq!(names(folder.path()), ["limits"]);
        assert_eq!(InMemory::builder().restore(&file).build().unwrap().key_count(), 3000);
    }
}

#[tokio::test]
async fn what_a_dead_writer_left_behind_is_removed_and_nothing_else() {
    let folder = TempDir::new();
    let file = folder.join("limits");
    let left = format!(".limits.{}.tmp", "0123456789abcdef".repeat(2));
    let others = [
        format!(".limits2.{}.tmp", "0123456789abcdef".repeat(2)),
        format!(".limits.{}.tmp", "0123456789abcdeg".repeat(2)),
        ".limits.tmp".to_owned(),
        "limits.bak".to_owned(),
    ];
    for name in others.iter().chain([&left]) {
        std::fs::write(folder.join(name), b"half").unwrap();
    }
    InMemory::new().write_snapshot(&file).await.unwrap();
    let mut expected: Vec<_> = others.into_iter().chain(["limits".to_owned()]).collect();
    expected.sort();
    assert_eq!(names(folder.path()), expected);
}

/// Polls once: the work is on its thread then, or about to be.
async fn begin<F: Future>(future: F) {
    let mut future = pin!(future);
    let polled = std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context)));
    let _ = polled.await;
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_no_file_behind() {
    let folder = TempDir::new();
    let file = folder.join("limits");
    let backend = InMemory::builder().snapshot_file(&file).build().unwrap();
    for key in 0..5000u32 {
        let _ = limited(&backend).hit(key).await.unwrap();
    }
    for round in 0..50 {
        begin(backend.write_snapshot(&file)).await;
        if round % 2 == 0 {
            begin(backend.close()).await;
            backend.initialize().await.unwrap();
        }
        // Beside those that were given up.
        let bytes = backend.snapshot(Vec::new()).await.unwrap();
        assert!(!bytes.is_empty());
    }
    // To another name: so this one removes nothing of theirs.
    backend.write_snapshot(folder.join("other")).await.unwrap();
    while names(folder.path()).iter().any(|name| name.ends_with(".tmp")) {
        tokio::task::yield_now().await;
    }
    // A close that was given up is made up for by the next.
    backend.close().await.unwrap();
    assert_eq!(InMemory::builder().restore(&file).build().unwrap().key_count(), 5000);
    assert_eq!(names(folder.path()), ["limits", "other"]);
}

#[test]
fn it_needs_no_runtime() {
    let folder = TempDir::new();
    let file = folder.join("limits");
    let backend = InMemory::builder().snapshot_file(&file).build().unwrap();
    let mut context = Context::from_waker(Waker::noop());
    let Poll::Ready(closed) = pin!(backend.close()).poll(&mut context) else {
        panic!("it waits for nobody");
    };
    closed.unwrap();
    assert!(InMemory::builder().restore(&file).build().unwrap().restored().is_some());
}

const CHILD: &str = "TRAFFIK_TEST_SNAPSHOT_CHILD";
const KEYS: u32 = 20_000;

/// Restores, then counts one up and writes, until it is killed. Says each time that it has written.
async fn write_until_killed(file: &Path) {
    let backend = InMemory::builder().restore(file).build().unwrap();
    loop {
        let generation = backend.increment(&Key::value("generation"), 1).await.unwrap();
        backend.write_snapshot(file).await.unwrap();
        println!("written {generation}");
    }
}

/// Returns how much is written of what is to take the place of the file; nothing, if nobody writes.
fn written_beside(folder: &Path) -> Option<u64> {
    let beside = names(folder).into_iter().find(|name| name.ends_with(".tmp"))?;
    // It may have taken its place by now.
    std::fs::metadata(folder.join(beside)).ok().map(|file| file.len())
}

/// A child process is killed a dozen times while it writes, each time when more is written. It is this test itself.
#[tokio::test]
async fn a_writer_that_is_killed_loses_nothing_of_the_old_file() {
    if let Some(file) = std::env::var_os(CHILD) {
        return write_until_killed(Path::new(&file)).await;
    }
    let folder = TempDir::new();
    let file = folder.join("limits");
    let backend = InMemory::builder().clock(ManualClock::new()).build().unwrap();
    for key in 0..KEYS {
        backend.set(&Key::value(&key.to_le_bytes()), &[1; 40], None).await.unwrap();
    }
    backend.write_snapshot(&file).await.unwrap();
    let whole = std::fs::metadata(&file).unwrap().len();
    let (mut generation, mut left_behind) = (0, 0);
    for round in 0..12 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "snapshot_files::a_writer_that_is_killed_loses_nothing_of_the_old_file",
            ])
            .args(["--nocapture", "--test-threads=1"])
            .env(CHILD, &file)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut written = lines.filter_map(|line| {
            let line = line.unwrap();
            line.split_once("written ").map(|(_, number)| number.trim().parse::<u64>().unwrap())
        });
        // It begins with the next at once.
        let last = written.next().unwrap();
        while written_beside(folder.path()).is_none_or(|length| length < whole * round / 12) {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        drop(written);
        left_behind += usize::from(written_beside(folder.path()).is_some());
        // At most one file is left behind, however often.
        assert!(names(folder.path()).len() <= 2, "{:?}", names(folder.path()));

        let next = InMemory::builder().restore(&file).build().unwrap();
        assert_eq!(next.restored().unwrap().kept, u64::from(KEYS) + 1);
        let bytes = next.get(&Key::value("generation")).await.unwrap().unwrap();
        let found: u64 = String::from_utf8(bytes).unwrap().parse().unwrap();
        assert!(found >= last && found > generation, "{last} was written, and {found} is there");
        generation = found;
    }
    assert!(left_behind > 0, "none of them was killed while it wrote");
    backend.write_snapshot(&file).await.unwrap();
    assert_eq!(names(folder.path()), ["limits"]);
}

/// A close that stands still, in a runtime that nobody drives, holds up no other one.
#[test]
fn two_runtimes_close_it_each_in_its_own_time() {
    let dir = TempDir::new();
    let backend = InMemory::builder().snapshot_file(dir.path().join("s")).build().unwrap();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (still, other) = (runtime(), runtime());
    let closing = backend.clone();
    still.block_on(async {
        tokio::spawn(async move { closing.close().await });
        tokio::task::yield_now().await;
    });
    let closed = async { tokio::time::timeout(Duration::from_secs(10), backend.close()).await };
    other.block_on(closed).expect("it ends").unwrap();
}

/// Without a runtime, so that it is written on this thread.
#[test]
fn two_backends_of_one_file_are_warned() {
    let dir = TempDir::new();
    let file = dir.path().join("s");
    let (log, _logging) = Log::of_thread(tracing::Level::WARN);
    let build = || InMemory::builder().snapshot_file(&file).build().unwrap();
    let close = |backend: &InMemory| backend.close().now_or_never().unwrap().unwrap();
    let open = |backend: &InMemory| backend.initialize().now_or_never().unwrap().unwrap();
    let first = build();
    close(&first);
    open(&first);
    let written = limited(&first).hit("a").now_or_never().unwrap().unwrap();
    assert!(written.is_allowed());
    close(&first);
    assert_eq!(log.count("another wrote this snapshot too"), 0, "it replaces its own");
    let (second, third) = (build(), build());
    close(&second);
    assert_eq!(log.count("another wrote this snapshot too"), 0, "which it has read");
    close(&third);
    assert_eq!(log.count("another wrote this snapshot too"), 1, "what the second counted is gone");
}

/// A relative path, one by another folder, and one by a link to the folder are the file itself.
#[cfg(unix)]
#[test]
fn a_file_is_known_by_each_of_its_paths() {
    let dir = TempDir::new();
    let (log, _logging) = Log::of_thread(tracing::Level::WARN);
    let (data, link) = (dir.join("data"), dir.join("link"));
    std::fs::create_dir(&data).unwrap();
    std::os::unix::fs::symlink("data", &link).unwrap();
    let here = std::env::current_dir().unwrap();
    let up: std::path::PathBuf = here.components().skip(1).map(|_| "..").collect();
    let relative = up.join(data.strip_prefix("/").unwrap()).join("limits");
    let paths = [link.join("limits"), data.join("limits"), data.join("./../data/limits"), relative];
    for own in &paths {
        let backend = InMemory::builder().snapshot_file(own).build().unwrap();
        let hit = limited(&backend).hit("a").now_or_never().unwrap().unwrap();
        assert!(hit.is_allowed());
        for path in &paths {
            backend.write_snapshot(path).now_or_never().unwrap().unwrap();
        }
        backend.close().now_or_never().unwrap().unwrap();
    }
    assert_eq!(log.text(), "", "it is its own, and it was written");
    assert_eq!(names(&data), ["limits"]);
    let next = InMemory::builder().restore(data.join("limits")).build().unwrap();
    assert_eq!(limited(&next).peek("a").now_or_never().unwrap().unwrap().remaining(), 1);
}

/// Whoever may write to the folder could else choose which file of the service is replaced.
#[cfg(unix)]
#[test]
fn a_link_is_refused_and_what_it_leads_to_is_left_alone() {
    let dir = TempDir::new();
    let (other, link) = (dir.join("other"), dir.join("link"));
    for is_there in [false, true] {
        if is_there {
            std::fs::write(&other, b"of somebody else").unwrap();
        }
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink("other", &link).unwrap();
        let written = InMemory::new().write_snapshot(&link).now_or_never().unwrap();
        let told = written.unwrap_err().to_string();
        assert!(told.contains("it is a symbolic link; name the file to which it leads"), "{told}");
        let told = InMemory::builder().snapshot_file(&link).build().unwrap_err().to_string();
        assert!(told.contains("it is a symbolic link; name the file to which it leads"), "{told}");
        assert_eq!(other.exists(), is_there);
    }
    assert_eq!(std::fs::read(&other).unwrap(), b"of somebody else");
    assert_eq!(names(dir.path()), ["link", "other"]);
}

/// A device would be a file from then on, and a pipe would never be opened.
#[cfg(unix)]
#[test]
fn devices_pipes_and_sockets_are_refused_and_left_alone() {
    let dir = TempDir::new();
    let (pipe, socket) = (dir.join("pipe"), dir.join("socket"));
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for path in [pipe.as_path(), &socket, std::path::Path::new("/dev/null")] {
        let written = InMemory::new().write_snapshot(path).now_or_never().unwrap();
        let built = InMemory::builder().snapshot_file(path).build();
        for told in [written.unwrap_err().to_string(), built.unwrap_err().to_string()] {
            assert!(
                told.contains("it is a device, a pipe or a socket; name an ordinary file"),
                "{told}"
            );
        }
        assert!(!std::fs::symlink_metadata(path).unwrap().is_file());
    }
    assert_eq!(names(dir.path()), ["pipe", "socket"]);
}

#[test]
fn a_path_of_a_folder_is_refused() {
    let dir = TempDir::new();
    let folder = dir.join("folder");
    std::fs::create_dir(&folder).unwrap();
    let error = |path: std::path::PathBuf| {
        InMemory::builder().snapshot_file(path).build().unwrap_err().to_string()
    };
    for path in
        [dir.join("missing/"), dir.join("missing/."), folder.join(""), "/".into(), "".into()]
    {
        let told = error(path);
        assert!(told.contains("name a file in a folder that exists"), "{told}");
    }
    let told = error(folder.clone());
    assert!(told.ends_with("it is a folder; name a file in it"), "{told}");
    let backend = InMemory::new();
    let written = backend.write_snapshot(dir.join("missing/")).now_or_never().unwrap();
    let told = written.unwrap_err().to_string();
    assert!(told.contains("name a file in a folder"), "{told}");
}

#[test]
fn a_backend_that_never_wrote_its_snapshot_says_so_when_it_is_dropped() {
    let dir = TempDir::new();
    let (log, _logging) = Log::of_thread(tracing::Level::WARN);
    let lost = || log.count("was dropped without a last snapshot");
    let close = |backend: &InMemory| backend.close().now_or_never().unwrap();
    let counted = |builder: traffik::backend::InMemoryBuilder| {
        let backend = builder.build().unwrap();
        let hit = limited(&backend).hit("a").now_or_never().unwrap().unwrap();
        assert!(hit.is_allowed());
        backend
    };
    let build = || InMemory::builder().snapshot_file(dir.join("s"));
    drop(build().build().unwrap());
    assert_eq!(lost(), 0, "nothing was counted");
    drop(counted(build()));
    assert_eq!(lost(), 1);
    let closed = counted(build());
    close(&closed).unwrap();
    drop(closed);
    let by_hand = counted(build());
    by_hand.write_snapshot(dir.join("s")).now_or_never().unwrap().unwrap();
    drop(by_hand);
    let not_ours = counted(build());
    not_ours.write_snapshot(dir.join("elsewhere")).now_or_never().unwrap().unwrap();
    drop(not_ours);
    assert_eq!(lost(), 2);
    let sub = dir.join("sub");
    std::fs::create_dir(&sub).unwrap();
    let failed = counted(InMemory::builder().snapshot_file(sub.join("s")));
    std::fs::remove_dir(&sub).unwrap();
    close(&failed).unwrap_err();
    drop(failed);
    assert_eq!(lost(), 2, "who knows of it is not told again");
    let open = |backend: &InMemory| backend.initialize().now_or_never().unwrap().unwrap();
    let second_life = counted(build());
    close(&second_life).unwrap();
    open(&second_life);
    drop(second_life);
    assert_eq!(lost(), 3, "what the second one counted is not in there");
    let without_timer = build().snapshot_every(Duration::from_secs(60)).build().unwrap();
    without_timer.initialize().now_or_never().unwrap().unwrap();
    assert_eq!(log.count("no runtime for snapshots in the background"), 1);
}

/// A writer that stands still until it is let go.
struct Held {
    holds: std::sync::mpsc::Sender<()>,
    until: std::sync::mpsc::Receiver<()>,
}

impl std::io::Write for Held {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _ = self.holds.send(());
        let _ = self.until.recv();
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The one that ends late, and then writes, must not take the end of the next from it.
#[tokio::test]
async fn each_lifespan_has_an_end_that_writes_also_when_one_ends_late() {
    let dir = TempDir::new();
    let backend = InMemory::builder().snapshot_file(dir.join("s")).build().unwrap();
    backend.initialize().await.unwrap();
    // Snapshots take turns, so this one holds up the first end.
    let (holds, held) = std::sync::mpsc::channel();
    let (let_go, until) = std::sync::mpsc::channel();
    let other = backend.clone();
    let holding = tokio::spawn(async move { other.snapshot(Held { holds, until }).await });
    while held.try_recv().is_err() {
        tokio::task::yield_now().await;
    }
    let ending = backend.clone();
    let first = tokio::spawn(async move { ending.close().await });
    tokio::task::yield_now().await;
    backend.initialize().await.unwrap();
    drop(let_go);
    holding.await.unwrap().unwrap();
    first.await.unwrap().unwrap();
    assert!(limited(&backend).hit("a").await.unwrap().is_allowed());
    backend.close().await.unwrap();
    let next = InMemory::builder().restore(dir.join("s")).build().unwrap();
    assert_eq!(limited(&next).peek("a").await.unwrap().remaining(), 4, "it is in the file");
}

/// The task's last one is not the end.
#[test]
fn a_lifespan_that_is_dropped_after_snapshots_now_and_then_says_so() {
    let dir = TempDir::new();
    let (log, _logging) = Log::of_thread(tracing::Level::WARN);
    let builder = InMemory::builder().snapshot_file(dir.join("s"));
    let backend = builder.snapshot_every(Duration::from_millis(1)).build().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let life = backend.lifespan().await.unwrap();
        assert!(limited(&backend).hit("a").await.unwrap().is_allowed());
        while !dir.join("s").exists() {
            tokio::task::yield_now().await;
        }
        drop(life);
    });
    // With the thread that may write a last one, so that this one drops the backend, and hears of it.
    drop(runtime);
    assert_eq!(log.count("was dropped without a last snapshot"), 0);
    drop(backend);
    assert_eq!(log.count("was dropped without a last snapshot"), 1);
}

#[cfg(target_os = "linux")]
#[test]
fn a_snapshot_that_cannot_be_written_is_an_error_from_the_start() {
    // A folder in which nobody creates a file.
    let error = InMemory::builder().snapshot_file("/proc/limits").build().unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("snapshot_file \"/proc/limits\" cannot be written: "), "{text}");
    let dir = TempDir::new();
    drop(InMemory::builder().snapshot_file(dir.join("s")).build().unwrap());
    assert_eq!(names(dir.path()), [""; 0], "the look leaves nothing");
}
