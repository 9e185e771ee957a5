//! [`Tally`]: what became of the last calls, and whether that is enough to open the circuit.

use std::time::Duration;

use tokio::time::Instant;

use super::options::Settings;

/// Parts of the window, which passes in steps of one part.
const PARTS: usize = 10;
/// A row of failures during which nothing else was answered for so long is no chance.
const QUIET: Duration = Duration::from_millis(50);

/// Counts calls while the circuit is closed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tally {
    /// The start of part 0.
    start: Instant,
    /// Failures since the last answer.
    row: u32,
    last_answer: Option<Instant>,
    parts: [Part; PARTS],
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Part {
    number: u128,
    calls: u32,
    failures: u32,
}

impl Tally {
    pub(super) fn new(now: Instant) -> Self {
        Self { start: now, row: 0, last_answer: None, parts: Default::default() }
    }

    /// As [`new`](Self::new), just after the answer to a probe.
    pub(super) fn after_probe(now: Instant) -> Self {
        Self { last_answer: Some(now), ..Self::new(now) }
    }

    pub(super) const fn failures_in_a_row(&self) -> u32 {
        self.row
    }

    /// Returns whether the store has answered anybody since then.
    pub(super) fn has_answered_since(&self, instant: Instant) -> bool {
        self.last_answer.is_some_and(|answer| answer > instant)
    }

    /// Counts a call that the store answered.
    pub(super) fn answered(&mut self, now: Instant, settings: &Settings) {
        self.row = 0;
        self.last_answer = self.last_answer.max(Some(now));
        let part = self.part(now, settings);
        part.calls = part.calls.saturating_add(1);
    }

    /// Counts a call that failed, beside others `under_way`; returns whether that opens the circuit.
    pub(super) fn failed(
        &mut self,
        began: Instant,
        under_way: u64,
        now: Instant,
        settings: &Settings,
    ) -> bool {
        let part = self.part(now, settings);
        part.calls = part.calls.saturating_add(1);
        part.failures = part.failures.saturating_add(1);
        // Others were answered while this one was not: a node of several may be down, and not the store.
        if !self.has_answered_since(began) {
            self.row = self.row.saturating_add(1);
        }
        let (calls, failures) = self.in_window(now, settings);
        // Of several nodes the one that fails at once comes before those that answer.
        let is_most = failures * 2 > calls + under_way;
        let is_quiet = self.last_answer.is_none_or(|answer| now.duration_since(answer) >= QUIET);
        let is_row = self.row >= settings.failures_in_a_row.get() && (is_quiet || is_most);
        is_row || (is_most && calls >= u64::from(settings.min_calls.get()))
    }

    /// Returns the calls of the window, and how many of them failed.
    pub(super) fn in_window(&self, now: Instant, settings: &Settings) -> (u64, u64) {
        let current = self.number(now, settings);
        let recent = self.parts.iter().filter(|part| part.number + PARTS as u128 > current);
        recent.fold((0, 0), |(calls, failures), part| {
            (calls + u64::from(part.calls), failures + u64::from(part.failures))
        })
    }

    fn number(&self, now: Instant, settings: &Settings) -> u128 {
        let part = (settings.window.as_nanos() / PARTS as u128).max(1);
        now.saturating_duration_since(self.start).as_nanos() / part
    }

    fn part(&mut self, now: Instant, settings: &Settings) -> &mut Part {
        let number = self.number(now, settings);
        // Below the number of parts.
        let part = &mut self.parts[usize::try_from(number % PARTS as u128).unwrap_or_default()];
        if part.number != number {
            *part = Part { number, ..Part::default() };
        }
        part
    }
}
