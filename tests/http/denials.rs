//! Denials: the status, the problem, and what a service makes of them.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use test_support::{Failing, Mode};
use tower::{Layer, ServiceExt, service_fn};
use traffik::backend::Stat;
use traffik::http::{
    DeniedReason, Everyone, Lookup, PeerAddr, Refusal, Rule, ThrottleLayer, header,
};
use traffik::strategy::{self, CorruptState, Op, State, Strategy, Verdict};
use traffik::{Backend, ErrorKind, HasCore, LifespanExt, OnError, Rate, Throttle, Timestamp};

use crate::support::{Answer, SECOND, backend, builder, field, read, request, throttle};

async fn answer(layer: &ThrottleLayer) -> Answer {
    answer_to(layer, request("/", "203.0.113.1")).await
}

async fn answer_to(layer: &ThrottleLayer, request: Request<Full<Bytes>>) -> Answer {
    let inner = service_fn(async |_request: Request<Full<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Full::from("served")))
    });
    read(layer.layer(inner).oneshot(request).await.unwrap()).await
}

fn problem(response: &Answer) -> Value {
    assert_eq!(field(response.headers(), "content-type").unwrap(), "application/problem+json");
    serde_json::from_slice(response.body()).unwrap()
}

#[tokio::test]
async fn a_denial_is_a_problem_with_the_limits_that_deny() {
    let (backend, _clock) = backend();
    let api = builder("api", "100/s", &backend).named("fast").rate("1/min").named("slow \"x\"");
    let layer = ThrottleLayer::new(api.build().unwrap(), PeerAddr::new());
    assert_eq!(answer(&layer).await.body(), "served");
    let denied = answer(&layer).await;
    assert_eq!(denied.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(
        problem(&denied),
        json!({
            "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
            "title": "Quota exceeded",
            "status": 429,
            "detail": "too many requests; retry after 60 seconds",
            "violated-policies": ["slow \"x\""],
        })
    );
}

#[tokio::test]
async fn a_wait_is_whole_seconds_and_at_least_one() {
    let (backend, clock) = backend();
    let layer = ThrottleLayer::new(throttle("api", "2/3s burst 1", &backend), Everyone);
    let retry_after = async || field(answer(&layer).await.headers(), "retry-after");
    assert_eq!(retry_after().await, None);
    for (passed, told) in [(0, "2"), (499, "2"), (1, "1"), (900, "1"), (99, "1")] {
        clock.advance(Duration::from_millis(passed));
        assert_eq!(retry_after().await.unwrap(), told, "after {passed} ms more");
    }
    clock.advance(Duration::from_millis(1));
    assert_eq!(retry_after().await, None, "the wait was the least one");
}

#[tokio::test]
async fn what_never_passes_has_no_wait() {
    let (backend, _clock) = backend();
    let layer = ThrottleLayer::new(throttle("closed", "0/day", &backend), Everyone);
    let denied = answer(&layer).await;
    assert_eq!(denied.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(field(denied.headers(), "retry-after"), None);
    assert_eq!(field(denied.headers(), "ratelimit").unwrap(), "\"closed/day\";r=0");
    assert_eq!(problem(&denied)["violated-policies"], json!(["closed/day"]));
    assert!(problem(&denied)["detail"].as_str().unwrap().contains("a retry does not help"));
}

#[tokio::test]
async fn a_blocked_key_is_told_so() {
    let (backend, _clock) = backend();
    let api = throttle("api", "10/s", &backend);
    api.block(Everyone, SECOND * 90).await.unwrap();
    let denied = answer(&ThrottleLayer::new(api, Everyone)).await;
    assert_eq!(denied.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(field(denied.headers(), "retry-after").unwrap(), "90");
    let problem = problem(&denied);
    let kind = "https://iana.org/assignments/http-problem-types#abnormal-usage-detected";
    assert_eq!((&problem["type"], &problem["violated-policies"]), (&json!(kind), &Value::Null));
}

#[tokio::test]
async fn a_store_that_fails_is_503_by_the_policy_and_by_raising() {
    for (policy, retry_after) in [(OnError::throttle(SECOND * 7), "7"), (OnError::Raise, "1")] {
        let failing: Arc<dyn Backend> = Arc::new(Failing::new(Mode::Fail(ErrorKind::Unavailable)));
        let api = Throttle::builder("api").rate("10/s").backend(failing).on_error(policy);
        let denied = answer(&ThrottleLayer::new(api.build().unwrap(), Everyone)).await;
        assert_eq!(denied.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(field(denied.headers(), "retry-after").unwrap(), retry_after);
        let kind = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity";
        assert_eq!(problem(&denied)["type"], json!(kind));
        assert_eq!(field(denied.headers(), "ratelimit"), None, "nobody knows the figures");
    }
    let failing: Arc<dyn Backend> = Arc::new(Failing::new(Mode::Fail(ErrorKind::Unavailable)));
    let open = Throttle::builder("api").rate("10/s").backend(failing).on_error(OnError::Allow);
    let served = answer(&ThrottleLayer::new(open.build().unwrap(), Everyone)).await;
    assert_eq!((served.status(), served.body()), (StatusCode::OK, &Bytes::from("served")));
}

/// Asked twice, the state would hold the hit twice, and the second answer would hide the first.
#[tokio::test]
async fn a_state_that_cannot_be_read_is_reported_once_and_the_policy_decides() {
    /// Cannot read what it has written.
    #[derive(Debug)]
    struct Forgetful;

    impl Strategy for Forgetful {
        fn evaluate(
            &self,
            _: &Rate,
            state: &mut State,
            now: Timestamp,
            _: u32,
            _: Op,
        ) -> Result<strategy::Answer, CorruptState> {
            if !state.is_fresh() {
                return Err(CorruptState("it was written"));
            }
            state.set(&[1]);
            let reset_at = now.saturating_add(Duration::from_secs(60));
            Ok(strategy::Answer { verdict: Verdict::Allowed, remaining: 1, reset_at })
        }
    }

    let (backend, _clock) = backend();
    let throttle = Throttle::builder("forgetful").limit("9/s", Forgetful).backend(backend.clone());
    let layer = ThrottleLayer::new(throttle.build().unwrap(), PeerAddr::new());
    assert_eq!(answer(&layer).await.status(), StatusCode::OK);
    assert_eq!(answer(&layer).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(backend.core().stat(Stat::Corrupt), 1);
}

#[tokio::test]
async fn a_denial_of_another_throttle_names_no_limit_of_this_one() {
    let (memory, _clock) = backend();
    let fallback = builder("fallback", "0/s", &memory).rate("5/min").build().unwrap();
    let policy = OnError::handler(move |_failure| {
        let fallback = fallback.clone();
        async move { fallback.hit("all").await.unwrap() }
    });
    let failing: Arc<dyn Backend> = Arc::new(Failing::new(Mode::Fail(ErrorKind::Unavailable)));
    let api = Throttle::builder("api").rate("10/s").rate("99/min").backend(failing);
    let denied = answer(&ThrottleLayer::new(api.on_error(policy).build().unwrap(), Everyone)).await;
    assert_eq!(denied.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(problem(&denied)["violated-policies"], json!([]));

    // What can never pass is known without the store.
    let failing: Arc<dyn Backend> = Arc::new(Failing::new(Mode::Fail(ErrorKind::Unavailable)));
    let closed = Throttle::builder("closed").rate("0/s").backend(failing).build().unwrap();
    let denied = answer(&ThrottleLayer::new(closed, Everyone)).await;
    assert_eq!(problem(&denied)["violated-policies"], json!(["closed/s"]));
}

#[tokio::test]
async fn a_mistake_of_the_program_is_500() {
    let (backend, _clock) = backend();
    let life = backend.lifespan().await.unwrap();
    let layer = ThrottleLayer::new(throttle("api", "10/s", &backend), Everyone);
    life.close().await.unwrap();
    let denied = answer(&layer).await;
    assert_eq!(denied.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(problem(&denied)["type"], "about:blank");
    assert_eq!(field(denied.headers(), "retry-after"), None);
}

#[tokio::test]
async fn whom_nobody_knows_is_answered_as_it_was_said() {
    let (backend, _clock) = backend();
    let api = throttle("api", "10/s", &backend);
    let refusal = Refusal::new(StatusCode::UNAUTHORIZED).detail("send your API key as x-api-key");
    let refusal = refusal.challenge(HeaderValue::from_static("ApiKey"));
    let layer = ThrottleLayer::new(api.clone(), header("x-api-key").or_refuse(refusal));
    let denied = answer(&layer).await;
    assert_eq!(denied.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(denied.headers()["www-authenticate"], "ApiKey");
    let problem = problem(&denied);
    assert_eq!(problem["detail"], "send your API key as x-api-key");
    assert_eq!(problem["title"], "Unauthorized");

    let mut nameless = request("/", "203.0.113.1");
    nameless.extensions_mut().clear();
    let denied = answer_to(&ThrottleLayer::new(api, PeerAddr::new()), nameless).await;
    assert_eq!(denied.status(), StatusCode::INTERNAL_SERVER_ERROR, "the server has to be set up");
}

#[tokio::test]
async fn a_service_answers_in_its_own_way() {
    let (backend, _clock) = backend();
    let told = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&told);
    let layer = ThrottleLayer::of_rules([
        Rule::new(throttle("clients", "1/min", &backend), PeerAddr::new()),
        Rule::new(throttle("all", "5/min", &backend), Everyone),
    ])
    .on_denied(move |denied| {
        let name = denied.deciding().unwrap().throttle().name().to_owned();
        log.lock().unwrap().push((denied.reason(), name, denied.wait().unwrap()));
    })
    .respond_with(|denied| {
        let wants_html = denied.request().headers.contains_key("accept");
        let mut response =
            Response::new(format!("{}: {}", denied.violated().join(", "), denied.detail()));
        *response.status_mut() = if wants_html { StatusCode::FOUND } else { denied.status() };
        response.headers_mut().insert("location", http::HeaderValue::from_static("/slow-down"));
        response
    });
    assert_eq!(answer(&layer).await.status(), StatusCode::OK);
    let denied = answer(&layer).await;
    assert_eq!(denied.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(denied.body(), "clients/min: too many requests; retry after 60 seconds");
    assert_eq!(field(denied.headers(), "retry-after").unwrap(), "60");
    assert!(field(denied.headers(), "ratelimit").is_some());
    assert_eq!(*told.lock().unwrap(), [(DeniedReason::Limited, "clients".to_owned(), SECOND * 60)]);
}

#[tokio::test]
async fn a_client_cannot_make_its_denial_a_success() {
    let (backend, _clock) = backend();
    let layer = ThrottleLayer::new(throttle("closed", "0/s", &backend), Everyone);
    let plain =
        crate::support::with_header(request("/", "::1"), "content-type", "application/grpc");
    assert_eq!(answer_to(&layer, plain).await.status(), StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn a_denial_that_is_only_looked_at_says_so() {
    let (backend, _clock) = backend();
    let switch = traffik::http::ModeSwitch::default();
    let told = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&told);
    let layer = ThrottleLayer::new(throttle("closed", "0/s", &backend), Everyone)
        .mode(&switch)
        .on_denied(move |denied| log.lock().unwrap().push(denied.is_enforced()));
    for mode in [traffik::http::Mode::Enforce, traffik::http::Mode::Shadow] {
        switch.set(mode);
        let _ = answer(&layer).await;
    }
    assert_eq!(*told.lock().unwrap(), [true, false]);
}

#[tokio::test]
async fn a_jitter_is_never_earlier_and_never_more() {
    let (backend, _clock) = backend();
    let api = throttle("api", "1/100s", &backend);
    let layer = ThrottleLayer::new(api, Everyone).jitter(SECOND * 50);
    let _first = answer(&layer).await;
    let mut told = Vec::new();
    for _ in 0..200 {
        let denied = answer(&layer).await;
        let seconds: u64 = field(denied.headers(), "retry-after").unwrap().parse().unwrap();
        let said = field(denied.headers(), "ratelimit").unwrap();
        assert!(said.ends_with(&format!(";t={seconds}")), "{said}");
        told.push(seconds);
    }
    assert!(told.iter().all(|seconds| (100..=150).contains(seconds)), "{told:?}");
    told.sort_unstable();
    told.dedup();
    assert!(told.len() > 20, "{told:?}");
}
