//! Metrics: names, units and labels, by a recorder that keeps what it is told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use test_support::{Failing, Mode as Failure};
use traffik::observe::{CircuitChanged, CircuitState, Event, Metrics, Observer};
use traffik::{
    ErrorKind, Exempt, HitOptions, InMemory, ManualClock, Mode, Rate, Throttle, ThrottleBuilder,
    all,
};

type Recorded = BTreeMap<String, DebugValue>;

/// Runs with a recorder of its own, and returns what was recorded, and all units.
fn recorded(work: impl Future<Output = ()>) -> (Recorded, BTreeSet<(String, Option<String>)>) {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    ::metrics::with_local_recorder(&recorder, || runtime.block_on(work));
    let (mut all, mut units) = (Recorded::new(), BTreeSet::new());
    for (key, unit, description, value) in snapshotter.snapshot().into_vec() {
        let (_, key) = key.into_parts();
        assert!(description.is_some(), "{key}");
        let expected = match key.name() {
            "traffik.request.duration" => Some("seconds"),
            "traffik.circuit.state" => None,
            _ => Some("count"),
        };
        assert_eq!(unit.as_ref().map(::metrics::Unit::as_str), expected, "{key}");
        units.insert((key.name().to_owned(), unit.map(|unit| unit.as_str().to_owned())));
        let labels: Vec<_> =
            key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        all.insert(format!("{} {}", key.name(), labels.join(" ")), value);
    }
    (all, units)
}

fn metered(name: &str, rate: &str) -> ThrottleBuilder {
    Throttle::builder(name).rate(rate).observer(Metrics::new())
}

fn counts(recorded: &Recorded, name: &str) -> Vec<(String, u64)> {
    let of_name = recorded.iter().filter_map(|(key, value)| {
        let labels = key.strip_prefix(name)?.strip_prefix(' ')?;
        match value {
            DebugValue::Counter(count) => Some((labels.to_owned(), *count)),
            other => panic!("{key}: {other:?}"),
        }
    });
    of_name.collect()
}

#[test]
fn hits_are_counted_by_what_became_of_them() {
    let (recorded, units) = recorded(async {
        let backend = InMemory::builder().clock(ManualClock::new()).build().unwrap();
        let api = metered("api", "2/min").near_limit(0).backend(backend.clone()).build().unwrap();
        let plan = HitOptions::new().replace_rates([Rate::per_hour(7)]);
        let _ = api.hit_many(["a", "a", "a", "b"]).await;
        let _ = api.hit_with("secret", plan).await.unwrap();
        let _ = api.hit_with("a", HitOptions::new().cost(3)).await.unwrap();
        let _ = api.hit(Exempt).await.unwrap();
        let other = metered("other", "9/min").backend(backend).build().unwrap();
        let _ = all().hit(&other, "a").hit(&api, "a").await.unwrap();
        api.set_mode(Mode::Shadow);
        let _ = api.hit("a").await.unwrap();
        api.set_mode(Mode::Off);
        let _ = api.hit("a").await.unwrap();
    });
    let label = |throttle, outcome, reason, decided_by, limit| {
        format!(
            "throttle={throttle} outcome={outcome} reason={reason} decided_by={decided_by} \
             limit={limit}"
        )
    };
    let mut expected = [
        (label("api", "allowed", "none", "backend", "api/min"), 3),
        (label("api", "allowed", "none", "backend", "brought"), 1),
        (label("api", "allowed", "none", "exempt", "none"), 1),
        (label("api", "allowed", "none", "off", "none"), 1),
        (label("api", "denied", "limited", "backend", "api/min"), 2),
        (label("api", "never", "never", "backend", "api/min"), 1),
        (label("api", "shadowed", "limited", "backend", "api/min"), 1),
        (label("other", "withdrawn", "none", "backend", "other/min"), 1),
    ];
    expected.sort();
    assert_eq!(counts(&recorded, "traffik.requests"), expected);
    let near = [("throttle=api limit=api/min".to_owned(), 1)];
    assert_eq!(counts(&recorded, "traffik.near_limit"), near);
    let mut times = 0;
    for (key, value) in &recorded {
        assert!(!key.contains("secret"), "{key}");
        if key.starts_with("traffik.request.duration ") {
            let DebugValue::Histogram(values) = value else { panic!("{key}: {value:?}") };
            times += values.len();
        }
    }
    assert_eq!(times, 11, "one for each hit");
    let unit = |name: &str, unit: &str| (name.to_owned(), Some(unit.to_owned()));
    assert!(units.contains(&unit("traffik.requests", "count")), "{units:?}");
    assert!(units.contains(&unit("traffik.request.duration", "seconds")), "{units:?}");
}

#[test]
fn times_are_in_seconds_and_failures_have_their_kind_and_effect() {
    let (recorded, _) = recorded(async {
        let silent = Failing::new(Failure::Hang);
        let api = metered("api", "2/min").deadline(Duration::from_millis(50)).backend(silent);
        let _ = api.build().unwrap().hit("a").await.unwrap();
        let down = Failing::new(Failure::Fail(ErrorKind::Unavailable));
        assert!(metered("api", "2/min").backend(down).build().unwrap().reset("a").await.is_err());
    });
    let failure = |operation, kind, effect| {
        let labels = format!("operation={operation} kind={kind} effect={effect}");
        (format!("throttle=api backend=failing {labels}"), 1)
    };
    assert_eq!(
        counts(&recorded, "traffik.backend.errors"),
        [failure("apply", "timeout", "ambiguous"), failure("forget", "unavailable", "not_applied")]
    );
    let key = "traffik.request.duration throttle=api outcome=denied decided_by=policy";
    let DebugValue::Histogram(times) = &recorded[key] else { panic!("{recorded:?}") };
    assert_eq!(times.iter().map(|time| time.into_inner()).collect::<Vec<_>>(), [0.05]);
}

#[test]
fn a_full_memory_and_circuits_are_counted() {
    let (recorded, _) = recorded(async {
        let full = InMemory::builder().max_keys(Some(1)).number_of_shards(1).build().unwrap();
        let api = metered("api", "2/min").backend(full).build().unwrap();
        let _ = api.hit_many(["a", "b"]).await;
        let metrics = Metrics::default();
        for (from, to) in [
            (CircuitState::Closed, CircuitState::Open),
            (CircuitState::Open, CircuitState::HalfOpen),
            (CircuitState::HalfOpen, CircuitState::Open),
        ] {
            metrics.on_event(&Event::CircuitChanged(CircuitChanged::new("redis", from, to)));
        }
    });
    let overflows = [("throttle=api outcome=denied".to_owned(), 1)];
    assert_eq!(counts(&recorded, "traffik.overflows"), overflows);
    let changes =
        [("backend=redis to=half_open".to_owned(), 1), ("backend=redis to=open".to_owned(), 2)];
    assert_eq!(counts(&recorded, "traffik.circuit.changes"), changes);
    let DebugValue::Gauge(state) = &recorded["traffik.circuit.state backend=redis"] else {
        panic!("{recorded:?}")
    };
    assert_eq!(state.into_inner(), 2.0);
}
