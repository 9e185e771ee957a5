//! The specification as a program: exact, slow and obvious, and written without a look at the crate.
//!
//! Windows keep the list of all hits that ever passed and count it anew at each question. Buckets keep
//! their level as an exact fraction. Waits are not computed but searched: the first instant at which
//! the same question has the wanted answer.

use std::time::Duration;

use traffik::{
    Denial, FixedWindow, Gcra, LeakyBucket, Limit, Rate, SlidingWindowCounter, SlidingWindowLog,
    ThrottleBuilder, Timestamp, TokenBucket,
};

/// What counts the hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Fixed,
    Counter,
    Log,
    Token { debt: u32 },
    Leaky,
    Gcra,
}

/// One of each, the bucket also with debt.
pub(crate) const KINDS: [Kind; 7] = [
    Kind::Fixed,
    Kind::Counter,
    Kind::Log,
    Kind::Token { debt: 0 },
    Kind::Token { debt: 3 },
    Kind::Leaky,
    Kind::Gcra,
];

/// Runs the body with the strategy of that kind; each is a type of its own.
macro_rules! with_strategy {
    ($kind:expr, |$strategy:ident| $body:expr) => {
        with_strategy!(@ $kind, $strategy, $body,
            Kind::Fixed => FixedWindow::new(),
            Kind::Counter => SlidingWindowCounter::new(),
            Kind::Log => SlidingWindowLog::new().max_entries(u32::MAX),
            Kind::Token { debt } => TokenBucket::new().max_debt(debt),
            Kind::Leaky => LeakyBucket::new(),
            Kind::Gcra => Gcra::new(),
        )
    };
    (@ $kind:expr, $strategy:ident, $body:expr, $($pattern:pat => $value:expr,)*) => {
        match $kind {
            $($pattern => {
                let $strategy = $value;
                $body
            })*
        }
    };
}

impl Kind {
    pub(crate) const fn is_bucket(self) -> bool {
        matches!(self, Self::Token { .. } | Self::Leaky | Self::Gcra)
    }

    /// Adds a rate that this strategy keeps.
    pub(crate) fn keep(self, rate: Rate, builder: ThrottleBuilder) -> ThrottleBuilder {
        with_strategy!(self, |strategy| builder.limit(rate, strategy))
    }

    const fn debt(self) -> u32 {
        if let Self::Token { debt } = self { debt } else { 0 }
    }

    /// Whether the two count in the same place: one bucket has three names, and the debt is a setting.
    pub(crate) fn shares_state_with(self, other: Self) -> bool {
        self.is_bucket() && other.is_bucket()
            || std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }
}

/// A rate and what counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) kind: Kind,
    pub(crate) limit: u32,
    pub(crate) burst: Option<u32>,
    /// In microseconds.
    pub(crate) period: u64,
    /// By a hit, and not one of the throttle's.
    pub(crate) brought: bool,
}

impl Rule {
    pub(crate) const fn new(kind: Kind, limit: u32, period: Duration) -> Self {
        let micros = period.as_secs() * 1_000_000 + period.subsec_micros() as u64;
        Self { kind, limit, burst: None, period: micros, brought: false }
    }

    pub(crate) const fn burst(self, burst: u32) -> Self {
        Self { burst: Some(burst), ..self }
    }

    pub(crate) fn limit(self, limit: u32) -> Self {
        Self { limit, ..self }
    }

    /// Whether the two count in the same part of a key's state.
    pub(crate) fn shares_part_with(&self, other: &Self) -> bool {
        let own =
            |rule: &Self| rule.brought.then_some((rule.limit, rule.burst.unwrap_or(rule.limit)));
        self.kind.shares_state_with(other.kind)
            && self.period == other.period
            && own(self) == own(other)
    }

    /// The most that can pass at once.
    pub(crate) fn capacity(&self) -> u64 {
        u64::from(self.shown_capacity()) + u64::from(self.kind.debt())
    }

    /// What remains of a fresh key: debt does not count.
    pub(crate) fn shown_capacity(&self) -> u32 {
        self.burst.unwrap_or(self.limit)
    }

    pub(crate) fn rate(&self) -> Rate {
        let rate = Rate::new(self.limit, Duration::from_micros(self.period)).unwrap();
        self.burst.map_or(rate, |burst| rate.burst(burst))
    }

    pub(crate) fn to_limit(self) -> Limit {
        with_strategy!(self.kind, |strategy| Limit::new(self.rate(), strategy).unwrap())
    }

    pub(crate) fn add_to(self, builder: ThrottleBuilder) -> ThrottleBuilder {
        self.kind.keep(self.rate(), builder)
    }

    fn window_start(&self, at: u64) -> u64 {
        at / self.period * self.period
    }
}

/// What a limiter should say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) denial: Option<Denial>,
    pub(crate) denied_by: Option<usize>,
    /// Of the limit that speaks, as are all that follow.
    pub(crate) limit: u32,
    pub(crate) burst: u32,
    pub(crate) remaining: u32,
    /// In microseconds, as is all time here.
    pub(crate) retry_after: Option<u64>,
    pub(crate) reset_after: u64,
    /// What was taken, and when.
    pub(crate) taken: Option<(u32, u64)>,
}

/// What is known of one key under one strategy and period.
#[derive(Clone, Debug)]
struct Part {
    /// Of its last writer.
    rule: Rule,
    last: u64,
    /// When it would be clean again, as of the last write. From then on it is as good as none.
    clean_at: u64,
    /// For windows: when, and how much.
    hits: Vec<(u64, u32)>,
    /// For buckets: what is used as of `last`, in units of 1/period.
    level: u128,
}

impl Part {
    fn new(rule: &Rule) -> Self {
        Self { rule: *rule, last: 0, clean_at: 0, hits: Vec::new(), level: 0 }
    }

    fn belongs_to(&self, rule: &Rule) -> bool {
        self.rule.shares_part_with(rule)
    }

    /// What passed from one instant on, and before another.
    fn sum(&self, from: u64, before: u64) -> u128 {
        let counted = self.hits.iter().filter(|(at, _)| (from..before).contains(at));
        counted.map(|(_, cost)| u128::from(*cost)).sum()
    }

    /// What counts as used at an instant: in units of 1/period for a bucket, else in whole units.
    fn used(&self, rule: &Rule, at: u64) -> u128 {
        let (start, period) = (rule.window_start(at), rule.period);
        match rule.kind {
            Kind::Fixed => self.sum(start, start + period),
            Kind::Counter => {
                let previous = self.sum(start.saturating_sub(period), start);
                let into = u128::from(at - start);
                let period = u128::from(period);
                previous * (period - into) / period + self.sum(start, start + rule.period)
            }
            // On `(at - period, at]`.
            Kind::Log => self.sum((at + 1).saturating_sub(period), at + 1),
            Kind::Token { .. } | Kind::Leaky | Kind::Gcra => {
                let refilled = u128::from(at - self.last) * u128::from(rule.limit);
                self.level.saturating_sub(refilled)
            }
        }
    }

    fn passes(&self, rule: &Rule, at: u64, units: u64) -> bool {
        if self.is_over(at) {
            return true;
        }
        let unit = if rule.kind.is_bucket() { u128::from(rule.period) } else { 1 };
        self.used(rule, at) + u128::from(units) * unit <= u128::from(rule.capacity()) * unit
    }

    fn remaining(&self, rule: &Rule, at: u64) -> u32 {
        let unit = if rule.kind.is_bucket() { u128::from(rule.period) } else { 1 };
        let room = u128::from(rule.shown_capacity()) * unit;
        u32::try_from(room.saturating_sub(self.used(rule, at)) / unit).unwrap()
    }

    fn is_clean(&self, rule: &Rule, at: u64) -> bool {
        self.is_over(at) || self.used(rule, at) == 0
    }

    /// By its last writer: not while that one is writing.
    fn is_over(&self, at: u64) -> bool {
        self.clean_at > 0 && at >= self.clean_at
    }

    fn take(&mut self, rule: &Rule, at: u64, cost: u32) {
        self.level = self.used(rule, at) + u128::from(cost) * u128::from(rule.period);
        self.hits.push((at, cost));
        self.last = at;
        self.note_clean_at(rule, at);
    }

    fn note_clean_at(&mut self, rule: &Rule, from: u64) {
        self.clean_at = 0;
        self.clean_at = first(from, |at| self.is_clean(rule, at));
    }

    /// Says whether anything was given back.
    fn refund(&mut self, rule: &Rule, at: u64, taken_at: u64, cost: u32) -> bool {
        if rule.kind.is_bucket() {
            let used = self.used(rule, at);
            if used > 0 {
                self.level = used.saturating_sub(u128::from(cost) * u128::from(rule.period));
                self.last = at;
                self.note_clean_at(rule, at);
            }
            return used > 0;
        }
        let still_counts = match rule.kind {
            Kind::Log => taken_at + rule.period > at,
            _ => rule.window_start(taken_at) == rule.window_start(at),
        };
        let mut left = if still_counts { cost } else { 0 };
        for (hit_at, counted) in &mut self.hits {
            // One window knows how much passed, and not which of its hits did.
            let alike = match rule.kind {
                Kind::Log => *hit_at == taken_at,
                _ => rule.window_start(*hit_at) == rule.window_start(at),
            };
            let back = if alike { left.min(*counted) } else { 0 };
            *counted -= back;
            left -= back;
        }
        let changed = still_counts && left < cost;
        if changed {
            self.last = at;
            self.note_clean_at(rule, at);
        }
        changed
    }
}

/// All that is known of one key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    parts: Vec<Part>,
}

impl Model {
    /// The instant that counts: a clock that went back stands still.
    fn at(&self, rules: &[Rule], asked: u64) -> u64 {
        let parts = self.parts.iter();
        let asked_for = parts.filter(|part| rules.iter().any(|rule| part.belongs_to(rule)));
        asked_for.map(|part| part.last).fold(asked, u64::max)
    }

    /// What is known at that instant.
    fn part(&self, rule: &Rule, at: u64) -> Part {
        let found = self.parts.iter().find(|part| part.belongs_to(rule) && part.clean_at > at);
        found.cloned().unwrap_or_else(|| Part::new(rule))
    }

    fn put(&mut self, rule: &Rule, part: Part) {
        self.parts.retain(|part| !part.belongs_to(rule));
        self.parts.push(Part { rule: *rule, ..part });
    }

    pub(crate) fn take(&mut self, rules: &[Rule], asked: u64, (cost, leave): (u32, u32)) -> Answer {
        let at = self.at(rules, asked);
        let asked_only = self.answer(rules, asked, (cost, leave));
        if asked_only.denial.is_some() || cost == 0 {
            return asked_only;
        }
        for rule in rules {
            let mut part = self.part(rule, at);
            part.take(rule, at, cost);
            self.put(rule, part);
        }
        Answer { taken: Some((cost, at)), ..self.answer(rules, asked, (0, 0)) }
    }

    pub(crate) fn refund(&mut self, rules: &[Rule], asked: u64, (cost, taken_at): (u32, u64)) {
        let at = self.at(rules, asked);
        for rule in rules {
            let mut part = self.part(rule, at);
            if part.refund(rule, at, taken_at, cost) {
                self.put(rule, part);
                // One that is clean is forgotten.
                self.parts.retain(|part| !part.belongs_to(rule) || part.clean_at > at);
            }
        }
    }

    /// How long what is known matters, as of the last hit.
    pub(crate) fn ttl(&self, asked: u64) -> u64 {
        self.parts.iter().map(|part| part.clean_at).max().unwrap_or(0).saturating_sub(asked)
    }

    /// The answer to a peek.
    pub(crate) fn answer(&self, rules: &[Rule], asked: u64, (cost, leave): (u32, u32)) -> Answer {
        let at = self.at(rules, asked);
        let parts: Vec<Part> = rules.iter().map(|rule| self.part(rule, at)).collect();
        let each = || rules.iter().zip(&parts).enumerate();

        let needed = u64::from(cost) + u64::from(leave);
        let too_much = |rule: &Rule| cost > 0 && (rule.limit == 0 || needed > rule.capacity());
        let never = rules.iter().position(too_much);
        // The longest wait, the first of equal ones.
        let mut wait: Option<(usize, u64)> = None;
        for (index, (rule, part)) in each() {
            if cost > 0 && !too_much(rule) && !part.passes(rule, at, needed) {
                let passes_at = first(at, |at| part.passes(rule, at, needed));
                if wait.is_none_or(|(_, longest)| passes_at > longest) {
                    wait = Some((index, passes_at));
                }
            }
        }
        let left = |rule: &Rule, part: &Part| match rule.limit {
            0 => 0,
            _ => part.remaining(rule, at),
        };
        let scarcest = each().min_by_key(|(_, (rule, part))| left(rule, part)).unwrap();
        let denied_by = never.or(wait.map(|(index, _)| index));
        let named = denied_by.unwrap_or(scarcest.0);
        let (rule, part) = (&rules[named], &parts[named]);
        Answer {
            denial: match (never, wait) {
                (Some(_), _) => Some(Denial::Never),
                (None, Some(_)) => Some(Denial::Limited),
                (None, None) => None,
            },
            denied_by,
            limit: rule.limit,
            burst: rule.shown_capacity(),
            remaining: left(rule, part),
            retry_after: wait.filter(|_| never.is_none()).map(|(_, at)| at - asked),
            reset_after: match rule.limit {
                0 => at - asked,
                _ => first(at, |at| part.is_clean(rule, at)) - asked,
            },
            taken: None,
        }
    }
}

/// The first instant from `from` on at which it holds; what holds once, holds from then on.
fn first(from: u64, holds: impl Fn(u64) -> bool) -> u64 {
    if holds(from) {
        return from;
    }
    let (mut no, mut step) = (from, 1);
    while !holds(no + step) {
        no += step;
        step *= 2;
        assert!(no < Timestamp::MAX.as_micros(), "it never holds");
    }
    let mut yes = no + step;
    while yes - no > 1 {
        let middle = no + (yes - no) / 2;
        if holds(middle) {
            yes = middle;
        } else {
            no = middle;
        }
    }
    yes
}
