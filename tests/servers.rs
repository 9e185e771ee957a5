//! The servers that other tests use do what these tests ask of them.

use std::time::Duration;

use test_support::servers::resp::Connection;
use test_support::servers::{
    Direction, FakeTime, MemcachedServer, Proxy, RedisCluster, RedisServer, Sentinels, Value,
    Workers, sentinel, wait, wait_until, workers,
};

/// Enough for what takes some milliseconds.
const SOON: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(50);

#[test]
fn a_redis_server_starts_and_restarts_and_is_killed() {
    let mut server = RedisServer::start();
    let (port, pid) = (server.port(), server.pid());
    assert_eq!(server.cmd("SET key value").text(), "OK");
    assert_eq!(server.cmd("GET key").text(), "value");
    assert_eq!(server.calls("set"), 1);
    assert!(server.words(&["GET"]).unwrap().is_error());

    server.restart();
    assert_eq!(server.port(), port);
    assert_ne!(server.pid(), pid);
    assert!(server.cmd("GET key").is_nil(), "memory is lost");

    server.kill();
    assert!(server.connect().is_err());
    server.start_again_without_wait();
    server.restart();
    let dir = server.dir().path().to_owned();
    drop(server);
    assert!(!dir.exists());
}

#[test]
fn a_redis_server_takes_a_password_and_arguments_and_has_a_socket() {
    let server = RedisServer::with(&["--requirepass", "secret", "--maxmemory", "1mb"]);
    assert_eq!(server.url(), format!("redis://:secret@127.0.0.1:{}", server.port()));
    assert_eq!(server.cmd("CONFIG GET maxmemory").array()[1].int(), 1 << 20);
    assert!(server.socket().exists());
}

#[test]
fn a_paused_server_keeps_its_connections() {
    let server = RedisServer::start();
    let mut connection = server.connect().unwrap();
    server.pause();
    connection.limit(SHORT).unwrap();
    assert!(connection.cmd("PING").is_err());
    server.resume();
    assert_eq!(server.cmd("PING").text(), "PONG");
}

#[test]
fn a_memcached_server_starts_and_restarts_and_is_killed() {
    let mut server = MemcachedServer::with(&["-m", "8"]);
    assert_eq!(server.command("set key 0 0 5\r\nvalue\r\n"), "STORED\r\n");
    assert_eq!(server.command("get key\r\n"), "VALUE key 0 5\r\nvalue\r\nEND\r\n");
    assert_eq!(server.command("mg key v\r\n"), "VA 5\r\nvalue\r\n");
    assert_eq!(server.stat("limit_maxbytes"), 8 << 20);
    server.restart();
    assert_eq!(server.command("get key\r\n"), "END\r\n");
    server.kill();
    assert!(server.try_command(b"version\r\n").is_err());
}

#[test]
fn a_memcached_server_listens_on_a_socket() {
    let mut server = MemcachedServer::on_socket(&[]);
    assert!(server.command("version\r\n").starts_with("VERSION 1."));
    server.restart();
    server.pause();
    server.resume();
    assert_eq!(server.command("get key\r\n"), "END\r\n");
}

#[test]
fn the_clock_of_a_server_is_shifted() {
    let time = FakeTime::new();
    let mut server = RedisServer::with_env(&[], &time.env());
    let plain = RedisServer::start();
    let ahead = |server: &RedisServer| {
        server.cmd("TIME").array()[0].int() - plain.cmd("TIME").array()[0].int()
    };
    let is_about = |seconds: i64, expected: i64| (seconds - expected).abs() <= 1;
    assert!(is_about(ahead(&server), 0));
    server.cmd("SET key value EX 60");
    time.shift(30);
    assert!(is_about(ahead(&server), 30));
    assert!(is_about(server.cmd("TTL key").int(), 30));
    time.shift(3600);
    assert!(is_about(ahead(&server), 3600));
    assert!(server.cmd("GET key").is_nil());
    time.shift(-3600);
    assert!(is_about(ahead(&server), -3600));
    server.restart();
    assert!(is_about(ahead(&server), -3600));

    let memcached = MemcachedServer::with_env(&[], &time.env());
    assert_eq!(memcached.command("set key 0 0 5\r\nvalue\r\n"), "STORED\r\n");
}

#[test]
fn a_cluster_redirects_and_moves_slots_and_fails_over() {
    let mut cluster = RedisCluster::start(3, 1);
    assert_eq!(cluster.urls().len(), 6);
    let slot = cluster.slot_of("foo");
    assert_eq!(slot, 12_182);
    let master = cluster.master_of_slot(slot);
    assert_eq!(master, 2);
    let reply = cluster.nodes()[0].words(&["GET", "foo"]).unwrap();
    let moved = format!("MOVED 12182 127.0.0.1:{}", cluster.nodes()[master].port());
    assert_eq!(reply, Value::Error(moved));
    cluster.nodes()[master].cmd("SET foo bar");

    cluster.begin_migration(slot, 0);
    assert_eq!(cluster.move_keys(slot, 0), 1);
    let reply = cluster.nodes()[master].words(&["GET", "foo"]).unwrap().text();
    assert!(reply.starts_with("ASK 12182 "), "{reply}");
    cluster.end_migration(slot, 0);
    assert_eq!(cluster.nodes()[0].cmd("GET foo").text(), "bar");
    let other = cluster.nodes()[1].words(&["GET", "foo"]).unwrap().text();
    assert_eq!(other, format!("MOVED 12182 127.0.0.1:{}", cluster.nodes()[0].port()));

    cluster.nodes()[0].wait_for_replicas(1);
    let old = cluster.kill_master_of(slot);
    assert_eq!(cluster.wait_for_failover(slot, old), 3, "the only replica of the first master");
    assert_eq!(cluster.nodes()[3].cmd("GET foo").text(), "bar");
    cluster.node(old).restart();
    wait_until("the old master is a replica", SOON, || {
        cluster.nodes()[old].cmd("ROLE").array()[0].text() == "slave"
    });
}

#[test]
fn a_cluster_may_be_one_node() {
    let cluster = RedisCluster::start(1, 0);
    assert_eq!(cluster.master_of_slot(0), 0);
    assert_eq!(cluster.nodes()[0].cmd("SET foo bar").text(), "OK");
}

#[test]
fn sentinels_name_another_master() {
    let mut sentinels = Sentinels::start();
    assert_eq!(sentinels.sentinel_urls().len(), 3);
    let (first, second) = (sentinels.master().port(), sentinels.replica().port());
    assert_ne!(first, second);
    assert_eq!(sentinel::SERVICE, "service");
    sentinels.master().cmd("SET key value");
    sentinels.master().wait_for_replicas(1);
    let old = sentinels.kill_master();
    sentinels.wait_for_failover(old);
    assert_eq!(sentinels.master().port(), second);
    assert_eq!(sentinels.master().cmd("GET key").text(), "value");
    sentinels.servers()[old].restart();
    wait_until("the old master is a replica", SOON * 2, || {
        // A sentinel that makes it one cuts its connections.
        let role = sentinels.replica().words(&["ROLE"]);
        role.is_ok_and(|role| role.array()[0].text() == "slave")
    });
}

#[test]
fn a_proxy_forwards_and_holds_back_and_delays() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port());
    let mut connection = Connection::open(proxy.port()).unwrap();
    assert_eq!(connection.cmd("PING").unwrap().text(), "PONG");
    assert_eq!(proxy.bytes(Direction::Reply), 7);

    proxy.blackhole();
    connection.limit(SHORT).unwrap();
    assert!(connection.cmd("INCR old").is_err());
    let mut new = Connection::open(proxy.port()).unwrap();
    new.limit(SHORT).unwrap();
    assert!(new.cmd("INCR new").is_err());
    assert_eq!((proxy.accepted(), proxy.open()), (2, 2));
    assert_eq!(proxy.accepted_per_second().iter().sum::<usize>(), 2);
    assert!(server.cmd("GET old").is_nil());
    proxy.forward();
    wait_until("what was held back comes", SOON, || server.cmd("GET old").text() == "1");
    wait_until("... on each connection", SOON, || server.cmd("GET new").text() == "1");

    proxy.delay(Duration::ZERO, SHORT);
    let mut late = Connection::open(proxy.port()).unwrap();
    let start = wait::now();
    assert_eq!(late.cmd("INCR late").unwrap(), Value::Int(1));
    assert!(start.elapsed() >= SHORT);
}

#[test]
fn a_proxy_cuts_at_each_byte() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port());
    let request = u64::try_from("*2\r\n$4\r\nINCR\r\n$3\r\nkey\r\n".len()).unwrap();
    for bytes in 0..=request {
        proxy.cut_next(Direction::Request, bytes);
        let mut connection = Connection::open(proxy.port()).unwrap();
        assert!(connection.cmd("INCR key").is_err(), "{bytes} bytes");
        assert_eq!(proxy.bytes(Direction::Request), (0..=bytes).sum::<u64>());
    }
    wait_until("the whole request is run", SOON, || server.cmd("GET key").text() == "1");

    for bytes in 0..4 {
        proxy.cut_next(Direction::Reply, bytes);
        let mut connection = Connection::open(proxy.port()).unwrap();
        assert!(connection.cmd("INCR key").is_err(), "{bytes} bytes");
    }
    assert_eq!(server.cmd("GET key").text(), "5", "cut replies are of requests that were run");
    assert_eq!(proxy.cuts(), usize::try_from(request).unwrap() + 1 + 4);

    let mut connection = Connection::open(proxy.port()).unwrap();
    assert_eq!(connection.cmd("INCR key").unwrap(), Value::Int(6));
    proxy.cut_after(Direction::Reply, 8);
    assert_eq!(connection.cmd("INCR key").unwrap(), Value::Int(7));
    assert_eq!(connection.cmd("INCR key").unwrap(), Value::Int(8), "cut after it");
    assert!(connection.cmd("INCR key").is_err());
}

#[test]
fn a_proxy_closes_and_refuses_connections() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port());
    let mut connection = Connection::open(proxy.port()).unwrap();
    assert_eq!(connection.cmd("PING").unwrap().text(), "PONG");
    proxy.cut();
    assert!(connection.cmd("PING").is_err());
    assert_eq!((proxy.open(), proxy.cuts()), (0, 1));

    let mut open = Connection::open(proxy.port()).unwrap();
    wait_until("it is accepted", SOON, || proxy.accepted() == 2);
    proxy.refuse();
    proxy.refuse();
    assert!(Connection::open(proxy.port()).is_err());
    assert_eq!(open.cmd("PING").unwrap().text(), "PONG", "open ones stay");
    proxy.forward();
    assert_eq!(Connection::open(proxy.port()).unwrap().cmd("PING").unwrap().text(), "PONG");
    assert_eq!(proxy.accepted(), 3);
}

/// What the workers of the tests here do.
#[test]
#[ignore = "run by another test as a process of its own"]
fn worker() {
    let Some(number) = workers::number() else { return };
    workers::ready();
    match workers::variable("JOB").as_str() {
        "increment" => {
            let mut server = Connection::open(workers::variable("PORT").parse().unwrap()).unwrap();
            let count = server.cmd("INCR key").unwrap().int();
            workers::report(&format!("{number} {}", count > 0));
        }
        "fail" => panic!("as it was told"),
        "stay" => loop {
            std::thread::park();
        },
        other => panic!("no job {other:?}"),
    }
}

#[test]
fn workers_run_and_report() {
    let server = RedisServer::start();
    let port = server.port().to_string();
    let envs = [("JOB", "increment"), ("PORT", port.as_str())];
    assert_eq!(Workers::run(4, "worker", &envs), ["0 true", "1 true", "2 true", "3 true"]);
    let mut workers = Workers::spawn(4, "worker", &envs);
    workers.start_together();
    workers.results();
    assert_eq!(server.cmd("GET key").text(), "8");
}

#[test]
fn workers_are_stopped_and_killed() {
    let mut workers = Workers::spawn(2, "worker", &[("JOB", "stay")]);
    workers.start_together();
    workers.pause(0);
    workers.resume(0);
    workers.kill(0);
    workers.kill(1);
    assert!(workers.results().is_empty());
}

#[test]
#[should_panic(expected = "as it was told")]
fn a_worker_that_fails_fails_the_test() {
    Workers::run(2, "worker", &[("JOB", "fail")]);
}

#[test]
#[should_panic(expected = "no result of worker 0")]
fn a_worker_that_is_not_there_fails_the_test() {
    Workers::run(1, "walker", &[]);
}

#[cfg(feature = "redis-rustls")]
#[test]
fn a_redis_server_speaks_tls() {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, ServerName};
    use std::io::{Read, Write};
    use std::sync::Arc;

    let server = RedisServer::with_tls(&[]);
    assert_eq!(server.tls_url(), format!("rediss://127.0.0.1:{}", server.tls_port()));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(server.certificates().ca()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    for name in ["127.0.0.1", "localhost"] {
        let name = ServerName::try_from(name).unwrap();
        let client = rustls::ClientConnection::new(Arc::new(config.clone()), name).unwrap();
        let stream = std::net::TcpStream::connect(("127.0.0.1", server.tls_port())).unwrap();
        let mut stream = rustls::StreamOwned::new(client, stream);
        stream.write_all(b"PING\r\n").unwrap();
        let mut reply = [0; 7];
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"+PONG\r\n");
    }
}
