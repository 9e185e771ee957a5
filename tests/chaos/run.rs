//! One place from its start to its end.

use std::time::Duration;

use test_support::servers::Workers;
use test_support::servers::dir::TempDir;
use test_support::servers::wait::{self, holds_within};
use traffik::{LockError, LockOptions};

use crate::faults::Schedule;
use crate::history::{Fault, History, Micros, Participant, SECOND, now};
use crate::monitor::Monitor;
use crate::places::{self, Place};
use crate::probe::Prober;
use crate::worker::{self, Kind, LOCK, LOCK_TTL};

pub(crate) const PROCESSES: usize = worker::VARIANTS.len();

/// Lets faults happen to a place for that long, while processes hit it.
pub(crate) fn run(kind: Kind, seed: u64, length: Duration) -> History {
    let mut place = places::start(kind);
    let out = TempDir::new();
    let (urls, path) = (place.urls().join(","), out.path().display().to_string());
    let envs = [("PLACE", kind.name()), ("URLS", urls.as_str()), ("OUT", path.as_str())];
    let mut workers = Workers::spawn(PROCESSES, "worker::worker", &envs);
    (0..PROCESSES).for_each(|number| workers.wait_for_line(number, "HITTING"));
    let (monitor, prober) = (Monitor::start(), Prober::start(place.check()));

    let mut schedule = Schedule::new(place.sorts(), seed.wrapping_add(kind as u64));
    let (start, mut faults) = (wait::now(), Vec::new());
    while start.elapsed() < length {
        faults.push(schedule.inflict(&mut *place, &mut workers));
    }

    (0..PROCESSES).for_each(|number| workers.send(number, "stop"));
    (0..PROCESSES).for_each(|number| workers.wait_for_line(number, "STOPPED"));
    let (probes, changes) = prober.stop();
    let stalls = monitor.stop();
    let leaks = leaks(&mut *place, &mut workers);
    faults.extend(unplanned(&faults, changes));
    faults.sort_by_key(|fault| fault.begun);
    let read = |number: usize| {
        let text = std::fs::read_to_string(out.join(&number.to_string())).unwrap();
        Participant::decode(&text)
    };
    let participants = (0..PROCESSES).map(read).collect();
    let (place, series) = (kind.name().to_owned(), worker::series());
    History { place, series, faults, probes, stalls, participants, leaks }
}

/// Where another took over though nobody wanted it, as on a machine that stood still: it counts as an event.
fn unplanned(faults: &[Fault], changes: Vec<Micros>) -> Vec<Fault> {
    let is_planned = |at: Micros| {
        let covers = |fault: &&Fault| fault.begun <= at && at <= fault.settled + SECOND / 2;
        faults.iter().any(|fault| fault.grants > 0 && covers(&fault))
    };
    let unplanned = changes.into_iter().filter(|&at| !is_planned(at));
    unplanned
        .map(|at| Fault {
            what: "another took over by itself".to_owned(),
            begun: at - 3 * SECOND,
            lifted: at,
            settled: at + 2 * SECOND,
            grants: 1,
            heals_before: true,
        })
        .collect()
}

/// What is there that should not be: first while the processes are idle, then when they have ended.
fn leaks(place: &mut dyn Place, workers: &mut Workers) -> Vec<String> {
    let mut found = place.without_expiry();
    found.extend(too_many_connections(place, PROCESSES));
    workers.results();
    let ended = now();
    found.extend(too_many_connections(place, 0));
    found.extend(lock_that_stays(place, ended));
    found
}

/// What is still wrong with their number after a moment, which those that were just replaced may take. One that asked
/// for it takes a moment too until the server sees it closed, so nobody asks once more after all was well.
fn too_many_connections(place: &dyn Place, processes: usize) -> Vec<String> {
    let mut found = Vec::new();
    holds_within(Duration::from_secs(2), || {
        found = place.too_many_connections(processes);
        found.is_empty()
    });
    found
}

/// All locks are free after their TTL, which Memcached rounds up by some seconds.
fn lock_that_stays(place: &dyn Place, ended: Micros) -> Option<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let free = runtime.block_on(async {
        let backend = place.kind().backend(&place.urls(), worker::SteppedClock::default());
        let options = LockOptions::new().ttl(Some(LOCK_TTL));
        let options = options.blocking_timeout(Some(LOCK_TTL + Duration::from_secs(3)));
        let outcome = backend.lock(LOCK, options).await;
        let outcome: Result<(), LockError> = outcome.map(drop);
        let _ = backend.close().await;
        outcome
    });
    let waited = (now() - ended) / 1000;
    free.err().map(|error| format!("a lock is not free after {waited} ms: {error}"))
}
