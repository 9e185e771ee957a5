//! Several nodes, of which one fails; and servers that have fewer connections than a pool.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use traffik::{
    Backend, BackendError, Decision, Effect, ErrorKind, FixedWindow, LifespanExt, Memcached,
    SlidingWindowLog, Throttle,
};

use crate::world::{PATIENCE, builder, hit, limit, url};
use test_support::servers::{MemcachedServer, RedisServer, wait, wait_until, web_server};

const KEYS: usize = 90;

/// As a service has it, with the times that it has by default.
fn on_nodes(servers: &[MemcachedServer], track_keys: bool) -> Arc<Memcached> {
    let builder = Memcached::builder().namespace("test").track_keys(track_keys).persistent(false);
    let builder = servers.iter().fold(builder, |builder, server| builder.url(url(server)));
    Arc::new(builder.build().unwrap())
}

/// Which node has each key, by where it was written.
async fn homes(backend: &Memcached, servers: &[MemcachedServer]) -> Vec<usize> {
    let limits = [limit("1000000/h", FixedWindow::new())];
    let mut homes = Vec::new();
    for key in 0..KEYS {
        let before: Vec<u64> = servers.iter().map(|server| server.stat("cmd_set")).collect();
        assert!(hit(backend, &key.to_string(), &limits).await.unwrap().is_allowed());
        let written = |(server, before): (&MemcachedServer, &u64)| server.stat("cmd_set") > *before;
        homes.push(servers.iter().zip(&before).position(written).unwrap());
    }
    homes
}

/// Hits of each key at the same time, and again, within the deadline that a throttle has by default.
async fn hits(
    backend: &Arc<Memcached>,
    rounds: usize,
) -> Vec<(usize, Result<Decision, Option<BackendError>>)> {
    let mut tasks = tokio::task::JoinSet::new();
    for key in 0..KEYS {
        let backend = Arc::clone(backend);
        tasks.spawn(async move {
            let limits = [limit("1000000/h", FixedWindow::new())];
            let name = key.to_string();
            let mut answers = Vec::new();
            for _ in 0..rounds {
                let answer = timeout(Throttle::DEFAULT_DEADLINE, hit(&*backend, &name, &limits));
                answers.push((key, answer.await.map_err(|_| None).and_then(|it| it.map_err(Some))));
            }
            answers
        });
    }
    tasks.join_all().await.into_iter().flatten().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f04_a_node_that_stands_still_fails_no_hit_on_the_others() {
    for track_keys in [false, true] {
        let servers = [(); 3].map(|()| MemcachedServer::start());
        let backend = on_nodes(&servers, track_keys);
        let homes = homes(&backend, &servers).await;
        servers[1].pause();
        let (mut failed, mut served) = (0, 0);
        for (key, answer) in hits(&backend, 4).await {
            if homes[key] == 1 {
                failed += usize::from(answer.is_err());
            } else {
                assert!(answer.is_ok(), "tracked: {track_keys}, node {}: {answer:?}", homes[key]);
                served += 1;
            }
        }
        assert!(failed > 20 && served > 100, "{failed} failed, {served} served");
        // New keys, of which the backend knows nothing.
        let limits = [limit("5/h", FixedWindow::new())];
        let mut new = 0;
        for number in 0..30 {
            new += usize::from(hit(&*backend, &format!("new{number}"), &limits).await.is_ok());
        }
        assert!((12..30).contains(&new), "{new} of 30 new keys are on the others");
        servers[1].resume();
        wait_until_all_pass(&backend).await;
    }
}

async fn wait_until_all_pass(backend: &Arc<Memcached>) {
    let all_pass = async || hits(backend, 1).await.iter().all(|(_, answer)| answer.is_ok());
    wait::eventually("all nodes answer", PATIENCE, all_pass).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f17_a_service_starts_and_is_ready_while_some_node_answers() {
    let mut servers = [(); 3].map(|()| MemcachedServer::start());
    let backend = on_nodes(&servers, true);
    let answering = |nodes: Vec<(String, Result<(), BackendError>)>| {
        nodes.into_iter().map(|(_, result)| result.is_ok()).collect::<Vec<_>>()
    };
    assert_eq!(answering(backend.nodes().await), [true; 3]);
    servers[0].kill();
    servers[2].pause();
    let life = backend.lifespan().await.expect("one node is enough");
    backend.ready().await.unwrap();
    let nodes = backend.nodes().await;
    assert_eq!(nodes[0].0, servers[0].address(), "in the order of the builder");
    let silent = nodes[2].1.as_ref().unwrap_err();
    assert_eq!(silent.kind(), ErrorKind::Timeout, "{silent}");
    assert_eq!(answering(nodes), [false, true, false]);
    servers[1].kill();
    let error = backend.ready().await.unwrap_err().to_string();
    assert!(error.contains("3 of 3 nodes failed"), "{error}");
    assert!(servers.iter().all(|server| error.contains(&server.address())), "{error}");
    assert!(backend.initialize().await.is_err(), "with none a service does not start");
    servers[2].resume();
    backend.ready().await.unwrap();
    let error = life.close().await.unwrap_err().to_string();
    assert!(error.contains("2 of 3 nodes failed"), "what was not cleared is named: {error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f21_a_server_with_fewer_connections_than_the_pool_serves_all_by_those() {
    // It refuses further connections at once, or leaves them without an answer.
    for (refuses, counted) in
        [("maxconns_fast", "rejected_connections"), ("no_maxconns_fast", "listen_disabled_num")]
    {
        let server = MemcachedServer::with(&["-c", "24", "-t", "1", "-o", refuses]);
        let call = Duration::from_secs(2);
        let backend = builder(&server).pool_size(64).command_timeout(call).build().unwrap();
        let backend = Arc::new(backend);
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..64 {
            let backend = Arc::clone(&backend);
            tasks.spawn(async move {
                let limits = [limit("1000000/h", FixedWindow::new())];
                for number in 0..50 {
                    let decision = hit(&*backend, &format!("{task}:{number}"), &limits).await;
                    assert!(decision.is_ok(), "{refuses}: {decision:?}");
                }
            });
        }
        while let Some(outcome) = tasks.join_next().await {
            outcome.unwrap();
        }
        // It has none left to be asked by.
        backend.close().await.unwrap();
        let is_zero = format!("STAT {counted} 0\r\n");
        let mut stats = String::new();
        wait_until("it says how it went", PATIENCE, || {
            let said = server.try_command(b"stats\r\n").unwrap_or_default();
            stats = String::from_utf8_lossy(&said).into_owned();
            stats.contains(counted)
        });
        assert!(!stats.contains(&is_zero), "{refuses}: it never had too many");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f21_a_pool_that_wanted_less_grows_again() {
    let server = MemcachedServer::with(&["-c", "24", "-t", "1"]);
    let backend = Arc::new(builder(&server).pool_size(4).build().unwrap());
    // Others have them all but one or two.
    let mut taken: Vec<std::net::TcpStream> = Vec::new();
    while let Ok(stream) = answering(server.port()) {
        taken.push(stream);
    }
    assert!(taken.len() > 2, "{} connections", taken.len());
    let error = hit(&*backend, "a", &[limit("5/h", FixedWindow::new())]).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::NotApplied));
    assert!(error.to_string().contains("pool_size"), "{error}");
    taken.pop();
    let busy = async || {
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..32 {
            let backend = Arc::clone(&backend);
            tasks.spawn(async move {
                let limits = [limit("1000000/h", FixedWindow::new())];
                hit(&*backend, &task.to_string(), &limits).await.is_ok()
            });
        }
        tasks.join_all().await.into_iter().all(|passed| passed)
    };
    timeout(PATIENCE, async { while !busy().await {} }).await.expect("by one connection");
    assert!(busy().await, "which all wait for");
    taken.clear();
    let grown = async {
        loop {
            assert!(busy().await);
            if server.stat("curr_connections") > 4 {
                break;
            }
        }
    };
    timeout(PATIENCE, grown).await.expect("it has all of its connections again");
}

/// A connection on which the server answers.
fn answering(port: u16) -> std::io::Result<std::net::TcpStream> {
    use std::io::{Error, Read, Write};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
    stream.write_all(b"version\r\n")?;
    let mut reply = [0; 7];
    stream.read_exact(&mut reply)?;
    if &reply == b"VERSION" { Ok(stream) } else { Err(Error::other("refused")) }
}

#[tokio::test]
async fn f15_a_server_that_wants_a_password_is_misconfigured_and_no_outage() {
    let dir = tempdir();
    let file = dir.join("passwords");
    std::fs::write(&file, "me:secret\n").unwrap();
    let server = MemcachedServer::with(&["-Y", file.to_str().unwrap()]);
    let backend = builder(&server).build().unwrap();
    let limits = [limit("5/h", FixedWindow::new())];
    for error in [
        backend.initialize().await.unwrap_err(),
        backend.ready().await.unwrap_err(),
        hit(&backend, "a", &limits).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
        assert!(error.to_string().contains("password"), "{error}");
    }
    std::fs::remove_dir_all(dir).unwrap();
}

/// A port of something else is a mistake of the setup, and no outage that a policy could let pass.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f15_a_port_of_another_protocol_is_misconfigured_and_no_outage() {
    let redis = RedisServer::start();
    for port in [web_server(), redis.port()] {
        let url = format!("memcached://127.0.0.1:{port}");
        let backend = Memcached::builder().url(url).command_timeout(PATIENCE).build().unwrap();
        let limits = [limit("5/h", FixedWindow::new())];
        for error in [
            backend.initialize().await.unwrap_err(),
            backend.ready().await.unwrap_err(),
            hit(&backend, "a", &limits).await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
            assert!(error.to_string().contains("does not speak Memcached"), "{error}");
        }
    }
}

/// A pool of connections that a silent server never opens is not too small.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f04_many_calls_on_a_silent_server_do_not_blame_the_pool() {
    let server = MemcachedServer::start();
    let short = Duration::from_millis(400);
    server.pause();
    // With one place most of them never get to it.
    for places in [Memcached::DEFAULT_POOL_SIZE, 1] {
        let builder = builder(&server).command_timeout(short).pool_size(places);
        let backend = Arc::new(builder.build().unwrap());
        let mut calls = tokio::task::JoinSet::new();
        for task in 0..20 {
            let backend = Arc::clone(&backend);
            calls.spawn(async move {
                let limits = [limit("5/h", FixedWindow::new())];
                hit(&*backend, &task.to_string(), &limits).await.unwrap_err()
            });
        }
        for error in calls.join_all().await {
            assert!(!error.to_string().contains("pool_size"), "{places}: {error}");
        }
    }
}

/// Only what is stored takes room.
#[tokio::test]
async fn a_log_beside_a_rate_without_a_state_is_no_long_log() {
    let server = MemcachedServer::start();
    let backend = builder(&server).build().unwrap();
    for rate in ["unlimited", "0/h"] {
        let limits =
            [limit("5/min", SlidingWindowLog::new()), limit(rate, SlidingWindowLog::new())];
        let decision = hit(&backend, rate, &limits).await.unwrap();
        assert_eq!(decision.is_allowed(), rate == "unlimited");
    }
}

fn tempdir() -> std::path::PathBuf {
    let dir = std::env::temp_dir().join(format!("traffik-passwords-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

#[tokio::test]
async fn a_log_that_can_never_fit_an_item_is_refused_at_its_first_hit() {
    let server = MemcachedServer::start();
    let backend = builder(&server).build().unwrap();
    let log = |rate| limit(rate, SlidingWindowLog::new().max_entries(100_000));
    let error = hit(&backend, "a", &[log("66000/h")]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
    assert!(error.to_string().contains("at most 65408"), "{error}");
    assert!(hit(&backend, "a", &[log("65408/h")]).await.unwrap().is_allowed());
    let two = [log("40000/h"), log("40000/min")];
    assert!(hit(&backend, "a", &two).await.is_err(), "both are in one item");
    wait_until("nothing was written for it", PATIENCE, || server.stat("cmd_set") == 1);
}
