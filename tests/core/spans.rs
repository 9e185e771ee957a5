//! Spans: each call of a store has one, in which a failure is recorded, and no key.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use test_support::{Failing, Mode as Failure, ValuesOnly};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use traffik::{Backend, ErrorKind, InMemory, ManualClock, OnError, Throttle, all};

/// More than a second by the clock of any test here. Their log lines are told by one start, which may lie in the future
/// of another test's paused time.
const LATER: Duration = Duration::from_secs(366 * 24 * 3600);

/// What was said, by spans and by events.
#[derive(Clone, Default)]
struct Collected {
    next: Arc<AtomicU64>,
    spans: Arc<Mutex<BTreeMap<u64, Vec<String>>>>,
    warnings: Arc<Mutex<Vec<String>>>,
    traces: Arc<Mutex<Vec<String>>>,
}

struct Collecting {
    most: Level,
    collected: Collected,
}

struct Fields<'a>(&'a mut Vec<String>);

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.push(format!("{field}={value}"));
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.push(format!("{field}={value:?}"));
    }
}

impl Subscriber for Collecting {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= &self.most && metadata.target().starts_with("traffik")
    }
    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let number = self.collected.next.fetch_add(1, Ordering::SeqCst) + 1;
        let mut fields = vec![span.metadata().name().to_owned()];
        assert_eq!(*span.metadata().level(), Level::DEBUG);
        span.record(&mut Fields(&mut fields));
        self.collected.spans.lock().insert(number, fields);
        Id::from_u64(number)
    }
    fn record(&self, span: &Id, values: &Record<'_>) {
        let mut spans = self.collected.spans.lock();
        values.record(&mut Fields(spans.get_mut(&span.into_u64()).unwrap()));
    }
    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let told = match *event.metadata().level() {
            Level::ERROR | Level::WARN => &self.collected.warnings,
            Level::TRACE => &self.collected.traces,
            _ => return,
        };
        let mut fields = Vec::new();
        event.record(&mut Fields(&mut fields));
        told.lock().push(fields.join(" "));
    }
    fn enter(&self, _span: &Id) {}
    fn exit(&self, _span: &Id) {}
}

impl Collected {
    fn collect(most: Level) -> (Self, tracing::subscriber::DefaultGuard) {
        let collected = Self::default();
        let subscriber = Collecting { most, collected: collected.clone() };
        (collected, tracing::subscriber::set_default(subscriber))
    }

    /// The spans so far, each as one text.
    fn take(&self) -> Vec<String> {
        let spans = std::mem::take(&mut *self.spans.lock());
        spans.into_values().map(|fields| fields.join(" ")).collect()
    }
}

fn throttle(backend: impl Backend) -> Throttle {
    Throttle::builder("api").rate("5/min").backend(backend).build().unwrap()
}

fn span(backend: &str, operation: &str) -> String {
    format!("backend_call throttle=api backend={backend} operation={operation}")
}

#[tokio::test]
async fn each_call_of_a_store_has_a_span_without_the_key() {
    let (collected, _guard) = Collected::collect(Level::DEBUG);
    let api = throttle(ValuesOnly::new(&ManualClock::new()));
    let call = |operation| span("values", operation);
    let receipt = api.hit("secret").await.unwrap().receipt().unwrap();
    api.refund("secret", receipt).await.unwrap();
    let _ = api.peek("secret").await.unwrap();
    let _ = api.charge("secret", 1).await.unwrap();
    let decided = |text: &str| format!("{} decision={text} decided_by=Backend", call("apply"));
    let [four, five] = [4, 5].map(|left| decided(&format!("allowed, {left} of 5 remaining")));
    assert_eq!(collected.take(), [four.clone(), five.clone(), five, four]);
    let _ = api.hit_many(["secret", "other"]).await;
    assert_eq!(collected.take(), [call("apply_many")]);
    let _ = all().hit(&api, "secret").hit(&api, "other").await.unwrap();
    let [three, left] = [2, 3].map(|left| decided(&format!("allowed, {left} of 5 remaining")));
    assert_eq!(collected.take(), [call("apply_all"), three, left]);
    api.block("secret", Duration::from_secs(1)).await.unwrap();
    let _ = api.inspect("secret").await.unwrap();
    api.reset("secret").await.unwrap();
    let blocked = decided("blocked, retry after 1s");
    assert_eq!(collected.take(), [call("change_block"), call("inspect"), blocked, call("forget")]);
    let free = Throttle::builder("api").rate("unlimited");
    let free = free.backend(ValuesOnly::new(&ManualClock::new())).build().unwrap();
    let _ = free.hit("secret").await.unwrap();
    assert_eq!(collected.take(), [""; 0], "nobody was called");
}

#[tokio::test]
async fn a_denial_is_in_the_span_and_is_traced_with_its_key() {
    let (collected, _guard) = Collected::collect(Level::TRACE);
    for backend in [
        Arc::new(InMemory::new()) as Arc<dyn Backend>,
        Arc::new(ValuesOnly::new(&ManualClock::new())),
    ] {
        let api = throttle(backend);
        for _ in 0..6 {
            let _ = api.hit("secret").await.unwrap();
        }
    }
    let spans = collected.take();
    assert_eq!(spans.len(), 6, "of the store alone: {spans:?}");
    assert!(
        spans[5].ends_with(" decision=denied, retry after 12s decided_by=Backend"),
        "{spans:?}"
    );
    assert!(spans.iter().all(|span| !span.contains("secret")), "{spans:?}");
    let traces = std::mem::take(&mut *collected.traces.lock());
    let denials: Vec<_> = traces.iter().filter(|text| text.contains("message=denied")).collect();
    assert_eq!(denials.len(), 2, "{traces:?}");
    for denial in denials {
        assert!(denial.contains("throttle=api key=[") && denial.contains("secret"), "{denial}");
        assert!(denial.contains("limit=api/min decision=denied, retry after "), "{denial}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_is_reserved_is_no_denial() {
    let (collected, _guard) = Collected::collect(Level::TRACE);
    let api = throttle(ValuesOnly::new(&ManualClock::new()));
    for _ in 0..6 {
        api.acquire("secret").await.unwrap().commit();
    }
    let spans = collected.take();
    let reserved = " decision=reserved, passes in 12s decided_by=Backend";
    assert!(spans.iter().any(|span| span.ends_with(reserved)), "{spans:?}");
    assert!(spans.iter().all(|span| !span.contains("denied")), "{spans:?}");
    assert!(collected.traces.lock().iter().all(|text| !text.contains("message=denied")));
}

#[tokio::test]
async fn memory_and_who_does_not_listen_have_no_spans() {
    let (collected, _guard) = Collected::collect(Level::DEBUG);
    let api = throttle(InMemory::new());
    let _ = api.hit("a").await.unwrap();
    let _ = api.hit_many(["a", "b"]).await;
    let _ = all().hit(&api, "a").hit(&api, "b").await.unwrap();
    let _ = api.charge("a", 1).await.unwrap();
    assert_eq!(collected.take(), [""; 0]);
    drop(_guard);
    let (collected, _guard) = Collected::collect(Level::INFO);
    let _ = throttle(ValuesOnly::new(&ManualClock::new())).hit("a").await.unwrap();
    assert_eq!(collected.take(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_recorded_with_its_kind_and_effect() {
    let (collected, _guard) = Collected::collect(Level::DEBUG);
    let (unavailable, timeout) = (
        "kind=Unavailable effect=NotApplied".to_owned(),
        "kind=Timeout effect=Ambiguous".to_owned(),
    );
    for (failure, said) in
        [(Failure::Fail(ErrorKind::Unavailable), unavailable), (Failure::Hang, timeout)]
    {
        let api = throttle(Failing::new(failure));
        let _ = api.hit("secret").await.unwrap();
        let _ = api.hit_many(["secret", "other"]).await;
        assert!(api.reset("secret").await.is_err());
        let spans = collected.take();
        for (span_text, operation) in spans.iter().zip(["apply", "apply_many", "forget"]) {
            assert!(span_text.starts_with(&span("failing", operation)), "{spans:?}");
            assert!(span_text.contains(" error=failing: "), "{spans:?}");
            assert!(span_text.ends_with(&said), "{spans:?}");
            assert!(!span_text.contains("secret"), "{spans:?}");
        }
        assert_eq!(spans.len(), 3, "{spans:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn warnings_of_failures_are_limited_to_one_a_second() {
    let (collected, _guard) = Collected::collect(Level::WARN);
    let api = throttle(Failing::new(Failure::Fail(ErrorKind::Unavailable)));
    for _ in 0..50 {
        let _ = api.hit("secret").await.unwrap();
    }
    let _ = api.hit_many(["secret"; 50]).await;
    let warnings = collected.warnings.lock().clone();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("suppressed=0") && !warnings[0].contains("secret"));
    tokio::time::advance(LATER).await;
    for _ in 0..2 {
        let _ = api.hit("secret").await.unwrap();
    }
    let warnings = collected.warnings.lock().clone();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[1].contains("suppressed=99"), "all but the first one: {warnings:?}");
    tokio::time::advance(Duration::from_millis(999)).await;
    let _ = api.hit("secret").await.unwrap();
    assert_eq!(collected.warnings.lock().len(), 2, "the second is not over");
    tokio::time::advance(Duration::from_millis(1)).await;
    let _ = api.hit("secret").await.unwrap();
    let warnings = collected.warnings.lock().clone();
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert!(warnings[2].contains("suppressed=2"), "{warnings:?}");
}

/// The failure, and what became of its handler.
#[tokio::test(start_paused = true)]
async fn warnings_of_handlers_are_limited_to_one_a_second() {
    let hangs = OnError::handler(|_| std::future::pending());
    let panics = OnError::handler(|_| async { panic!("part of the test") });
    for (policy, reason) in [(hangs, "time"), (panics, "it panicked")] {
        let (collected, _guard) = Collected::collect(Level::WARN);
        let failing = Failing::new(Failure::Fail(ErrorKind::Unavailable));
        let api = Throttle::builder("api").rate("5/min").backend(failing).on_error(policy);
        let api = api.build().unwrap();
        let hits = async || {
            let hits = (0..50).map(|_| api.hit("secret"));
            for decision in futures_util::future::join_all(hits).await {
                assert!(decision.unwrap().is_denied());
            }
        };
        hits().await;
        let warnings = collected.warnings.lock().clone();
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[1].contains("the error handler did not decide"), "{warnings:?}");
        assert!(warnings[1].contains(reason) && !warnings[1].contains("secret"), "{warnings:?}");
        tokio::time::advance(LATER).await;
        hits().await;
        let warnings = collected.warnings.lock().clone();
        assert_eq!(warnings.len(), 4, "{warnings:?}");
        let told = warnings[3].contains("the error handler did not decide");
        assert!(told && warnings[3].contains(reason), "{warnings:?}");
        assert!(warnings[2..].iter().all(|it| it.contains("suppressed=49")), "{warnings:?}");
    }
}
