//! The servers that other tests use do what these tests ask of them.

#[path = "support/servers/mod.rs"]
mod servers;

use servers::{MemcachedServer, RedisServer};

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
    connection.limit(std::time::Duration::from_millis(50)).unwrap();
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
