//! Streams and sinks whose items wait for their turn: in order, at the rate, and none lost or sent twice.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::stream::FusedStream;
use futures_util::{FutureExt, Sink, SinkExt, Stream, StreamExt, stream};
use parking_lot::Mutex;
use test_support::plain::without_timer;
use test_support::{RuntimeClock, wait_of};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep, timeout};
use traffik::key::KeyError;
use traffik::{
    Error, ErrorKind, Exempt, FixedWindow, InMemory, Outcome, Throttle, ThrottledSink,
    ThrottledSinkError, ThrottledStream, ambient,
};

use crate::acquire::{Remote, throttle};

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
    let backend = RuntimeClock::memory();
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
    let backend = RuntimeClock::memory();
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
    let inner = RuntimeClock::memory();
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
    let backend = RuntimeClock::memory();
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
    let backend = RuntimeClock::memory();
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
    let refused = throttle.throttle_sink::<_, u32>(key, Inbox::default()).unwrap_err();
    assert_eq!(refused, KeyError::TooManyParts);
}

#[test]
fn both_may_move_to_another_task() {
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
    let sink = throttle.throttle_sink::<_, u32>("a", Inbox::default()).unwrap();
    assert!(moves(sink.timeout(MILLI)).contains("ThrottledSink"));
}

/// What an inner sink was told, with the milliseconds since its begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Sent(u32, u128),
    Flushed(u128),
    Closed(u128),
}

/// Where an inner sink fails, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fails {
    Ready,
    Send,
    Flush,
    Close,
}

/// A sink that notes what it is told. It is not ready for some time after each item.
struct Inbox {
    start: Instant,
    told: Arc<Mutex<Vec<Told>>>,
    rest: Duration,
    busy: Option<Pin<Box<Sleep>>>,
    fails: Option<Fails>,
}

impl Default for Inbox {
    fn default() -> Self {
        let (start, told) = (Instant::now(), Arc::default());
        Self { start, told, rest: Duration::ZERO, busy: None, fails: None }
    }
}

impl Inbox {
    fn note(&mut self, fails: Fails, told: impl FnOnce(u128) -> Option<Told>) -> Result<(), Fails> {
        if self.fails == Some(fails) {
            self.fails = None;
            return Err(fails);
        }
        self.told.lock().extend(told(self.start.elapsed().as_millis()));
        Ok(())
    }
}

impl Sink<u32> for Inbox {
    type Error = Fails;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Fails>> {
        if let Some(busy) = &mut self.busy {
            ready!(busy.as_mut().poll(cx));
            self.busy = None;
        }
        Poll::Ready(self.note(Fails::Ready, |_| None))
    }

    fn start_send(mut self: Pin<&mut Self>, item: u32) -> Result<(), Fails> {
        assert!(self.busy.is_none(), "it is ready");
        self.note(Fails::Send, |millis| Some(Told::Sent(item, millis)))?;
        if !self.rest.is_zero() {
            self.busy = Some(Box::pin(sleep(self.rest)));
        }
        Ok(())
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Fails>> {
        Poll::Ready(self.note(Fails::Flush, |millis| Some(Told::Flushed(millis))))
    }

    fn poll_close(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Fails>> {
        Poll::Ready(self.note(Fails::Close, |millis| Some(Told::Closed(millis))))
    }
}

/// A throttled sink, and what its inner one is told.
fn inbox(rate: &str, inbox: Inbox) -> (ThrottledSink<Inbox, u32>, Arc<Mutex<Vec<Told>>>, Throttle) {
    let (throttle, told) = (throttle(rate), Arc::clone(&inbox.told));
    (throttle.throttle_sink("a", inbox).unwrap(), told, throttle)
}

/// What was sent, and when.
fn sent(told: &Mutex<Vec<Told>>) -> Vec<(u32, u128)> {
    let sent = |told: &Told| match told {
        Told::Sent(item, millis) => Some((*item, *millis)),
        _ => None,
    };
    told.lock().iter().filter_map(sent).collect()
}

fn assert_sent(told: &Mutex<Vec<Told>>, expected: &[(u32, u128)]) {
    let sent = sent(told);
    assert_eq!(sent.len(), expected.len(), "{sent:?}");
    for ((item, millis), (expected, ideal)) in sent.iter().zip(expected) {
        assert!(item == expected && at(*millis, *ideal), "{sent:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_fed_is_sent_in_order_each_at_its_instant() {
    let (mut sink, told, _) = inbox("10/s burst 2", Inbox::default());
    for item in 0..50 {
        sink.feed(item).await.unwrap();
    }
    assert_eq!(sent(&told).len(), 49, "one is held");
    sink.flush().await.unwrap();
    let expected: Vec<_> =
        (0..50u32).map(|item| (item, u128::from(item.saturating_sub(1)) * 100)).collect();
    assert_sent(&told, &expected);
    let told = told.lock();
    let last = told[told.len() - 2..].to_vec();
    assert!(matches!(last[..], [Told::Sent(49, _), Told::Flushed(_)]), "{last:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_forwarded_whole_and_its_end_closes_the_sink() {
    let (sink, told, _) = inbox("10/s burst 1", Inbox::default());
    stream::iter(0..5).map(Ok).forward(sink).await.unwrap();
    assert_sent(&told, &[(0, 0), (1, 100), (2, 200), (3, 300), (4, 400)]);
    let last = *told.lock().last().unwrap();
    assert!(matches!(last, Told::Closed(millis) if at(millis, 400)), "{last:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_held_is_sent_before_the_sink_is_closed() {
    let (mut sink, told, _) = inbox("10/s burst 1", Inbox::default());
    sink.feed(0).await.unwrap();
    sink.feed(1).await.unwrap();
    assert_sent(&told, &[(0, 0)]);
    sink.close().await.unwrap();
    assert_sent(&told, &[(0, 0), (1, 100)]);
    assert!(matches!(told.lock().last(), Some(Told::Closed(_))), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn what_had_its_turn_is_flushed_while_the_next_one_waits() {
    let (mut sink, told, _) = inbox("10/s burst 1", Inbox::default());
    sink.feed(0).await.unwrap();
    sink.feed(1).await.unwrap();
    for _ in 0..3 {
        assert!(sink.flush().now_or_never().is_none());
    }
    sink.feed(2).await.unwrap();
    // While the second waits the first is flushed, once.
    let all = told.lock().clone();
    assert!(matches!(all[..], [Told::Sent(0, 0), Told::Flushed(0), Told::Sent(1, _)]), "{all:?}");
}

#[tokio::test(start_paused = true)]
async fn an_item_costs_what_it_says_in_a_sink_too() {
    let (sink, told, _) = inbox("10/s burst 10", Inbox::default());
    let mut sink = sink.cost_of(|item| *item);
    for item in [10, 5, 1] {
        sink.feed(item).await.unwrap();
    }
    sink.flush().await.unwrap();
    assert_sent(&told, &[(10, 0), (5, 500), (1, 600)]);
}

#[tokio::test(start_paused = true)]
async fn an_inner_sink_that_is_not_ready_is_waited_for() {
    let rest = Duration::from_millis(250);
    let (mut sink, told, throttle) = inbox("10/s burst 1", Inbox { rest, ..Inbox::default() });
    sink.feed(0).await.unwrap();
    sink.feed(1).await.unwrap();
    // Its turn came after 100 ms, and it is not sent before the inner sink is ready.
    assert!(timeout(Duration::from_millis(150), sink.flush()).await.is_err());
    assert_sent(&told, &[(0, 0)]);
    assert_eq!(wait(&throttle).await, Some(Duration::from_millis(50)), "its turn is taken");
    sink.flush().await.unwrap();
    assert_sent(&told, &[(0, 0), (1, 250)]);
    // One whose turn has come gives it back too, if it does not leave.
    sink.feed(2).await.unwrap();
    assert!(sink.flush().now_or_never().is_none());
    assert_eq!(remaining(&throttle).await, 0);
    let (_, held) = sink.into_parts();
    assert_eq!((held, remaining(&throttle).await), (Some(2), 1));
}

#[tokio::test(start_paused = true)]
async fn an_item_whose_turn_did_not_come_is_kept_and_sent_later() {
    let (sink, told, _) = inbox("10/s burst 1", Inbox::default());
    let mut sink = sink.timeout(Duration::from_millis(30));
    sink.feed(0).await.unwrap();
    sink.feed(1).await.unwrap();
    for _ in 0..3 {
        let error = sink.flush().await.unwrap_err();
        let ThrottledSinkError::Throttle(error) = error else { panic!("{error:?}") };
        assert!(matches!(denial(&error), Outcome::Denied { .. }), "{error}");
        let error = sink.close().await.unwrap_err();
        assert!(matches!(error, ThrottledSinkError::Throttle(_)), "{error:?}");
        assert!(sink.feed(9).await.is_err(), "one is held");
    }
    assert!(!told.lock().iter().any(|told| matches!(told, Told::Closed(_))));
    sleep(Duration::from_millis(80)).await;
    sink.close().await.unwrap();
    assert_sent(&told, &[(0, 0), (1, 100)]);
    assert!(matches!(told.lock().last(), Some(Told::Closed(_))), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn what_can_never_be_sent_is_an_error_until_it_is_taken_out() {
    let (sink, told, _) = inbox("10/s burst 2", Inbox::default());
    let mut sink = sink.cost_of(|item| *item);
    sink.feed(3).await.unwrap();
    for _ in 0..3 {
        let ThrottledSinkError::Throttle(error) = sink.flush().await.unwrap_err() else {
            panic!("the inner sink did not fail");
        };
        assert_eq!(denial(&error), Outcome::Never);
    }
    assert_eq!(Pin::new(&mut sink).take_held(), Some(3));
    sink.send(2).await.unwrap();
    assert_sent(&told, &[(2, 0)]);
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_inner_sink_is_passed_on_as_such() {
    for (fails, arrives) in
        [(Fails::Ready, true), (Fails::Send, false), (Fails::Flush, true), (Fails::Close, true)]
    {
        let inner = Inbox { fails: Some(fails), ..Inbox::default() };
        let (mut sink, told, throttle) = inbox("10/s burst 1", inner);
        sink.feed(7).await.unwrap();
        let error = sink.close().await.err();
        let error = match fails {
            Fails::Flush => sink.flush().await.err(),
            _ => error,
        };
        assert!(matches!(error, Some(ThrottledSinkError::Sink(it)) if it == fails), "{error:?}");
        sink.close().await.unwrap();
        let expected: &[_] = if arrives { &[(7, 0)] } else { &[] };
        assert_sent(&told, expected);
        assert_eq!(remaining(&throttle).await, 0, "{fails:?}: what was sent stays used");
    }
    // While another waits for its turn.
    let (mut sink, told, _) =
        inbox("10/s burst 1", Inbox { fails: Some(Fails::Flush), ..Inbox::default() });
    sink.feed(0).await.unwrap();
    sink.feed(1).await.unwrap();
    let error = sink.flush().await.unwrap_err();
    assert!(matches!(error, ThrottledSinkError::Sink(Fails::Flush)), "{error:?}");
    sink.flush().await.unwrap();
    assert_sent(&told, &[(0, 0), (1, 100)]);
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_goes_away_gives_the_turn_of_its_item_back() {
    let (mut sink, told, throttle) = inbox("10/s burst 1", Inbox::default());
    let start = Instant::now();
    sink.feed(0).await.unwrap();
    sink.feed(1).await.unwrap();
    assert!(timeout(Duration::from_millis(50), sink.flush()).await.is_err());
    assert_eq!(wait(&throttle).await, Some(Duration::from_millis(150)), "its turn is reserved");
    drop(sink);
    throttle.acquire("a").await.unwrap().commit();
    assert!(at(start.elapsed().as_millis(), 100), "{:?}", start.elapsed());
    assert_sent(&told, &[(0, 0)]);
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "poll_ready must succeed before start_send")]
async fn an_item_is_not_replaced_by_one_that_comes_too_soon() {
    let (mut sink, _, _) = inbox("10/s burst 1", Inbox::default());
    sink.start_send_unpin(0).unwrap();
    drop(sink.start_send_unpin(1));
}

#[test]
fn an_error_of_a_sink_says_what_its_cause_says() {
    let inner = ThrottledSinkError::Sink(std::io::Error::other("the pipe is broken"));
    assert_eq!(inner.to_string(), "the pipe is broken");
    let ours: ThrottledSinkError<std::io::Error> = Error::WrongReceipt.into();
    assert_eq!(ours.to_string(), Error::WrongReceipt.to_string());
}
