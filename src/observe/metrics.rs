//! [`Metrics`]: an observer that counts by the facade of the crate `metrics`.

use std::sync::Once;

use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

use super::{
    BackendFailed, CircuitChanged, CircuitState, DecisionMade, Event, NearLimit, Observer,
};
use super::{Overflowed, labels};

const REQUESTS: &str = "traffik.requests";
const DURATION: &str = "traffik.request.duration";
const NEAR_LIMIT: &str = "traffik.near_limit";
const OVERFLOWS: &str = "traffik.overflows";
const ERRORS: &str = "traffik.backend.errors";
const STATE: &str = "traffik.circuit.state";
const CHANGES: &str = "traffik.circuit.changes";

/// An observer that counts by the facade of the crate [`metrics`](::metrics), for whichever exporter the program
/// installs: names and units are in the manner of OpenTelemetry's `aspnetcore.rate_limiting.*`.
///
/// | metric | kind, unit | labels |
/// | --- | --- | --- |
/// | `traffik.requests` | counter, hits | `throttle`, `outcome`, `reason`, `decided_by`, `limit` |
/// | `traffik.request.duration` | histogram, seconds | `throttle`, `outcome`, `decided_by` |
/// | `traffik.near_limit` | counter, hits | `throttle`, `limit` |
/// | `traffik.overflows` | counter, hits | `throttle`, `outcome` |
/// | `traffik.backend.errors` | counter, calls | `throttle`, `backend`, `operation`, `kind`, `effect` |
/// | `traffik.circuit.state` | gauge: 0 closed, 1 half open, 2 open | `backend` |
/// | `traffik.circuit.changes` | counter, changes | `backend`, `to` |
///
/// * `outcome` is `allowed`, `denied` (for now), `never`, `shadowed` (allowed in [`Mode::Shadow`](crate::Mode::Shadow)
///   alone) or `withdrawn` (allowed, and not counted, since another entry of its [`all`](crate::all) was denied).
/// * `reason` is why it was denied, or would have been: `limited`, `never`, `full`, `policy`, `blocked`, else `none`.
/// * `decided_by` is `backend`, `fallback`, `exempt`, `unlimited`, `overflow`, `policy` or `off`.
/// * `limit` is the name of the limit that the decision names, `brought` for one that came with the hit, and `none`
///   where no limit was asked.
///
/// * An outage shows as `decided_by` `fallback` where there is one, else `policy`; where the policy is to raise errors
///   only as `traffik.backend.errors`, of which there are none of what a fallback decides. A circuit that does not close
///   is above 0, and 1 for a moment with each probe: alert on `> 0`.
/// * `traffik.circuit.state` is that of the breaker that changed last, of those around backends of one name: share one
///   breaker, and give an observer to its [`Resilience::observer`](crate::decorator::Resilience::observer) too. It
///   appears with the first change.
///
/// No label has a key, so their values are bounded by the throttles, limits and backends of the program.
///
/// Install the recorder before the first hit: what comes before is counted nowhere.
///
/// ```
/// use traffik::observe::Metrics;
/// use traffik::{InMemory, Throttle};
///
/// let api = Throttle::builder("api")
///     .rate("100/min")
///     .observer(Metrics::new())
///     .backend(InMemory::new())
///     .build()?;
/// # Ok::<(), traffik::BuildError>(())
/// ```
#[derive(Debug)]
pub struct Metrics {
    described: Once,
}

impl Metrics {
    /// Creates the observer. Give each throttle one, or share one in an `Arc`.
    #[must_use]
    pub const fn new() -> Self {
        Self { described: Once::new() }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Observer for Metrics {
    fn on_event(&self, event: &Event<'_>) {
        // With the first event, for by then the recorder is installed.
        self.described.call_once_force(|_after_a_panic| describe());
        match event {
            Event::Decision(made) => count_decision(made),
            Event::NearLimit(near) => count_near_limit(near),
            Event::Overflow(overflowed) => count_overflow(overflowed),
            Event::BackendFailed(failed) => count_failure(failed),
            Event::CircuitChanged(changed) => note_circuit(changed),
        }
    }
}

fn describe() {
    describe_counter!(REQUESTS, Unit::Count, "Hits that were decided.");
    describe_histogram!(DURATION, Unit::Seconds, "Time from the question to the decision.");
    describe_counter!(NEAR_LIMIT, Unit::Count, "Hits that passed and left little.");
    describe_counter!(OVERFLOWS, Unit::Count, "Hits on new keys that found the memory full.");
    describe_counter!(ERRORS, Unit::Count, "Hits and other calls whose backend failed.");
    describe_gauge!(STATE, "State of a circuit breaker: 0 closed, 1 half open, 2 open.");
    describe_counter!(CHANGES, Unit::Count, "Changes of the state of a circuit breaker.");
}

fn count_decision(made: &DecisionMade<'_>) {
    let outcome = labels::outcome(made);
    let decided_by = labels::decided_by(made.decided_by);
    let denial = made.denial.or_else(|| made.shadowed.map(|shadowed| shadowed.denial()));
    counter!(
        REQUESTS,
        "throttle" => made.throttle.to_owned(),
        "outcome" => outcome,
        "reason" => labels::reason(denial),
        "decided_by" => decided_by,
        "limit" => limit(made.limit, made.is_brought),
    )
    .increment(1);
    histogram!(
        DURATION,
        "throttle" => made.throttle.to_owned(),
        "outcome" => outcome,
        "decided_by" => decided_by,
    )
    .record(made.elapsed.as_secs_f64());
}

fn count_near_limit(near: &NearLimit<'_>) {
    counter!(
        NEAR_LIMIT,
        "throttle" => near.throttle.to_owned(),
        "limit" => limit(Some(near.limit), near.is_brought),
    )
    .increment(1);
}

fn count_overflow(overflowed: &Overflowed<'_>) {
    counter!(
        OVERFLOWS,
        "throttle" => overflowed.throttle.to_owned(),
        "outcome" => if overflowed.is_allowed { "allowed" } else { "denied" },
    )
    .increment(1);
}

fn count_failure(failed: &BackendFailed<'_>) {
    counter!(
        ERRORS,
        "throttle" => failed.throttle.to_owned(),
        "backend" => failed.backend.to_owned(),
        "operation" => failed.operation.to_owned(),
        "kind" => labels::kind(failed.kind),
        "effect" => labels::effect(failed.effect),
    )
    .increment(1);
}

fn note_circuit(changed: &CircuitChanged<'_>) {
    let backend = changed.backend.to_owned();
    let (number, to) = match changed.to {
        CircuitState::Closed => (0.0, "closed"),
        CircuitState::HalfOpen => (1.0, "half_open"),
        CircuitState::Open => (2.0, "open"),
    };
    gauge!(STATE, "backend" => backend.clone()).set(number);
    counter!(CHANGES, "backend" => backend, "to" => to).increment(1);
}

/// A label of bounded values: there is no bound to the names of limits that hits bring.
fn limit(name: Option<&str>, is_brought: bool) -> String {
    match name {
        None => "none".to_owned(),
        Some(_) if is_brought => "brought".to_owned(),
        Some(name) => name.to_owned(),
    }
}
