//! [`Circuit`]: the states of a circuit breaker. Pure and synchronous: time and chance come in as values.

use std::time::Duration;

use tokio::time::Instant;

use super::options::Settings;
use super::tally::Tally;

/// What a breaker knows of its store.
#[derive(Clone, Debug)]
pub(super) struct Circuit {
    settings: Settings,
    /// Takes off a pause at random, at most that much.
    jitter: fn(Duration) -> Duration,
    state: Phase,
    /// When it was last closed, or ceased to be.
    since: Instant,
    /// Of all calls that may still say something: each change of the state makes another.
    generation: u64,
    /// Calls of this generation that have not ended, while it is closed.
    under_way: u64,
    tally: Tally,
    /// Pauses since it was closed.
    pauses: u32,
    times_opened: u64,
    /// The failure that opened it, or the last of a probe.
    cause: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Closed,
    /// No call passes until then.
    Open {
        until: Instant,
    },
    /// A probe is under way, until then at most.
    HalfOpen {
        ends: Instant,
    },
}

/// The right to make a call, and to say what has become of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    generation: u64,
    began: Instant,
    is_probe: bool,
    /// Whether it is one of those under way.
    is_counted: bool,
}

/// Why a call is not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) open_for: Duration,
    pub(super) cause: Option<String>,
}

/// What has become of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallOutcome {
    /// The store answered, be it by an error.
    Answered,
    /// The store failed.
    Failed,
    /// It says nothing of the store.
    Nothing,
}

/// A change of the state, to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transition {
    Opened {
        pause: Duration,
        failures: u32,
    },
    /// A probe began.
    Probing,
    ProbeFailed {
        pause: Duration,
    },
    /// A probe ended without saying anything of the store.
    ProbeVoid,
    Closed {
        open_for: Duration,
        was_probing: bool,
    },
    /// Its store was closed while it was not.
    Reset {
        was_probing: bool,
    },
}

impl Ticket {
    pub(super) const fn is_probe(&self) -> bool {
        self.is_probe
    }

    pub(super) const fn began(&self) -> Instant {
        self.began
    }
}

impl Circuit {
    pub(super) fn new(settings: Settings, jitter: fn(Duration) -> Duration, now: Instant) -> Self {
        Self {
            settings,
            jitter,
            state: Phase::Closed,
            since: now,
            generation: 0,
            under_way: 0,
            tally: Tally::new(now),
            pauses: 0,
            times_opened: 0,
            cause: None,
        }
    }

    /// Lets a call pass or not. Of those that come when the pause is over one passes, as the probe.
    pub(super) fn admit(&mut self, now: Instant) -> Result<Ticket, Refused> {
        self.lapse(now);
        match self.state {
            Phase::Closed => {
                self.under_way += 1;
                Ok(Ticket { is_counted: true, ..self.ticket(now) })
            }
            Phase::Open { until } if until <= now => {
                self.next_generation();
                self.state = Phase::HalfOpen { ends: later(now, self.settings.probe_timeout) };
                Ok(Ticket { is_probe: true, ..self.ticket(now) })
            }
            Phase::Open { .. } | Phase::HalfOpen { .. } => Err(Refused {
                open_for: now.saturating_duration_since(self.since),
                cause: self.cause.clone(),
            }),
        }
    }

    /// Ends a probe whose time is over: whoever had it has neither said what became of it nor let go of it.
    pub(super) fn lapse(&mut self, now: Instant) -> Option<Transition> {
        let Phase::HalfOpen { ends } = self.state else { return None };
        (ends <= now).then(|| Transition::ProbeFailed { pause: self.pause(ends) })
    }

    /// Lets a call pass whatever the state: one that is to find out.
    pub(super) const fn ticket(&self, now: Instant) -> Ticket {
        Ticket { generation: self.generation, began: now, is_probe: false, is_counted: false }
    }

    /// Notes what has become of a call. One that began before the last change of the state says nothing any more.
    pub(super) fn ended(
        &mut self,
        ticket: Ticket,
        outcome: CallOutcome,
        now: Instant,
    ) -> Option<Transition> {
        if ticket.generation != self.generation {
            return None;
        }
        self.under_way -= u64::from(ticket.is_counted);
        match (self.state, outcome) {
            (Phase::Closed, CallOutcome::Answered) => {
                self.tally.answered(now, &self.settings);
                None
            }
            (Phase::Closed, CallOutcome::Failed) => {
                let opens = self.tally.failed(ticket.began, self.under_way, now, &self.settings);
                opens.then(|| self.open(now))
            }
            (Phase::Open { .. } | Phase::HalfOpen { .. }, CallOutcome::Answered) => {
                Some(self.close(now))
            }
            (Phase::HalfOpen { .. }, CallOutcome::Failed) if ticket.is_probe => {
                Some(Transition::ProbeFailed { pause: self.pause(now) })
            }
            (Phase::HalfOpen { .. }, CallOutcome::Nothing) if ticket.is_probe => {
                // The next call is the probe.
                self.next_generation();
                self.state = Phase::Open { until: now };
                Some(Transition::ProbeVoid)
            }
            _ => None,
        }
    }

    /// Notes that a caller gave up: a failure if the store was silent for long, to everybody, and else nothing.
    pub(super) fn dropped(&mut self, ticket: Ticket, now: Instant) -> Option<Transition> {
        let waited = now.saturating_duration_since(ticket.began);
        let is_silence = waited >= self.settings.silent_after
            && !(self.is_closed() && self.tally.has_answered_since(ticket.began));
        let outcome = if is_silence { CallOutcome::Failed } else { CallOutcome::Nothing };
        self.ended(ticket, outcome, now)
    }

    fn open(&mut self, now: Instant) -> Transition {
        let failures = self.tally.failures_in_a_row();
        (self.since, self.pauses) = (now, 0);
        self.times_opened += 1;
        Transition::Opened { pause: self.pause(now), failures }
    }

    /// Begins anew, when the store behind it is closed: what it says then is no outage.
    pub(super) fn reset(&mut self, now: Instant) -> Option<Transition> {
        let was = self.state;
        self.next_generation();
        (self.state, self.since, self.cause) = (Phase::Closed, now, None);
        self.tally = Tally::new(now);
        let was_probing = matches!(was, Phase::HalfOpen { .. });
        (was != Phase::Closed).then_some(Transition::Reset { was_probing })
    }

    fn close(&mut self, now: Instant) -> Transition {
        let was_probing = matches!(self.state, Phase::HalfOpen { .. });
        let open_for = now.saturating_duration_since(self.since);
        self.next_generation();
        (self.state, self.since) = (Phase::Closed, now);
        self.tally = Tally::after_probe(now);
        self.cause = None;
        Transition::Closed { open_for, was_probing }
    }

    /// Ends what all calls under way may say.
    const fn next_generation(&mut self) {
        self.generation += 1;
        self.under_way = 0;
    }

    /// Begins a pause, longer than the last one, and returns how long it is.
    fn pause(&mut self, now: Instant) -> Duration {
        let factor = 1_u32.checked_shl(self.pauses).unwrap_or(u32::MAX);
        let longest = self.settings.first_open.saturating_mul(factor);
        let longest = longest.min(self.settings.longest_open);
        let pause = longest.saturating_sub((self.jitter)(longest / 4));
        self.next_generation();
        self.pauses = self.pauses.saturating_add(1);
        self.state = Phase::Open { until: later(now, pause) };
        pause
    }

    pub(super) fn caused_by(&mut self, cause: String) {
        self.cause = Some(cause);
    }

    pub(super) const fn is_closed(&self) -> bool {
        matches!(self.state, Phase::Closed)
    }

    pub(super) const fn state(&self) -> Phase {
        self.state
    }

    pub(super) const fn since(&self) -> Instant {
        self.since
    }

    pub(super) const fn tally(&self) -> &Tally {
        &self.tally
    }

    pub(super) const fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) const fn times_opened(&self) -> u64 {
        self.times_opened
    }

    pub(super) fn cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }
}

/// That much later, or a century if that is beyond what can be measured.
fn later(now: Instant, time: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(36_525 * 86_400);
    now.checked_add(time).unwrap_or_else(|| now + CENTURY)
}
