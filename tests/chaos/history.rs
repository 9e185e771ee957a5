//! What happened in a run: written down by the workers, by who made the faults, and by a probe of its own.

use std::fmt::Write;

use traffik::{Clock, WallClock};

/// Microseconds since the Unix epoch, by the machine's own clock, which all processes share.
pub(crate) type Micros = u64;

pub(crate) const MILLI: Micros = 1000;
pub(crate) const SECOND: Micros = 1000 * MILLI;

/// The time by the machine's own clock, whatever clocks the limiters are given.
pub(crate) fn now() -> Micros {
    WallClock::new().now().as_micros()
}

/// What a series of hits may admit: all hits of all processes on one key of one throttle.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) law: Law,
    pub(crate) limit: u32,
    pub(crate) period: Micros,
    /// Whether its limit is beyond what anybody hits: only the store itself then answers, no memory of a denial.
    pub(crate) never_denies: bool,
}

/// A fallback grants one part of so many of each limit, as four processes share them.
pub(crate) const FALLBACK_SHARE: u32 = 4;

impl Series {
    /// What the fallback of a process may admit of it by itself.
    pub(crate) fn of_fallback(&self) -> Self {
        let part = |units: u32| units.div_ceil(FALLBACK_SHARE);
        let law = match self.law {
            Law::Bucket { burst } => Law::Bucket { burst: part(burst) },
            law @ (Law::Aligned | Law::Sliding) => law,
        };
        Self { law, limit: part(self.limit), ..self.clone() }
    }
}

/// What decides in a process when the store cannot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Variant {
    /// Nobody: errors are raised.
    #[default]
    Plain,
    /// An error handler, which now and then takes longer than it may.
    Handler,
    /// The fallback in the recommended stack.
    Stack,
}

const VARIANTS: [(Variant, &str); 3] =
    [(Variant::Plain, "plain"), (Variant::Handler, "handler"), (Variant::Stack, "stack")];

impl Variant {
    pub(crate) fn name(self) -> &'static str {
        VARIANTS[self as usize].1
    }

    /// Whether a process of it may see that. What is wrong is wrong in each.
    pub(crate) fn may_see(self, outcome: Outcome) -> bool {
        match outcome {
            Outcome::Admitted | Outcome::Denied | Outcome::Wrong => true,
            Outcome::NotApplied | Outcome::Ambiguous => self == Self::Plain,
            Outcome::AdmittedByHandler | Outcome::DeniedByHandler => self == Self::Handler,
            Outcome::AdmittedByFallback | Outcome::DeniedByFallback => self == Self::Stack,
        }
    }

    /// Whether it hits that series. Those that are never denied are there for those that remember denials.
    pub(crate) fn hits(self, series: &Series) -> bool {
        !series.never_denies || self == Self::Stack
    }
}

/// In which windows a series is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Law {
    /// Those between multiples of the period.
    Aligned,
    /// Each that is as long as the period.
    Sliding,
    /// Each of any length: so much at once, and the limit in each period.
    Bucket { burst: u32 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hit {
    pub(crate) series: usize,
    pub(crate) start: Micros,
    /// By a monotonic clock after the start.
    pub(crate) end: Micros,
    pub(crate) outcome: Outcome,
}

impl Hit {
    pub(crate) fn took(&self) -> Micros {
        self.end - self.start
    }

    /// Whether the store answered, or a memory of what it has said.
    pub(crate) fn is_answered(&self) -> bool {
        matches!(self.outcome, Outcome::Admitted | Outcome::Denied)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// By the backend.
    Admitted,
    /// By the backend, be it remembered.
    Denied,
    AdmittedByFallback,
    DeniedByFallback,
    AdmittedByHandler,
    /// Or by nobody, for the handler did not end in time.
    DeniedByHandler,
    /// An error, after which nothing was counted.
    NotApplied,
    /// An error, after which the hit may have been counted.
    Ambiguous,
    /// What may never come: a mistake of the setup, a closed backend, a decision by nobody that was asked.
    Wrong,
}

const OUTCOMES: [(Outcome, &str); 9] = [
    (Outcome::Admitted, "+"),
    (Outcome::Denied, "-"),
    (Outcome::AdmittedByFallback, "f+"),
    (Outcome::DeniedByFallback, "f-"),
    (Outcome::AdmittedByHandler, "h+"),
    (Outcome::DeniedByHandler, "h-"),
    (Outcome::NotApplied, "n"),
    (Outcome::Ambiguous, "a"),
    (Outcome::Wrong, "!"),
];

/// The machine kept a timer waiting from when it should have fired until it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stall {
    pub(crate) from: Micros,
    pub(crate) to: Micros,
}

impl Stall {
    pub(crate) fn length(&self) -> Micros {
        self.to - self.from
    }
}

/// A lock that was taken, by a call between two instants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lock {
    pub(crate) start: Micros,
    pub(crate) end: Micros,
    pub(crate) token: Option<u64>,
}

/// What one process saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Participant {
    pub(crate) variant: Variant,
    pub(crate) hits: Vec<Hit>,
    pub(crate) stalls: Vec<Stall>,
    pub(crate) locks: Vec<Lock>,
    /// Each kind of error once, for the reader.
    pub(crate) errors: Vec<String>,
    /// What ran on the runtime after the backend was closed.
    pub(crate) tasks_left: usize,
}

/// Something that was done to a place.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) what: String,
    pub(crate) begun: Micros,
    pub(crate) lifted: Micros,
    /// When the place was whole again, and nothing of it was left.
    pub(crate) settled: Micros,
    /// How many limits more may pass in a window that it touched.
    pub(crate) grants: u32,
    /// Whether the place may heal before it is lifted: another takes over.
    pub(crate) heals_before: bool,
}

/// An attempt to write by a plain connection that is not ours.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
    pub(crate) start: Micros,
    pub(crate) end: Micros,
    pub(crate) ok: bool,
}

/// All that happened at one place.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    pub(crate) place: String,
    pub(crate) series: Vec<Series>,
    pub(crate) faults: Vec<Fault>,
    pub(crate) probes: Vec<Probe>,
    /// Of the test's process, through whose proxies all bytes go.
    pub(crate) stalls: Vec<Stall>,
    pub(crate) participants: Vec<Participant>,
    /// What was found at the end that should not be there.
    pub(crate) leaks: Vec<String>,
}

impl Participant {
    /// One line an entry.
    pub(crate) fn encode(&self) -> String {
        let mut text = String::new();
        let hits = self.hits.iter().map(|hit| {
            let code = OUTCOMES.iter().find(|known| known.0 == hit.outcome).unwrap().1;
            format!("hit {} {} {} {code}", hit.series, hit.start, hit.end)
        });
        let stalls = self.stalls.iter();
        let stalls = stalls.map(|it| format!("stall {} {}", it.from, it.to));
        // 0 is never a token.
        let token = |lock: &Lock| lock.token.unwrap_or(0);
        let locks = self.locks.iter();
        let locks = locks.map(|lock| format!("lock {} {} {}", lock.start, lock.end, token(lock)));
        let errors = self.errors.iter().map(|error| format!("error {}", error.replace('\n', " ")));
        let tasks = [format!("tasks {}", self.tasks_left)];
        let variant = [format!("variant {}", self.variant.name())].into_iter();
        for line in variant.chain(hits).chain(stalls).chain(locks).chain(errors).chain(tasks) {
            writeln!(text, "{line}").unwrap();
        }
        text
    }

    pub(crate) fn decode(text: &str) -> Self {
        let mut all = Self::default();
        for line in text.lines() {
            let (kind, rest) = line.split_once(' ').unwrap();
            if kind == "error" {
                all.errors.push(rest.to_owned());
                continue;
            }
            let words: Vec<&str> = rest.split(' ').collect();
            if kind == "variant" {
                all.variant = VARIANTS.iter().find(|known| known.1 == rest).unwrap().0;
                continue;
            }
            let number = |index: usize| words[index].parse::<u64>().unwrap();
            let size = |index: usize| usize::try_from(number(index)).unwrap();
            match kind {
                "hit" => {
                    let outcome = OUTCOMES.iter().find(|known| known.1 == words[3]).unwrap().0;
                    let (series, start, end) = (size(0), number(1), number(2));
                    all.hits.push(Hit { series, start, end, outcome });
                }
                "stall" => {
                    all.stalls.push(Stall { from: number(0), to: number(1) });
                }
                "lock" => {
                    let token = Some(number(2)).filter(|&token| token != 0);
                    all.locks.push(Lock { start: number(0), end: number(1), token });
                }
                "tasks" => all.tasks_left = size(0),
                other => panic!("no entry is called {other:?}"),
            }
        }
        all
    }
}

#[test]
fn what_a_worker_writes_is_what_the_oracle_reads() {
    let hit = |(outcome, _): (Outcome, &str)| Hit { series: 3, start: 5, end: 9, outcome };
    let lock = |token| Lock { start: 1, end: 2, token };
    let all = Participant {
        variant: Variant::Stack,
        hits: OUTCOMES.map(hit).to_vec(),
        stalls: vec![Stall { from: 1, to: 4 }],
        locks: vec![lock(None), lock(Some(7))],
        errors: vec!["redis: apply: no answer".to_owned()],
        tasks_left: 2,
    };
    assert_eq!(Participant::decode(&all.encode()), all);
}
