//! Streams whose items wait for their turn: in order, at the rate, and none lost.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::stream::FusedStream;
use futures_util::{FutureExt, Stream, StreamExt, stream};
use parking_lot::Mutex;
use test_support::plain::without_timer;
use test_support::wait_of;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use traffik::key::KeyError;
use traffik::{
    Error, ErrorKind, Exempt, FixedWindow, InMemory, Outcome, Throttle, ThrottledStream, ambient,
};

use crate::acquire::{Remote, RuntimeClock, throttle};

const MILLI: Duration = Duration::from_millis(1);

/// A timer of tokio may be late by a millisecond, and by the one of its rounding.
fn at(millis: u128, ideal: u128) -> bool {
    (ideal..=ideal + 2).contains(&millis)
}

fn denial(error: &Error) -> Outcome {
    let Error::Denied(decision) = error else { panic!("{error}") };
    decision.outcome()
}

async fn remaining(throttle: &Throttle) -> u32 {
    throttle.peek("a").await.unwrap().remaining()
}

async fn wait(throttle: &Throttle) -> Option<Duration> {
    wait_of(&throttle.peek("a").await.unwrap())
}

/// A stream with an item from time to time, which must not be polled after its end.
fn each(period: Duration, items: u32) -> impl Stream<Item = u32> {
    stream::unfold(0, move |next| async move {
        sleep(period).await;
        (next < items).then_some((next, next + 1))
    })
}

#[tokio::test(start_paused = true)]
async fn items_leave_in_order_each_at_its_instant() {
    let throttle = throttle("10/s burst 3");
    let (start, mut next) = (Instant::now(), 0u32);
    let mut items = throttle.throttle_stream("a", stream::iter(0..100u32)).unwrap();
    while let Some(item) = items.next().await {
        assert_eq!(item.unwrap(), next);
        let ideal = u128::from(next.saturating_sub(2)) * 100;
        let left = start.elapsed().as_millis();
        assert!(at(left, ideal), "{next} left after {left} ms, not {ideal}");
        next += 1;
    }
    assert_eq!(next, 100);
}

#[tokio::test(start_paused = true)]
async fn windows_let_as_many_leave_as_they_have() {
    let backend = InMemory::builder().clock(RuntimeClock(Instant::now())).build().unwrap();
    let throttle = Throttle::builder("w").limit("5/s", FixedWindow::new()).backend(backend);
    let throttle = throttle.build().unwrap();
    let start = Instant::now();
    let items = throttle.throttle_stream("a", stream::iter(0..23u32)).unwrap();
    let left: Vec<_> =
        items.map(|item| (item.unwrap(), start.elapsed().as_millis() / 1000)).collect().await;
    let expected: Vec<_> = (0..23).map(|item| (item, u128::from(item / 5))).collect();
    assert_eq!(left, expected);
}

#[tokio::test(start_paused = true)]
async fn an_item_costs_what_it_says() {
    let throttle = throttle("10/s burst 10");
    let items = throttle.throttle_stream("a", stream::iter([10, 0, 5, 1])).unwrap();
    let (start, items) = (Instant::now(), items.cost_of(|cost| *cost));
    let left: Vec<_> =
        items.map(|item| (item.unwrap(), start.elapsed().as_millis())).collect().await;
    let expected = [(10, 0), (0, 0), (5, 500), (1, 600)];
    assert_eq!(left.len(), expected.len(), "{left:?}");
    for ((item, millis), (expected, ideal)) in left.iter().zip(expected) {
        assert!(*item == expected && at(*millis, ideal), "{left:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_cost_of_its_own_an_item_has_the_throttles() {
    let backend = InMemory::builder().clock(RuntimeClock(Instant::now())).build().unwrap();
    let throttle = Throttle::builder("d").rate("10/s").cost(4).backend(backend).build().unwrap();
    let mut items = throttle.throttle_stream("a", stream::iter(0..2)).unwrap();
    items.next().await.unwrap().unwrap();
    assert_eq!(remaining(&throttle).await, 6);
    let mut exempt = throttle.throttle_stream(Exempt, stream::iter(0..9)).unwrap();
    for _ in 0..9 {
        exempt.next().now_or_never().expect("it does not wait").unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_items_takes_nothing() {
    let throttle = throttle("10/s burst 1");
    let mut items = pin!(throttle.throttle_stream("a", each(Duration::from_secs(5), 2)).unwrap());
    assert!(timeout(Duration::from_secs(4), items.next()).await.is_err());
    assert_eq!(remaining(&throttle).await, 1);
    // Two whose items come slower than the rate are not held up.
    let start = Instant::now();
    assert_eq!(items.next().await.unwrap().unwrap(), 0);
    assert_eq!(items.next().await.unwrap().unwrap(), 1);
    assert!(at(start.elapsed().as_millis(), 6_000), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn its_end_is_told_once_the_last_item_has_left() {
    let throttle = throttle("10/s burst 1");
    // The inner stream panics if it is polled after its end.
    let mut items = pin!(throttle.throttle_stream("a", each(MILLI, 2)).unwrap());
    assert!(!items.is_terminated());
    assert_eq!(items.next().await.unwrap().unwrap(), 0);
    assert_eq!(items.next().await.unwrap().unwrap(), 1);
    assert!(!items.is_terminated());
    for _ in 0..3 {
        assert!(items.next().await.is_none());
        assert!(items.is_terminated());
        assert_eq!(items.size_hint(), (0, Some(0)));
    }
}

#[tokio::test(start_paused = true)]
async fn the_size_hint_counts_the_item_that_waits() {
    let throttle = throttle("10/s burst 1");
    let mut items = throttle.throttle_stream("a", stream::iter(0..3)).unwrap();
    // There may be errors besides the items.
    assert_eq!(items.size_hint(), (3, None));
    items.next().await.unwrap().unwrap();
    assert_eq!(items.size_hint(), (2, None));
    assert!(items.next().now_or_never().is_none());
    assert_eq!(items.get_ref().size_hint(), (1, Some(1)), "one waits");
    assert_eq!(items.size_hint(), (2, None));
    items.next().await.unwrap().unwrap();
    assert!(items.next().now_or_never().is_none());
    assert_eq!(items.size_hint(), (1, None));
    items.next().await.unwrap().unwrap();
    assert_eq!(items.size_hint(), (0, Some(0)));
    assert!(items.next().await.is_none());
    let mut endless = throttle.throttle_stream("a", stream::repeat(0)).unwrap();
    assert!(endless.next().now_or_never().is_none());
    assert_eq!(endless.size_hint(), (usize::MAX, None), "one waits here too");
}

#[tokio::test(start_paused = true)]
async fn an_error_comes_once_a_poll_and_keeps_its_item() {
    let throttle = throttle("10/s burst 1");
    let items = throttle.throttle_stream("a", stream::iter(0..20u32)).unwrap();
    let mut items = items.timeout(Duration::from_millis(30));
    let (start, mut left, mut errors) = (Instant::now(), Vec::new(), 0);
    while let Some(item) = items.next().await {
        match item {
            Ok(item) => left.push((item, start.elapsed().as_millis())),
            Err(error) => {
                errors += 1;
                let Outcome::Denied { retry_after } = denial(&error) else { panic!("{error}") };
                let lower = items.size_hint().0;
                assert_eq!(lower, 20 - left.len(), "it is still there");
                sleep(retry_after).await;
            }
        }
    }
    assert_eq!(errors, 19, "each item but the first once");
    for ((item, millis), next) in left.iter().zip(0u32..) {
        assert_eq!(*item, next);
        // Who is late by a timer at each item adds them up, for nothing was reserved.
        let ideal = u128::from(next) * 100;
        assert!((ideal..=ideal + 2 * 20).contains(millis), "{item} left after {millis} ms");
    }
    assert_eq!(left.len(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_turn_within_the_timeout_is_waited_for() {
    let throttle = throttle("10/s burst 1");
    let start = Instant::now();
    let items = throttle.throttle_stream("a", stream::iter(0..10)).unwrap();
    let items: Vec<_> =
        items.timeout(Duration::from_millis(100)).map(|item| item.unwrap()).collect().await;
    assert_eq!(items, (0..10).collect::<Vec<_>>());
    assert!(at(start.elapsed().as_millis(), 900), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_can_never_pass_is_an_error_at_each_poll_until_it_is_taken_out() {
    let throttle = throttle("10/s burst 2");
    let items = throttle.throttle_stream("a", stream::iter([1, 3, 2])).unwrap();
    let asked = Arc::new(AtomicU32::new(0));
    let asks = Arc::clone(&asked);
    let mut items = pin!(items.cost_of(move |cost| {
        asks.fetch_add(1, Ordering::Relaxed);
        *cost
    }));
    assert_eq!(items.next().await.unwrap().unwrap(), 1);
    for _ in 0..3 {
        let error = items.next().await.unwrap().unwrap_err();
        assert_eq!(denial(&error), Outcome::Never);
    }
    assert_eq!(items.as_mut().take_held(), Some(3));
    assert_eq!(items.as_mut().take_held(), None);
    assert_eq!(items.next().await.unwrap().unwrap(), 2);
    assert!(items.next().await.is_none());
    assert_eq!(asked.load(Ordering::Relaxed), 3, "once for each item, errors or not");
}

#[tokio::test(start_paused = true)]
async fn its_parts_have_all_that_was_not_yielded() {
    let throttle = throttle("10/s burst 1");
    let mut items = throttle.throttle_stream("a", stream::iter(0..4)).unwrap();
    assert_eq!(items.next().await.unwrap().unwrap(), 0);
    assert!(items.next().now_or_never().is_none());
    let (rest, held) = items.into_parts();
    assert_eq!(held, Some(1));
    assert_eq!(rest.collect::<Vec<_>>().await, [2, 3]);
    let untouched = throttle.throttle_stream("a", stream::iter(0..4)).unwrap();
    let (mut rest, held) = untouched.into_parts();
    assert_eq!((rest.next().await, held), (Some(0), None));
}

/// In three ways; the turn of the waiting item is then that of who comes next.
#[tokio::test(start_paused = true)]
async fn who_goes_away_while_an_item_waits_gives_its_turn_back() {
    type Items = ThrottledStream<stream::Iter<std::ops::Range<u32>>>;
    let throttle = throttle("10/s burst 1");
    let ways: [fn(&mut Option<Items>); 3] = [
        |items| drop(items.take()),
        |items| assert_eq!(items.take().unwrap().into_parts().1, Some(1)),
        |items| assert_eq!(Pin::new(items.as_mut().unwrap()).take_held(), Some(1)),
    ];
    for way in ways {
        throttle.reset("a").await.unwrap();
        let items = throttle.throttle_stream("a", stream::iter(0..3)).unwrap();
        let mut items = Some(items);
        items.as_mut().unwrap().next().await.unwrap().unwrap();
        let start = Instant::now();
        let next = items.as_mut().unwrap().next();
        assert!(timeout(Duration::from_millis(50), next).await.is_err());
        assert_eq!(wait(&throttle).await, Some(Duration::from_millis(150)), "its turn is reserved");
        way(&mut items);
        throttle.acquire("a").await.unwrap().commit();
        assert!(at(start.elapsed().as_millis(), 100), "{:?}", start.elapsed());
    }
}

/// A backend on a server is asked by a task of its own, whose answer may find nobody.
#[tokio::test(start_paused = true)]
async fn on_a_server_too_nothing_stays_taken_for_who_went_away() {
    let inner = InMemory::builder().clock(RuntimeClock(Instant::now())).build().unwrap();
    let backend = Remote { inner, ..Remote::default() };
    let throttle = Throttle::builder("r").rate("10/s burst 1").backend(backend).build().unwrap();
    let items = || throttle.throttle_stream("a", stream::iter(0..5)).unwrap();
    // Before the answer.
    assert!(items().next().now_or_never().is_none());
    sleep(MILLI).await;
    assert_eq!(remaining(&throttle).await, 1);
    // After it.
    let mut gone = items();
    gone.next().await.unwrap().unwrap();
    let taken = Instant::now();
    assert!(timeout(Duration::from_millis(50), gone.next()).await.is_err());
    drop(gone);
    sleep(MILLI).await;
    assert_eq!(wait(&throttle).await, Some(Duration::from_millis(100) - taken.elapsed()));
    let left = items().map(|item| item.unwrap()).collect::<Vec<_>>().await;
    assert_eq!(left, [0, 1, 2, 3, 4]);
    assert!(at(taken.elapsed().as_millis(), 500), "{:?}", taken.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_future_that_is_dropped_loses_neither_item_nor_place() {
    let throttle = throttle("10/s burst 1");
    let (start, mut left) = (Instant::now(), Vec::new());
    let mut items = throttle.throttle_stream("a", stream::iter(0..10)).unwrap();
    loop {
        match timeout(Duration::from_millis(7), items.next()).await {
            Ok(Some(item)) => left.push(item.unwrap()),
            Ok(None) => break,
            Err(_) => {}
        }
    }
    assert_eq!(left, (0..10).collect::<Vec<_>>());
    assert!((900..=910).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_comes_late_gets_at_most_one_item_more() {
    let throttle = throttle("10/s burst 1");
    let mut items = throttle.throttle_stream("a", stream::iter(0..)).unwrap();
    items.next().await.unwrap().unwrap();
    assert!(items.next().now_or_never().is_none());
    sleep(Duration::from_secs(10)).await;
    let mut at_once = 0;
    while let Some(item) = items.next().now_or_never() {
        item.unwrap().unwrap();
        at_once += 1;
    }
    assert_eq!(at_once, 2, "the one that waited, and the burst");
}

#[tokio::test(start_paused = true)]
async fn streams_of_one_key_share_it_fairly() {
    const STREAMS: usize = 3;
    let backend = InMemory::builder().clock(RuntimeClock(Instant::now())).build().unwrap();
    let window = Throttle::builder("w").limit("1/100ms", FixedWindow::new()).backend(backend);
    for throttle in [throttle("10/s burst 1"), window.build().unwrap()] {
        // Whoever comes first would have the burst, and be ahead by it for good.
        throttle.acquire("a").await.unwrap().commit();
        let left = Arc::new(Mutex::new([0u32; STREAMS]));
        let mut tasks = JoinSet::new();
        for stream in 0..STREAMS {
            let items = throttle.throttle_stream("a", stream::iter(0..30)).unwrap();
            let left = Arc::clone(&left);
            tasks.spawn(items.for_each(move |item| {
                item.unwrap();
                let mut left = left.lock();
                left[stream] += 1;
                let (least, most) = (left.iter().min().unwrap(), left.iter().max().unwrap());
                assert!(most - least <= 1, "{left:?}");
                std::future::ready(())
            }));
        }
        tasks.join_all().await;
        assert_eq!(*left.lock(), [30; STREAMS]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_backend_that_is_current_is_asked() {
    let throttle = Throttle::builder("current").rate("10/s burst 1").build().unwrap();
    let mut items = throttle.throttle_stream("a", stream::iter(0..3)).unwrap();
    let error = items.next().await.unwrap().unwrap_err();
    assert!(matches!(error, Error::NoBackend { .. }), "{error}");
    let backend = InMemory::builder().clock(RuntimeClock(Instant::now())).build().unwrap();
    let start = Instant::now();
    let left: Vec<_> =
        ambient::with_backend(backend, items.map(|item| item.unwrap()).collect()).await;
    assert_eq!(left, [0, 1, 2]);
    assert!(at(start.elapsed().as_millis(), 200), "{:?}", start.elapsed());
}

#[test]
fn without_a_runtime_it_is_a_clear_error_that_keeps_the_item() {
    let throttle = Throttle::builder("p").rate("5/h").backend(InMemory::new()).build().unwrap();
    let mut items = throttle.throttle_stream("a", stream::iter([7])).unwrap();
    for item in without_timer(async || items.next().await) {
        let Some(Err(Error::Backend(error))) = item else { panic!("{item:?}") };
        assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
    }
    assert_eq!(items.into_parts().1, Some(7));
}

#[test]
fn a_key_with_too_many_parts_is_refused_at_once() {
    let throttle = Throttle::builder("k").rate("5/h").backend(InMemory::new()).build().unwrap();
    let key = ((1u8, 2u8, 3u8), (4u8, 5u8));
    let refused = throttle.throttle_stream(key, stream::iter([7])).unwrap_err();
    assert_eq!(refused, KeyError::TooManyParts);
}

#[test]
fn it_may_move_to_another_task() {
    fn moves<T: Send + 'static>(_: T) -> &'static str {
        std::any::type_name::<T>()
    }
    let throttle = Throttle::builder("s").rate("5/h").backend(InMemory::new()).build().unwrap();
    let items = throttle.throttle_stream("a", stream::iter([7])).unwrap();
    assert_eq!(
        format!("{items:?}"),
        r#"ThrottledStream { throttle: "s", key: ["a"], timeout: None, holds_item: false, .. }"#
    );
    assert!(moves(items).contains("ThrottledStream"));
}
