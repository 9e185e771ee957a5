//! What must hold of a history, and what does not.
//!
//! Nothing here asks for the time: a history is judged after the run, and the same history always alike.

mod counts;
mod locks;
mod times;

#[cfg(test)]
mod tests;

use crate::history::{Fault, History, Micros, Outcome, SECOND, Stall};

pub(crate) use times::Times;

/// Something that must not have happened.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    pub(crate) what: String,
    pub(crate) at: Micros,
}

/// All that is wrong, in order of time.
pub(crate) fn judge(history: &History) -> Vec<Violation> {
    let mut all = counts::judge(history);
    all.extend(times::judge(history));
    all.extend(locks::judge(history));
    let end = history.participants.iter().flat_map(|one| &one.hits).map(|hit| hit.end).max();
    let end = end.unwrap_or(0);
    let at_end = |what: String| Violation { what, at: end };
    all.extend(history.leaks.iter().cloned().map(at_end));
    for (number, one) in history.participants.iter().enumerate() {
        if one.tasks_left > 0 {
            let left = one.tasks_left;
            all.push(at_end(format!("process {number}: {left} tasks outlived the backend")));
        }
        let wrong = one.hits.iter().filter(|hit| hit.outcome == Outcome::Wrong);
        all.extend(wrong.map(|hit| Violation {
            what: format!("process {number}: neither an answer nor a fault: {:?}", one.errors),
            at: hit.start,
        }));
    }
    all.sort_by_key(|violation| violation.at);
    all
}

/// The faults around an instant, in lines.
pub(crate) fn schedule_around(history: &History, at: Micros) -> String {
    let near = |fault: &&Fault| fault.begun <= at + 5 * SECOND && fault.settled + 5 * SECOND >= at;
    let line = |fault: &Fault| {
        let [begun, lifted, settled] =
            [fault.begun, fault.lifted, fault.settled].map(|time| seconds_from(at, time));
        format!("    begun {begun}, lifted {lifted}, settled {settled}: {}\n", fault.what)
    };
    history.faults.iter().filter(near).map(line).collect()
}

/// `+1.250 s` for an instant that is so long after the other.
fn seconds_from(at: Micros, time: Micros) -> String {
    let sign = if time < at { '-' } else { '+' };
    let gap = time.abs_diff(at) / 1000;
    format!("{sign}{}.{:03} s", gap / 1000, gap % 1000)
}

/// How long the machine may have kept something waiting that began and ended then: all of each stall that
/// touched it, for another thread's need not be at the same moment.
fn stalled(stalls: &[Stall], from: Micros, to: Micros) -> Micros {
    touching(stalls, from, to).iter().map(Stall::length).sum()
}

/// How long one of two processes stood still between two instants.
fn stalled_in_either(stalls: [&[Stall]; 2], from: Micros, to: Micros) -> Micros {
    let mut all: Vec<Stall> =
        stalls.iter().flat_map(|one| touching(one, from, to)).copied().collect();
    all.sort_by_key(|stall| stall.from);
    let (mut sum, mut until) = (0, from);
    for stall in all {
        sum += stall.to.min(to).saturating_sub(stall.from.max(until));
        until = until.max(stall.to);
    }
    sum
}

/// They are in order of time and never overlap, since one thread saw them.
fn touching(stalls: &[Stall], from: Micros, to: Micros) -> &[Stall] {
    let first = stalls.partition_point(|stall| stall.to < from);
    let count = stalls[first..].partition_point(|stall| stall.from <= to);
    &stalls[first..first + count]
}
