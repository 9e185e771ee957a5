//! The fields: their figures, and that each is a structured field.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::Full;
use proptest::prelude::*;
use sfv::{BareItem, List, ListEntry, Parser};
use tower::{Layer, ServiceExt, service_fn};
use traffik::http::{Everyone, Fields, FieldsOn, ThrottleLayer};
use traffik::{
    FixedWindow, HitOptions, Rate, SlidingWindowCounter, SlidingWindowLog, Throttle, TokenBucket,
};

use crate::support::{SECOND, backend, builder, field, read, request, throttle};

async fn headers(layer: &ThrottleLayer) -> HeaderMap {
    let inner = service_fn(async |_request: Request<Full<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Full::from("served")))
    });
    let response = layer.layer(inner).oneshot(request("/", "203.0.113.1")).await.unwrap();
    read(response).await.headers().clone()
}

/// The items of a field: the name of each limit with its parameters, read by an independent parser.
fn items(headers: &HeaderMap, name: &str) -> Vec<(String, Vec<(String, i64)>)> {
    let Some(text) = field(headers, name) else { return Vec::new() };
    let list: List = Parser::new(&text).parse().unwrap_or_else(|error| panic!("{text}: {error}"));
    let item = |entry: ListEntry| {
        let ListEntry::Item(item) = entry else { panic!("an inner list: {text}") };
        let BareItem::String(name) = &item.bare_item else { panic!("no string: {text}") };
        let number = |value: &BareItem| match value {
            BareItem::Integer(number) => i64::from(*number),
            other => panic!("{other:?} in {text}"),
        };
        let params =
            item.params.iter().map(|(key, value)| (key.as_str().to_owned(), number(value)));
        (name.as_str().to_owned(), params.collect())
    };
    list.into_iter().map(item).collect()
}

fn figure(params: &[(String, i64)], key: &str) -> Option<i64> {
    params.iter().find(|(name, _)| name == key).map(|(_, value)| *value)
}

#[tokio::test]
async fn each_limit_is_an_item_under_its_name() {
    let (backend, _clock) = backend();
    let api = builder("api", "10/s burst 20", &backend)
        .named("burst")
        .limit("5000/day", FixedWindow::new())
        .named("daily")
        .rate("3/10s")
        .build()
        .unwrap();
    let said = headers(&ThrottleLayer::new(api, Everyone)).await;
    assert_eq!(
        field(&said, "ratelimit-policy").unwrap(),
        "\"burst\";q=20;w=2, \"daily\";q=5000;w=86400, \"api/10s\";q=3;w=10"
    );
    let state = items(&said, "ratelimit");
    assert_eq!(state.len(), 3);
    // 19 units of 10 a second: not before 2 s.
    assert_eq!(state[0], ("burst".into(), vec![("r".into(), 19), ("t".into(), 2)]));
    assert_eq!(state[2], ("api/10s".into(), vec![("r".into(), 2), ("t".into(), 7)]));
}

#[tokio::test]
async fn a_window_is_left_out_that_is_not_whole_seconds() {
    for (rate, expected) in [
        ("100/min burst 150", "\"api/min\";q=150;w=90"),
        ("10/1500ms", "\"api/1500ms\";q=10"),
        ("3/s burst 1", "\"api/s\";q=1"),
        ("3/s burst 3", "\"api/s\";q=3;w=1"),
        ("1/500ms", "\"api/500ms\";q=1"),
        ("0/day", "\"api/day\";q=0"),
        ("4294967295/day", "\"api/day\";q=4294967295;w=86400"),
    ] {
        let (backend, _clock) = backend();
        let said = headers(&ThrottleLayer::new(throttle("api", rate, &backend), Everyone)).await;
        assert_eq!(field(&said, "ratelimit-policy").unwrap(), expected, "{rate}");
    }
}

#[tokio::test]
async fn an_unlimited_rate_says_nothing() {
    let (backend, _clock) = backend();
    let said = headers(&ThrottleLayer::new(throttle("api", "unlimited", &backend), Everyone)).await;
    assert_eq!(field(&said, "ratelimit"), None);
    assert_eq!(field(&said, "ratelimit-policy"), None);
}

#[tokio::test]
async fn the_older_fields_are_of_what_is_felt_first() {
    let (backend, _clock) = backend();
    let api = builder("api", "100/s", &backend).rate("2/min").build().unwrap();
    let layer = ThrottleLayer::new(api, Everyone).fields(Fields::XRateLimit);
    let figures = |said: &HeaderMap| {
        ["limit", "remaining", "reset"]
            .map(|name| field(said, &format!("x-ratelimit-{name}")).unwrap())
    };
    assert_eq!(figures(&headers(&layer).await), ["2", "1", "30"]);
    assert_eq!(figures(&headers(&layer).await), ["2", "0", "60"]);
    let denied = headers(&layer).await;
    assert_eq!(figures(&denied), ["2", "0", "30"], "the wait of a denial");
    assert_eq!(field(&denied, "retry-after").unwrap(), "30");
    assert_eq!(field(&denied, "ratelimit"), None);
}

#[tokio::test]
async fn fields_are_on_what_was_chosen() {
    let has =
        |said: &HeaderMap| [said.contains_key("ratelimit"), said.contains_key("x-ratelimit-limit")];
    for (fields, on, allowed, denied) in [
        (Fields::Draft11, FieldsOn::All, [true, false], [true, false]),
        (Fields::Both, FieldsOn::All, [true, true], [true, true]),
        (Fields::Both, FieldsOn::Allowed, [true, true], [false, false]),
        (Fields::Both, FieldsOn::Denied, [false, false], [true, true]),
        (Fields::None, FieldsOn::All, [false, false], [false, false]),
    ] {
        let (backend, _clock) = backend();
        let layer = ThrottleLayer::new(throttle("api", "1/min", &backend), Everyone);
        let layer = layer.fields(fields).fields_on(on);
        assert_eq!(has(&headers(&layer).await), allowed, "{fields:?} {on:?}");
        let said = headers(&layer).await;
        assert_eq!(has(&said), denied, "{fields:?} {on:?}");
        assert_eq!(field(&said, "retry-after").unwrap(), "60", "on each denial");
    }
}

/// A strategy with a rate that it can keep.
fn limited(kind: u8, limit: u32, period_ms: u64, burst: u32) -> Throttle {
    let (backend, _clock) = backend();
    let rate = Rate::new(limit, Duration::from_millis(period_ms)).unwrap();
    let builder = Throttle::builder("a \"b\" \\ c").backend(backend);
    match kind {
        0 => builder.limit(rate.burst(burst), TokenBucket::new()),
        1 => builder.limit(rate, FixedWindow::new()),
        2 => builder.limit(rate, SlidingWindowCounter::new()),
        _ => builder.limit(rate, SlidingWindowLog::new()),
    }
    .build()
    .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// What is said is true: never more than the quota, never faster than the policy, and the wait suffices.
    #[test]
    fn every_field_is_structured_and_promises_no_more_than_its_policy(
        kind in 0u8..4,
        limit in 1u32..200,
        period_ms in 1u64..100_000,
        burst in 1u32..300,
        cost in 1u32..20,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let throttle = limited(kind, limit, period_ms, burst);
            let rate = *throttle.limits()[0].rate();
            let rule = traffik::http::Rule::new(throttle, Everyone).cost(move |_| cost);
            let layer = ThrottleLayer::of_rules([rule]).fields(Fields::Both);
            for _ in 0..4 {
                let said = headers(&layer).await;
                let policy = items(&said, "ratelimit-policy");
                let state = items(&said, "ratelimit");
                prop_assert_eq!(policy.len(), 1);
                prop_assert_eq!(&policy[0].0, &state[0].0);
                let quota = figure(&policy[0].1, "q").unwrap();
                let left = figure(&state[0].1, "r").unwrap();
                prop_assert!(left <= quota);
                if let Some(window) = figure(&policy[0].1, "w") {
                    prop_assert!(window >= 1);
                    // The same rate: q over w is limit over period.
                    let micros = i128::from(window) * 1_000_000 * i128::from(rate.limit());
                    prop_assert_eq!(micros, i128::from(quota) * i128::try_from(rate.period().as_micros()).unwrap());
                }
                if let Some(seconds) = figure(&state[0].1, "t") {
                    prop_assert!(seconds >= 1);
                    if !said.contains_key("retry-after") {
                        let spread = i128::from(seconds) * 1_000_000 * i128::from(rate.limit());
                        let units = i128::from(left) * i128::try_from(rate.period().as_micros()).unwrap();
                        prop_assert!(spread >= units, "{left} units in {seconds} s of {rate}");
                    }
                }
            }
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn a_client_that_waits_as_it_is_told_passes() {
    for rate in ["3/s", "7/min burst 2", "1/1500ms", "5/3s"] {
        for strategy in 0..3 {
            let (backend, clock) = backend();
            let builder = Throttle::builder("api").backend(backend);
            let builder = match strategy {
                0 => builder.limit(rate, TokenBucket::new()),
                _ if rate.contains("burst") => continue,
                1 => builder.limit(rate, FixedWindow::new()),
                _ => builder.limit(rate, SlidingWindowCounter::new()),
            };
            let layer = ThrottleLayer::new(builder.build().unwrap(), Everyone);
            let mut denials = 0;
            for _ in 0..50 {
                let said = headers(&layer).await;
                let Some(wait) = field(&said, "retry-after") else { continue };
                denials += 1;
                clock.advance(SECOND * wait.parse().unwrap());
                let again = headers(&layer).await;
                assert_eq!(field(&again, "retry-after"), None, "{rate} by strategy {strategy}");
            }
            assert!(denials > 3, "{rate} by strategy {strategy}: {denials}");
        }
    }
}

#[tokio::test]
async fn brought_rates_have_their_own_policy() {
    let (backend, _clock) = backend();
    let rule = traffik::http::Rule::new(throttle("api", "5/min", &backend), Everyone)
        .options(|_| HitOptions::new().add_rates([Rate::per_hour(50)]));
    let said = headers(&ThrottleLayer::of_rules([rule])).await;
    assert_eq!(
        field(&said, "ratelimit-policy").unwrap(),
        "\"api/min\";q=5;w=60, \"api/h\";q=50;w=3600"
    );
    assert_eq!(items(&said, "ratelimit").len(), 2);
}

#[tokio::test]
async fn names_and_keys_cannot_break_a_field() {
    let (backend, _clock) = backend();
    // A name without control characters may have anything else.
    let name = "naïve \"quote\" \\ back, comma; q=9 \u{202e}";
    let layer =
        ThrottleLayer::new(throttle(name, "1/min", &backend), |request: &http::request::Parts| {
            request.uri.path().to_owned()
        })
        .fields(Fields::Both);
    for _ in 0..2 {
        let said = headers(&layer).await;
        for field in ["ratelimit", "ratelimit-policy"] {
            let items = items(&said, field);
            assert_eq!(items.len(), 1);
            assert_eq!(items[0].0, "na?ve \"quote\" \\ back, comma; q=9 ?/min");
        }
    }
}
