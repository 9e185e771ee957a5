//! Each hit ends by its deadline, and each worker is back soon after each fault's end.

use super::{Violation, stalled, stalled_in_either};
use crate::history::{
    Fault, History, Hit, MILLI, Micros, Participant, Probe, SECOND, Series, Stall, Variant,
};

/// The throttles' default.
const DEADLINE: Micros = 250 * MILLI;
/// What an error handler has on top of it, by default.
const HANDLER: Micros = 250 * MILLI;
/// How late a hit may end beyond what the machine kept timers waiting: some switches between threads that
/// the monitor does not see.
const MARGIN: Micros = 50 * MILLI;
/// ... and how late all but one in a hundred of those that met silence.
const USUAL_MARGIN: Micros = 5 * MILLI;
/// Fewer that met silence say nothing about one in a hundred.
const ENOUGH: usize = 1000;
/// How soon after a fault's end each worker must have an answer on each key; one whose last hit may still be in its
/// handler has the time of that besides.
const HEAL: Micros = SECOND;

/// What a participant's times come to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Times {
    pub(crate) longest_hit: Micros,
    /// Without the machine's stalls.
    pub(crate) longest_net: Micros,
    pub(crate) longest_stall: Micros,
    /// After a fault's end, without the machine's stalls.
    pub(crate) longest_way_back: Micros,
    /// How many ways back were judged.
    pub(crate) ways_back: usize,
}

impl Variant {
    /// How long a hit may take.
    fn limit(self) -> Micros {
        DEADLINE + self.handler()
    }

    fn heal(self) -> Micros {
        HEAL + self.handler()
    }

    fn handler(self) -> Micros {
        match self {
            Self::Handler => HANDLER,
            Self::Plain | Self::Stack => 0,
        }
    }
}

pub(super) fn judge(history: &History) -> Vec<Violation> {
    let mut found = Vec::new();
    for (number, one) in history.participants.iter().enumerate() {
        found.extend(overruns(number, one));
        found.extend(strangers(number, one));
        found.extend(
            one.ways_back(history).into_iter().filter_map(|way| way.violation(number, history)),
        );
    }
    let variants = [Variant::Plain, Variant::Handler, Variant::Stack];
    found.extend(variants.into_iter().filter_map(|variant| usual_overrun(variant, history)));
    found
}

impl Times {
    pub(crate) fn of(one: &Participant, history: &History) -> Self {
        let ways: Vec<_> = one.ways_back(history);
        Self {
            longest_hit: one.hits.iter().map(Hit::took).max().unwrap_or(0),
            longest_net: one.hits.iter().map(|hit| one.net(hit)).max().unwrap_or(0),
            longest_stall: one.stalls.iter().map(Stall::length).max().unwrap_or(0),
            longest_way_back: ways.iter().map(|way| way.took).max().unwrap_or(0),
            ways_back: ways.len(),
        }
    }
}

fn overruns(number: usize, one: &Participant) -> impl Iterator<Item = Violation> {
    let late = one.hits.iter().filter(|hit| one.net(hit) > one.limit_of(hit) + MARGIN);
    late.map(move |hit| Violation {
        what: format!(
            "process {number}: a hit took {} ms, {} ms of them a stall of the machine",
            hit.took() / MILLI,
            (hit.took() - one.net(hit)) / MILLI
        ),
        at: hit.start,
    })
}

/// What a process may never see: a decision by what it has not, or an error in spite of what it has.
///
/// A fallback has not decided in time where the machine stood still for the rest of the hit's.
fn strangers(number: usize, one: &Participant) -> impl Iterator<Item = Violation> {
    let is_late = |hit: &Hit| hit.took() >= DEADLINE && one.net(hit) < DEADLINE;
    let is_excused = move |hit: &Hit| one.variant == Variant::Stack && is_late(hit);
    let never = one.hits.iter().filter(|hit| !one.variant.may_see(hit.outcome));
    never.filter(move |hit| !is_excused(hit)).map(move |hit| Violation {
        what: format!(
            "process {number}, {}: {:?} after {} ms, {:?}",
            one.variant.name(),
            hit.outcome,
            hit.took() / MILLI,
            one.errors
        ),
        at: hit.start,
    })
}

/// More than one in a hundred of the hits that met silence ended late.
fn usual_overrun(variant: Variant, history: &History) -> Option<Violation> {
    let limit = variant.limit();
    let hits = |one: &Participant| one.hits.iter().map(|hit| one.net(hit)).collect::<Vec<_>>();
    let all = history.participants.iter().filter(|one| one.variant == variant);
    let mut silent: Vec<Micros> = all.flat_map(hits).collect();
    silent.retain(|&net| net >= limit / 2);
    silent.sort_unstable();
    let usual = *silent.get(silent.len() * 99 / 100)?;
    (silent.len() >= ENOUGH && usual > limit + USUAL_MARGIN).then(|| Violation {
        what: format!("of {} hits that met silence one in a hundred took {usual} us", silent.len()),
        at: history.faults.first().map_or(0, |fault| fault.begun),
    })
}

/// From the end of a fault to the first answer.
struct WayBack {
    series: usize,
    most: Micros,
    from: Micros,
    took: Micros,
}

impl WayBack {
    fn violation(&self, number: usize, history: &History) -> Option<Violation> {
        let series = &history.series[self.series].name;
        (self.took > self.most).then(|| Violation {
            what: format!(
                "process {number}, {series}: no answer for {} ms after the fault's end",
                self.took / MILLI
            ),
            at: self.from,
        })
    }
}

impl Participant {
    /// How long a hit took, without what the machine stood still meanwhile.
    fn net(&self, hit: &Hit) -> Micros {
        hit.took() - stalled(&self.stalls, hit.start, hit.end).min(hit.took())
    }

    /// How long that hit may take: only what the handler was asked about has its time too.
    fn limit_of(&self, hit: &Hit) -> Micros {
        match hit.is_answered() {
            true => DEADLINE,
            false => self.variant.limit(),
        }
    }

    /// Whether the store answers on a series by itself: what remembers denials does so for it.
    fn is_asked(&self, series: &Series) -> bool {
        self.variant.hits(series) && (self.variant != Variant::Stack || series.never_denies)
    }

    /// Each way back that can be judged: where something came between, only those that were sooner.
    fn ways_back(&self, history: &History) -> Vec<WayBack> {
        let ends = ends_of_faults(history);
        let mut ways = Vec::new();
        let most = self.variant.heal();
        let asked = |series: &usize| self.is_asked(&history.series[*series]);
        for series in (0..history.series.len()).filter(asked) {
            let answers: Vec<Micros> = self
                .hits
                .iter()
                .filter(|hit| hit.series == series && hit.is_answered())
                .map(|hit| hit.end)
                .collect();
            debug_assert!(answers.is_sorted());
            for &(from, trouble) in &ends {
                let next = answers.get(answers.partition_point(|&end| end <= from));
                let until = next.copied().unwrap_or(Micros::MAX).min(trouble);
                let net = |to: Micros| {
                    let stalls = [&*self.stalls, &*history.stalls];
                    to - from - stalled_in_either(stalls, from, to)
                };
                // What was not answered before the next trouble counts only if it was late by then.
                if next.is_some_and(|&end| end <= trouble) || net(until) > most {
                    ways.push(WayBack { series, most, from, took: net(until) });
                }
            }
        }
        ways
    }
}

/// When faults ended, and when the next trouble came: a fault, a probe that failed, the end of the run.
///
/// A fault has ended when a probe that began after it was lifted succeeds; and each time that a probe
/// succeeds after one that failed, if the place may heal by itself.
fn ends_of_faults(history: &History) -> Vec<(Micros, Micros)> {
    let last = history.participants.iter().filter_map(|one| one.hits.last()).map(|hit| hit.start);
    let last = last.min().unwrap_or(0);
    let mut ends = Vec::new();
    let mut lifted = 0;
    for (index, probe) in history.probes.iter().enumerate().filter(|(_, probe)| probe.ok) {
        let was_down = index > 0 && !history.probes[index - 1].ok;
        let is_under = |fault: &Fault| fault.begun <= probe.end && probe.start < fault.lifted;
        let hidden = history.faults.iter().any(|fault| is_under(fault) && !fault.heals_before);
        let newly = history.faults.iter().filter(|fault| fault.lifted <= probe.start);
        let newly = newly.map(|fault| fault.lifted).max().unwrap_or(0);
        let is_end = newly > lifted || was_down;
        if hidden || !is_end {
            continue;
        }
        lifted = newly;
        let failure = |probe: &&Probe| !probe.ok;
        let failure = history.probes[index..].iter().find(failure).map(|probe| probe.start);
        let begun = |fault: &&Fault| fault.begun > probe.end;
        let begun = history.faults.iter().filter(begun).map(|fault| fault.begun).min();
        let trouble = [failure, begun].into_iter().flatten().min().unwrap_or(last).min(last);
        if trouble > probe.end {
            ends.push((probe.end, trouble));
        }
    }
    ends
}
