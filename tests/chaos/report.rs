//! What each participant saw, in a table.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use crate::history::{History, Hit, MILLI, Outcome, Participant, Variant};
use crate::oracle::Times;

/// The place's table, and what was done to it.
pub(crate) fn table(history: &History) -> String {
    let mut text = format!("\n{}: ", history.place);
    let mut sorts: BTreeMap<&str, usize> = BTreeMap::new();
    for fault in &history.faults {
        *sorts.entry(fault.what.split(" of ").next().unwrap()).or_default() += 1;
    }
    let sorts: Vec<String> = sorts.iter().map(|(sort, count)| format!("{count} {sort}")).collect();
    writeln!(text, "{} faults ({})", history.faults.len(), sorts.join(", ")).unwrap();
    text.push_str(
        "process         |    hits | admitted | share | not applied | ambiguous | by fallback or handler | longest hit | without stalls \
         | longest stall | longest way back | ways | locks\n",
    );
    let all = count(&history.participants, Outcome::Admitted);
    for (number, one) in history.participants.iter().enumerate() {
        let own = |outcome| count(std::slice::from_ref(one), outcome);
        let (times, admitted) = (Times::of(one, history), own(Outcome::Admitted));
        let others = others(one);
        writeln!(
            text,
            "{number:>7} {:<7} | {:>7} | {admitted:>8} | {:>4}% | {:>11} | {:>9} | {:>22} | {:>8} ms | {:>11} ms | {:>10} ms \
             | {:>13} ms | {:>4} | {:>5}",
            one.variant.name(),
            one.hits.len(),
            admitted * 100 / all.max(1),
            own(Outcome::NotApplied),
            own(Outcome::Ambiguous),
            format!("{} of {}", others.0, others.1),
            times.longest_hit / MILLI,
            times.longest_net / MILLI,
            times.longest_stall / MILLI,
            times.longest_way_back / MILLI,
            times.ways_back,
            one.locks.len(),
        )
        .unwrap();
    }
    let errors: std::collections::BTreeSet<&String> =
        history.participants.iter().flat_map(|one| &one.errors).collect();
    for error in errors {
        writeln!(text, "  {error}").unwrap();
    }
    text
}

/// Fails where a participant did so little that nothing is said about it.
#[track_caller]
pub(crate) fn expect_participation(history: &History, length: Duration) {
    let place = &history.place;
    let seconds = usize::try_from(length.as_secs()).unwrap();
    assert!(history.faults.len() > seconds / 20, "{place}: {} faults", history.faults.len());
    for (number, one) in history.participants.iter().enumerate() {
        let admitted = count(std::slice::from_ref(one), Outcome::Admitted);
        assert!(one.hits.len() > seconds * 10, "{place}, process {number}: too few hits");
        assert!(admitted > 0, "{place}, process {number}: none was admitted");
        assert!(!one.locks.is_empty(), "{place}, process {number}: it never had the lock");
        assert!(Times::of(one, history).ways_back > 0, "{place}, process {number}: no way back");
        // A short run may have had no fault that mattered.
        let is_alone = one.variant == Variant::Plain || seconds < 60;
        assert!(is_alone || others(one).1 > 0, "{place}, process {number}: the store decided all");
    }
}

/// How many hits a fallback or a handler admitted, of how many that it decided.
fn others(one: &Participant) -> (usize, usize) {
    let own = |outcome| count(std::slice::from_ref(one), outcome);
    let admitted = own(Outcome::AdmittedByFallback) + own(Outcome::AdmittedByHandler);
    let denied = own(Outcome::DeniedByFallback) + own(Outcome::DeniedByHandler);
    (admitted, admitted + denied)
}

fn count(participants: &[Participant], outcome: Outcome) -> usize {
    let is = |hit: &&Hit| hit.outcome == outcome;
    participants.iter().map(|one| one.hits.iter().filter(is).count()).sum()
}
