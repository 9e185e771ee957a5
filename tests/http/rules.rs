//! Several rules: what concerns a request, what it costs, and that they count together.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::{get, post};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use tower::{Layer, ServiceExt, service_fn};
use traffik::http::{
    Everyone, Lookup, PeerAddr, Rule, ThrottleLayer, header, matched_route, path, route,
};
use traffik::{HitOptions, Rate};

use crate::support::{Answer, backend, field, read, request, throttle, with_header};

async fn answer(layer: &ThrottleLayer, request: Request<Full<Bytes>>) -> Answer {
    let inner = service_fn(async |_request: Request<Full<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Full::from("served")))
    });
    read(layer.layer(inner).oneshot(request).await.unwrap()).await
}

async fn status(layer: &ThrottleLayer, request: Request<Full<Bytes>>) -> u16 {
    answer(layer, request).await.status().as_u16()
}

#[tokio::test]
async fn what_one_denies_costs_nothing_of_the_others() {
    let (backend, _clock) = backend();
    let all = throttle("all", "10/min", &backend);
    let layer = ThrottleLayer::of_rules([
        Rule::new(throttle("clients", "2/min", &backend), PeerAddr::new()),
        Rule::new(all.clone(), Everyone),
    ]);
    let mut statuses = Vec::new();
    for _ in 0..5 {
        statuses.push(status(&layer, request("/", "203.0.113.1")).await);
    }
    assert_eq!(statuses, [200, 200, 429, 429, 429]);
    assert_eq!(all.peek(Everyone).await.unwrap().remaining(), 8);

    let response = answer(&layer, request("/", "203.0.113.2")).await;
    assert_eq!(
        field(response.headers(), "ratelimit-policy").unwrap(),
        "\"clients/min\";q=2;w=60, \"all/min\";q=10;w=60"
    );
    let said = field(response.headers(), "ratelimit").unwrap();
    assert!(said.starts_with("\"clients/min\";r=1;t="), "{said}");
    assert!(said.contains("\"all/min\";r=7;t="), "{said}");
}

#[tokio::test]
async fn a_rule_concerns_only_what_it_says() {
    let (backend, _clock) = backend();
    let writes = Rule::new(throttle("writes", "1/min", &backend), Everyone)
        .only(Method::POST)
        .only(path("/items/**"))
        .skip(|request: &http::request::Parts| request.uri.query() == Some("dry-run"));
    let layer = ThrottleLayer::of_rules([writes]).skip(path("/items/health"));
    let post = |path: &str| {
        let mut request = request(path, "203.0.113.1");
        *request.method_mut() = Method::POST;
        request
    };
    assert_eq!(status(&layer, request("/items/1", "203.0.113.1")).await, 200, "a GET");
    assert_eq!(status(&layer, post("/other")).await, 200, "another path");
    assert_eq!(status(&layer, post("/items/1")).await, 200, "counted");
    assert_eq!(status(&layer, post("/items/2")).await, 429);
    assert_eq!(status(&layer, post("/items/2?dry-run")).await, 200, "skipped by the rule");
    assert_eq!(status(&layer, post("/items/health")).await, 200, "skipped by the layer");
    assert_eq!(
        status(&layer, post("/items/heal%74h")).await,
        429,
        "an unusual spelling is limited"
    );
}

#[tokio::test]
async fn routes_have_throttles_of_their_own_in_one_place() {
    let (backend, _clock) = backend();
    let layer = ThrottleLayer::of_rules([
        Rule::new(throttle("login", "1/min", &backend), PeerAddr::new()).only(route("/login")),
        Rule::new(
            throttle("routes", "2/min", &backend),
            (matched_route().or_share("unmatched"), PeerAddr::new()),
        ),
    ]);
    let app: Router = Router::new()
        .route("/login", post(async || "in"))
        .route("/items/{id}", get(async || "item"))
        .layer(layer);
    let status = async |method: Method, path: &str| {
        let mut request = request(path, "203.0.113.1").map(Body::new);
        *request.method_mut() = method;
        app.clone().oneshot(request).await.unwrap().status().as_u16()
    };
    assert_eq!(status(Method::POST, "/login").await, 200);
    assert_eq!(status(Method::POST, "/login").await, 429);
    // Each path of a route counts for the route.
    assert_eq!(status(Method::GET, "/items/1").await, 200);
    assert_eq!(status(Method::GET, "/items/2").await, 200);
    assert_eq!(status(Method::GET, "/items/3").await, 429);
    // All that match none count together.
    assert_eq!(status(Method::GET, "/a").await, 404);
    assert_eq!(status(Method::GET, "/b").await, 404);
    assert_eq!(status(Method::GET, "/c").await, 429);
}

#[tokio::test]
async fn a_request_has_its_cost_and_its_plan() {
    let (backend, _clock) = backend();
    let by_length = Rule::new(throttle("bytes", "100/min", &backend), Everyone).cost(|request| {
        let length =
            request.headers.get("content-length").and_then(|it| it.to_str().ok()?.parse().ok());
        length.unwrap_or(1)
    });
    let layer = ThrottleLayer::of_rules([by_length]);
    let sized = |length: &str| with_header(request("/", "203.0.113.1"), "content-length", length);
    assert_eq!(status(&layer, sized("60")).await, 200);
    assert_eq!(status(&layer, sized("60")).await, 429);
    assert_eq!(status(&layer, sized("40")).await, 200);
    let never = answer(&layer, sized("101")).await;
    assert_eq!(never.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(field(never.headers(), "retry-after"), None, "no wait helps");

    let identity = || header("x-api-key").or_refuse(StatusCode::UNAUTHORIZED);
    let plan = |key: Option<String>| match key.as_deref() {
        Some("gold") => HitOptions::new().replace_rates([Rate::per_hour(1000)]),
        _ => HitOptions::new(),
    };
    let key_of = |request: &http::request::Parts| {
        request.headers.get("x-api-key").and_then(|key| key.to_str().ok()).map(str::to_owned)
    };
    let sync = Rule::new(throttle("sync", "5/min", &backend), identity())
        .options(move |request| plan(key_of(request)));
    let awaited = Rule::new(throttle("awaited", "5/min", &backend), identity()).options_async(
        move |request| {
            let key = key_of(request);
            async move {
                tokio::task::yield_now().await;
                plan(key)
            }
        },
    );
    for (name, rule) in [("sync", sync), ("awaited", awaited)] {
        let layer = ThrottleLayer::of_rules([rule]);
        for (key, expected) in [
            ("gold", format!("\"{name}/h\";q=1000;w=3600")),
            ("lead", format!("\"{name}/min\";q=5;w=60")),
        ] {
            let response = answer(&layer, with_header(request("/", "::1"), "x-api-key", key)).await;
            assert_eq!(field(response.headers(), "ratelimit-policy").unwrap(), expected);
        }
    }
}

#[tokio::test]
async fn an_exempt_request_is_served_uncounted_by_that_rule_alone() {
    let (backend, _clock) = backend();
    let internal =
        Rule::new(throttle("external", "0/min", &backend), |request: &http::request::Parts| {
            traffik::ExemptIfNone((!request.headers.contains_key("x-internal")).then_some("all"))
        });
    let layer = ThrottleLayer::of_rules([internal]);
    assert_eq!(status(&layer, request("/", "::1")).await, 429);
    let response = answer(&layer, with_header(request("/", "::1"), "x-internal", "1")).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(field(response.headers(), "ratelimit"), None, "there is nothing to say");
}

#[tokio::test]
async fn the_wait_of_several_is_the_longest() {
    let (backend, clock) = backend();
    let layer = ThrottleLayer::of_rules([
        Rule::new(throttle("seconds", "1/s", &backend), PeerAddr::new()),
        Rule::new(throttle("minutes", "1/min", &backend), PeerAddr::new()),
    ]);
    assert_eq!(status(&layer, request("/", "::1")).await, 200);
    let denied = answer(&layer, request("/", "::1")).await;
    assert_eq!(field(denied.headers(), "retry-after").unwrap(), "60");
    clock.advance(Duration::from_secs(59));
    assert_eq!(status(&layer, request("/", "::1")).await, 429);
    clock.advance(Duration::from_secs(1));
    assert_eq!(status(&layer, request("/", "::1")).await, 200);
}

#[tokio::test]
async fn each_throttle_that_denies_tells_its_own_wait() {
    let (backend, _clock) = backend();
    let layer = ThrottleLayer::of_rules([
        Rule::new(throttle("seconds", "1/s", &backend), PeerAddr::new()),
        Rule::new(throttle("minutes", "1/min", &backend), PeerAddr::new()),
    ]);
    assert_eq!(status(&layer, request("/", "::1")).await, 200);
    let denied = answer(&layer, request("/", "::1")).await;
    let said = field(denied.headers(), "ratelimit").unwrap();
    assert_eq!(said, "\"seconds/s\";r=0;t=1, \"minutes/min\";r=0;t=60");
}

#[tokio::test]
async fn a_rule_can_keep_its_figures_to_itself() {
    let (backend, _clock) = backend();
    let layer = ThrottleLayer::of_rules([
        Rule::new(throttle("clients", "9/s", &backend), PeerAddr::new()),
        Rule::new(throttle("all", "1/min", &backend), Everyone).without_fields(),
    ])
    .fields(traffik::http::Fields::Both);
    let served = answer(&layer, request("/", "::1")).await;
    assert_eq!(field(served.headers(), "ratelimit-policy").unwrap(), "\"clients/s\";q=9;w=1");
    let told = field(served.headers(), "x-ratelimit-limit").unwrap();
    assert_eq!(told, "9", "of the narrowest that is told");
    let denied = answer(&layer, request("/", "::1")).await;
    assert_eq!(field(denied.headers(), "retry-after").unwrap(), "60");
    let problem = String::from_utf8(denied.into_body().to_vec()).unwrap();
    assert!(problem.contains("\"violated-policies\":[]"), "{problem}");
}

#[tokio::test]
async fn where_several_deny_each_field_tells_the_wait_of_the_one_that_decides() {
    let (backend, _clock) = backend();
    for (name, wide_is_told) in [("told", true), ("hidden", false)] {
        let wide = Rule::new(throttle(&format!("{name} all"), "1/h", &backend), Everyone);
        let layer = ThrottleLayer::of_rules([
            Rule::new(throttle(name, "1/min", &backend), PeerAddr::new()),
            if wide_is_told { wide } else { wide.without_fields() },
        ])
        .fields(traffik::http::Fields::XRateLimit);
        assert_eq!(answer(&layer, request("/", "::1")).await.status(), 200);
        let denied = answer(&layer, request("/", "::1")).await;
        let [after, reset] = ["retry-after", "x-ratelimit-reset"]
            .map(|name| field(denied.headers(), name).unwrap().to_owned());
        assert_eq!(after, "3600", "{name}");
        assert_eq!(reset, after, "{name}");
    }
}

#[tokio::test]
async fn a_closure_is_asked_once_for_each_request() {
    use std::sync::atomic::{AtomicU32, Ordering};

    let (backend, _clock) = backend();
    let asked = std::sync::Arc::new(AtomicU32::new(0));
    let counter = std::sync::Arc::clone(&asked);
    // On a store that has to be awaited.
    let store: std::sync::Arc<dyn traffik::Backend> =
        std::sync::Arc::new(test_support::Failing::around(backend, test_support::Mode::Slow));
    let awaited = traffik::Throttle::builder("awaited").rate("9/s").backend(store);
    let rule = Rule::new(awaited.build().unwrap(), Everyone).cost(move |_request| {
        counter.fetch_add(1, Ordering::Relaxed);
        1
    });
    let layer = ThrottleLayer::of_rules([rule]);
    assert_eq!(status(&layer, request("/", "::1")).await, 200);
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_layer_without_rules_limits_nothing() {
    let layer = ThrottleLayer::of_rules([]);
    assert_eq!(status(&layer, request("/", "::1")).await, 200);
}
