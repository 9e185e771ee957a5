//! Random faults on real servers under several processes, and an oracle that says what must hold.
//!
//! Four deployments at once, a server, a cluster, sentinels and Memcached, each with four processes that hit
//! the same keys: two of them see errors as they are, in one a handler decides, in one the fallback of the recommended
//! stack. `TRAFFIK_SOAK=1` lets it last ten minutes instead of a quarter of one, and
//! `TRAFFIK_SECONDS` for that long;
//! `TRAFFIK_SEED` repeats the faults of a run, whose seed is printed first. `docs/reliability.md` says what
//! is promised.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]
#![cfg(unix)]

mod faults;
mod history;
mod monitor;
mod oracle;
mod places;
mod probe;
mod report;
mod run;
mod worker;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use history::History;
use worker::Kind;

const PLACES: [Kind; 4] = [Kind::Redis, Kind::Cluster, Kind::Sentinels, Kind::Memcached];

#[test]
#[ignore = "a soak, which scripts/test --soak runs"]
fn what_is_promised_holds_under_random_faults() {
    let is_soak = std::env::var_os("TRAFFIK_SOAK").is_some();
    let length = match std::env::var("TRAFFIK_SECONDS") {
        Ok(seconds) => seconds.parse().expect("TRAFFIK_SECONDS is a number"),
        Err(_) if is_soak => 600,
        Err(_) => 15,
    };
    let length = Duration::from_secs(length);
    let seed = match std::env::var("TRAFFIK_SEED") {
        Ok(seed) => seed.parse().expect("TRAFFIK_SEED is a number"),
        Err(_) => RandomState::new().build_hasher().finish(),
    };
    println!("TRAFFIK_SEED={seed}");
    let outcomes = std::thread::scope(|scope| {
        let runs = PLACES.map(|kind| scope.spawn(move || run::run(kind, seed, length)));
        runs.map(std::thread::ScopedJoinHandle::join)
    });
    // What one place says is no less true when another broke down.
    let histories: Vec<History> = outcomes.into_iter().filter_map(Result::ok).collect();
    let mut found = 0;
    for history in &histories {
        print!("{}", report::table(history));
    }
    for history in &histories {
        for violation in oracle::judge(history) {
            found += 1;
            println!("VIOLATION on {}: {}", history.place, violation.what);
            print!("{}", oracle::schedule_around(history, violation.at));
        }
        report::expect_participation(history, length);
    }
    assert_eq!(histories.len(), PLACES.len(), "a place broke down, see above");
    assert_eq!(found, 0, "TRAFFIK_SEED={seed}: what is wrong is printed above");
}
