//! A proxy in front of a port, which disturbs what goes through.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::ports;
use super::wait::{now, wait_until};

/// For a connection that is not to be cut.
const NEVER: u64 = u64::MAX;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To the server.
    Request,
    /// From it.
    Reply,
}

/// A proxy in front of a port of 127.0.0.1. It runs by threads, so it serves any runtime, and
/// ends with the value.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    acceptor: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    upstream: u16,
    start: Instant,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    refuses: bool,
    holds: [bool; 2],
    /// What has come since, by direction.
    held: [Vec<u8>; 2],
    delays: [Duration; 2],
    /// What the next connection is cut after.
    next: Option<(Direction, u64)>,
    links: Vec<Arc<Link>>,
    accepted: Vec<Duration>,
    bytes: [u64; 2],
    cuts: usize,
}

/// A connection.
#[derive(Debug)]
struct Link {
    client: TcpStream,
    server: OnceLock<TcpStream>,
    /// How many bytes may still pass, by direction.
    left: [AtomicU64; 2],
    stranded: AtomicBool,
}

impl Proxy {
    /// In front of that port, letting all through.
    pub fn start(upstream: u16) -> Self {
        let (port, listener) = ports::bind();
        let state = Mutex::default();
        let shared = Arc::new(Shared { upstream, start: now(), state, changed: Condvar::new() });
        let acceptor = Mutex::new(Some(accept(Arc::clone(&shared), listener)));
        Self { port, shared, acceptor }
    }

    /// Where clients connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Lets all through again, at once, and new connections too. What a black hole held back is
    /// delivered.
    pub fn forward(&self) {
        self.set(|state| {
            state.holds = [false; 2];
            state.held = Default::default();
            state.delays = [Duration::ZERO; 2];
            state.next = None;
        });
        let mut acceptor = self.acceptor.lock().unwrap_or_else(PoisonError::into_inner);
        if acceptor.is_none() {
            self.set(|state| state.refuses = false);
            // Another process may have taken it for a moment, to see whether it is free.
            let mut listener = None;
            wait_until("the proxy has its port again", Duration::from_secs(10), || {
                listener = ports::listen(self.port).ok();
                listener.is_some()
            });
            *acceptor = Some(accept(Arc::clone(&self.shared), listener.unwrap()));
        }
    }

    /// Keeps connections open, accepts new ones, and lets nothing through.
    pub fn blackhole(&self) {
        self.set(|state| state.holds = [true; 2]);
    }

    /// Holds back what goes that way, until `pass` or `forward`.
    pub fn hold(&self, direction: Direction) {
        self.set(|state| state.holds[direction as usize] = true);
    }

    /// Lets through what goes that way, and what was held back.
    pub fn pass(&self, direction: Direction) {
        self.set(|state| {
            state.holds[direction as usize] = false;
            state.held[direction as usize].clear();
        });
    }

    /// Whether that text is among what is held back.
    pub fn holds(&self, direction: Direction, text: &str) -> bool {
        let state = self.shared.lock();
        state.held[direction as usize].windows(text.len()).any(|part| part == text.as_bytes())
    }

    /// Holds back what comes from now on for that long: requests, and replies.
    pub fn delay(&self, requests: Duration, replies: Duration) {
        self.set(|state| state.delays = [requests, replies]);
    }

    /// Closes all connections.
    pub fn cut(&self) {
        self.set(|state| {
            for link in state.links.drain(..) {
                state.cuts += 1;
                link.close();
            }
        });
    }

    /// Closes the next new connection after exactly that many bytes of a direction; with none,
    /// when the first would come. Replies to the last of the requests do not come through.
    pub fn cut_next(&self, direction: Direction, bytes: u64) {
        self.set(|state| state.next = Some((direction, bytes)));
    }

    /// Like `cut_next`, of each connection that is open, counted from now.
    pub fn cut_after(&self, direction: Direction, bytes: u64) {
        self.set(|state| {
            for link in &state.links {
                link.left[direction as usize].store(bytes, Ordering::SeqCst);
            }
        });
    }

    /// Lets nothing more through on the connections that are open, without closing them: as if the
    /// other end were gone without a word. New ones are not concerned.
    pub fn strand(&self) {
        self.set(|state| {
            for link in &state.links {
                link.stranded.store(true, Ordering::SeqCst);
            }
        });
    }

    /// Refuses new connections, as if nothing listened, until `forward`.
    pub fn refuse(&self) {
        let mut acceptor = self.acceptor.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = acceptor.take() {
            self.set(|state| state.refuses = true);
            // Wakes the thread, which then closes the listener.
            let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
            thread.join().unwrap();
        }
    }

    /// How many connections were accepted.
    pub fn accepted(&self) -> usize {
        self.shared.lock().accepted.len()
    }

    /// When each was accepted, since the start.
    pub fn accepted_at(&self) -> Vec<Duration> {
        self.shared.lock().accepted.clone()
    }

    /// How many were accepted in each second since the start, until the last in which one was.
    pub fn accepted_per_second(&self) -> Vec<usize> {
        let mut counts = Vec::new();
        for at in &self.shared.lock().accepted {
            let second = usize::try_from(at.as_secs()).unwrap();
            counts.resize(counts.len().max(second + 1), 0);
            counts[second] += 1;
        }
        counts
    }

    /// How many connections are open.
    pub fn open(&self) -> usize {
        self.shared.lock().links.len()
    }

    /// How many connections were cut.
    pub fn cuts(&self) -> usize {
        self.shared.lock().cuts
    }

    /// How many bytes have passed.
    pub fn bytes(&self, direction: Direction) -> u64 {
        self.shared.lock().bytes[direction as usize]
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.lock());
        self.shared.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.refuse();
        self.cut();
        // Threads that wait go on, and find their connection closed.
        self.set(|state| state.holds = [false; 2]);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until bytes may pass that were due then.
    fn wait_for_passage(&self, way: Direction, due: Instant) {
        let early = due.saturating_duration_since(now());
        if !early.is_zero() {
            std::thread::sleep(early);
        }
        let state = self.lock();
        let wait = self.changed.wait_while(state, |state| state.holds[way as usize]);
        drop(wait.unwrap_or_else(PoisonError::into_inner));
    }

    fn serve(self: Arc<Self>, link: Arc<Link>) {
        self.wait_for_passage(Direction::Request, self.start);
        if let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, self.upstream)) {
            let _ = server.set_nodelay(true);
            let server = link.server.get_or_init(|| server);
            // A cut may have come before there was a server to close.
            if !self.lock().links.iter().any(|known| Arc::ptr_eq(known, &link)) {
                link.close();
            }
            std::thread::scope(|scope| {
                scope.spawn(|| self.pump(Direction::Request, &link, &link.client, server));
                scope.spawn(|| self.pump(Direction::Reply, &link, server, &link.client));
            });
        }
        link.close();
        self.lock().links.retain(|known| !Arc::ptr_eq(known, &link));
    }

    /// Carries bytes one way. Reading goes on while writing waits, so that what comes later is
    /// not late because of what came before.
    fn pump(&self, direction: Direction, link: &Link, from: &TcpStream, to: &TcpStream) {
        let (sender, receiver) = channel();
        std::thread::scope(|scope| {
            scope.spawn(|| self.read(direction, from, sender));
            self.write(direction, link, to, receiver);
        });
    }

    fn read(&self, direction: Direction, mut from: &TcpStream, sender: Sender<Chunk>) {
        let mut buffer = vec![0; 1 << 16];
        // To the end also when nobody takes it any more: a socket closed with bytes unread
        // would reset the connection, and the other side lose what it has not read yet.
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let mut state = self.lock();
            if state.holds[direction as usize] {
                state.held[direction as usize].extend_from_slice(&buffer[..count]);
            }
            let due = now() + state.delays[direction as usize];
            drop(state);
            let _ = sender.send((due, buffer[..count].to_vec()));
        }
        let due = now() + self.lock().delays[direction as usize];
        let _ = sender.send((due, Vec::new()));
    }

    fn count(&self, way: Direction, bytes: usize, cut: bool) {
        let mut state = self.lock();
        state.bytes[way as usize] += u64::try_from(bytes).unwrap();
        state.cuts += usize::from(cut);
    }

    fn write(&self, way: Direction, link: &Link, mut to: &TcpStream, chunks: Receiver<Chunk>) {
        for (due, chunk) in chunks {
            self.wait_for_passage(way, due);
            if link.stranded.load(Ordering::SeqCst) {
                if chunk.is_empty() {
                    link.close();
                }
                continue;
            }
            let left = &link.left[way as usize];
            let limit = left.load(Ordering::SeqCst);
            let length = u64::try_from(chunk.len()).unwrap();
            let cut = length >= limit && length > 0;
            let chunk = if cut { &chunk[..usize::try_from(limit).unwrap()] } else { &chunk[..] };
            // Counted first: who has got them finds them counted.
            self.count(way, chunk.len(), cut);
            if cut && way == Direction::Request {
                // So that no reply to these bytes comes through.
                let _ = link.client.shutdown(Shutdown::Both);
            }
            let written = to.write_all(chunk);
            if cut {
                let _ = link.client.shutdown(Shutdown::Both);
                // It still reads what it was sent.
                let _ = link.server.get().map(|server| server.shutdown(Shutdown::Write));
                return;
            }
            if limit != NEVER {
                left.fetch_sub(length, Ordering::SeqCst);
            }
            if chunk.is_empty() || written.is_err() {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
        }
    }
}

/// Bytes, and when they may go on; none at the end.
type Chunk = (Instant, Vec<u8>);

impl Link {
    fn close(&self) {
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.server.get().map(|server| server.shutdown(Shutdown::Both));
    }
}

fn accept(shared: Arc<Shared>, listener: TcpListener) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let mut state = shared.lock();
            if state.refuses {
                return;
            }
            state.accepted.push(shared.start.elapsed());
            let left = [AtomicU64::new(NEVER), AtomicU64::new(NEVER)];
            if let Some((direction, bytes)) = state.next.take() {
                left[direction as usize].store(bytes, Ordering::SeqCst);
            }
            let _ = client.set_nodelay(true);
            let link = Arc::new(Link {
                client,
                server: OnceLock::new(),
                left,
                stranded: AtomicBool::new(false),
            });
            state.links.push(Arc::clone(&link));
            drop(state);
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || shared.serve(link));
        }
    })
}
