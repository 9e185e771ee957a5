//! A strategy of your own: a quota that resets at midnight where the customer lives.
//!
//! `FixedWindow` counts its windows from the Unix epoch, so a daily quota resets at midnight UTC, which
//! is nine in the morning in Tokyo. `LocalWindow` moves the windows by the offset of a zone. It is a
//! pure function of state, rate, time and cost, so it runs on every backend, and on two processes at
//! once, without another line of code.
//!
//! `cargo run --example custom_strategy`, and `cargo test --example custom_strategy` for its tests.

use std::error::Error;
use std::time::Duration;

use traffik::strategy::{Answer, CorruptState, LimitError, Op, State, StrategyId, Verdict};
use traffik::{Clock, InMemory, ManualClock, Outcome, Rate, Strategy, Throttle, Timestamp};

const MINUTE: i64 = 60 * 1_000_000;

/// Fixed windows in a zone with a constant offset from UTC. A zone with summer time would need its rules
/// in here, as a table: a strategy may not ask anyone.
#[derive(Clone, Copy, Debug)]
pub struct LocalWindow {
    /// In microseconds; above zero to the east of Greenwich.
    offset: i64,
}

impl LocalWindow {
    /// A zone that is ahead of UTC by so many minutes; behind it if that is negative.
    #[must_use]
    pub const fn utc_plus_minutes(minutes: i16) -> Self {
        Self { offset: minutes as i64 * MINUTE }
    }

    /// The first instant after the window that holds `at`. It names the window.
    fn end(self, rate: &Rate, at: Timestamp) -> Timestamp {
        let period = i64::try_from(rate.period().as_micros()).unwrap_or(i64::MAX);
        // A timestamp is below 2^53, so nothing overflows.
        let local = i64::try_from(at.as_micros()).unwrap_or(0) + self.offset;
        let end = local - local.rem_euclid(period) + period - self.offset;
        Timestamp::from_micros(u64::try_from(end).unwrap_or(0))
    }
}

impl Strategy for LocalWindow {
    /// Two words: the end of the window of the last hit, and what was used in it.
    fn evaluate(
        &self,
        rate: &Rate,
        state: &mut State,
        now: Timestamp,
        cost: u32,
        op: Op,
    ) -> Result<Answer, CorruptState> {
        let end = self.end(rate, now);
        let used = match *state.words() {
            [] => 0,
            [window, used] => {
                let used =
                    u32::try_from(used).map_err(|_| CorruptState("local window: out of range"))?;
                // What was used in another window says nothing about this one.
                if window == end.as_micros() { used } else { 0 }
            }
            _ => return Err(CorruptState("local window: expected two words")),
        };
        let answer = |verdict, used| Answer {
            verdict,
            remaining: rate.limit().saturating_sub(used),
            reset_at: if used == 0 { now } else { end },
        };
        if cost == 0 {
            return Ok(answer(Verdict::Allowed, used));
        }
        if let Op::Refund { taken_at, .. } = op {
            let same = self.end(rate, taken_at) == end;
            let left = if same { used.saturating_sub(cost) } else { used };
            state.set(&[end.as_micros(), u64::from(left)]);
            return Ok(answer(Verdict::Allowed, left));
        }
        if op == Op::Charge {
            // What has happened counts, whatever is left. So `charge`, and a `settle` above the estimate, work.
            let after = used.saturating_add(cost);
            state.set(&[end.as_micros(), u64::from(after)]);
            return Ok(answer(Verdict::Allowed, after));
        }
        match used.checked_add(cost) {
            _ if cost > rate.limit() => Ok(answer(Verdict::Never, used)),
            Some(after) if after <= rate.limit() && op == Op::Take => {
                state.set(&[end.as_micros(), u64::from(after)]);
                Ok(answer(Verdict::Allowed, after))
            }
            Some(after) if after <= rate.limit() => Ok(answer(Verdict::Allowed, used)),
            _ => Ok(answer(Verdict::Denied { retry_at: end }, used)),
        }
    }

    /// Named once and for all, so that renaming the type resets nobody's quota.
    fn id(&self) -> StrategyId {
        StrategyId::of("example:local-window")
    }

    /// By default a strategy does not charge. A window cannot lend from what comes, so it reserves no turns.
    fn supports(&self, op: Op) -> bool {
        !matches!(op, Op::Reserve { .. })
    }

    fn check(&self, rate: &Rate) -> Result<(), LimitError> {
        match rate.explicit_burst() {
            None => Ok(()),
            Some(_) => Err(LimitError::new(rate, "a local window takes no burst")),
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    // The manual clock starts on 2024-01-01 at 00:00 UTC, which is 09:00 in Tokyo.
    let clock = ManualClock::new();
    let quota = Throttle::builder("reports")
        .limit("3/day", LocalWindow::utc_plus_minutes(9 * 60))
        .backend(InMemory::builder().clock(clock.clone()).build()?)
        .build()?;

    println!("3 reports a day, and the day is Tokyo's:\n");
    println!("  Tokyo  UTC");
    for hours in [0, 5, 5, 11, 15] {
        let now = ManualClock::new().now().saturating_add(Duration::from_secs(hours * 3600));
        clock.set(now);
        let decision = quota.hit("sato").await?;
        print!("  {:02}:00  {hours:02}:00  ", (hours + 9) % 24);
        match decision.outcome() {
            Outcome::Allowed => println!("{decision}"),
            Outcome::Denied { retry_after } => {
                println!("denied, comes back in {} hours", retry_after.as_secs() / 3600);
            }
            Outcome::Never => println!("denied, and no wait helps"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    // Not all of the prelude: it has a `Strategy` of its own.
    use proptest::prelude::{ProptestConfig, any, prop, prop_assert, prop_assert_eq, proptest};
    use traffik::{Decision, FixedWindow};

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    /// A throttle of the strategy, alone on a backend of its own.
    fn throttle(rate: Rate, strategy: impl Strategy, clock: &ManualClock) -> Throttle {
        let backend = InMemory::builder().clock(clock.clone()).build().unwrap();
        Throttle::builder("test").limit(rate, strategy).backend(backend).build().unwrap()
    }

    fn block_on<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
    }

    async fn hit(throttle: &Throttle, cost: u32) -> Decision {
        throttle.hit_with("key", traffik::HitOptions::new().cost(cost)).await.unwrap()
    }

    #[tokio::test]
    async fn the_wait_ends_at_local_midnight_and_not_before() {
        for (minutes, hours) in [(0, 24), (9 * 60, 15), (-5 * 60, 5)] {
            let clock = ManualClock::new();
            let throttle =
                throttle(Rate::per_day(1), LocalWindow::utc_plus_minutes(minutes), &clock);
            assert!(hit(&throttle, 1).await.is_allowed());
            let wait = Duration::from_secs(hours * 3600);
            let denied = hit(&throttle, 1).await.outcome();
            assert_eq!(denied, Outcome::Denied { retry_after: wait });
            clock.advance(wait - Duration::from_micros(1));
            assert!(hit(&throttle, 1).await.is_denied());
            clock.advance(Duration::from_micros(1));
            assert!(hit(&throttle, 1).await.is_allowed());
        }
    }

    #[tokio::test]
    async fn a_hit_is_given_back_on_the_same_day_only() {
        let clock = ManualClock::new();
        let throttle = throttle(Rate::per_day(3), LocalWindow::utc_plus_minutes(60), &clock);
        let (first, second) = (hit(&throttle, 2).await, hit(&throttle, 1).await);
        throttle.refund("key", first.receipt().unwrap()).await.unwrap();
        assert_eq!(throttle.peek("key").await.unwrap().remaining(), 2);
        clock.advance(DAY);
        assert_eq!(hit(&throttle, 3).await.remaining(), 0);
        throttle.refund("key", second.receipt().unwrap()).await.unwrap();
        assert_eq!(throttle.peek("key").await.unwrap().remaining(), 0);
    }

    #[tokio::test]
    async fn what_was_used_beyond_the_quota_counts() {
        let clock = ManualClock::new();
        let throttle = throttle(Rate::per_day(3), LocalWindow::utc_plus_minutes(60), &clock);
        let permit = throttle.reserve("key", 2).await.unwrap();
        permit.settle(5).await.unwrap();
        assert!(hit(&throttle, 1).await.is_denied());
        assert!(throttle.charge("key", u32::MAX).await.unwrap().is_allowed());
        clock.advance(DAY);
        assert_eq!(hit(&throttle, 1).await.remaining(), 2);
    }

    #[test]
    fn a_burst_is_refused() {
        let builder = Throttle::builder("test").backend(InMemory::new());
        let strategy = LocalWindow::utc_plus_minutes(0);
        assert!(builder.limit(Rate::per_day(3).burst(4), strategy).build().is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// The contract: one hit of a cost passes exactly when that many of cost 1 would all pass.
        #[test]
        fn a_cost_passes_when_as_many_unit_hits_would(
            limit in 1..6u32,
            hits in prop::collection::vec((0..20u64, 1..7u32), 1..20),
            minutes in -720..840i16,
        ) {
            let clock = ManualClock::new();
            let strategy = LocalWindow::utc_plus_minutes(minutes);
            let whole = throttle(Rate::per_day(limit), strategy, &clock);
            let units = throttle(Rate::per_day(limit), strategy, &clock);
            for (hours, cost) in hits {
                clock.advance(Duration::from_secs(hours * 3600));
                let allowed = block_on(hit(&whole, cost)).is_allowed();
                let left = block_on(units.peek("key")).unwrap().remaining();
                prop_assert_eq!(allowed, cost <= left);
                for _ in 0..if allowed { cost } else { 0 } {
                    prop_assert!(block_on(hit(&units, 1)).is_allowed());
                }
            }
        }

        /// Without an offset it is the library's own strategy.
        #[test]
        fn in_greenwich_it_is_a_fixed_window(
            limit in 1..6u32,
            hits in prop::collection::vec((0..30u64, 0..7u32), 1..20),
        ) {
            let clock = ManualClock::new();
            let ours =
                throttle(Rate::per_day(limit), LocalWindow::utc_plus_minutes(0), &clock);
            let theirs = throttle(Rate::per_day(limit), FixedWindow::new(), &clock);
            for (hours, cost) in hits {
                clock.advance(Duration::from_secs(hours * 3600));
                let [ours, theirs] = [&ours, &theirs].map(|throttle| {
                    let d = block_on(hit(throttle, cost));
                    (d.outcome(), d.remaining(), d.reset_after())
                });
                prop_assert_eq!(ours, theirs);
            }
        }

        /// The words may come from a store that others can write to.
        #[test]
        fn foreign_words_do_not_panic(
            words in prop::collection::vec(any::<u64>(), 0..4),
            (now, cost, minutes) in any::<(u64, u32, i16)>(),
        ) {
            let mut state = State::default();
            state.set(&words);
            let now = Timestamp::from_micros(now);
            let answer = LocalWindow::utc_plus_minutes(minutes).evaluate(
                &Rate::per_day(5), &mut state, now, cost, Op::Take,
            );
            let valid = match *words {
                [] => true,
                [_, used] => u32::try_from(used).is_ok(),
                _ => false,
            };
            prop_assert_eq!(answer.is_ok(), valid);
        }
    }
}
