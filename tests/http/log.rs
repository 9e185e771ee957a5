//! What the log says of the mistakes that users of such layers make: once, and with what to set.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use test_support::Log;
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};
use traffik::Mode;
use traffik::http::{
    ClientAddr, Identity, Matcher, ModeSwitch, PeerAddr, RoutePattern, Rule, ThrottleLayer, path,
    route,
};

use crate::support::{backend, head, request, throttle, with_header};

/// What is logged meanwhile, at warn or above.
async fn logged(work: impl Future<Output = ()>) -> Vec<String> {
    logged_from(tracing::Level::WARN, work).await
}

async fn logged_from(level: tracing::Level, work: impl Future<Output = ()>) -> Vec<String> {
    let (log, _logging) = Log::of_thread(level);
    work.await;
    log.lines()
}

/// The one line that is said of a thousand and one requests.
async fn said_once(identity: impl Identity, of: Request<Full<Bytes>>) -> String {
    let of = head(of);
    let lines = logged(async {
        for _ in 0..1001 {
            let _ = identity.identify(&of);
        }
    })
    .await;
    assert_eq!(lines.len(), 1, "{lines:#?}");
    lines.into_iter().next().unwrap()
}

fn behind() -> ClientAddr {
    ClientAddr::behind(["10.0.0.0/8"]).unwrap()
}

#[tokio::test]
async fn a_header_from_a_peer_that_is_not_trusted() {
    for line in [
        said_once(
            PeerAddr::new(),
            with_header(request("/", "203.0.113.1"), "x-forwarded-for", "198.51.100.1"),
        )
        .await,
        said_once(
            behind(),
            with_header(request("/", "203.0.113.1"), "x-forwarded-for", "198.51.100.1"),
        )
        .await,
    ] {
        assert!(line.contains("peer=203.0.113.1") && line.contains("ClientAddr::behind"), "{line}");
    }
}

#[tokio::test]
async fn a_chain_in_which_all_are_trusted() {
    let chain = with_header(request("/", "10.0.0.1"), "x-forwarded-for", "10.7.7.7, 10.0.0.2");
    let line = said_once(behind(), chain).await;
    assert!(line.contains("client=10.7.7.7") && line.contains("narrower"), "{line}");
}

#[tokio::test]
async fn a_header_that_never_comes() {
    let line = said_once(behind(), request("/", "10.0.0.1")).await;
    assert!(line.contains("x-forwarded-for") && line.contains("ClientAddr::header"), "{line}");
}

#[tokio::test]
async fn a_header_that_comes_sometimes_is_no_mistake() {
    let identity = behind();
    let (without, with) = (head(request("/", "10.0.0.1")), request("/", "10.0.0.1"));
    let with = head(with_header(with, "x-forwarded-for", "198.51.100.1"));
    let lines = logged(async {
        for _ in 0..500 {
            let _ = identity.identify(&without);
        }
        let _ = identity.identify(&with);
        for _ in 0..2000 {
            let _ = identity.identify(&without);
        }
    })
    .await;
    assert_eq!(lines, Vec::<String>::new());
}

#[tokio::test]
async fn a_server_that_does_not_say_the_peer() {
    let mut nameless = request("/", "203.0.113.1");
    nameless.extensions_mut().clear();
    let line = said_once(PeerAddr::new(), nameless).await;
    assert!(line.contains("into_make_service_with_connect_info::<SocketAddr>()"), "{line}");
}

#[tokio::test]
async fn a_throttle_that_counts_a_request_twice() {
    let (backend, _clock) = backend();
    let layer = ThrottleLayer::new(throttle("api", "9/s", &backend), PeerAddr::new());
    let inner = service_fn(async |_request: Request<Full<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    });
    let service = ServiceBuilder::new().layer(layer.clone()).layer(layer).service(inner);
    let lines = logged(async {
        for _ in 0..3 {
            drop(service.clone().oneshot(request("/", "203.0.113.1")).await.unwrap());
        }
    })
    .await;
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(lines[0].contains("throttle=\"api\"") && lines[0].contains("add the layer once"));

    // By two rules of one layer.
    let api = throttle("both", "9/s", &backend);
    let both = [Rule::new(api.clone(), PeerAddr::new()), Rule::new(api, PeerAddr::new())];
    let inner = service_fn(async |_request: Request<Full<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    });
    let service = ThrottleLayer::of_rules(both).layer(inner);
    let lines = logged(async {
        for _ in 0..3 {
            drop(service.clone().oneshot(request("/", "203.0.113.1")).await.unwrap());
        }
    })
    .await;
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(lines[0].contains("throttle=\"both\""), "{lines:#?}");

    // Two throttles, or two keys of one, are no mistake.
    let outer = ThrottleLayer::new(throttle("outer", "9/s", &backend), PeerAddr::new());
    let inner = ThrottleLayer::new(throttle("outer", "9/s", &backend), traffik::http::Everyone);
    let served = service_fn(async |_request: Request<Full<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    });
    let service = ServiceBuilder::new().layer(outer).layer(inner).service(served);
    let lines = logged(async {
        drop(service.oneshot(request("/", "203.0.113.1")).await.unwrap());
    })
    .await;
    assert_eq!(lines, Vec::<String>::new());
}

#[tokio::test]
async fn a_route_that_no_request_matches() {
    let (login, items, skipped) = (route("/login"), path("/items/**"), path("/skipped"));
    let (mut request, other) = (head(request("/", "::1")), route("/"));
    let lines = logged(async {
        for _ in 0..3000 {
            assert!(!login.might_match(&request) && !items.might_match(&request));
            // What is never skipped is no mistake.
            assert!(!skipped.matches(&request));
        }
        // One that has matched is right.
        request.extensions.insert(RoutePattern("/".into()));
        assert!(other.might_match(&request));
        request.extensions.clear();
        for _ in 0..3000 {
            assert!(!other.might_match(&request));
        }
    })
    .await;
    assert_eq!(lines.len(), 2, "{lines:#?}");
    for (line, pattern) in lines.iter().zip(["/login", "/items/**"]) {
        assert!(line.contains(&format!("pattern=\"{pattern}\"")), "{line}");
        assert!(line.contains("limits nothing"), "{line}");
    }
}

#[tokio::test]
async fn no_line_says_a_key_or_what_a_client_wrote() {
    let (backend, _clock) = backend();
    let layer = ThrottleLayer::new(
        throttle("api", "0/s", &backend),
        traffik::http::Lookup::or_share(traffik::http::header("x-api-key"), "none"),
    );
    let inner = service_fn(async |_request: Request<Full<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    });
    let (log, _logging) = Log::of_thread(tracing::Level::DEBUG);
    let request = with_header(request("/secret-path", "203.0.113.1"), "x-api-key", "sk-secret");
    drop(layer.layer(inner).oneshot(request).await.unwrap());
    let text = log.text();
    assert!(text.contains("a request was denied"), "{text}");
    assert!(!text.contains("secret"), "{text}");
}

#[tokio::test]
async fn who_switches_a_limit_is_seen() {
    let (switch, limit) = (ModeSwitch::new(Mode::Shadow), throttle("api", "5/min", &backend().0));
    let lines = logged_from(tracing::Level::INFO, async {
        switch.set(Mode::Shadow);
        switch.set(Mode::Off);
        limit.set_mode(Mode::Enforce);
        limit.set_mode(Mode::Off);
    })
    .await;
    let [layer, throttle] = &lines[..] else { panic!("{lines:#?}") };
    assert!(
        layer.contains("the throttles of a layer were switched before=Shadow mode=Off"),
        "{layer}"
    );
    let said = "a throttle was switched throttle=\"api\" before=Enforce mode=Off";
    assert!(throttle.contains(said), "{throttle}");
}
