//! What a decision on Redis costs, against the bare commands and other limiters:
//!
//! ```sh
//! cargo bench -p traffik-peers --bench redis              # some two minutes
//! cargo bench -p traffik-peers --bench redis -- --quick   # a smoke run
//! cargo bench -p traffik-peers --bench redis -- bucket    # only cases with that in their name
//! ```
//!
//! It starts its own servers, prints a table, and writes `redis.json` into the target directory. Every
//! case is run by 64 tasks on one connection; the cases take turns, and a ratio is made within one round
//! and its median shown.

#![allow(clippy::disallowed_methods, reason = "a benchmark reads the real clock")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is its output")]
#![allow(clippy::unwrap_used, reason = "a benchmark ends by it")]

use std::future::Future;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use test_support::servers::RedisServer;
use traffik::backend::redis::LockType;
use traffik::decorator::Coalesce;
use traffik::redis::aio::{ConnectionLike, MultiplexedConnection};
use traffik::redis::{self, Cmd};
use traffik::{
    Backend, FixedWindow, Key, LockOptions, Locks, Rate, Redis, SlidingWindowCounter,
    SlidingWindowLog, Strategy, Throttle, Values,
};
use traffik_peers::{batches, machine, output};

const TASKS: usize = 64;

type Run = Box<dyn Fn(usize) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

struct Case {
    name: &'static str,
    /// What its rate is divided by, and how many of those it is compared to.
    against: Option<(&'static str, f64)>,
    /// The least ratio that is wanted.
    goal: Option<f64>,
    /// A divisor of the number of operations, for what is slow.
    slowness: usize,
    run: Run,
    rates: Vec<f64>,
}

fn case<F>(
    name: &'static str,
    against: Option<(&'static str, f64)>,
    goal: Option<f64>,
    one: impl Fn(usize) -> F + Send + Sync + 'static,
) -> Case
where
    F: Future<Output = ()> + Send + 'static,
{
    let one = Arc::new(one);
    let run: Run = Box::new(move |each| {
        let one = Arc::clone(&one);
        Box::pin(async move {
            let mut tasks = tokio::task::JoinSet::new();
            for task in 0..TASKS {
                let one = Arc::clone(&one);
                tasks.spawn(async move {
                    for _ in 0..each {
                        one(task).await;
                    }
                });
            }
            tasks.join_all().await;
        })
    });
    Case { name, against, goal, slowness: 1, run, rates: Vec::new() }
}

impl Case {
    fn slow(mut self, slowness: usize) -> Self {
        self.slowness = slowness;
        self
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // Cargo passes `--bench` when it is asked for benchmarks; a run of all tests starts them as well.
    if !arguments.iter().any(|argument| argument == "--bench" || argument == "--quick") {
        println!("measures nothing in a run of tests; use `cargo bench`");
        return ExitCode::SUCCESS;
    }
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let wanted = arguments.into_iter().filter(|argument| !argument.starts_with("--")).collect();
    runtime.block_on(measure(quick, wanted));
    ExitCode::SUCCESS
}

async fn measure(quick: bool, wanted: Vec<String>) {
    let server = RedisServer::start();
    let masters: Vec<RedisServer> = (0..3).map(|_| RedisServer::start()).collect();
    let mut head = machine::describe();
    let version = server.cmd("INFO server").field("redis_version").unwrap();
    head.push(format!("server: redis {version}, on the same machine by loopback"));
    for line in &head {
        println!("{line}");
    }
    let backend = Redis::builder().url(server.url()).command_timeout(Duration::from_secs(5));
    let backend = backend.build().unwrap();
    let mut cases = bare(&server).await;
    cases.extend(ours(&server, &backend).await);
    cases.extend(locks(&server, &masters));
    let mut notes = vec![
        "limitador with Redis was left out: its Redis storage does not compile without RocksDB"
            .into(),
    ];
    match trypema(&server, &version).await {
        Ok(case) => cases.push(case),
        Err(why) => notes.push(format!("trypema's Redis limiter was left out: {why}")),
    }
    if !wanted.is_empty() {
        // The first is what others are compared to.
        let mut number = 0;
        cases.retain(|case| {
            number += 1;
            number == 1 || wanted.iter().any(|part| case.name.contains(part))
        });
    }
    let (rounds, each) = if quick { (2, 40) } else { (7, 400) };
    for case in &cases {
        (case.run)(each / 10 + 1).await;
    }
    for _ in 0..rounds {
        for case in &mut cases {
            let each = (each / case.slowness).max(2);
            let start = Instant::now();
            (case.run)(each).await;
            case.rates.push((each * TASKS) as f64 / start.elapsed().as_secs_f64());
        }
    }
    notes.extend(commands_per_hit(&server, &backend).await);
    notes.push(stalled_master(&masters).await);
    let bucket =
        throttle(&backend, "bucket", traffik::TokenBucket::new(), Rate::per_hour(1_000_000_000));
    notes.push(batches::compare("token bucket", &bucket, rounds).await);
    report(&head, &cases, &notes);
}

/// A connection of the client's, without anything around it.
async fn connection(server: &RedisServer) -> MultiplexedConnection {
    let client = redis::Client::open(server.url()).unwrap();
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    client.get_multiplexed_async_connection_with_config(&config).await.unwrap()
}

/// A case that sends the same command all the time, but for the task's number at the end of its key.
fn raw(
    name: &'static str,
    against: Option<(&'static str, f64)>,
    connection: &MultiplexedConnection,
    command: Vec<Vec<u8>>,
    key: usize,
) -> Case {
    let connection = connection.clone();
    let command = Arc::new(command);
    case(name, against, None, move |task| {
        let (mut connection, command) = (connection.clone(), Arc::clone(&command));
        async move {
            let mut cmd = Cmd::new();
            for (index, word) in command.iter().enumerate() {
                if index == key {
                    cmd.arg([&word[..], &task.to_be_bytes()].concat());
                } else {
                    cmd.arg(word);
                }
            }
            let reply = connection.req_packed_command(&cmd).await.unwrap();
            reply.extract_error().unwrap();
        }
    })
}

async fn bare(server: &RedisServer) -> Vec<Case> {
    let mut connection = connection(server).await;
    let hash: String = redis::cmd("SCRIPT")
        .arg("LOAD")
        .arg("return 0")
        .query_async(&mut connection)
        .await
        .unwrap();
    let words = |line: &str| line.split(' ').map(|word| word.as_bytes().to_vec()).collect();
    vec![
        raw("no-op script", None, &connection, words(&format!("EVALSHA {hash} 1 k")), 3),
        raw("INCR", Some(("no-op script", 1.0)), &connection, words("INCR n"), 1),
    ]
}

fn throttle(
    backend: &(impl Backend + Clone),
    name: &str,
    strategy: impl Strategy,
    rate: Rate,
) -> Throttle {
    let throttle = Throttle::builder(name).rate(rate).strategy(strategy).backend(backend.clone());
    throttle.deadline(Duration::from_secs(5)).build().unwrap()
}

fn hits(
    name: &'static str,
    against: (&'static str, f64),
    goal: Option<f64>,
    throttle: Throttle,
) -> Case {
    case(name, Some(against), goal, move |task| {
        let throttle = throttle.clone();
        async move {
            let decision = throttle.hit(task as u64).await.unwrap();
            std::hint::black_box(decision.remaining());
        }
    })
}

/// All tasks hit one key.
fn hot(
    name: &'static str,
    against: (&'static str, f64),
    goal: Option<f64>,
    throttle: Throttle,
) -> Case {
    case(name, Some(against), goal, move |_task| {
        let throttle = throttle.clone();
        async move {
            let decision = throttle.hit("hot").await.unwrap();
            std::hint::black_box(decision.remaining());
        }
    })
}

async fn ours(server: &RedisServer, backend: &Redis) -> Vec<Case> {
    let no_op = ("no-op script", 1.0);
    let large = Rate::per_hour(1_000_000_000);
    let bucket = throttle(backend, "bucket", traffik::TokenBucket::new(), large);
    let recorded = record(server, &bucket).await;
    let mut cases = vec![raw(
        "token bucket, script called raw",
        Some(no_op),
        &connection(server).await,
        recorded,
        3,
    )];
    cases.push(hits("token bucket", no_op, Some(0.30), bucket.clone()));
    let against = ("token bucket, script called raw", 1.0);
    cases.push(hits("token bucket against its script", against, Some(0.9), bucket));
    let fixed = throttle(backend, "fixed", FixedWindow::new(), large);
    cases.push(hits("fixed window", no_op, None, fixed));
    let sliding = throttle(backend, "sliding", SlidingWindowCounter::new(), large);
    cases.push(hits("sliding window counter", no_op, None, sliding));
    let log = SlidingWindowLog::new().max_entries(10_000);
    let log = throttle(backend, "log", log, Rate::per_hour(10_000));
    for task in 0..4_u64 {
        // Filled, so that each further hit is denied on a log of 10,000 entries.
        let mut filling = tokio::task::JoinSet::new();
        for _ in 0..10_000 {
            let log = log.clone();
            filling.spawn(async move { log.hit(task).await.unwrap().is_allowed() });
        }
        filling.join_all().await;
    }
    cases.push(
        case("sliding window log of 10,000", Some(no_op), None, move |task| {
            let log = log.clone();
            async move {
                let decision = log.hit((task % 4) as u64).await.unwrap();
                std::hint::black_box(decision.remaining());
            }
        })
        .slow(10),
    );
    let alone = throttle(backend, "hot", traffik::TokenBucket::new(), large);
    cases.push(hot("hot key", no_op, None, alone));
    let coalesce = Coalesce::new(backend.clone());
    let together = throttle(&coalesce, "coalesced", traffik::TokenBucket::new(), large);
    cases.push(hot("hot key, coalesced", ("hot key", 1.0), Some(5.0), together));
    let two = Throttle::builder("two").rate(large).rate("1000000000/day").backend(backend.clone());
    let two = two.deadline(Duration::from_secs(5)).build().unwrap();
    cases.push(hits("two limits", no_op, None, two));
    let counting = backend.clone();
    cases.push(case("increment_with_ttl", Some(no_op), Some(0.65), move |task| {
        let backend = counting.clone();
        async move {
            let name = task.to_be_bytes();
            let ttl = Duration::from_secs(3600);
            backend.increment_with_ttl(&Key::value(&name), 1, ttl).await.unwrap();
        }
    }));
    cases
}

/// The command of a hit, as the server saw it, with its key at index 3.
async fn record(server: &RedisServer, throttle: &Throttle) -> Vec<Vec<u8>> {
    // The script is known to the server after this one.
    let _ = throttle.hit("a").await.unwrap();
    let mut monitor = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    monitor.write_all(b"MONITOR\r\n").unwrap();
    let mut lines = BufReader::new(monitor).lines().map(Result::unwrap);
    assert_eq!(lines.next().as_deref(), Some("+OK"));
    let _ = throttle.hit("a").await.unwrap();
    let line = lines.find(|line| line.contains("\"EVALSHA\"")).unwrap();
    unescape(&line)
}

/// The quoted words of a line of MONITOR.
fn unescape(line: &str) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut bytes = line.bytes();
    while bytes.by_ref().any(|byte| byte == b'"') {
        let mut word = Vec::new();
        while let Some(byte) = bytes.next().filter(|byte| *byte != b'"') {
            let byte = match byte {
                b'\\' => match bytes.next().unwrap() {
                    b'x' => {
                        let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
                        u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
                    }
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'a' => 7,
                    b'b' => 8,
                    plain => plain,
                },
                plain => plain,
            };
            word.push(byte);
        }
        words.push(word);
    }
    words
}

fn redlock(masters: &[RedisServer], home: &RedisServer) -> Redis {
    let lock_type = LockType::Redlock(masters.iter().map(RedisServer::url).collect());
    Redis::builder().url(home.url()).lock_type(lock_type).build().unwrap()
}

fn locks(server: &RedisServer, masters: &[RedisServer]) -> Vec<Case> {
    let single = Redis::builder().url(server.url()).command_timeout(Duration::from_secs(5));
    let cycle = |name, goal, backend: Redis| {
        case(name, Some(("no-op script", 2.0)), Some(goal), move |task| {
            let backend = backend.clone();
            async move {
                let options = LockOptions::new().ttl(Some(Duration::from_secs(10)));
                let lock = backend.lock(&format!("l{task}"), options).await.unwrap();
                assert!(lock.release().await.unwrap());
            }
        })
    };
    vec![
        cycle("lock and release", 0.5, single.build().unwrap()),
        cycle("redlock and release", 0.25, redlock(masters, server)).slow(4),
    ]
}

async fn trypema(server: &RedisServer, version: &str) -> Result<Case, String> {
    use ::trypema::redis::{RedisKey, RedisRateLimiterProvider};
    use ::trypema::{BucketSize, RateLimit, RateLimiterBuilder as _, WindowSize};
    let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
    if (numbers.next(), numbers.next()) < (Some(7), Some(2)) {
        return Err(format!("it needs Redis 7.2, and this server is {version}"));
    }
    let client = redis::Client::open(server.url()).unwrap();
    let manager = client.get_connection_manager().await.unwrap();
    let provider = RedisRateLimiterProvider::builder(manager)
        .prefix(RedisKey::try_from("bench").map_err(|error| error.to_string())?)
        .window_size(WindowSize::minutes_or_panic(1))
        .bucket_size(BucketSize::milliseconds_or_panic(10))
        .build()
        .map_err(|error| error.to_string())?;
    let provider = Arc::new(provider);
    Ok(case("trypema", Some(("no-op script", 1.0)), None, move |task| {
        let provider = Arc::clone(&provider);
        async move {
            let key = RedisKey::try_from(format!("k{task}")).unwrap();
            let rate = RateLimit::per_second_or_panic(1_000_000_000.0);
            provider.absolute().inc(&key, &rate, 1).await.unwrap();
        }
    }))
}

/// Commands that the server ran for a thousand hits.
async fn commands_per_hit(server: &RedisServer, backend: &Redis) -> Vec<String> {
    let four = Throttle::builder("four")
        .rates(["10/s", "100/min", "1000/h", "10000/day"])
        .backend(backend.clone())
        .build()
        .unwrap();
    let one = throttle(backend, "one", traffik::TokenBucket::new(), Rate::per_hour(1000));
    let mut notes = Vec::new();
    for (name, throttle) in [("one limit", one), ("four limits", four)] {
        let _ = throttle.hit("a").await.unwrap();
        server.words(&["CONFIG", "RESETSTAT"]).unwrap();
        for number in 0..1000_u64 {
            let _ = throttle.hit(number % 50).await.unwrap();
        }
        let ran = |command| server.calls(command) as f64 / 1000.0;
        let (by_hash, by_source) = (ran("evalsha"), ran("eval"));
        notes.push(format!("commands a hit, {name}: {by_hash} EVALSHA, {by_source} EVAL"));
    }
    notes
}

/// How long a redlock takes while one of its masters does not answer.
async fn stalled_master(masters: &[RedisServer]) -> String {
    let home = RedisServer::start();
    let backend = redlock(masters, &home);
    let options = LockOptions::new().ttl(Some(Duration::from_secs(10)));
    backend.lock("stall", options).await.unwrap().release().await.unwrap();
    masters[1].pause();
    let mut times = Vec::new();
    for _ in 0..20 {
        let start = Instant::now();
        let lock = backend.lock("stall", options).await.unwrap();
        times.push(start.elapsed().as_secs_f64() * 1e3);
        lock.release().await.unwrap();
    }
    masters[1].resume();
    times.sort_by(f64::total_cmp);
    format!(
        "redlock with one of three masters stalled: median {:.1} ms, longest {:.1} ms; each master has \
         50 ms",
        times[times.len() / 2],
        times[times.len() - 1]
    )
}

fn report(head: &[String], cases: &[Case], notes: &[String]) {
    println!("\n{:<34} {:>9} {:>7}  {:<34} goal", "case", "per s", "ratio", "of");
    let mut rows = Vec::new();
    for case in cases {
        let rate = output::median(&case.rates);
        let ratio = case.against.and_then(|(name, factor)| {
            let base = &cases.iter().find(|other| other.name == name)?.rates;
            let ratios: Vec<f64> =
                case.rates.iter().zip(base).map(|(ours, theirs)| ours * factor / theirs).collect();
            Some(output::median(&ratios))
        });
        let of = case.against.map_or(String::new(), |(name, factor)| match factor {
            1.0 => name.to_owned(),
            factor => format!("{factor} {name}s"),
        });
        let shown = ratio.map_or(String::new(), |ratio| format!("{ratio:.2}"));
        let goal = case.goal.map_or(String::new(), |goal| {
            let met = if ratio >= case.goal { "met" } else { "MISSED" };
            format!(">= {goal:.2}: {met}")
        });
        println!("{:<34} {rate:>9.0} {shown:>7}  {of:<34} {goal}", case.name);
        rows.push(json!({
            "case": case.name, "per_second": rate, "ratio": ratio, "of": of, "goal": case.goal,
            "rounds": case.rates,
        }));
    }
    for note in notes {
        println!("{note}");
    }
    let all = json!({ "head": head, "tasks": TASKS, "cases": rows, "notes": notes });
    let path = output::write(env!("CARGO_TARGET_TMPDIR"), "redis.json", &all).unwrap();
    println!("\nwritten to {}", path.display());
}
