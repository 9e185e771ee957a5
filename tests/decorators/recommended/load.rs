//! Tasks that hit several keys through the stack, and what each of them saw.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use test_support::servers::{pause, wait};
use tokio::task::JoinSet;
use traffik::{DecidedBy, Throttle};

use super::SOON;

/// Of those that hit all keys alike.
pub(super) const TASKS: usize = 4;
/// Between two hits of a task.
const PACE: Duration = Duration::from_millis(4);

/// What a task hits, and how it is judged.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) throttle: Throttle,
    pub(super) key: String,
}

#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) task: usize,
    /// The place of its target.
    pub(super) target: usize,
    pub(super) start: Instant,
    pub(super) end: Instant,
    /// By whom, and whether it was admitted; or the error.
    pub(super) outcome: Result<(DecidedBy, bool), String>,
    /// How late the timer of the task's pause fired, which is the machine's doing.
    pub(super) stall: Duration,
}

impl Seen {
    pub(super) fn is_by(&self, by: DecidedBy) -> bool {
        self.outcome.as_ref().is_ok_and(|outcome| outcome.0 == by)
    }

    pub(super) fn is_admitted_by(&self, by: DecidedBy) -> bool {
        self.outcome == Ok((by, true))
    }

    pub(super) fn is_within(&self, (from, to): (Instant, Instant)) -> bool {
        self.start >= from && self.end <= to
    }
}

/// Running tasks.
pub(super) struct Load {
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Load {
    /// Each of `TASKS` hits all of `shared` in turn, and one more only `apart`, if there is any.
    pub(super) fn start(shared: &[Target], apart: Option<Target>) -> Self {
        let (seen, stop) = (Arc::default(), Arc::default());
        let mut load = Self { seen, stop, tasks: JoinSet::new() };
        for task in 0..TASKS {
            load.spawn(task, shared.iter().cloned().enumerate().collect());
        }
        if let Some(apart) = apart {
            load.spawn(TASKS, vec![(shared.len(), apart)]);
        }
        load
    }

    fn spawn(&mut self, task: usize, targets: Vec<(usize, Target)>) {
        let (all, stop) = (Arc::clone(&self.seen), Arc::clone(&self.stop));
        self.tasks.spawn(async move {
            let mut targets = targets.into_iter().cycle();
            while !stop.load(Ordering::SeqCst) {
                let (target, Target { throttle, key }) = targets.next().unwrap();
                let start = wait::now();
                let decision = throttle.hit(&key).await;
                let end = wait::now();
                let outcome = match decision {
                    Ok(decision) => Ok((decision.decided_by(), decision.is_allowed())),
                    Err(error) => Err(error.to_string()),
                };
                pause::pace(PACE).await;
                let stall = end.elapsed().saturating_sub(PACE);
                all.lock().push(Seen { task, target, start, end, outcome, stall });
            }
        });
    }

    /// Waits until each task was decided that often by that one, on each of those targets, since then; when it was.
    pub(super) async fn each_is_decided(
        &self,
        by: DecidedBy,
        times: usize,
        targets: usize,
        since: Instant,
    ) -> Instant {
        let what = format!("each task is decided {times} times by {by:?}");
        self.each_is(&what, |seen| seen.is_by(by), times, targets, since).await
    }

    /// The same of other outcomes.
    pub(super) async fn each_is(
        &self,
        what: &str,
        is: impl Fn(&Seen) -> bool,
        times: usize,
        targets: usize,
        since: Instant,
    ) -> Instant {
        let mut last = since;
        wait::eventually(what, SOON, async || {
            let mut counts = vec![0; TASKS * targets];
            let seen = self.seen.lock();
            for seen in seen.iter().rev().take_while(|seen| seen.end >= since) {
                if seen.task < TASKS && seen.target < targets && seen.start >= since {
                    counts[seen.task * targets + seen.target] += usize::from(is(seen));
                }
            }
            let done = counts.iter().all(|&count| count >= times);
            if done && times == 1 {
                last = first_of_each(&seen, &is, targets, since);
            }
            done
        })
        .await;
        last
    }

    /// Waits until that many were admitted by the fallback on that target.
    pub(super) async fn fallback_admits(&self, target: usize, count: usize) {
        wait::eventually("the fallback admits its limit", SOON, async || {
            let is = |seen: &&Seen| seen.target == target;
            let seen = self.seen.lock();
            let admitted = |seen: &&Seen| seen.is_admitted_by(DecidedBy::Fallback);
            seen.iter().filter(is).filter(admitted).count() >= count
        })
        .await;
    }

    /// Lets each task end its hit, and returns what all saw.
    pub(super) async fn stop(mut self) -> Vec<Seen> {
        self.stop.store(true, Ordering::SeqCst);
        while let Some(done) = self.tasks.join_next().await {
            done.unwrap();
        }
        std::mem::take(&mut *self.seen.lock())
    }
}

/// When the last of the pairs of task and target had that outcome for the first time.
fn first_of_each(
    seen: &[Seen],
    is_it: impl Fn(&Seen) -> bool,
    targets: usize,
    since: Instant,
) -> Instant {
    let pairs = (0..TASKS).flat_map(|task| (0..targets).map(move |target| (task, target)));
    let first = |(task, target): (usize, usize)| {
        let is = |seen: &&Seen| seen.task == task && seen.target == target;
        let had = seen.iter().filter(is).filter(|seen| seen.start >= since && is_it(seen));
        had.map(|seen| seen.end).min()
    };
    pairs.filter_map(first).max().unwrap_or(since)
}
