//! Many acquisitions, a fifth of their holders paused or killed, on a server that restarts and whose
//! clock jumps: no stale write is accepted.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::common::{block_on, builder, is_soak, millis, take, ttl};
use test_support::servers::{FakeTime, RedisServer, Workers, pause, workers};

/// Holders that live one after the other in each line; each takes its lock `ROUNDS` times.
const LINES: usize = 8;
const ROUNDS: usize = 25;
/// Several lines share a lock.
const LOCKS: usize = 4;
const TTL: Duration = Duration::from_millis(60);
/// Longer than the TTL.
const PAUSE: &str = "0.09";

/// Takes a lock again and again and writes its token; in each sixth round it is paused first. It is
/// killed in the last.
#[test]
#[ignore = "run by another test as a process of its own"]
fn worker() {
    if workers::number().is_none() {
        return;
    }
    let lock = workers::variable("LOCK");
    block_on(async {
        let backend = builder().url(workers::variable("URL")).build().unwrap();
        let mut accepted = 0;
        for round in 1..=ROUNDS {
            let guard = take(&backend, &lock, ttl(TTL)).await;
            let paused = round % 6 == 0;
            if paused {
                pause();
                assert!(!guard.is_valid(), "known here");
            }
            let token = guard.fencing_token().unwrap().to_string();
            let write = backend.set_fenced(&guard, "value", Some(token.as_bytes()), None);
            accepted += u32::from(write.await.unwrap_or(false));
            if round == ROUNDS {
                workers::say(&format!("{accepted} accepted"));
                workers::say("HOLDING");
                std::future::pending::<()>().await;
            }
            drop(guard);
        }
    });
}

/// Stops this process where it is, until the TTL is over.
fn pause() {
    let pid = std::process::id();
    let script = format!("kill -s STOP {pid}; sleep {PAUSE}; kill -s CONT {pid}");
    let mut command = Command::new("sh");
    let status = command.args(["-c", &script]).stdin(Stdio::null()).status().unwrap();
    assert!(status.success());
}

#[test]
fn f25_no_stale_write_is_accepted_whatever_happens() {
    let lives = if is_soak() { 50 } else { 2 };
    let time = FakeTime::new();
    // It keeps what it knows, over a crash too: that its clock was ahead is known by the fences only.
    let arguments = ["--appendonly", "yes", "--appendfsync", "always"];
    let mut server = RedisServer::with_env(&arguments, &time.env());
    let (port, url) = (server.port(), server.url());
    let done = AtomicBool::new(false);
    let writes = AtomicU64::new(0);
    let mut restarts = 0;
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| watch(port, &done, &writes));
        let lines: Vec<_> = (0..LINES)
            .map(|line| {
                scope.spawn({
                    let url = &url;
                    move || run(line, url, lives)
                })
            })
            .collect();
        while !lines.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            // Back only for a while: a lock whose holder was killed would stay for an hour.
            for shift in [3600, 0] {
                pause::blocking::pace(millis(700));
                time.shift(shift);
            }
            server.restart();
            restarts += 1;
        }
        // Before anything here can fail.
        done.store(true, Ordering::Relaxed);
        server.kill();
        for line in lines {
            line.join().unwrap();
        }
        watching.join().unwrap();
    });
    let acquisitions = LINES * lives * ROUNDS;
    let writes = writes.into_inner();
    println!("{acquisitions} acquisitions, {restarts} restarts, {writes} writes seen, none stale");
    assert!(restarts > 0);
    assert!(writes > u64::try_from(acquisitions / 4).unwrap(), "{writes} writes seen");
}

fn run(line: usize, url: &str, lives: usize) {
    let lock = format!("lock-{}", line % LOCKS);
    for _ in 0..lives {
        let mut workers =
            Workers::spawn(1, "locks::soak::worker", &[("URL", url), ("LOCK", &lock)]);
        workers.wait_for_line(0, "HOLDING");
        workers.kill(0);
    }
}

/// Follows what the server does, and fails when a token is written that is below one before.
fn watch(port: u16, done: &AtomicBool, writes: &AtomicU64) {
    let mut last = [0_u64; LOCKS];
    while !done.load(Ordering::Relaxed) {
        let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else {
            pause::blocking::pace(millis(2));
            continue;
        };
        // Killed just now: the next one is followed.
        if stream.write_all(b"MONITOR\r\n").is_err() {
            continue;
        }
        // Until it is killed.
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let Some((lock, token)) = written(&line) else { continue };
            writes.fetch_add(1, Ordering::Relaxed);
            assert!(token >= last[lock], "a stale write: {line}, after {}", last[lock]);
            last[lock] = token;
        }
    }
}

/// The lock and the token of a line like `1.2 [0 lua] "SET" "locks|G{lock-3}|value" "17"`.
fn written(line: &str) -> Option<(usize, u64)> {
    let (_, rest) = line.split_once("[0 lua] \"SET\" \"locks|G{lock-")?;
    let (lock, rest) = rest.split_once('}')?;
    let token = rest.split('"').nth(2)?;
    Some((lock.parse().ok()?, token.parse().ok()?))
}
