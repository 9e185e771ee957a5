//! Free ports.
//!
//! All are below those that Linux takes for outgoing connections (32768 and up). So nothing takes
//! the port of a server while that is down, not even a client that dials it again and again and
//! would else connect to itself at some time.

use std::collections::HashSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{LazyLock, Mutex, PoisonError};

const FIRST: u16 = 10_000;
const COUNT: u16 = 10_000;
/// Nodes of a Redis cluster talk to each other on the port this far above their own.
const BUS: u16 = 10_000;

/// A port that was free just now, as is the one 10,000 above it. Each is given out once.
pub fn free() -> u16 {
    let (port, _listener) = bind();
    port
}

/// A listener on a free port.
pub fn bind() -> (u16, TcpListener) {
    static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);
    let seed = RandomState::new().build_hasher().finish();
    let seed = u16::try_from(seed % u64::from(COUNT)).unwrap();
    for step in 0..COUNT {
        let port = FIRST + (seed + step) % COUNT;
        let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
        if given.contains(&port) {
            continue;
        }
        if let (Ok(listener), Ok(_)) = (listen(port), listen(port + BUS)) {
            given.insert(port);
            return (port, listener);
        }
    }
    panic!("no port between {FIRST} and {} is free", FIRST + COUNT);
}

/// A listener on that port of 127.0.0.1.
pub fn listen(port: u16) -> std::io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
}
