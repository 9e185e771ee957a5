//! The Memcached backend against the bare client, on a server that it starts itself:
//!
//! ```sh
//! cargo bench -p traffik-peers --bench memcached             # some two minutes
//! cargo bench -p traffik-peers --bench memcached -- --quick  # a smoke run
//! ```
//!
//! 64 tasks hit for a fixed time; all cases take turns, and the median of the rounds counts. Only the
//! ratios inside one run mean anything. It prints a table and writes `memcached.json` into the target
//! directory.

#![allow(clippy::disallowed_methods, reason = "a benchmark reads the real clock")]
#![allow(clippy::print_stdout, reason = "this is its output")]
#![allow(clippy::unwrap_used, reason = "a benchmark ends by it")]
#![allow(missing_docs, reason = "a program")]

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use memcache_async::ascii::Protocol;
use serde_json::{Value, json};
use test_support::servers::MemcachedServer;
use traffik::{FixedWindow, Limit, Memcached, Throttle, TokenBucket};
use traffik_peers::{batches, machine, output};

const TASKS: usize = 64;
const KEYS: usize = 100;

type Running = Pin<Box<dyn Future<Output = u64> + Send>>;

/// A connection without a pool or a guard.
type Bare = tokio::sync::Mutex<Option<Protocol<tokio::net::TcpStream>>>;

/// What is measured: one task's work until it is told to stop.
struct Case {
    name: String,
    start: Box<dyn Fn(usize, Arc<AtomicBool>) -> Running>,
    rates: Vec<f64>,
}

impl Case {
    fn new(
        name: impl Into<String>,
        start: impl Fn(usize, Arc<AtomicBool>) -> Running + 'static,
    ) -> Self {
        Self { name: name.into(), start: Box::new(start), rates: Vec::new() }
    }

    /// The bare client, with a connection for each task, which stays over the rounds.
    fn bare(name: &str, port: u16) -> Self {
        let clients: Vec<Arc<Bare>> = (0..TASKS).map(|_| Arc::default()).collect();
        Self::new(name, move |task, stop| {
            let client = Arc::clone(&clients[task]);
            Box::pin(async move {
                let mut client = client.lock().await;
                let keys: Vec<String> = (0..KEYS).map(|key| format!("bare{task}:{key}")).collect();
                if client.is_none() {
                    let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                    stream.set_nodelay(true).unwrap();
                    let client = client.insert(Protocol::new(stream));
                    for key in &keys {
                        let _ = client.add(key, b"1000000000000000000", 0).await;
                    }
                }
                let client = client.as_mut().unwrap();
                let mut count = 0;
                while !stop.load(Ordering::Relaxed) {
                    let key = &keys[count % KEYS];
                    let (value, version) = client.gets_cas(key).await.unwrap();
                    assert!(client.cas(key, &value, version, 0).await.unwrap());
                    count += 1;
                }
                count as u64
            })
        })
    }

    /// Hits of a throttle, on keys of each task's own or all on one.
    fn hits(name: impl Into<String>, backend: &Memcached, limit: Limit, hot: bool) -> Self {
        let name = name.into();
        let rate = *limit.rate();
        let builder = Throttle::builder(&name).backend(backend.clone()).deadline(DEADLINE);
        let builder = builder.rate(rate).strategy(Arc::clone(limit.strategy()));
        let throttle = builder.build().unwrap();
        Self::new(name, move |task, stop| {
            let throttle = throttle.clone();
            Box::pin(async move {
                let keys: Vec<String> = (0..KEYS).map(|key| format!("{task}:{key}")).collect();
                let mut count = 0;
                while !stop.load(Ordering::Relaxed) {
                    let key = if hot { "hot" } else { &keys[count % KEYS] };
                    let decision = throttle.hit(key).await.unwrap();
                    assert_eq!(decision.decided_by(), traffik::DecidedBy::Backend, "{decision:?}");
                    count += 1;
                }
                count as u64
            })
        })
    }

    fn run(&mut self, runtime: &tokio::runtime::Runtime, time: Duration) {
        let stop = Arc::new(AtomicBool::new(false));
        let start = Instant::now();
        let count: u64 = runtime.block_on(async {
            let tasks: Vec<_> = (0..TASKS)
                .map(|task| tokio::spawn((self.start)(task, Arc::clone(&stop))))
                .collect();
            tokio::time::sleep(time).await;
            stop.store(true, Ordering::Relaxed);
            let mut sum = 0;
            for task in tasks {
                sum += task.await.unwrap();
            }
            sum
        });
        #[allow(clippy::cast_precision_loss, reason = "a rate")]
        self.rates.push(count as f64 / start.elapsed().as_secs_f64());
    }

    fn median(&self) -> f64 {
        output::median(&self.rates)
    }
}

const DEADLINE: Duration = Duration::from_secs(10);

fn cases(port: u16) -> Vec<Case> {
    let builder = |size| Memcached::builder().port(port).pool_size(size).command_timeout(DEADLINE);
    let pool = |size| builder(size).build().unwrap();
    let fixed = || Limit::new("1000000000/h".parse().unwrap(), FixedWindow::new()).unwrap();
    let denied = || Limit::new("1/h".parse().unwrap(), FixedWindow::new()).unwrap();
    let bucket = || Limit::new("1000000000/h".parse().unwrap(), TokenBucket::new()).unwrap();
    let large = pool(64);
    let tracked = builder(64).namespace("tracked").track_keys(true).build().unwrap();
    let mut cases = vec![
        Case::bare("bare gets and cas", port),
        Case::hits("fixed window", &large, fixed(), false),
        Case::hits("fixed window, one key", &large, fixed(), true),
        Case::hits("fixed window, denied", &large, denied(), false),
        Case::hits("fixed window, tracked", &tracked, fixed(), false),
        Case::hits("token bucket", &large, bucket(), false),
        Case::hits("token bucket, one key", &large, bucket(), true),
    ];
    for size in [1, 2, 4, 8, 16, 32] {
        let name = format!("fixed window, pool of {size}");
        cases.push(Case::hits(name, &pool(size), fixed(), false));
    }
    cases
}

/// Each goal: a case, what it is compared with, and the least ratio.
const GOALS: [(&str, &str, f64); 5] = [
    ("fixed window", "bare gets and cas", 0.9),
    ("token bucket", "bare gets and cas", 0.9),
    ("fixed window, tracked", "bare gets and cas", 0.8),
    ("fixed window, one key", "fixed window", 1.0),
    ("token bucket, one key", "token bucket", 1.0),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let quick = arguments.iter().any(|argument| argument == "--quick");
    if !quick && !arguments.iter().any(|argument| argument == "--bench") {
        println!("measures nothing in a run of tests; use `cargo bench`");
        return;
    }
    let (rounds, time) =
        if quick { (3, Duration::from_millis(200)) } else { (9, Duration::from_secs(1)) };
    let server = MemcachedServer::start();
    let mut head = machine::describe();
    let version = server.command("version\r\n");
    head.push(format!("server: memcached {}, on the same machine by loopback", version.trim_end()));
    for line in &head {
        println!("{line}");
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut cases = cases(server.port());
    for round in 0..=rounds {
        for case in &mut cases {
            case.run(&runtime, time);
            if round == 0 {
                // Warm-up: connections, and the first hit of each key.
                case.rates.clear();
            }
        }
    }
    let of = |name: &str| cases.iter().find(|case| case.name == name).unwrap().median();
    println!("{TASKS} tasks, medians of {rounds} rounds, hits a second\n");
    for case in &cases {
        println!("{:32} {:>9.0}", case.name, case.median());
    }
    println!();
    for (name, base, goal) in GOALS {
        let ratio = of(name) / of(base);
        println!("{name} / {base}: {ratio:.2} (goal {goal:.2})");
    }
    let backend =
        Memcached::builder().port(server.port()).command_timeout(DEADLINE).build().unwrap();
    let batched = Throttle::builder("many").limit("1000000000/h", FixedWindow::new());
    let batched = batched.backend(backend).deadline(DEADLINE).build().unwrap();
    let note = runtime.block_on(batches::compare("fixed window", &batched, rounds));
    println!("{note}");
    let path = write(&head, &cases, &note, quick);
    println!("\nwritten to {}", path.display());
}

fn write(head: &[String], cases: &[Case], note: &str, quick: bool) -> PathBuf {
    let of = |name: &str| cases.iter().find(|case| case.name == name).unwrap().median();
    let rates: Value = cases
        .iter()
        .map(|case| (case.name.clone(), json!({ "median": case.median(), "rounds": case.rates })))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let goals: Vec<Value> = GOALS
        .iter()
        .map(|(name, base, goal)| {
            json!({ "case": name, "over": base, "ratio": of(name) / of(base), "goal": goal })
        })
        .collect();
    let report = json!({
        "head": head, "tasks": TASKS, "quick": quick, "per_second": rates, "goals": goals, "note": note,
    });
    output::write(env!("CARGO_TARGET_TMPDIR"), "memcached.json", &report).unwrap()
}
