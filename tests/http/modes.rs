//! Modes of throttles in a layer: one that is only looked at stands beside those that are enforced.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use parking_lot::Mutex;
use tower::{Layer, ServiceExt, service_fn};
use traffik::http::{
    Charge, Decisions, DeniedReason, Lookup, ModeSwitch, PeerAddr, Rule, ThrottleLayer, header,
};
use traffik::observe::{Event, Observer};
use traffik::{Backend, DecidedBy, Denial, Mode, Outcome};

use crate::support::{Answer, backend, builder, field, read, request, throttle, with_header};

async fn answer(layer: &ThrottleLayer, request: Request<Full<Bytes>>) -> Answer {
    let inner = service_fn(async |_request: Request<Full<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Full::from("served")))
    });
    read(layer.layer(inner).oneshot(request).await.unwrap()).await
}

/// What `on_denied` was told: the reason, the limits, and whether it is enforced.
type Told = Arc<Mutex<Vec<(DeniedReason, Vec<String>, bool)>>>;

fn telling(layer: ThrottleLayer) -> (ThrottleLayer, Told) {
    let told = Told::default();
    let log = Arc::clone(&told);
    let layer = layer.on_denied(move |denied| {
        log.lock().push((denied.reason(), denied.violated(), denied.is_enforced()));
    });
    (layer, told)
}

#[tokio::test]
async fn a_throttle_in_shadow_denies_no_request_and_tells_no_client() {
    let (backend, _clock) = backend();
    let strict = throttle("strict", "1/min", &backend);
    strict.set_mode(Mode::Shadow);
    let (layer, told) = telling(ThrottleLayer::new(strict.clone(), PeerAddr::new()));
    for shadowed in [None, Some(Denial::Limited), Some(Denial::Limited)] {
        let response = answer(&layer, request("/", "203.0.113.1")).await;
        assert_eq!(response.status(), StatusCode::OK);
        for name in ["ratelimit", "ratelimit-policy", "retry-after"] {
            assert_eq!(field(response.headers(), name), None, "{name}");
        }
        let decisions = response.extensions().get::<Decisions>().unwrap();
        assert_eq!(decisions.outcome(), Outcome::Allowed);
        let decision = decisions.of_throttle("strict").unwrap();
        assert_eq!(decision.shadowed().map(|it| it.denial()), shadowed);
    }
    let shadow = (DeniedReason::Limited, vec!["strict/min".to_owned()], false);
    assert_eq!(*told.lock(), [shadow.clone(), shadow]);

    strict.set_mode(Mode::Enforce);
    let denied = answer(&layer, request("/", "203.0.113.1")).await;
    assert_eq!(denied.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(field(denied.headers(), "ratelimit").is_some());
    strict.set_mode(Mode::Off);
    let passed = answer(&layer, request("/", "203.0.113.1")).await;
    assert_eq!((passed.status(), field(passed.headers(), "ratelimit")), (StatusCode::OK, None));
    assert_eq!(told.lock().len(), 3);
}

#[tokio::test]
async fn beside_others_a_shadow_is_not_told_and_takes_nothing_from_them() {
    let (backend, _clock) = backend();
    let (new, old) = (throttle("new", "1/min", &backend), throttle("old", "3/min", &backend));
    new.set_mode(Mode::Shadow);
    let (layer, told) = telling(ThrottleLayer::of_rules([
        Rule::new(new.clone(), PeerAddr::new()),
        Rule::new(old.clone(), PeerAddr::new()),
    ]));
    for left in ["2", "1", "0"] {
        let response = answer(&layer, request("/", "203.0.113.1")).await;
        assert_eq!(response.status(), StatusCode::OK);
        let said = field(response.headers(), "ratelimit").unwrap();
        assert!(said.starts_with(&format!("\"old/min\";r={left}")), "{said}");
    }
    let denied = answer(&layer, request("/", "203.0.113.1")).await;
    assert_eq!(denied.status(), StatusCode::TOO_MANY_REQUESTS);
    let body = String::from_utf8(denied.body().to_vec()).unwrap();
    assert!(body.contains("\"violated-policies\":[\"old/min\"]"), "{body}");
    let of = |name: &str, is_enforced| (DeniedReason::Limited, vec![name.to_owned()], is_enforced);
    let shadow = of("new/min", false);
    assert_eq!(*told.lock(), [shadow.clone(), shadow, of("old/min", true)]);
}

#[tokio::test]
async fn the_milder_of_two_modes_holds() {
    let (backend, _clock) = backend();
    for (of_layer, of_throttle, expected) in [
        (Mode::Enforce, Mode::Enforce, None),
        (Mode::Enforce, Mode::Shadow, Some(1)),
        (Mode::Shadow, Mode::Enforce, Some(1)),
        (Mode::Shadow, Mode::Off, Some(0)),
        (Mode::Off, Mode::Shadow, Some(0)),
        (Mode::Off, Mode::Enforce, Some(0)),
    ] {
        let zero = throttle("zero", "0/min", &backend);
        zero.set_mode(of_throttle);
        let layer = ThrottleLayer::new(zero, PeerAddr::new()).mode(&ModeSwitch::new(of_layer));
        let inner = service_fn(async |request: Request<Full<Bytes>>| {
            let decisions = request.extensions().get::<Decisions>().unwrap().iter().len();
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(decisions.to_string())))
        });
        let response = layer.layer(inner).oneshot(request("/", "203.0.113.1")).await.unwrap();
        let response = read(response).await;
        match expected {
            None => assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS),
            Some(decisions) => {
                assert_eq!(response.body(), decisions.to_string().as_bytes());
            }
        }
    }
}

#[tokio::test]
async fn whom_a_shadow_does_not_know_the_others_limit_all_the_same() {
    let (backend, _clock) = backend();
    let (new, old) = (throttle("new", "9/min", &backend), throttle("old", "1/min", &backend));
    new.set_mode(Mode::Shadow);
    let known = header("x-api-key").or_refuse(StatusCode::UNAUTHORIZED);
    let (layer, told) = telling(ThrottleLayer::of_rules([
        Rule::new(new.clone(), known),
        Rule::new(old.clone(), PeerAddr::new()),
    ]));
    let status = async |request| answer(&layer, request).await.status().as_u16();
    assert_eq!(status(request("/", "203.0.113.1")).await, 200);
    assert_eq!(status(request("/", "203.0.113.1")).await, 429, "the other is asked");
    let told = std::mem::take(&mut *told.lock());
    let reasons: Vec<_> = told.iter().map(|(reason, _, enforced)| (*reason, *enforced)).collect();
    assert_eq!(reasons, [(DeniedReason::Unidentified, false), (DeniedReason::Limited, true)]);
    new.set_mode(Mode::Enforce);
    let keyed = with_header(request("/", "203.0.113.2"), "x-api-key", "a");
    assert_eq!(status(keyed).await, 200);
    assert_eq!(status(request("/", "203.0.113.3")).await, 401);
}

#[tokio::test]
async fn a_shadow_is_charged_by_the_response_if_it_was_taken() {
    let (backend, _clock) = backend();
    let failures = throttle("failures", "1/min", &backend);
    failures.set_mode(Mode::Shadow);
    let rule = Rule::new(failures.clone(), PeerAddr::new()).charge(Charge::failures());
    let layer = ThrottleLayer::of_rules([rule]);
    for _ in 0..3 {
        let served = answer(&layer, request("/", "203.0.113.1")).await;
        assert_eq!(served.status(), StatusCode::OK);
        let peek = failures.peek(std::net::Ipv4Addr::new(203, 0, 113, 1)).await.unwrap();
        assert_eq!(peek.remaining(), 1, "given back");
    }
}

#[tokio::test]
async fn a_layer_in_shadow_blocks_nobody() {
    let (backend, _clock) = backend();
    let penalty = traffik::Penalty::block_for(crate::support::SECOND * 60).after(1);
    let strict = builder("strict", "1/min", &backend).penalty(penalty).build().unwrap();
    let layer = ThrottleLayer::new(strict.clone(), PeerAddr::new());
    let layer = layer.mode(&ModeSwitch::new(Mode::Shadow));
    for _ in 0..5 {
        assert_eq!(answer(&layer, request("/", "203.0.113.1")).await.status(), StatusCode::OK);
    }
    let client = std::net::Ipv4Addr::new(203, 0, 113, 1);
    assert_eq!(strict.hit(client).await.unwrap().denial(), Some(Denial::Blocked), "now");
}

#[tokio::test]
async fn a_mistake_of_a_shadow_is_served_and_of_one_that_is_enforced_not() {
    let (backend, _clock) = backend();
    backend.close().await.unwrap();
    for (mode, status) in [(Mode::Shadow, 200), (Mode::Off, 200), (Mode::Enforce, 500)] {
        let closed = throttle("closed", "9/min", &backend);
        closed.set_mode(mode);
        let layer = ThrottleLayer::new(closed, PeerAddr::new());
        let answered = answer(&layer, request("/", "203.0.113.1")).await;
        assert_eq!(answered.status(), status, "{mode:?}");
    }
}

#[derive(Debug, Default)]
struct Counting {
    hits: AtomicUsize,
    off: AtomicUsize,
}

impl Observer for Counting {
    fn on_event(&self, event: &Event<'_>) {
        let Event::Decision(made) = event else { return };
        self.hits.fetch_add(1, Ordering::Relaxed);
        if made.decided_by == DecidedBy::Off {
            self.off.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[tokio::test]
async fn an_observer_sees_the_hit_of_each_request_once() {
    let (backend, _clock) = backend();
    let seen = Arc::new(Counting::default());
    let api = builder("api", "2/min", &backend).observer(Arc::clone(&seen)).build().unwrap();
    let other = throttle("other", "9/min", &backend);
    let alone = ThrottleLayer::new(api.clone(), PeerAddr::new());
    let together = ThrottleLayer::of_rules([
        Rule::new(other, PeerAddr::new()),
        Rule::new(api.clone(), PeerAddr::new()),
    ]);
    let off = alone.clone().mode(&ModeSwitch::new(Mode::Off));
    let shadow = alone.clone().mode(&ModeSwitch::new(Mode::Shadow));
    for (layer, hits) in [(&alone, 1), (&together, 2), (&alone, 3), (&together, 4), (&shadow, 5)] {
        let _ = answer(layer, request("/", "203.0.113.1")).await;
        assert_eq!(seen.hits.load(Ordering::Relaxed), hits);
    }
    // Nobody is asked: there is no hit.
    let _ = answer(&off, request("/", "203.0.113.1")).await;
    let counted = (seen.hits.load(Ordering::Relaxed), seen.off.load(Ordering::Relaxed));
    assert_eq!(counted, (5, 0));
}
