//! What the frame guarantees to, and suffers from, a strategy of a user's own.

use std::time::Duration;

use traffik::backend::Stat;
use traffik::step::{Step, StepError};
use traffik::strategy::{Answer, CorruptState, Op, State, Verdict};
use traffik::{
    Denial, Error, ErrorKind, FixedWindow, HasCore, InMemory, Limit, ManualClock, OnError, Rate,
    Strategy, Throttle, Timestamp,
};

const DAY: u64 = 86_400_000_000;

/// Counts a day in one word, and tells the day by [`State::last`] alone.
#[derive(Debug)]
struct Daily;

impl Strategy for Daily {
    fn evaluate(
        &self,
        rate: &Rate,
        state: &mut State,
        now: Timestamp,
        cost: u32,
        op: Op,
    ) -> Result<Answer, CorruptState> {
        let today = now.as_micros() / DAY;
        let used = match *state.words() {
            [used] if state.last().as_micros() / DAY == today => used,
            [] | [_] => 0,
            _ => return Err(CorruptState("daily: expected one word")),
        };
        let limit = u64::from(rate.limit());
        let midnight = Timestamp::from_micros((today + 1) * DAY);
        let after = used + u64::from(cost);
        let verdict = match () {
            () if u64::from(cost) > limit => Verdict::Never,
            () if after > limit => Verdict::Denied { retry_at: midnight },
            () => Verdict::Allowed,
        };
        let used = if op == Op::Take && verdict == Verdict::Allowed { after } else { used };
        state.set(&[used]);
        let remaining = u32::try_from(limit.saturating_sub(used)).unwrap_or(u32::MAX);
        Ok(Answer { verdict, remaining, reset_at: if used > 0 { midnight } else { now } })
    }
}

/// Cannot even read a fresh state.
#[derive(Debug)]
struct Broken;

impl Strategy for Broken {
    fn evaluate(
        &self,
        _: &Rate,
        _: &mut State,
        _: Timestamp,
        _: u32,
        _: Op,
    ) -> Result<Answer, CorruptState> {
        Err(CorruptState("always"))
    }
}

#[tokio::test]
async fn a_take_counts_even_if_its_words_stay_the_same() {
    let clock = ManualClock::new();
    let backend = InMemory::builder().clock(clock.clone()).build().unwrap();
    let builder = Throttle::builder("daily").limit(Rate::per_day(1), Daily);
    let throttle = builder.backend(backend).build().unwrap();
    let limits = [Limit::new(Rate::per_day(1), Daily).unwrap()];
    let mut stored: Option<Vec<u8>> = None;
    for day in 0..3u64 {
        let now = Timestamp::from_micros(1_704_067_200_000_000 + day * DAY + 5);
        clock.set(now);
        for hit in 0..3 {
            let expected = (hit > 0).then_some(Denial::Limited);
            let decision = throttle.hit("a").await.unwrap();
            assert_eq!(decision.denial(), expected, "day {day}, hit {hit}, in memory");
            let outcome = Step::new(&limits, 1, Op::Take).evaluate(stored.as_deref(), now).unwrap();
            assert_eq!(outcome.decision.denial(), expected, "day {day}, hit {hit}, in bytes");
            if let Some(traffik::step::Write::Put { value, .. }) = outcome.write {
                stored = Some(value);
            }
        }
    }
}

#[tokio::test]
async fn f30_a_strategy_that_reads_nothing_is_an_error_and_no_hang() {
    let backend = InMemory::new();
    let throttle = Throttle::builder("broken")
        .limit("5/s", Broken)
        .limit("5/min", Daily)
        .backend(backend.clone())
        .on_error(OnError::Raise)
        .build()
        .unwrap();
    for count in 1..4 {
        let error = throttle.hit("a").await.unwrap_err();
        assert!(matches!(&error, Error::Backend(e) if e.kind() == ErrorKind::Corrupt), "{error}");
        assert_eq!(backend.core().stat(Stat::Corrupt), count);
        assert_eq!(backend.key_count(), 0, "nothing is written");
    }
    let limits = [Limit::new(Rate::per_second(5), Broken).unwrap()];
    let outcome = Step::new(&limits, 1, Op::Take).evaluate(None, Timestamp::from_micros(1));
    let Err(StepError::Corrupt { cause, write, .. }) = outcome else { panic!("{outcome:?}") };
    assert_eq!((cause, write), (CorruptState("always"), None));
}

#[tokio::test]
async fn f30_a_state_of_another_form_is_reported_once_and_starts_afresh() {
    /// Writes three words under the identifier of [`Daily`].
    #[derive(Debug)]
    struct Older;
    impl Strategy for Older {
        fn evaluate(
            &self,
            _: &Rate,
            state: &mut State,
            now: Timestamp,
            _: u32,
            _: Op,
        ) -> Result<Answer, CorruptState> {
            state.set(&[1, 2, 3]);
            let reset_at = now.saturating_add(Duration::from_secs(60));
            Ok(Answer { verdict: Verdict::Allowed, remaining: 1, reset_at })
        }
        fn id(&self) -> traffik::strategy::StrategyId {
            Daily.id()
        }
    }
    let backend = InMemory::new();
    let built = |older: bool| {
        let builder = Throttle::builder("forms").backend(backend.clone()).on_error(OnError::Raise);
        let builder = if older { builder.limit("2/d", Older) } else { builder.limit("2/d", Daily) };
        builder.build().unwrap()
    };
    assert!(built(true).hit("a").await.unwrap().is_allowed());
    let newer = built(false);
    assert!(
        matches!(newer.hit("a").await, Err(Error::Backend(e)) if e.kind() == ErrorKind::Corrupt)
    );
    let next = newer.hit("a").await.unwrap();
    assert_eq!((next.is_allowed(), next.remaining()), (true, 0), "it held the hit before");
}

/// Reads a state that is not fresh when it peeks, and not when it takes.
#[derive(Debug)]
struct Moody;

impl Strategy for Moody {
    fn evaluate(
        &self,
        _: &Rate,
        state: &mut State,
        now: Timestamp,
        _: u32,
        op: Op,
    ) -> Result<Answer, CorruptState> {
        if op == Op::Take {
            if !state.is_fresh() {
                return Err(CorruptState("not today"));
            }
            state.set(&[1]);
        }
        let reset_at = now.saturating_add(Duration::from_secs(60));
        Ok(Answer { verdict: Verdict::Allowed, remaining: 1, reset_at })
    }
}

/// The limits before the one that could not be read are taken once.
#[tokio::test]
async fn a_state_that_is_read_by_a_peek_alone_takes_nothing_twice() {
    let backend = InMemory::new();
    let throttle = Throttle::builder("moody")
        .limit("10/30d", FixedWindow::new())
        .limit("5/min", Moody)
        .backend(backend)
        .on_error(OnError::Raise)
        .build()
        .unwrap();
    for hit in 1..=4 {
        let failed = throttle.hit("a").await.is_err();
        assert_eq!(failed, hit > 1, "hit {hit}");
        let left = throttle.peek("a").await.unwrap();
        let left = left.answers().next().unwrap().remaining();
        assert_eq!(left, 10 - hit, "after hit {hit}");
    }
}
