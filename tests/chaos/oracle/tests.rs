//! The oracle finds what is wrong in recorded histories, and nothing in one that is right.

use super::judge;
use crate::history::{
    Fault, History, Hit, Law, Lock, MILLI, Micros, Outcome, Participant, Probe, SECOND, Series,
    Stall, Variant,
};

/// A multiple of each period.
const START: Micros = 1_700_000_000 * SECOND;
const PERIOD: Micros = 2 * SECOND;
const LIMIT: u32 = 40;
/// A partition that lasts from the third to the fourth second of the history.
const DOWN: (Micros, Micros) = (START + 3 * SECOND, START + 4 * SECOND);
const WORKERS: u64 = 4;
/// From one hit of a worker to the next.
const PACE: Micros = 25 * MILLI;
const HITS: u64 = 400;

/// Ten seconds of four processes that hit one key. All is right: each window admits the first that come,
/// and what comes during the partition waits for its deadline.
fn history(law: Law) -> History {
    let series =
        Series { name: "fixed".to_owned(), law, limit: LIMIT, period: PERIOD, never_denies: false };
    let mut all = History {
        place: "recorded".to_owned(),
        series: vec![series],
        faults: vec![fault(0)],
        participants: vec![Participant::default(); 4],
        ..History::default()
    };
    let mut start = START;
    while start < START + 10 * SECOND {
        let ok = start + 10 * MILLI < DOWN.0 || start >= DOWN.1;
        let took = if ok { MILLI } else { 100 * MILLI };
        all.probes.push(Probe { start, end: start + took, ok });
        start += 20 * MILLI + took;
    }
    let (mut left, mut free) = ((0, 0), [0; 4]);
    for turn in 0..HITS * WORKERS {
        let start = START + turn * PACE / WORKERS;
        let worker = usize::try_from(turn % WORKERS).unwrap();
        // While one hit waits, its worker makes no other.
        if start < free[worker] {
            continue;
        }
        let down = start >= DOWN.0 && start < DOWN.1;
        let window = start / PERIOD;
        if left.0 != window {
            left = (window, LIMIT);
        }
        let outcome = match (down, left.1) {
            (true, _) => Outcome::Ambiguous,
            (false, 0) => Outcome::Denied,
            (false, _) => Outcome::Admitted,
        };
        left.1 -= u32::from(outcome == Outcome::Admitted);
        free[worker] = start + if down { 251 * MILLI } else { MILLI };
        let hit = Hit { series: 0, start, end: free[worker], outcome };
        all.participants[worker].hits.push(hit);
    }
    all
}

fn fault(grants: u32) -> Fault {
    let (begun, lifted) = DOWN;
    let what = "a partition".to_owned();
    Fault { what, begun, lifted, settled: lifted + 20 * MILLI, grants, heals_before: false }
}

/// What is found, which must be all of that kind.
#[track_caller]
fn found(history: &History, kind: &str) -> usize {
    let found = judge(history);
    for violation in &found {
        assert!(violation.what.contains(kind), "{violation:?}");
    }
    found.len()
}

#[track_caller]
fn is_right(history: &History) {
    let found = judge(history);
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn a_right_history_has_no_violation() {
    is_right(&history(Law::Aligned));
    is_right(&history(Law::Bucket { burst: LIMIT }));
    let way_back = super::Times::of(&history(Law::Aligned).participants[0], &history(Law::Aligned));
    assert_eq!(way_back.ways_back, 1, "the one fault is judged");
    assert!(way_back.longest_way_back < 300 * MILLI, "{way_back:?}");
}

/// One of the processes admits by itself what it was denied.
fn over_admitting(law: Law, from: Micros, to: Micros) -> History {
    let mut all = history(law);
    for hit in &mut all.participants[2].hits {
        let within = hit.start >= from && hit.start < to;
        if within && hit.outcome == Outcome::Denied {
            hit.outcome = Outcome::Admitted;
        }
    }
    all
}

#[test]
fn a_worker_that_admits_too_many_is_found() {
    for law in [Law::Aligned, Law::Sliding] {
        let all = over_admitting(law, START + 6 * SECOND, START + 8 * SECOND);
        assert!(found(&all, "admitted in 2000 ms, where 40 may be") > 0);
    }
    let all = over_admitting(Law::Bucket { burst: 10 }, START, START + 10 * SECOND);
    assert!(found(&all, "admitted in") > 0);
}

#[test]
fn one_hit_too_many_is_found() {
    let mut all = history(Law::Aligned);
    let denied = |hit: &&mut Hit| hit.outcome == Outcome::Denied;
    all.participants[0].hits.iter_mut().find(denied).unwrap().outcome = Outcome::Admitted;
    assert_eq!(found(&all, "41 admitted in 2000 ms, where 40 may be (0 events)"), 1);
}

/// So many hits from then on are admitted that were denied.
fn admitting_more(count: usize, from: Micros, grants: u32) -> History {
    let mut all = history(Law::Aligned);
    all.faults = vec![fault(grants)];
    let hits = all.participants.iter_mut().flat_map(|one| &mut one.hits);
    let mut denied: Vec<&mut Hit> =
        hits.filter(|hit| hit.start >= from && hit.outcome == Outcome::Denied).collect();
    denied.sort_by_key(|hit| hit.start);
    denied.into_iter().take(count).for_each(|hit| hit.outcome = Outcome::Admitted);
    all
}

#[test]
fn an_event_excuses_one_limit_and_only_in_windows_that_it_touched() {
    // It lasts from the third second until just after the fourth, so it touches two windows.
    for window in [START + 2 * SECOND, START + 4 * SECOND] {
        is_right(&admitting_more(40, window, 1));
        assert_eq!(found(&admitting_more(40, window, 0), "80 admitted in 2000 ms, where 40"), 1);
        let one_too_many = admitting_more(41, window, 1);
        assert_eq!(found(&one_too_many, "81 admitted in 2000 ms, where 80 may be (1 events)"), 1);
    }
    for window in [START, START + 6 * SECOND] {
        let untouched = admitting_more(1, window, 1);
        assert_eq!(found(&untouched, "41 admitted in 2000 ms, where 40 may be (0 events)"), 1);
    }
}

#[test]
fn a_hit_that_is_not_for_certain_in_a_window_is_in_none() {
    let mut all = history(Law::Aligned);
    let end = START + 2 * SECOND;
    let straddling = Hit { series: 0, start: end - 1, end: end + 1, outcome: Outcome::Admitted };
    let hits = &mut all.participants[0].hits;
    let place = hits.partition_point(|hit| hit.start < end - 1);
    hits.insert(place, straddling);
    is_right(&all);
}

#[test]
fn a_worker_that_overruns_its_deadline_is_found_unless_the_machine_stood_still() {
    let mut all = history(Law::Aligned);
    let at = START + 7 * SECOND;
    let hits = &mut all.participants[1].hits;
    let late = hits.partition_point(|hit| hit.start < at);
    hits[late].end = hits[late].start + 301 * MILLI;
    // While it waits it makes no other.
    let end = hits[late].end;
    hits.retain(|hit| hit.end == end || hit.start < at || hit.start >= end);
    assert_eq!(found(&all, "process 1: a hit took 301 ms, 0 ms of them a stall"), 1);
    all.participants[1].stalls = vec![Stall { from: at, to: at + 20 * MILLI }];
    is_right(&all);
    // A stall at another time excuses nothing.
    all.participants[1].stalls = vec![Stall { from: START, to: START + 20 * MILLI }];
    assert_eq!(found(&all, "a hit took 301 ms"), 1);
}

#[test]
fn a_moment_at_which_two_processes_stood_still_counts_once() {
    let stall = |from, to| Stall { from, to };
    let (one, other) = ([stall(10, 20), stall(40, 50)], [stall(15, 25), stall(60, 90)]);
    let sum = |from, to| super::stalled_in_either([&one, &other], from, to);
    assert_eq!((sum(0, 100), sum(12, 70), sum(26, 39), sum(45, 46)), (55, 33, 0, 1));
    assert_eq!(super::stalled(&one, 19, 45), 20, "each as a whole");
}

#[test]
fn a_worker_that_never_heals_is_found() {
    let mut all = history(Law::Aligned);
    for hit in &mut all.participants[3].hits {
        if hit.start >= DOWN.0 {
            hit.outcome = Outcome::NotApplied;
        }
    }
    assert_eq!(found(&all, "process 3, fixed: no answer for"), 1);
}

#[test]
fn a_worker_that_heals_late_is_found_unless_something_came_between() {
    let mut all = history(Law::Aligned);
    for hit in &mut all.participants[3].hits {
        if hit.start >= DOWN.0 && hit.start < DOWN.1 + 1200 * MILLI {
            hit.outcome = Outcome::NotApplied;
        }
    }
    assert_eq!(found(&all, "process 3, fixed: no answer for 11"), 1);
    // The next fault came before its second was over.
    let next = DOWN.1 + 800 * MILLI;
    all.faults.push(Fault { begun: next, lifted: next, settled: next, ..fault(0) });
    let probe = all.probes.iter_mut().find(|probe| probe.start > next).unwrap();
    probe.ok = false;
    is_right(&all);
}

#[test]
fn what_takes_over_before_the_fault_is_lifted_must_be_found_at_once() {
    let mut all = history(Law::Aligned);
    // The master stays away until the eighth second; the probe found the next one at the fourth.
    all.faults[0].lifted = START + 8 * SECOND;
    all.faults[0].settled = all.faults[0].lifted;
    for hit in &mut all.participants[0].hits {
        if hit.start >= DOWN.0 && hit.start < START + 6 * SECOND {
            hit.outcome = Outcome::Ambiguous;
        }
    }
    is_right(&all);
    all.faults[0].heals_before = true;
    assert_eq!(found(&all, "process 0, fixed: no answer for 1"), 1);
}

#[test]
fn tokens_that_do_not_rise_are_found() {
    let mut all = history(Law::Aligned);
    let lock = |start: Micros, token| Lock { start, end: start + MILLI, token: Some(token) };
    let (first, later) = (lock(START, 7), lock(START + SECOND, 8));
    all.participants[0].locks = vec![first];
    all.participants[1].locks = vec![later];
    is_right(&all);
    // Asked for at the same time: either may be first.
    all.participants[2].locks = vec![Lock { start: START, ..later }];
    all.participants[1].locks = vec![];
    is_right(&all);
    for token in [7, 6] {
        all.participants[1].locks = vec![lock(START + 2 * SECOND, token)];
        assert_eq!(found(&all, "after 8 was given"), 1);
    }
}

#[test]
fn what_is_left_at_the_end_is_found() {
    let mut all = history(Law::Aligned);
    all.participants[1].tasks_left = 1;
    all.leaks.push("a key without expiry".to_owned());
    all.participants[0].hits[0].outcome = Outcome::Wrong;
    let found: Vec<String> = judge(&all).into_iter().map(|violation| violation.what).collect();
    assert!(found[0].contains("neither an answer nor a fault"), "{found:?}");
    assert!(found.iter().any(|what| what.contains("1 tasks outlived")), "{found:?}");
    assert!(found.iter().any(|what| what.contains("a key without expiry")), "{found:?}");
    assert_eq!(found.len(), 3);
}

/// The last process is of that variant: during the partition what it has beside the store decides, and each hit ends
/// soon. A stack has a key that is never denied, too.
fn history_of(variant: Variant) -> History {
    let mut all = history(Law::Aligned);
    let wide = Series {
        name: "wide".to_owned(),
        limit: 1_000_000,
        never_denies: true,
        ..all.series[0].clone()
    };
    all.series.push(wide);
    let last = &mut all.participants[3];
    last.variant = variant;
    let decided = match variant {
        Variant::Plain => return all,
        Variant::Handler => Outcome::AdmittedByHandler,
        Variant::Stack => Outcome::AdmittedByFallback,
    };
    last.hits.retain(|hit| hit.start < DOWN.0 || hit.start >= DOWN.1);
    for start in (DOWN.0..DOWN.1).step_by(100_000) {
        last.hits.push(Hit { series: 0, start, end: start + MILLI, outcome: decided });
    }
    if variant == Variant::Stack {
        let wide = |hit: &Hit| {
            let is_down = hit.outcome == decided;
            let outcome = if is_down { decided } else { Outcome::Admitted };
            Hit { series: 1, outcome, ..*hit }
        };
        let wide: Vec<Hit> = last.hits.iter().map(wide).collect();
        last.hits.extend(wide);
    }
    last.hits.sort_by_key(|hit| hit.start);
    all
}

#[test]
fn what_a_fallback_or_a_handler_decides_in_an_outage_is_right() {
    for variant in [Variant::Handler, Variant::Stack] {
        let all = history_of(variant);
        is_right(&all);
        let times = super::Times::of(&all.participants[3], &all);
        assert_eq!(times.ways_back, 1, "{variant:?}: the one fault is judged");
    }
}

/// So many hits of one process that its fallback admits during the partition, in one window.
fn admitted_by_a_fallback(count: u64) -> Vec<Hit> {
    let outcome = Outcome::AdmittedByFallback;
    let starts = (0..count).map(|number| DOWN.0 + number * 10 * MILLI);
    starts.map(|start| Hit { series: 0, start, end: start + MILLI, outcome }).collect()
}

#[test]
fn a_fallback_that_admits_more_than_its_share_is_found() {
    let with = |counts: [u64; 2]| {
        let mut all = history_of(Variant::Stack);
        all.participants[2] = Participant { hits: vec![], ..all.participants[3].clone() };
        for (process, count) in [2, 3].into_iter().zip(counts) {
            let hits = &mut all.participants[process].hits;
            hits.retain(|hit| hit.series == 1 || hit.outcome != Outcome::AdmittedByFallback);
            hits.extend(admitted_by_a_fallback(count));
            hits.sort_by_key(|hit| hit.start);
        }
        // What happened to the store is no excuse.
        all.faults = vec![fault(1)];
        judge(&all)
    };
    // Each process has one of its own.
    let of_series = |counts| {
        let found = with(counts).into_iter().map(|violation| violation.what);
        found.filter(|what| what.contains("admitted")).collect::<Vec<_>>()
    };
    assert_eq!(of_series([10, 10]), Vec::<String>::new());
    let found = of_series([10, 11]);
    let what = "11 admitted by the fallback of process 3 in 2000 ms, where 10 may be (0 events)";
    assert!(found.len() == 1 && found[0].contains(what), "{found:?}");
}

#[test]
fn what_a_fallback_admits_is_not_counted_at_the_store() {
    let mut all = history_of(Variant::Stack);
    // The store has admitted 40 of this window.
    let hits = &mut all.participants[3].hits;
    let denied = |hit: &&mut Hit| hit.series == 0 && hit.outcome == Outcome::Denied;
    let hit = hits.iter_mut().rfind(denied).unwrap();
    hit.outcome = Outcome::AdmittedByFallback;
    is_right(&all);
    let hits = &mut all.participants[3].hits;
    let by_fallback = |hit: &&mut Hit| hit.outcome == Outcome::AdmittedByFallback;
    hits.iter_mut().rfind(by_fallback).unwrap().outcome = Outcome::Admitted;
    assert_eq!(found(&all, "41 admitted in 2000 ms, where 40 may be (0 events)"), 1);
}

/// The last process with one hit during the partition that took so long.
fn taking(variant: Variant, outcome: Outcome, millis: Micros) -> History {
    let mut all = history_of(variant);
    let end = DOWN.0 + millis * MILLI;
    let hits = &mut all.participants[3].hits;
    hits.retain(|hit| hit.start < DOWN.0 || hit.start >= end.max(DOWN.1));
    hits.push(Hit { series: 0, start: DOWN.0, end, outcome });
    hits.sort_by_key(|hit| hit.start);
    all
}

#[test]
fn a_handler_has_its_own_time_and_no_more() {
    for outcome in [Outcome::AdmittedByHandler, Outcome::DeniedByHandler] {
        is_right(&taking(Variant::Handler, outcome, 550));
        let late = taking(Variant::Handler, outcome, 551);
        assert_eq!(found(&late, "process 3: a hit took 551 ms, 0 ms of them a stall"), 1);
    }
    // What the store decides has no such time, nor has a fallback.
    let late = taking(Variant::Handler, Outcome::Denied, 301);
    assert_eq!(found(&late, "process 3: a hit took 301 ms"), 1);
    let late = taking(Variant::Stack, Outcome::AdmittedByFallback, 301);
    assert_eq!(found(&late, "process 3: a hit took 301 ms"), 1);
}

#[test]
fn a_handler_that_mostly_ends_late_is_found() {
    let with = |micros: Micros| {
        let mut all = history_of(Variant::Handler);
        // Before all else, so that no answer is missed.
        let start = START - 3600 * SECOND;
        let hit = |number| {
            let (start, outcome) = (start + number * SECOND, Outcome::DeniedByHandler);
            Hit { series: 0, start, end: start + 500 * MILLI + micros, outcome }
        };
        all.participants[3].hits.splice(0..0, (0..1000).map(hit));
        all
    };
    is_right(&with(5 * MILLI));
    assert_eq!(found(&with(6 * MILLI), "of 1000 hits that met silence one in a hundred"), 1);
}

#[test]
fn an_error_past_a_fallback_or_a_handler_is_found() {
    for outcome in [Outcome::NotApplied, Outcome::Ambiguous] {
        for (variant, name) in [(Variant::Handler, "handler"), (Variant::Stack, "stack")] {
            let all = taking(variant, outcome, 2);
            assert_eq!(found(&all, &format!("process 3, {name}: {outcome:?} after 2 ms")), 1);
        }
    }
    // A fallback is asked before the deadline, unless the machine stands still.
    let mut late = taking(Variant::Stack, Outcome::Ambiguous, 251);
    assert_eq!(found(&late, "process 3, stack: Ambiguous after 251 ms"), 1);
    late.participants[3].stalls = vec![Stall { from: DOWN.0, to: DOWN.0 + 40 * MILLI }];
    is_right(&late);
    // To a handler that is no excuse.
    let mut late = taking(Variant::Handler, Outcome::Ambiguous, 251);
    late.participants[3].stalls = vec![Stall { from: DOWN.0, to: DOWN.0 + 40 * MILLI }];
    assert_eq!(found(&late, "process 3, handler: Ambiguous after 251 ms"), 1);
}

#[test]
fn a_decision_by_what_a_process_does_not_have_is_found() {
    for (variant, outcome) in [
        (Variant::Plain, Outcome::AdmittedByFallback),
        (Variant::Plain, Outcome::DeniedByHandler),
        (Variant::Handler, Outcome::DeniedByFallback),
        (Variant::Stack, Outcome::AdmittedByHandler),
    ] {
        let all = taking(variant, outcome, 2);
        assert_eq!(found(&all, &format!("process 3, {}: {outcome:?}", variant.name())), 1);
    }
}

/// The last process has no decision of the store until so long after the partition, and then has.
fn back_after(variant: Variant, outcome: Outcome, millis: Micros) -> History {
    let mut all = history_of(variant);
    let back = DOWN.1 + millis * MILLI;
    for hit in &mut all.participants[3].hits {
        if hit.start >= DOWN.0 && hit.start < back && (variant != Variant::Stack || hit.series == 1)
        {
            hit.outcome = outcome;
        }
    }
    all
}

#[test]
fn a_fallback_that_goes_on_too_long_is_found_whatever_is_remembered() {
    let outcome = Outcome::AdmittedByFallback;
    is_right(&back_after(Variant::Stack, outcome, 900));
    let late = back_after(Variant::Stack, outcome, 1200);
    // Meanwhile its hits on the other key are denied as by the store.
    let denied = |hit: &Hit| hit.series == 0 && hit.outcome == Outcome::Denied;
    let meanwhile = |hit: &&Hit| hit.start > DOWN.1 && hit.start < DOWN.1 + SECOND;
    assert!(late.participants[3].hits.iter().filter(meanwhile).any(denied));
    assert_eq!(found(&late, "process 3, wide: no answer for 11"), 1);
}

#[test]
fn a_handler_that_goes_on_too_long_is_found() {
    let outcome = Outcome::DeniedByHandler;
    is_right(&back_after(Variant::Handler, outcome, 1200));
    let late = back_after(Variant::Handler, outcome, 1400);
    assert_eq!(found(&late, "process 3, fixed: no answer for 13"), 1);
}
