//! The service over loopback, scraped: it has every metric that the dashboard draws.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::Value;
use test_support::{Play, Scripted};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use traffik::backend::InMemoryBuilder;
use traffik::decorator::CircuitBreaker;
use traffik::http::serve;
use traffik::observe::Metrics;
use traffik::{Backend, ErrorKind, InMemory, Key, ManualClock, Values};

use super::app::{app, recorder};

const DASHBOARD: &str = include_str!("dashboard.json");

/// Asks, and returns the status and the body.
async fn ask(service: SocketAddr, method: &str, path: &str, client: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(service).await.unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: test\r\nx-api-key: {client}\r\ncontent-length: 0\r\n\
         connection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

/// Every expression of the dashboard.
fn expressions(dashboard: &Value, all: &mut Vec<String>) {
    match dashboard {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if name == "expr" || name == "query" => {
                        all.push(text.clone());
                    }
                    value => expressions(value, all),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| expressions(value, all)),
        _ => {}
    }
}

/// The metrics that a text names.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|char: char| !char.is_ascii_alphanumeric() && char != '_');
    words.filter(|word| word.starts_with("traffik_")).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scrape_has_every_metric_that_the_dashboard_draws_and_no_key() {
    let prometheus = recorder().unwrap().install_recorder().unwrap();
    // Room for two keys of each throttle, so that a third finds it full.
    let memory: InMemoryBuilder = InMemory::builder().clock(ManualClock::new());
    let memory = memory.max_keys(Some(4)).number_of_shards(1).build().unwrap();
    let backend: Arc<dyn Backend> = Arc::new(memory);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let service = listener.local_addr().unwrap();
    let app = app(Arc::clone(&backend), prometheus).unwrap();
    tokio::spawn(async move { serve(listener, app).await });

    let mut statuses = Vec::new();
    for _ in 0..12 {
        statuses.push(ask(service, "GET", "/", "alice").await.0);
    }
    assert_eq!(statuses, [[200; 10].as_slice(), &[429; 2]].concat(), "one of two is in shadow");
    for (client, status) in [("bob", 200), ("carol", 503)] {
        assert_eq!(ask(service, "GET", "/", client).await.0, status, "{client}");
    }
    let denied: Value = serde_json::from_str(&ask(service, "GET", "/denied", "").await.1).unwrap();
    let counts: Vec<_> = denied.as_array().unwrap().iter().map(|one| &one["denials"]).collect();
    assert_eq!(counts, [&Value::from(2), &Value::from(5)], "{denied}");
    assert_eq!(denied[1]["shadowed"], 5, "{denied}");
    assert_eq!(ask(service, "POST", "/mode/enforce", "").await.0, 200);
    assert_eq!(ask(service, "GET", "/", "bob").await.0, 200);
    assert_eq!(ask(service, "POST", "/mode/off", "").await.0, 200);
    assert_eq!(ask(service, "POST", "/mode/louder", "").await.0, 404);
    // A store behind a breaker, which opens.
    let store = Scripted::new();
    let breaker = CircuitBreaker::new(store.clone());
    breaker.observe(Metrics::new());
    store.plays(Play::Refuse(ErrorKind::Unavailable));
    for _ in 0..5 {
        assert!(breaker.get(&Key::value("a")).await.is_err());
    }
    // A store that fails.
    backend.close().await.unwrap();
    assert_eq!(ask(service, "GET", "/", "bob").await.0, 500);

    let (status, scrape) = ask(service, "GET", "/metrics", "").await;
    assert_eq!(status, 200);
    let scraped: BTreeSet<_> = scrape.lines().flat_map(metrics_in).collect();
    let mut drawn = Vec::new();
    expressions(&serde_json::from_str(DASHBOARD).unwrap(), &mut drawn);
    let drawn: BTreeSet<_> = drawn.iter().flat_map(|expression| metrics_in(expression)).collect();
    assert!(drawn.len() >= 5, "{drawn:?}");
    let missing: Vec<_> = drawn.difference(&scraped).collect();
    assert!(missing.is_empty(), "{missing:?} are not in the scrape:\n{scrape}");
    for said in [
        r#"throttle="clients",outcome="allowed",reason="none",decided_by="backend",limit="clients/s""#,
        r#"throttle="clients",outcome="denied",reason="limited",decided_by="backend",limit="clients/s""#,
        r#"throttle="clients",outcome="denied",reason="full",decided_by="overflow",limit="none""#,
        r#"throttle="strict",outcome="shadowed",reason="limited",decided_by="backend",limit="strict/s""#,
        r#"kind="closed",effect="not_applied""#,
        r#"traffik_circuit_state{backend="memory"} 2"#,
    ] {
        assert!(scrape.contains(said), "{said} is not in the scrape:\n{scrape}");
    }
    for key in ["alice", "bob", "carol"] {
        assert!(!scrape.contains(key), "{key} is in the scrape:\n{scrape}");
    }
}
