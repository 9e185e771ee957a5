//! One holder at a time over processes, and tokens that rise.

use std::time::Duration;

use traffik::backend::redis::LockType;

use super::common::{LONG, SOON, block_on, builder, ends, is_soak, on, take, ttl};
use test_support::servers::resp::Connection;
use test_support::servers::{RedisServer, Workers, pause, workers};

const WORKER: &str = "locks::exclusion::worker";

/// Reads a number, and writes one more a little later, under the lock. Another holder at the same time
/// would lose one of the two; a token that does not rise is found too.
#[test]
#[ignore = "run by another test as a process of its own"]
fn worker() {
    let Some(number) = workers::number() else { return };
    let urls = workers::variable("URLS");
    let urls: Vec<String> = urls.split(',').map(str::to_owned).collect();
    let lock_type = match urls.len() {
        1 => LockType::Single,
        _ => LockType::Redlock(urls.clone()),
    };
    let rounds: u32 = workers::variable("ROUNDS").parse().unwrap();
    let mut store = Connection::open(workers::variable("PORT").parse().unwrap()).unwrap();
    workers::ready();
    block_on(async {
        let backend = builder().url(&urls[0]).lock_type(lock_type).build().unwrap();
        let mut without_token = 0;
        for round in 0..rounds {
            let guard = take(&backend, "counter", ttl(LONG)).await;
            let count = store.cmd("GET count").unwrap();
            let last = store.cmd("GET token").unwrap();
            let jitter =
                (u64::from(round) * 7919 + u64::try_from(number).unwrap() * 104_729) % 1000;
            pause::pace(Duration::from_micros(jitter)).await;
            let next = if count.is_nil() { 1 } else { count.int() + 1 };
            store.cmd(&format!("SET count {next}")).unwrap();
            match guard.fencing_token() {
                Some(token) => {
                    let last = if last.is_nil() { 0 } else { last.int().unsigned_abs() };
                    assert!(token > last, "{token} after {last}");
                    store.cmd(&format!("SET token {token}")).unwrap();
                }
                None => without_token += 1,
            }
            // Both ways to let go; the last one while there is a runtime to do it.
            if round.is_multiple_of(2) || round + 1 == rounds {
                // By Redlock, some servers may not have answered in time.
                let released = guard.release().await;
                assert!(released.is_err() || released.unwrap(), "it was ours all the time");
            }
        }
        workers::report(&without_token.to_string());
    });
}

fn exclude(store: &RedisServer, urls: &str, processes: usize, rounds: usize) -> u64 {
    let port = store.port().to_string();
    let rounds_each = rounds.to_string();
    let envs = [("URLS", urls), ("PORT", port.as_str()), ("ROUNDS", rounds_each.as_str())];
    let mut workers = Workers::spawn(processes, WORKER, &envs);
    workers.start_together();
    let reports = workers.results();
    let all = i64::try_from(processes * rounds).unwrap();
    assert_eq!(store.cmd("GET count").int(), all, "no update is lost");
    reports.iter().map(|report| report.parse::<u64>().unwrap()).sum()
}

#[test]
fn processes_exclude_each_other_and_tokens_rise() {
    let server = RedisServer::start();
    assert_eq!(exclude(&server, &server.url(), 8, 250), 0, "each has a token");
}

#[test]
fn processes_exclude_each_other_by_redlock() {
    let masters: Vec<RedisServer> = (0..3).map(|_| RedisServer::start()).collect();
    let urls: Vec<String> = masters.iter().map(RedisServer::url).collect();
    let store = RedisServer::start();
    let (processes, rounds) = if is_soak() { (8, 50) } else { (4, 25) };
    let without_token = exclude(&store, &urls.join(","), processes, rounds);
    println!("{without_token} of {} without a token", processes * rounds);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f02_tokens_rise_over_crashes_that_lose_all_data() {
    let mut server = RedisServer::start();
    let backend = on(&server);
    let mut last = 0;
    for round in 0..12_u32 {
        let guard = ends("the lock", take(&backend, "a", ttl(SOON))).await;
        let token = guard.fencing_token().unwrap();
        assert!(token > last, "{token} after {last}");
        last = token;
        if round.is_multiple_of(2) {
            // Lost while it is held.
            server.restart();
            // The connection may have to be found dead first.
            let released = guard.release().await;
            assert!(released.is_err() || !released.unwrap(), "it was lost");
        } else {
            assert!(guard.release().await.unwrap());
            server.restart();
        }
    }
}
