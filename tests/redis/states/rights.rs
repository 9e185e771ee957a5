//! The rights that the server's user needs: these suffice, and none is too many.

use std::time::Duration;

use traffik::backend::redis::LockType;
use traffik::{
    Backend, DecidedBy, ErrorKind, FixedWindow, Gcra, Key, LeakyBucket, LifespanExt, LockOptions,
    Locks, OnError, Rate, Redis, SlidingWindowCounter, SlidingWindowLog, Throttle, ThrottleBuilder,
    TokenBucket, Values,
};

use super::world::{Log, NAMESPACE, patient};
use test_support::servers::sentinel::SERVICE;
use test_support::servers::{RedisCluster, RedisServer, Sentinels, Value, wait};

/// What a reader copies.
const DOCS: &str = include_str!("../../../docs/redis.md");
/// Without these only comforts are lost: the probe of an idle connection, and the warning of eviction.
const COMFORTS: [&str; 2] = ["ping", "info"];
/// ... and on a cluster.
const OF_A_CLUSTER: [&str; 2] = ["cluster|slots", "asking"];

/// All commands of the documented user but for the comforts. Keys are those of the namespace.
fn needed() -> Vec<&'static str> {
    let start = DOCS.find("ACL SETUSER traffik on").expect("the documented user");
    let rule = &DOCS[start..start + DOCS[start..].find("```").unwrap()];
    assert!(rule.contains("-@all") && rule.contains("~shop:prod|*"), "{rule}");
    let commands = rule.split_whitespace().filter_map(|word| word.strip_prefix('+'));
    let (comforts, needed): (Vec<_>, Vec<_>) =
        commands.partition(|command| COMFORTS.contains(command));
    assert_eq!((comforts.len(), needed.len() > 10), (2, true), "{rule}");
    needed
}

fn user(commands: impl IntoIterator<Item = &'static str>) -> String {
    let commands: Vec<String> = commands.into_iter().map(|name| format!("+{name}")).collect();
    format!("ACL SETUSER app reset on >secret ~{NAMESPACE}|* {}", commands.join(" "))
}

fn url(server: &RedisServer) -> String {
    format!("redis://app:secret@127.0.0.1:{}", server.port())
}

/// The commands that were refused to somebody.
fn denied(server: &RedisServer) -> Vec<String> {
    let log = server.cmd("ACL LOG");
    let object = |entry: &Value| {
        let fields: Vec<String> = entry.array().iter().map(Value::text).collect();
        fields.chunks(2).find(|field| field[0] == "object").unwrap()[1].clone()
    };
    // The client library tells its name; it does not mind that it may not.
    log.array().iter().map(object).filter(|name| !name.starts_with("client")).collect()
}

type Outcome = Result<(), Box<dyn std::error::Error>>;

const STRATEGIES: usize = 6;

fn limit(builder: ThrottleBuilder, strategy: usize, rate: &str) -> ThrottleBuilder {
    match strategy {
        0 => builder.limit(rate, TokenBucket::new()),
        1 => builder.limit(rate, LeakyBucket::new()),
        2 => builder.limit(rate, Gcra::new()),
        3 => builder.limit(rate, FixedWindow::new()),
        4 => builder.limit(rate, SlidingWindowCounter::new()),
        _ => builder.limit(rate, SlidingWindowLog::new()),
    }
}

/// Each strategy alone, and each in each position beside others: until it denies, and all the rest.
async fn use_strategies(backend: &Redis) -> Outcome {
    let alone = (0..STRATEGIES).map(|only| vec![only]);
    let pairs = (0..STRATEGIES * STRATEGIES).map(|pair| vec![pair / STRATEGIES, pair % STRATEGIES]);
    let threes = (0..STRATEGIES).map(|it| vec![it, (it + 1) % STRATEGIES, (it + 2) % STRATEGIES]);
    for strategies in alone.chain(pairs).chain(threes) {
        let name = format!("rights {strategies:?}");
        let mut builder = Throttle::builder(name).backend(backend.clone()).on_error(OnError::Raise);
        for (strategy, rate) in strategies.iter().zip(["3/h", "4/2h", "5/3h"]) {
            builder = limit(builder, *strategy, rate);
        }
        let throttle = builder.deadline(Duration::from_secs(5)).build()?;
        let first = throttle.hit("a").await?;
        throttle.refund("a", first.receipt().ok_or("no receipt")?).await?;
        for number in 0..4 {
            let decision = throttle.hit("a").await?;
            assert_eq!(decision.decided_by(), DecidedBy::Backend);
            assert_eq!(decision.is_allowed(), number < 3, "{strategies:?}: {decision:?}");
            let _ = throttle.peek("a").await?;
        }
        throttle.reset("a").await?;
    }
    use_a_long_log(backend).await
}

/// A log that is read and written in parts: first in its place, and when its first entries expire, anew.
async fn use_a_long_log(backend: &Redis) -> Outcome {
    // Long enough for so many hits, on a busy machine too.
    let period = Duration::from_secs(2);
    let throttle = Throttle::builder("long log")
        .limit(Rate::new(1000, period)?, SlidingWindowLog::new())
        .backend(backend.clone())
        .on_error(OnError::Raise)
        .deadline(Duration::from_secs(5))
        .build()?;
    let (start, mut most) = (wait::now(), 0);
    while start.elapsed() < 2 * period {
        let _ = throttle.hit("a").await?;
        most = most.max(1000 - throttle.peek("a").await?.remaining());
    }
    // What fits into the first part of it is another case.
    assert!(most > 64, "only {most} entries at the same time");
    Ok(())
}

/// Everything that a backend can do.
async fn use_all(backend: &Redis) -> Outcome {
    let life = backend.lifespan().await?;
    use_strategies(backend).await?;
    let throttle = Throttle::builder("all")
        .rate("100/s")
        .limit("1000/min", FixedWindow::new())
        .limit("10000/h", SlidingWindowCounter::new())
        .limit("900/d", SlidingWindowLog::new())
        .backend(backend.clone())
        .on_error(OnError::Raise)
        .deadline(Duration::from_secs(5))
        .build()?;
    let decision = throttle.hit("a").await?;
    let _ = throttle.peek("a").await?;
    let receipt = decision.receipt().ok_or("no receipt")?;
    throttle.refund("a", receipt).await?;
    let _ = throttle.hit("a").await?;
    throttle.reset("a").await?;

    let (value, other) = (Key::value("v"), Key::value("w"));
    let minute = Some(Duration::from_secs(60));
    backend.set(&value, b"1", None).await?;
    backend.set(&value, b"1", minute).await?;
    let _ = backend.get(&value).await?;
    let _ = backend.increment(&value, 1).await?;
    let _ = backend.decrement(&value, 9).await?;
    let _ = backend.increment_with_ttl(&other, 1, Duration::from_secs(60)).await?;
    let _ = backend.expire(&value, Duration::from_secs(60)).await?;
    let _ = backend.compare_and_set(&value, Some(b"0"), Some(b"1"), minute.into()).await?;
    let _ = backend.multi_get(&[value, other]).await?;
    let value = Key::value("v");
    backend.multi_set(&[(value, b"1")], minute).await?;
    let _ = backend.delete(&Key::value("v")).await?;

    let options = LockOptions::new().ttl(minute);
    let guard = backend.lock("job", options).await?;
    assert!(guard.extend(Duration::from_secs(120)).await?);
    match backend.set_fenced(&guard, "v", Some(b"1"), None).await {
        // By Redlock there are no such values.
        Err(error) if error.kind() == ErrorKind::Unsupported => {}
        written => {
            assert!(written?);
            assert_eq!(backend.get_fenced("job", "v").await?.as_deref(), Some(&b"1"[..]));
        }
    }
    assert!(guard.release().await?);
    let leased = backend.lock("lease", LockOptions::new()).await?;
    assert!(leased.release().await?);

    backend.clear().await?;
    life.close().await?;
    Ok(())
}

#[tokio::test]
async fn f15_these_rights_suffice() {
    let log = Log::start();
    let server = RedisServer::start();
    server.cmd(&user(needed().into_iter().chain(COMFORTS)));
    let backend = patient().url(url(&server)).build().unwrap();
    use_all(&backend).await.unwrap();
    assert!(!log.text().contains("is not known"), "{}", log.text());
    assert_eq!(denied(&server), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f15_all_works_without_the_comforts() {
    let server = RedisServer::start();
    server.cmd(&user(needed()));
    let backend = patient().url(url(&server)).build().unwrap();
    use_all(&backend).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f15_none_of_these_rights_is_too_many() {
    let server = RedisServer::start();
    for missing in needed() {
        server.cmd("FLUSHALL");
        server.cmd("SCRIPT FLUSH");
        server.cmd(&user(needed().into_iter().filter(|name| *name != missing)));
        let backend = patient().url(url(&server)).build().unwrap();
        let outcome = use_all(&backend).await;
        let error = outcome.expect_err(&format!("all works without {missing}")).to_string();
        let names =
            ["NoPerm", "user executing the script", "ACL"].iter().any(|word| error.contains(word));
        assert!(names, "without {missing}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f15_these_rights_suffice_for_redlock() {
    let servers: Vec<RedisServer> = (0..4).map(|_| RedisServer::start()).collect();
    for server in &servers {
        server.cmd(&user(needed()));
    }
    let masters = servers[1..].iter().map(url).collect();
    let backend = patient().url(url(&servers[0])).lock_type(LockType::Redlock(masters));
    use_all(&backend.build().unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f15_these_rights_suffice_on_a_cluster() {
    let cluster = RedisCluster::start(3, 0);
    for node in cluster.nodes() {
        node.cmd(&user(needed().into_iter().chain(COMFORTS).chain(OF_A_CLUSTER)));
    }
    let urls: Vec<String> = cluster.nodes().iter().map(url).collect();
    let backend = patient().cluster(urls).build().unwrap();
    use_all(&backend).await.unwrap();
    for node in cluster.nodes() {
        assert_eq!(denied(node), [""; 0]);
    }
    // In the middle of a migration too.
    let slot = cluster.slot_of("states|v|x");
    let to = (cluster.master_of_slot(slot) + 1) % 3;
    cluster.begin_migration(slot, to);
    backend.initialize().await.unwrap();
    backend.set(&Key::value("x"), b"1", None).await.unwrap();
    assert!(cluster.nodes()[to].calls("asking") > 0);
    assert_eq!(denied(&cluster.nodes()[to]), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f15_these_rights_suffice_with_sentinels() {
    let mut sentinels = Sentinels::start();
    for server in sentinels.servers() {
        server.cmd(&user(needed().into_iter().chain(COMFORTS).chain(["role"])));
    }
    for sentinel in sentinels.sentinels() {
        sentinel.cmd("ACL SETUSER app reset on >secret +ping +sentinel|get-master-addr-by-name");
    }
    let urls: Vec<String> = sentinels.sentinels().iter().map(url).collect();
    let backend = patient().sentinels(urls, SERVICE).build().unwrap();
    use_all(&backend).await.unwrap();
    for server in sentinels.servers() {
        assert_eq!(denied(server), [""; 0]);
    }
}
