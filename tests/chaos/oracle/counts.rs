//! Never more is admitted in a window than its limit, and one more for each event that touched it. The fallback of a
//! process keeps to its share of the limit by itself, whatever happens to the store.
//!
//! When exactly a hit was counted is known only to lie between its start and its end. So a hit belongs to
//! a window for certain if it began and ended in it, and only such are counted: what is found is never a
//! matter of luck.

use super::Violation;
use crate::history::{Fault, History, Hit, Law, Micros, Outcome, Participant, Series};

pub(super) fn judge(history: &History) -> Vec<Violation> {
    let mut found = Vec::new();
    for (number, series) in history.series.iter().enumerate() {
        let all = history.participants.iter();
        let admitted = admitted(all, number, Outcome::Admitted);
        Counts { series, admitted: &admitted, faults: &history.faults, by: "" }.judge(&mut found);
        let series = &series.of_fallback();
        for (process, one) in history.participants.iter().enumerate() {
            let admitted = admitted_by_fallback(one, number);
            let by = format!(" by the fallback of process {process}");
            // Nothing happens to the memory of a process.
            Counts { series, admitted: &admitted, faults: &[], by: &by }.judge(&mut found);
        }
    }
    found
}

fn admitted_by_fallback(one: &Participant, series: usize) -> Vec<Hit> {
    admitted(std::iter::once(one), series, Outcome::AdmittedByFallback)
}

/// In the order of their starts.
fn admitted<'a>(
    participants: impl Iterator<Item = &'a Participant>,
    series: usize,
    outcome: Outcome,
) -> Vec<Hit> {
    let is = |hit: &Hit| hit.series == series && hit.outcome == outcome;
    let mut admitted: Vec<Hit> =
        participants.flat_map(|one| &one.hits).copied().filter(is).collect();
    admitted.sort_by_key(|hit| hit.start);
    admitted
}

struct Counts<'a> {
    series: &'a Series,
    /// In the order of their starts.
    admitted: &'a [Hit],
    faults: &'a [Fault],
    /// Who admitted them, for a violation; nothing for the store.
    by: &'a str,
}

impl Counts<'_> {
    fn judge(&self, found: &mut Vec<Violation>) {
        match self.series.law {
            Law::Aligned => self.judge_aligned(found),
            Law::Sliding => self.judge_spans(self.series.period, self.series.limit, found),
            Law::Bucket { burst } => {
                let period = self.series.period;
                for span in [period / 4, period, period * 4] {
                    self.judge_spans(span, burst, found);
                }
            }
        }
    }

    fn judge_aligned(&self, found: &mut Vec<Violation>) {
        let period = self.series.period;
        let mut rest = self.admitted;
        while let Some(first) = rest.first() {
            let from = first.start / period * period;
            let count = rest.partition_point(|hit| hit.start < from + period);
            let (window, later) = rest.split_at(count);
            let certain = window.iter().filter(|hit| hit.end < from + period).count();
            self.hold_to((from, from + period), certain, self.series.limit, found);
            rest = later;
        }
    }

    /// Each window of that length, from the start of each hit. `at_once` may pass at any time; a bucket
    /// earns more meanwhile.
    fn judge_spans(&self, span: Micros, at_once: u32, found: &mut Vec<Violation>) {
        for (index, first) in self.admitted.iter().enumerate() {
            let end = first.start + span;
            let window = self.admitted[index..].iter().take_while(|hit| hit.start < end);
            let certain = window.filter(|hit| hit.end < end).count();
            let before = found.len();
            self.hold_to((first.start, end), certain, at_once, found);
            if found.len() > before {
                // The next windows say the same once more.
                return;
            }
        }
    }

    /// Returns what a bucket earns in that time.
    fn earned(&self, time: Micros) -> u64 {
        match self.series.law {
            Law::Bucket { .. } => {
                (u64::from(self.series.limit) * time).div_ceil(self.series.period)
            }
            Law::Aligned | Law::Sliding => 0,
        }
    }

    fn hold_to(
        &self,
        (from, to): (Micros, Micros),
        count: usize,
        limit: u32,
        found: &mut Vec<Violation>,
    ) {
        let touches = |fault: &&Fault| fault.begun <= to && fault.settled >= from;
        let touching = || self.faults.iter().filter(touches);
        let grants: u32 = touching().map(|fault| fault.grants).sum();
        // While an event lasts two may serve, as the old and the new master do in a failover: a bucket earns in both.
        let twice = touching().map(|fault| {
            let (from, to) = (fault.begun.max(from), fault.settled.min(to));
            u64::from(fault.grants) * self.earned(to.saturating_sub(from))
        });
        let earned = self.earned(to - from) + twice.sum::<u64>();
        let most = u64::from(limit) * (1 + u64::from(grants)) + earned;
        if u64::try_from(count).unwrap() > most {
            let (Series { name, .. }, by) = (self.series, self.by);
            let what = format!(
                "{name}: {count} admitted{by} in {} ms, where {most} may be ({grants} events)",
                (to - from) / 1000
            );
            found.push(Violation { what, at: from });
        }
    }
}
