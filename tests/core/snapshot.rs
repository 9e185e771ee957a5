//! Snapshots: a backend that was restored answers as the one that was written.

use std::io::{self, Cursor, Read, Write};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use proptest::prelude::*;
use test_support::wait_of;
use traffik::backend::{InMemoryBuilder, MAX_COUNTER};
use traffik::strategy::{Answer, CorruptState, Op, State, Verdict};
use traffik::{
    BuildError, Decision, Denial, FixedWindow, Gcra, HitOptions, InMemory, Key, LeakyBucket,
    ManualClock, Rate, RestoreError, SlidingWindowCounter, SlidingWindowLog, Throttle, Timestamp,
    TokenBucket, Values,
};

const HOUR: Duration = Duration::from_secs(3600);

/// The value of a future that needs no waiting: without a runtime a snapshot is taken at once.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a backend without I/O waited"),
    }
}

fn build(clock: &ManualClock) -> InMemoryBuilder {
    InMemory::builder().clock(clock.clone()).number_of_shards(4)
}

fn taken(backend: &InMemory) -> Vec<u8> {
    at_once(backend.snapshot(Vec::new())).unwrap()
}

fn try_restored(bytes: &[u8], clock: &ManualClock) -> Result<InMemory, BuildError> {
    build(clock).restore_from(Cursor::new(bytes.to_vec())).build()
}

fn restored(bytes: &[u8], clock: &ManualClock) -> InMemory {
    try_restored(bytes, clock).unwrap()
}

/// A clock that shows the same time, and moves by itself.
fn twin(clock: &ManualClock) -> ManualClock {
    ManualClock::at(traffik::Clock::now(clock))
}

/// Counts hits since the key was new, for a day: in words that are no instants.
#[derive(Debug)]
struct ForADay;

impl traffik::Strategy for ForADay {
    fn evaluate(
        &self,
        rate: &Rate,
        state: &mut State,
        now: Timestamp,
        cost: u32,
        op: Op,
    ) -> Result<Answer, CorruptState> {
        let [first, used] = match *state.words() {
            [] => [now.as_micros(), 0],
            [first, used] if first <= now.as_micros() => [first, used],
            _ => return Err(CorruptState("for a day: an instant that is to come")),
        };
        let (limit, after) = (u64::from(rate.limit()), used + u64::from(cost));
        let end = Timestamp::from_micros(first).saturating_add(24 * HOUR);
        let verdict = match after <= limit {
            true => Verdict::Allowed,
            false => Verdict::Denied { retry_at: end },
        };
        let used = if op == Op::Take && verdict == Verdict::Allowed { after } else { used };
        state.set(&[first, used]);
        let remaining = u32::try_from(limit.saturating_sub(used)).unwrap();
        Ok(Answer { verdict, remaining, reset_at: if used > 0 { end } else { now } })
    }
}

/// One throttle of each strategy and form, and some of several limits.
fn throttles(backend: &InMemory) -> Vec<Throttle> {
    let builder = |name| Throttle::builder(name).backend(backend.clone());
    [
        builder("debt").rate("10/min burst 20").strategy(TokenBucket::new().max_debt(3)),
        builder("leaky").rate("5/s").strategy(LeakyBucket::new()),
        builder("gcra").rate("7/h burst 3").strategy(Gcra::new()),
        builder("wide").rate("4000000000/7d").strategy(TokenBucket::new()),
        builder("fixed").rate("8/min").strategy(FixedWindow::new()),
        builder("sliding").rate("9/min").strategy(SlidingWindowCounter::new()),
        builder("log").rate("6/min").strategy(SlidingWindowLog::new()),
        builder("custom").limit(Rate::per_day(11), ForADay),
        builder("several").rates(["20/min", "30/h", "50/day"]).strategy(TokenBucket::new()),
        builder("windows").rates(["6/s", "40/h"]).strategy(FixedWindow::new()),
        builder("mixed")
            .limit(Rate::per_minute(9), SlidingWindowLog::new())
            .limit(Rate::per_hour(30), TokenBucket::new())
            .limit(Rate::per_day(40), FixedWindow::new()),
        // Two of one name, which share what they count.
        builder("shared").rate("30/min").strategy(TokenBucket::new()),
        builder("shared").rate("12/min").strategy(TokenBucket::new()),
        // One that needs words beside one that does not.
        builder("both").rate("20/7d").strategy(TokenBucket::new()),
        builder("both").rate("4000000000/7d").strategy(TokenBucket::new()),
    ]
    .map(|builder| builder.build().unwrap())
    .into()
}

const THROTTLES: usize = 15;
const KEYS: [(&str, &str); 3] =
    [("a", ""), ("user", "7"), ("a key that is longer than sixteen bytes", "and has two parts")];

#[derive(Clone, Debug)]
enum Do {
    Hit(u32),
    /// With a rate of the hit, a limit an hour.
    Bring(u32, u32),
    TakeUpTo(u32),
    Charge(u32),
    Block(u64),
    Drain,
    Reset,
    RefundHit(u32),
    Wait(u64),
}

fn doing() -> impl Strategy<Value = (usize, usize, Do)> {
    let units = || prop_oneof![4 => 1..4u32, 1 => 0..30u32];
    let what = prop_oneof![
        10 => units().prop_map(Do::Hit),
        3 => (1..5u32, units()).prop_map(|(limit, cost)| Do::Bring(limit * 10, cost)),
        2 => units().prop_map(Do::TakeUpTo),
        2 => prop_oneof![3 => units(), 1 => any::<u32>()].prop_map(Do::Charge),
        1 => (1..5000u64).prop_map(Do::Block),
        1 => Just(Do::Drain),
        1 => Just(Do::Reset),
        2 => units().prop_map(Do::RefundHit),
        4 => prop_oneof![0..5_000u64, 0..100_000u64, 0..4_000_000u64].prop_map(Do::Wait),
    ];
    (0..THROTTLES, 0..KEYS.len(), what)
}

/// Does it, and says what came of it.
fn run(throttles: &[Throttle], clock: &ManualClock, doing: &(usize, usize, Do)) -> String {
    let (throttle, key, what) = doing;
    let (throttle, key) = (&throttles[*throttle], KEYS[*key]);
    match *what {
        Do::Hit(cost) => {
            format!("{:?}", at_once(throttle.hit_with(key, HitOptions::new().cost(cost))))
        }
        Do::Bring(limit, cost) => {
            let options = HitOptions::new().cost(cost).add_rates([Rate::per_hour(limit)]);
            format!("{:?}", at_once(throttle.hit_with(key, options)))
        }
        Do::TakeUpTo(units) => format!("{:?}", at_once(throttle.take_up_to(key, units))),
        Do::Charge(units) => format!("{:?}", at_once(throttle.charge(key, units))),
        Do::Block(seconds) => {
            format!("{:?}", at_once(throttle.block(key, Duration::from_secs(seconds))))
        }
        Do::Drain => format!("{:?}", at_once(throttle.drain(key))),
        Do::Reset => format!("{:?}", at_once(throttle.reset(key))),
        Do::RefundHit(cost) => {
            let hit = at_once(throttle.hit_with(key, HitOptions::new().cost(cost)));
            let receipt = hit.ok().and_then(Decision::receipt);
            format!("{:?}", receipt.map(|receipt| at_once(throttle.refund(key, receipt))))
        }
        Do::Wait(millis) => {
            clock.advance(Duration::from_millis(millis));
            String::new()
        }
    }
}

/// All that can be seen of all keys.
fn seen(throttles: &[Throttle]) -> Vec<(Decision, String)> {
    let pairs = throttles.iter().flat_map(|throttle| KEYS.map(|key| (throttle, key)));
    let seen = pairs.map(|(throttle, key)| {
        let peeked = at_once(throttle.peek(key)).unwrap();
        let inspected = at_once(throttle.inspect(key)).unwrap();
        let mut others: Vec<_> =
            inspected.others().iter().map(|part| format!("{part:?}")).collect();
        others.sort();
        (peeked, format!("{:?} {others:?}", inspected.blocked_for()))
    });
    seen.collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_restored_answers_as_what_was_written(
        before in prop::collection::vec(doing(), 1..120),
        after in prop::collection::vec(doing(), 1..60),
    ) {
        let clock = ManualClock::new();
        let written = build(&clock).build().unwrap();
        let first = throttles(&written);
        before.iter().for_each(|one| drop(run(&first, &clock, one)));

        let clock_of_second = twin(&clock);
        let second = restored(&taken(&written), &clock_of_second);
        prop_assert!(second.key_count() <= written.key_count());
        // Once more, before anybody asked for any of it.
        let clock_of_third = twin(&clock);
        let third = restored(&taken(&second), &clock_of_third);
        prop_assert_eq!(third.key_count(), second.key_count());
        let (second, third) = (throttles(&second), throttles(&third));
        prop_assert_eq!(seen(&first), seen(&second));
        prop_assert_eq!(seen(&first), seen(&third));
        for one in &after {
            let outcome = run(&first, &clock, one);
            prop_assert_eq!(&outcome, &run(&second, &clock_of_second, one), "{:?}", one);
            prop_assert_eq!(&outcome, &run(&third, &clock_of_third, one), "{:?}", one);
        }
        prop_assert_eq!(seen(&first), seen(&second));
        prop_assert_eq!(seen(&first), seen(&third));
    }

    /// All that was counted was counted just now, so what is left is as before, and fades as if it was counted now.
    #[test]
    fn of_a_clock_that_was_set_back_by_an_hour_counts_stay(
        before in prop::collection::vec(doing(), 1..120),
    ) {
        let clock = ManualClock::new();
        let written = build(&clock).build().unwrap();
        let first = throttles(&written);
        for one in before.iter().filter(|one| !matches!(one.2, Do::Wait(_))) {
            run(&first, &clock, one);
        }
        let back = ManualClock::at(Timestamp::from_micros(
            traffik::Clock::now(&clock).as_micros() - 3_600_000_000,
        ));
        let second = throttles(&restored(&taken(&written), &back));
        for (one, other) in first.iter().zip(&second) {
            for key in KEYS {
                let (then, now) = (at_once(one.peek(key)).unwrap(), at_once(other.peek(key)).unwrap());
                let left = |decision: &Decision| -> Vec<u32> {
                    decision.answers().map(|answer| answer.remaining()).collect()
                };
                prop_assert_eq!(left(&then), left(&now), "{} {:?}", one.name(), key);
                prop_assert_eq!(then.is_allowed(), now.is_allowed());
                // Waits are as long as they were, and not an hour longer; but for a strategy that keeps its own time, for
                // the end of a day, and for what ends later than an instant can tell.
                let is_endless = wait_of(&then).is_some_and(|wait| wait > 24 * 365 * 200 * HOUR);
                if !is_endless && !["custom", "mixed"].contains(&one.name()) {
                    prop_assert_eq!(then.outcome(), now.outcome(), "{} {:?}", one.name(), key);
                }
            }
        }
    }

    #[test]
    fn f30_no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(try_restored(&bytes, &ManualClock::new()).is_err());
    }
}

/// Of time that passed before the clock was set back: nothing extra is granted.
#[test]
fn a_clock_that_was_set_back_grants_nothing_extra() {
    let clock = ManualClock::new();
    let written = build(&clock).build().unwrap();
    let first = throttles(&written);
    for minute in 0..50 {
        for throttle in &first {
            let _ =
                at_once(throttle.hit_with("a", HitOptions::new().cost(1 + minute % 3))).unwrap();
        }
        clock.advance(Duration::from_secs(60));
    }
    for back in [Duration::from_secs(90), HOUR, 30 * HOUR] {
        let now = traffik::Clock::now(&clock).as_micros();
        let micros = u64::try_from(back.as_micros()).unwrap();
        let earlier = ManualClock::at(Timestamp::from_micros(now - micros));
        let second = throttles(&restored(&taken(&written), &earlier));
        for (one, other) in first.iter().zip(&second) {
            let (then, now) = (at_once(one.peek("a")).unwrap(), at_once(other.peek("a")).unwrap());
            let pairs = then.answers().zip(now.answers());
            for (then, now) in pairs {
                assert!(now.remaining() <= then.remaining(), "{} {back:?}", one.name());
            }
        }
    }
}

#[test]
fn values_are_kept_with_the_time_that_they_have_left() {
    let clock = ManualClock::new();
    let written = build(&clock).build().unwrap();
    let key = |name| Key::value(name);
    at_once(async {
        written.set(&key("stays"), b"1", None).await.unwrap();
        written.set(&key("minute"), &[7; 100_000], Some(Duration::from_secs(60))).await.unwrap();
        written.set(&key("second"), b"3", Some(Duration::from_secs(1))).await.unwrap();
        written.increment(&key("counter"), MAX_COUNTER).await.unwrap();
    });
    clock.advance(Duration::from_secs(30));
    let bytes = taken(&written);
    for earlier in [0, 3600] {
        let now = traffik::Clock::now(&clock).as_micros() - earlier * 1_000_000;
        let clock = ManualClock::at(Timestamp::from_micros(now));
        let second = restored(&bytes, &clock);
        let report = second.restored().unwrap();
        assert_eq!((report.kept, report.over, report.left_out), (3, 1, 0));
        assert_eq!(second.key_count(), 3);
        at_once(async {
            assert_eq!(second.get(&key("stays")).await.unwrap().unwrap(), b"1");
            assert_eq!(second.get(&key("second")).await.unwrap(), None);
            assert!(second.increment(&key("counter"), 1).await.is_err(), "as large as can be");
            clock.advance(Duration::from_micros(29_999_999));
            assert_eq!(second.get(&key("minute")).await.unwrap().unwrap(), [7; 100_000]);
            clock.advance(Duration::from_micros(1));
            assert_eq!(second.get(&key("minute")).await.unwrap(), None);
            assert_eq!(second.get(&key("stays")).await.unwrap().unwrap(), b"1");
        });
    }
}

#[test]
fn what_is_over_is_left_out() {
    let clock = ManualClock::new();
    let written = build(&clock).build().unwrap();
    let throttle =
        Throttle::builder("t").rates(["5/min", "9/h"]).backend(written.clone()).build().unwrap();
    for key in 0..100u32 {
        assert!(at_once(throttle.hit(key)).unwrap().is_allowed());
    }
    at_once(throttle.block("blocked", Duration::from_secs(30))).unwrap();
    let bytes = taken(&written);
    for (seconds, kept) in [(0, 101), (31, 100), (3599, 0)] {
        let later = twin(&clock);
        later.advance(Duration::from_secs(seconds));
        let second = restored(&bytes, &later);
        let report = second.restored().unwrap();
        assert_eq!((report.kept, report.over), (kept, 101 - kept), "after {seconds} s");
        assert_eq!(second.key_count(), usize::try_from(kept).unwrap());
    }
}

fn limited(backend: &InMemory) -> Throttle {
    Throttle::builder("t").rates(["500/h", "900/day"]).backend(backend.clone()).build().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hits_go_on_meanwhile_and_each_key_is_written_as_it_is_at_one_instant() {
    let clock = ManualClock::new();
    let backend = build(&clock).build().unwrap();
    let throttle = limited(&backend);
    for key in 0..3000u32 {
        assert!(throttle.hit(key).await.unwrap().is_allowed());
    }
    let (stop, hits) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let hitting = tokio::spawn({
        let (stop, hits, throttle) = (Arc::clone(&stop), Arc::clone(&hits), throttle.clone());
        async move {
            while !stop.load(Ordering::Relaxed) {
                let hit = hits.fetch_add(1, Ordering::Relaxed);
                // All of those that are there, and new ones, so that tables grow.
                let _ = throttle.hit(hit * 7 % 3000).await.unwrap();
                let _ = throttle.hit(3000 + hit % 20_000).await.unwrap();
                if hit % 64 == 0 {
                    tokio::task::yield_now().await;
                }
            }
        }
    });
    for _ in 0..8 {
        let bytes = backend.snapshot(Vec::new()).await.unwrap();
        let second = restored(&bytes, &twin(&clock));
        assert_eq!(second.restored().unwrap().left_out, 0);
        let throttle = limited(&second);
        for key in 0..3000u32 {
            let peeked = throttle.peek(key).await.unwrap();
            let used: Vec<u32> =
                peeked.answers().map(|answer| answer.limit() - answer.remaining()).collect();
            assert!(used[0] >= 1, "key {key} is missing");
            assert_eq!(used[0], used[1], "key {key}: both limits are of one instant");
        }
    }
    stop.store(true, Ordering::Relaxed);
    hitting.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_memory_under_churn_is_restored_whole() {
    const MOST: usize = 2000;
    let clock = ManualClock::new();
    let full = |clock: &ManualClock| build(clock).max_keys(Some(MOST));
    let backend = full(&clock).build().unwrap();
    // All of its places are taken by what stays, and by what is over soon, in turn.
    let stay = Throttle::builder("stay").rate("3/300d").backend(backend.clone()).build().unwrap();
    for key in 0..1000u32 {
        assert!(stay.hit(key).await.unwrap().is_allowed());
    }
    let churn = Throttle::builder("churn")
        .rate("1/10s")
        .strategy(FixedWindow::new())
        .backend(backend.clone())
        .build()
        .unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let churning = tokio::spawn({
        let (stop, clock) = (Arc::clone(&stop), clock.clone());
        async move {
            for key in 0u64.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let _ = churn.hit(key).await.unwrap();
                if key % 200 == 0 {
                    clock.advance(Duration::from_secs(1));
                    tokio::task::yield_now().await;
                }
            }
        }
    });
    for _ in 0..20 {
        let bytes = backend.snapshot(Vec::new()).await.unwrap();
        let second =
            full(&twin(&clock)).restore_from(Cursor::new(bytes)).build().expect("its own file");
        let report = second.restored().unwrap();
        assert_eq!(report.left_out, 0, "{report:?}");
        assert!(second.key_count() <= MOST);
        let stay = Throttle::builder("stay").rate("3/300d").backend(second).build().unwrap();
        for key in 0..1000u32 {
            assert_eq!(stay.peek(key).await.unwrap().remaining(), 2, "key {key}");
        }
    }
    stop.store(true, Ordering::Relaxed);
    churning.await.unwrap();
}

#[test]
fn what_has_no_room_meets_the_overflow_decision_as_any_new_key() {
    let clock = ManualClock::new();
    let backend = build(&clock).build().unwrap();
    let throttle = limited(&backend);
    for key in 0..1000u32 {
        let _ = at_once(throttle.hit(key)).unwrap();
    }
    let bytes = taken(&backend);
    let small = build(&clock).max_keys(Some(10)).restore_from(Cursor::new(bytes)).build().unwrap();
    let report = small.restored().unwrap();
    assert_eq!((report.kept, report.left_out), (10, 990));
    assert_eq!(small.key_count(), 10);
    let throttle = limited(&small);
    let denials = (0..1000u32).map(|key| at_once(throttle.hit(key)).unwrap().denial());
    let full = denials.filter(|denial| *denial == Some(Denial::Full)).count();
    assert_eq!(full, 990, "none of them starts over");
}

#[test]
fn two_at_once_are_both_whole() {
    let clock = ManualClock::new();
    let backend = build(&clock).build().unwrap();
    let throttle = limited(&backend);
    for key in 0..5000u32 {
        let _ = at_once(throttle.hit(key)).unwrap();
    }
    let both = std::thread::scope(|scope| {
        [scope.spawn(|| taken(&backend)), scope.spawn(|| taken(&backend))]
            .map(|one| one.join().unwrap())
    });
    for bytes in both {
        assert_eq!(restored(&bytes, &clock).key_count(), 5000);
    }
}

/// A file with something of each kind of frame, and some hundred bytes.
fn small() -> Vec<u8> {
    let clock = ManualClock::new();
    let backend = build(&clock).build().unwrap();
    let throttle = limited(&backend);
    let _ = at_once(throttle.hit(KEYS[2])).unwrap();
    let brought = HitOptions::new().add_rates([Rate::per_minute(3)]);
    let _ = at_once(throttle.hit_with("alice", brought)).unwrap();
    at_once(throttle.block("mallory", HOUR)).unwrap();
    at_once(backend.set(&Key::value("name"), b"value", None)).unwrap();
    taken(&backend)
}

#[test]
fn f30_every_flipped_bit_and_every_lost_byte_is_refused_with_its_place() {
    let (bytes, clock) = (small(), ManualClock::new());
    assert_eq!(restored(&bytes, &clock).restored().unwrap().kept, 4);
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            match try_restored(&flipped, &clock).unwrap_err() {
                BuildError::Restore { source: RestoreError::Damaged { at: place, .. }, .. } => {
                    // What begins there has it; or it made a length reach beyond the end.
                    let is_end = place + 8 >= bytes.len() as u64;
                    assert!(place <= at as u64 || is_end, "bit {bit} of byte {at}: {place}");
                }
                BuildError::Restore { source: RestoreError::Version { found, .. }, .. } => {
                    assert!((8..12).contains(&at) && found > 1, "bit {bit} of byte {at}");
                }
                other => panic!("bit {bit} of byte {at}: {other}"),
            }
        }
    }
    for length in 0..bytes.len() {
        let error = try_restored(&bytes[..length], &clock).unwrap_err();
        let BuildError::Restore { source: RestoreError::Damaged { at, .. }, .. } = &error else {
            panic!("{length} bytes: {error}");
        };
        assert!(*at <= length as u64 && *at + 24 >= length as u64, "{length} bytes: {error}");
        assert!(error.to_string().contains("would be right"), "{error}");
        assert!(error.to_string().ends_with("move it away to begin with empty counts"), "{error}");
    }
    let longer = [&bytes[..], &[0]].concat();
    let error = try_restored(&longer, &clock).unwrap_err().to_string();
    assert!(error.contains(&format!("damaged at byte {}: bytes follow the end", bytes.len())));
}

#[test]
fn a_later_version_is_refused_by_its_name() {
    let mut bytes = small();
    bytes[8] = 7;
    let error = try_restored(&bytes, &ManualClock::new()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "snapshot from a reader: it has version 7, and this release of traffik reads up to version 1; use the release \
         that wrote it, or a later one"
    );
    let error = try_restored(b"GIF89a and more", &ManualClock::new()).unwrap_err().to_string();
    assert!(error.contains("damaged at byte 0: it begins with \"GIF89a a\""), "{error}");
}

/// One that another program wrote, as a seed of the fuzz target `snapshot`.
#[test]
fn a_file_of_another_program_is_restored() {
    let seed = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/snapshot/file");
    let backend = build(&ManualClock::new()).restore(seed).build().unwrap();
    let report = backend.restored().unwrap();
    assert_eq!((report.kept, report.over, report.left_out), (5, 0, 0));
    let builder = || Throttle::builder("t").backend(backend.clone());
    let left = |throttle: Throttle, key| -> Vec<u32> {
        let peeked = at_once(throttle.peek(key)).unwrap();
        peeked.answers().map(|answer| answer.remaining()).collect()
    };
    assert_eq!(left(builder().rates(["5/min", "9/h"]).build().unwrap(), "a"), [4, 8]);
    let sliding = builder().rate("9/h").strategy(SlidingWindowCounter::new()).build().unwrap();
    // Two in this window, and the one before counts wholly at its beginning.
    assert_eq!(left(sliding, "b"), [6]);
    let brought = HitOptions::new().add_rates([Rate::per_hour(7)]);
    let bucket = builder().rate("5/min").build().unwrap();
    assert!(at_once(bucket.hit_with("b", brought)).unwrap().is_denied());
    let value = at_once(backend.get(&Key::value("n"))).unwrap();
    assert_eq!(value.unwrap(), b"17");
}

/// Fails after some writes.
#[derive(Debug)]
struct Failing(usize);

/// Fails to be read.
#[derive(Debug)]
struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::ConnectionReset.into())
    }
}

impl Write for Failing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(1).ok_or(io::ErrorKind::StorageFull)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_cannot_be_written_or_read_is_an_error() {
    let backend = InMemory::new();
    let _ = at_once(limited(&backend).hit("a")).unwrap();
    for writes in 0..4 {
        let error = at_once(backend.snapshot(Failing(writes))).unwrap_err();
        assert_eq!(error.operation(), "snapshot");
        assert!(error.to_string().contains("could not be written"), "{error}");
    }
    assert!(at_once(backend.snapshot(Failing(4))).is_ok());
    let builder = InMemory::builder().restore_from(Cursor::new(small()).take(30).chain(Broken));
    let error = builder.build().unwrap_err();
    assert!(matches!(
        error,
        BuildError::Restore {
            source: RestoreError::Io { kind: io::ErrorKind::ConnectionReset, .. },
            ..
        }
    ));
}
