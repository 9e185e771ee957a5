//! What observers are told of the circuit of a breaker.

use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use test_support::{Play, Scripted};
use traffik::decorator::{CircuitBreaker, CircuitBreakerOptions, CircuitState, Resilience};
use traffik::observe::{Event, Observer};
use traffik::{Backend, ErrorKind, OnError, Throttle};

use super::breaker::opened;
use super::support::{MS, raising, take};

/// The changes of circuits.
#[derive(Clone, Debug, Default)]
pub(super) struct Told(Arc<Mutex<Vec<(CircuitState, CircuitState)>>>);

impl Told {
    pub(super) fn take(&self) -> Vec<(CircuitState, CircuitState)> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl Observer for Told {
    fn on_event(&self, event: &Event<'_>) {
        if let Event::CircuitChanged(changed) = event {
            assert_eq!(changed.backend, "memory", "as it is called inside");
            self.0.lock().unwrap().push((changed.from, changed.to));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn observers_are_told_of_each_change() {
    use CircuitState::{Closed, HalfOpen, Open};
    let (scripted, told) = (Scripted::new(), Told::default());
    let breaker = CircuitBreaker::new(scripted.clone());
    breaker.observe(told.clone());
    let throttle = raising(breaker.clone());
    scripted.plays(Play::Refuse(ErrorKind::Unavailable));
    for _ in 0..5 {
        assert!(throttle.hit("a").await.is_err());
    }
    assert_eq!(told.take(), [(Closed, Open)]);
    tokio::time::advance(250 * MS).await;
    assert!(throttle.hit("a").await.is_err());
    assert_eq!(told.take(), [(Open, HalfOpen), (HalfOpen, Open)]);
    scripted.plays(Play::Answer);
    tokio::time::advance(250 * MS).await;
    assert!(throttle.hit("a").await.is_ok());
    assert!(throttle.hit("a").await.is_ok());
    assert_eq!(told.take(), [(Open, HalfOpen), (HalfOpen, Closed)]);
}

/// Asks whether the store is ready when it is told of a probe, and so closes the circuit meanwhile.
#[derive(Debug)]
struct FindingOut(CircuitBreaker);

impl Observer for FindingOut {
    fn on_event(&self, event: &Event<'_>) {
        if let Event::CircuitChanged(changed) = event
            && changed.to == CircuitState::HalfOpen
        {
            self.0.ready().now_or_never().unwrap().unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn changes_are_told_in_their_order_also_when_one_comes_while_another_is_told() {
    use CircuitState::{Closed, HalfOpen, Open};
    let (scripted, breaker) = opened().await;
    let told = Told::default();
    breaker.observe(FindingOut(breaker.clone()));
    breaker.observe(told.clone());
    scripted.plays(Play::Answer);
    tokio::time::advance(250 * MS).await;
    assert!(take(&breaker, "a").await.is_ok());
    assert_eq!(told.take(), [(Open, HalfOpen), (HalfOpen, Closed)]);
    assert_eq!(breaker.info().state, Closed);
}

/// Its time is over at the same instant for the probe itself and for the next call, which comes first.
#[tokio::test(start_paused = true)]
async fn observers_are_told_of_probes_that_nobody_answers_also_under_load() {
    let (scripted, told) = (Scripted::new(), Told::default());
    let breaker = CircuitBreaker::new(scripted.clone());
    breaker.observe(told.clone());
    scripted.plays(Play::Refuse(ErrorKind::Unavailable));
    for _ in 0..5 {
        assert!(take(&breaker, "a").await.is_err());
    }
    scripted.plays(Play::Silence);
    let end = tokio::time::Instant::now() + 3_000 * MS;
    let mut load = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let breaker = breaker.clone();
        load.spawn(async move {
            while tokio::time::Instant::now() < end {
                let _ = take(&breaker, "a").await;
                tokio::time::sleep(MS).await;
            }
        });
    }
    load.join_all().await;
    let changes = told.take();
    assert!(changes.len() > 10, "{changes:?}");
    for change in changes.windows(2) {
        assert_eq!(change[0].1, change[1].0, "none is left out: {changes:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_observers_of_a_throttle_are_told_of_the_breaker_that_its_builder_makes() {
    let (scripted, told) = (Scripted::new(), Told::default());
    scripted.plays(Play::Refuse(ErrorKind::Unavailable));
    let builder = Throttle::builder("t").rate("5/h").backend(scripted).on_error(OnError::Raise);
    let builder = builder.circuit_breaker(CircuitBreakerOptions::new());
    let throttle = builder.observer(told.clone()).build().unwrap();
    for _ in 0..6 {
        assert!(throttle.hit("a").await.is_err());
    }
    assert_eq!(told.take(), [(CircuitState::Closed, CircuitState::Open)]);
    // Of one that throttles share its maker is told.
    let scripted = Scripted::new();
    scripted.plays(Play::Refuse(ErrorKind::Unavailable));
    let shared = Resilience::recommended().observer(told.clone()).around(scripted).unwrap();
    let throttle = raising(shared);
    for hit in 0..6 {
        assert!(throttle.hit(hit).await.is_err());
    }
    assert_eq!(told.take(), [(CircuitState::Closed, CircuitState::Open)]);
}
