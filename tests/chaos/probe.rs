//! Whether a place can be written to, by plain connections that are not ours.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use test_support::servers::resp::Connection;
use test_support::servers::{Value, pause, sentinel};

use crate::history::{Micros, Probe, now};

/// How long a reply may take: less than a hit may, so that who answers the probe can answer a hit.
const LIMIT: Duration = Duration::from_millis(100);
const PAUSE: Duration = Duration::from_millis(20);

/// Writes once wherever hits are counted, as a client would find it; the ports of who took it, or none.
pub(crate) trait Check: Send + 'static {
    fn write(&mut self) -> Option<Vec<u16>>;
}

/// Writes again and again until it is stopped.
#[derive(Debug)]
pub(crate) struct Prober {
    done: Arc<AtomicBool>,
    thread: JoinHandle<(Vec<Probe>, Vec<Micros>)>,
}

impl Prober {
    pub(crate) fn start(mut check: Box<dyn Check>) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&done);
        let thread = std::thread::spawn(move || {
            let (mut probes, mut changes, mut masters) = (Vec::new(), Vec::new(), None);
            while !stop.load(Ordering::SeqCst) {
                let start = now();
                let ports = check.write();
                let end = now();
                probes.push(Probe { start, end, ok: ports.is_some() });
                if let Some(ports) = ports {
                    let before = masters.replace(ports);
                    if before.is_some() && before != masters {
                        changes.push(end);
                    }
                }
                pause::blocking::pace(PAUSE);
            }
            (probes, changes)
        });
        Self { done, thread }
    }

    /// What was seen, and when another had taken over.
    pub(crate) fn stop(self) -> (Vec<Probe>, Vec<Micros>) {
        self.done.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

fn connect(port: u16) -> Option<Connection> {
    let connection = Connection::open(port).ok()?;
    connection.limit(LIMIT).ok()?;
    Some(connection)
}

fn writes(connection: &mut Connection, key: &str) -> Option<()> {
    let reply = connection.cmd(&format!("SET {key} 1 PX 1000")).ok()?;
    (reply == Value::Status("OK".to_owned())).then_some(())
}

/// One server.
pub(crate) struct Server(pub(crate) u16);

impl Check for Server {
    fn write(&mut self) -> Option<Vec<u16>> {
        writes(&mut connect(self.0)?, "probe")?;
        Some(vec![self.0])
    }
}

/// The master that most sentinels name.
pub(crate) struct Named {
    pub(crate) sentinels: Vec<u16>,
}

impl Check for Named {
    fn write(&mut self) -> Option<Vec<u16>> {
        let port = named_by_most(&self.sentinels)?;
        writes(&mut connect(port)?, "probe")?;
        Some(vec![port])
    }
}

/// The port of the master that at least two of these sentinels name.
pub(crate) fn named_by_most(sentinels: &[u16]) -> Option<u16> {
    let name = |port: &u16| {
        let question = format!("SENTINEL GET-MASTER-ADDR-BY-NAME {}", sentinel::SERVICE);
        let reply = connect(*port)?.cmd(&question).ok()?;
        let Value::Array(address) = reply else { return None };
        u16::try_from(address.get(1)?.int()).ok()
    };
    let named: Vec<u16> = sentinels.iter().filter_map(name).collect();
    let votes = |port: u16| named.iter().filter(|&&other| other == port).count();
    named.iter().copied().find(|&port| votes(port) > 1)
}

/// The masters of some keys.
pub(crate) struct Masters {
    /// Of the nodes, past the proxies.
    pub(crate) nodes: Vec<u16>,
    /// The keys and their slots.
    pub(crate) keys: Vec<(String, i64)>,
}

impl Check for Masters {
    fn write(&mut self) -> Option<Vec<u16>> {
        let slots = self.slots()?;
        let master = |slot: i64| {
            let range = slots
                .array()
                .iter()
                .find(|range| (range.array()[0].int()..=range.array()[1].int()).contains(&slot))?;
            u16::try_from(range.array()[2].array()[1].int()).ok()
        };
        let mut masters = Vec::new();
        for (key, slot) in &self.keys {
            masters.push((master(*slot)?, key));
        }
        masters.sort_unstable();
        let mut ports = Vec::new();
        for one in masters.chunk_by(|a, b| a.0 == b.0) {
            let mut connection = connect(one[0].0)?;
            for (_, key) in one {
                writes(&mut connection, key)?;
            }
            ports.push(one[0].0);
        }
        Some(ports)
    }
}

impl Masters {
    /// As the first node says that answers, which is asked first the next time.
    fn slots(&mut self) -> Option<Value> {
        let ask = |port: u16| connect(port)?.cmd("CLUSTER SLOTS").ok();
        for turn in 0..self.nodes.len() {
            if let Some(slots @ Value::Array(_)) = ask(self.nodes[turn]) {
                self.nodes.rotate_left(turn);
                return Some(slots);
            }
        }
        None
    }
}

/// All of some Memcached servers.
pub(crate) struct Items(pub(crate) Vec<u16>);

impl Check for Items {
    fn write(&mut self) -> Option<Vec<u16>> {
        for &port in &self.0 {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
            stream.set_read_timeout(Some(LIMIT)).ok()?;
            stream.write_all(b"set probe 0 1 1\r\n1\r\n").ok()?;
            let mut reply = [0; 8];
            stream.read_exact(&mut reply).ok()?;
            (reply == *b"STORED\r\n").then_some(())?;
        }
        Some(self.0.clone())
    }
}
