//! A whole service behind a proxy: a limit for all together, one for each client, plans by API key, and failed logins.
//! Redis in production, memory in tests.
//!
//! `cargo run --features axum,redis --example axum` serves on 127.0.0.1:3000, from memory, or from the Redis server
//! that `REDIS_URL` names. `cargo test --features axum,redis --example axum` runs the tests below.

use std::error::Error;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, request::Parts};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use tokio::net::TcpListener;
use traffik::http::{
    Charge, ClientAddr, Everyone, Lookup, Refusal, Rule, ThrottleLayer, extension, path, route,
    serve, shutdown_signal,
};
use traffik::{Backend, HitOptions, InMemory, LifespanExt, Rate, Redis, Throttle};

/// Who has that API key, and what the plan allows; a service would look it up.
#[derive(Clone)]
struct Customer {
    id: u64,
    plan: Rate,
}

fn customer_of(headers: &HeaderMap) -> Option<Customer> {
    match headers.get("x-api-key")?.as_bytes() {
        b"gold" => Some(Customer { id: 1, plan: Rate::per_minute(600) }),
        b"lead" => Some(Customer { id: 2, plan: Rate::per_minute(60) }),
        _ => None,
    }
}

async fn authenticate(mut request: Request, next: Next) -> Response {
    if let Some(customer) = customer_of(request.headers()) {
        request.extensions_mut().insert(customer);
    }
    next.run(request).await
}

fn plan(request: &Parts) -> HitOptions {
    match request.extensions.get() {
        Some(Customer { plan, .. }) => HitOptions::new().replace_rates([*plan]),
        None => HitOptions::new(),
    }
}

fn app(backend: Arc<dyn Backend>) -> Result<Router, Box<dyn Error>> {
    let throttle =
        |name, rate| Throttle::builder(name).rate(rate).backend(Arc::clone(&backend)).build();
    let client = ClientAddr::behind(["10.0.0.0/8", "127.0.0.1"])?;
    let refusal =
        Refusal::new(StatusCode::UNAUTHORIZED).challenge(HeaderValue::from_static("ApiKey"));
    let customer = extension(|customer: &Customer| customer.id).or_refuse(refusal);
    // What is in one layer counts together, narrow ones first.
    let everybody = ThrottleLayer::of_rules([
        Rule::new(throttle("clients", "20/s burst 40")?, client.clone()),
        Rule::new(throttle("service", "2000/s")?, Everyone),
    ]);
    let routes = ThrottleLayer::of_rules([
        Rule::new(throttle("logins", "5/min")?, client)
            .only(route("/login"))
            .charge(Charge::failures()),
        Rule::new(throttle("api", "60/min")?, customer).only(path("/api/**")).options(plan),
    ]);
    Ok(Router::new()
        .route("/login", post(login))
        .route("/api/items", get(async || "items\n"))
        .layer(routes)
        // Added later, so they come before: guesses of API keys are limited for each client.
        .layer(middleware::from_fn(authenticate))
        .layer(everybody)
        .route("/health", get(async || "ok\n")))
}

async fn login(password: String) -> StatusCode {
    if password == "secret" { StatusCode::OK } else { StatusCode::UNAUTHORIZED }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().init();
    let backend: Arc<dyn Backend> = match std::env::var("REDIS_URL") {
        Ok(url) => Arc::new(Redis::builder().url(&url).namespace("shop:prod").build()?),
        Err(_) => Arc::new(InMemory::new()),
    };
    let life = backend.lifespan().await?;
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("serving on http://{}", listener.local_addr()?);
    Ok(serve(listener, app(backend)?)
        .lifespan(life)
        .with_graceful_shutdown(shutdown_signal())
        .await?)
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use tower::ServiceExt;
    use traffik::ManualClock;
    use traffik::http::Peer;

    use super::*;

    /// The status of a request by nginx, for a client of that address.
    async fn status(app: &Router, method: &str, path: &str, client: &str, more: &str) -> u16 {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("x-forwarded-for", format!("198.51.100.9, {client}"))
            .body(Body::from(more.to_owned()))
            .unwrap();
        if path.starts_with("/api") && !more.is_empty() {
            request.headers_mut().insert("x-api-key", more.parse().unwrap());
        }
        request.extensions_mut().insert(Peer(([10, 0, 0, 1], 443).into()));
        app.clone().oneshot(request).await.unwrap().status().as_u16()
    }

    #[tokio::test]
    async fn failed_logins_are_limited_and_good_ones_are_not() {
        let app = app(Arc::new(InMemory::new())).unwrap();
        for _ in 0..10 {
            assert_eq!(status(&app, "POST", "/login", "203.0.113.1", "secret").await, 200);
        }
        for _ in 0..5 {
            assert_eq!(status(&app, "POST", "/login", "203.0.113.1", "guess").await, 401);
        }
        assert_eq!(status(&app, "POST", "/login", "203.0.113.1", "secret").await, 429);
        assert_eq!(status(&app, "POST", "/login", "203.0.113.2", "secret").await, 200);
    }

    #[tokio::test]
    async fn plans_differ_and_a_key_is_needed() {
        // On a clock that stands, so that nothing comes back meanwhile.
        let backend = InMemory::builder().clock(ManualClock::new()).build().unwrap();
        let app = app(Arc::new(backend)).unwrap();
        for none in ["", "invented"] {
            assert_eq!(status(&app, "GET", "/api/items", "203.0.113.1", none).await, 401);
        }
        for (key, allowed) in [("lead", 60), ("gold", 600)] {
            let mut served = 0;
            // Each from another client, so that their limit is not met.
            for client in 0..700 {
                let client = format!("203.0.{}.{}", client / 250, client % 250);
                served += usize::from(status(&app, "GET", "/api/items", &client, key).await == 200);
            }
            assert_eq!(served, allowed, "{key}");
        }
    }

    #[tokio::test]
    async fn guesses_of_keys_are_limited_for_each_client() {
        let backend = InMemory::builder().clock(ManualClock::new()).build().unwrap();
        let app = app(Arc::new(backend)).unwrap();
        let mut statuses = Vec::new();
        for guess in 0..50 {
            let key = format!("guess-{guess}");
            statuses.push(status(&app, "GET", "/api/items", "203.0.113.1", &key).await);
        }
        assert_eq!((statuses[39], statuses[40]), (401, 429));
    }

    #[tokio::test]
    async fn health_is_never_limited() {
        let app = app(Arc::new(InMemory::new())).unwrap();
        for _ in 0..100 {
            assert_eq!(status(&app, "GET", "/health", "203.0.113.1", "").await, 200);
        }
    }
}
