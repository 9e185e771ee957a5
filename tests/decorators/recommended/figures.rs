//! What a hit costs while the circuit is open before a real server that is silent, and how long it stays open when the
//! server goes on. The long form prints the figures and asks for more: `TRAFFIK_SOAK=1`, in release.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use test_support::Dice;
use test_support::servers::{pause, wait};
use traffik::decorator::{CircuitBreakerOptions, CircuitState, Resilience};
use traffik::observe::{Event, Observer};
use traffik::{Backend, DecidedBy, FixedWindow, InMemory, LifespanExt, Throttle};

use super::places::{End, Fault, OneRedis, Place};
use super::{BACK, SOON};

/// Measured in release: below 10 us. A tenth of a millisecond is promised; the rest is slack for a debug build beside
/// others.
const USUAL: Duration = Duration::from_millis(5);
const USUAL_IN_SOAK: Duration = Duration::from_micros(100);
/// Between two hits that wait for the store to come back.
const PACE: Duration = Duration::from_millis(1);

fn is_soak() -> bool {
    std::env::var_os("TRAFFIK_SOAK").is_some()
}

/// When the circuit came to what it is.
#[derive(Clone, Debug, Default)]
struct Watch(Arc<Mutex<Option<(CircuitState, Instant)>>>);

impl Watch {
    fn is(&self, state: CircuitState) -> Option<Instant> {
        self.0.lock().filter(|now| now.0 == state).map(|now| now.1)
    }
}

impl Observer for Watch {
    fn on_event(&self, event: &Event<'_>) {
        if let Event::CircuitChanged(changed) = event {
            *self.0.lock() = Some((changed.to, wait::now()));
        }
    }
}

/// Of many rounds.
#[derive(Default)]
struct Figures {
    hits: Vec<Duration>,
    ways_back: Vec<Duration>,
}

fn share(all: &mut [Duration], per_cent: usize) -> Duration {
    all.sort_unstable();
    all[(all.len() * per_cent / 100).min(all.len() - 1)]
}

async fn measure(stack: Resilience, by: DecidedBy, fault: Fault) {
    let (mut place, watch, mut figures) = (OneRedis::start(), Watch::default(), Figures::default());
    let stack: Arc<dyn Backend> = stack.observer(watch.clone()).around(place.store()).unwrap();
    let life = stack.lifespan().await.unwrap();
    let builder = Throttle::builder("figures").limit("1000000000/366d", FixedWindow::new());
    let throttle = builder.backend(Arc::clone(&stack)).build().unwrap();
    let (rounds, lasts) = if is_soak() { (30, 400..1200) } else { (1, 300..400) };
    let mut dice = Dice::new(1);
    for _ in 0..rounds {
        assert_eq!(throttle.hit("a").await.unwrap().decided_by(), DecidedBy::Backend);
        place.begin(fault);
        wait::eventually("the circuit opens", SOON, async || {
            drop(throttle.hit("a").await.unwrap());
            watch.is(CircuitState::Open).is_some()
        })
        .await;
        let (begun, length) = (wait::now(), lasts.start + dice.roll(lasts.end - lasts.start));
        // One after the other: of some thousands one is a probe, and waits.
        while begun.elapsed() < Duration::from_millis(length) {
            let start = wait::now();
            let decision = throttle.hit("a").await.unwrap();
            figures.hits.push(start.elapsed());
            assert_eq!(decision.decided_by(), by);
            tokio::task::yield_now().await;
        }
        place.end(fault, End::Lifted);
        let returned = wait::now();
        while watch.is(CircuitState::Closed).is_none() {
            assert!(returned.elapsed() < SOON, "the circuit does not close");
            drop(throttle.hit("a").await.unwrap());
            pause::pace(PACE).await;
        }
        let closed = watch.is(CircuitState::Closed).unwrap();
        figures.ways_back.push(closed.saturating_duration_since(returned));
    }
    life.close().await.unwrap();
    let Figures { hits, ways_back } = &mut figures;
    let [median, usual, longest] = [50, 99, 100].map(|per_cent| share(hits, per_cent));
    let [middle, latest] = [50, 100].map(|per_cent| share(ways_back, per_cent));
    println!(
        "{fault:?}, decided by {by:?}: {} hits while it was open: half within {median:?}, 99 of 100 within {usual:?}, \
         the longest {longest:?}; closed again half of {rounds} times within {middle:?}, at most {latest:?} after",
        hits.len()
    );
    let most = if is_soak() { USUAL_IN_SOAK } else { USUAL };
    assert!(usual <= most, "99 of 100 hits within {usual:?}, at most {most:?}");
    assert!(latest < BACK, "closed after {latest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f04_an_open_circuit_costs_a_hit_little_and_closes_soon() {
    for fault in [Fault::Silent, Fault::Mute] {
        let breaker = Resilience::new().circuit_breaker(CircuitBreakerOptions::new());
        measure(breaker, DecidedBy::Policy, fault).await;
        let stack = Resilience::recommended().fallback(InMemory::new());
        measure(stack, DecidedBy::Fallback, fault).await;
    }
}
