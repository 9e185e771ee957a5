//! [`MemcachedBuilder`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::address::{Address, DEFAULT_PORT};
use super::{Memcached, NAME};
use crate::backend::BackendCore;
use crate::clock::{Clock, WallClock};
use crate::error::BuildError;
use crate::lock::{LockOptions, SHORTEST_TTL};
use crate::on_error::OnError;

const DEFAULT_HOST: &str = "127.0.0.1";
const MAX_POOL: usize = 4096;
const LONGEST_CALL: Duration = Duration::from_secs(60);
/// Below it a renewal might come too late.
const SHORTEST_LEASE: Duration = Duration::from_secs(1);

/// Builds a [`Memcached`] backend. Setters cannot fail; `build` checks the settings.
#[must_use = "a builder does nothing until `build`"]
pub struct MemcachedBuilder {
    host: Option<String>,
    port: Option<u16>,
    urls: Vec<String>,
    pub(super) pool_size: usize,
    pub(super) pool_minsize: usize,
    pub(super) command_timeout: Duration,
    pub(super) track_keys: bool,
    pub(super) lock_lease: Duration,
    pub(super) namespace: String,
    persistent: bool,
    on_error: OnError,
    lock: LockOptions,
    pub(super) clock: Option<Arc<dyn Clock>>,
}

impl MemcachedBuilder {
    pub(super) fn new() -> Self {
        Self {
            host: None,
            port: None,
            urls: Vec::new(),
            pool_size: Memcached::DEFAULT_POOL_SIZE,
            pool_minsize: 1,
            command_timeout: Memcached::DEFAULT_COMMAND_TIMEOUT,
            track_keys: false,
            lock_lease: Memcached::DEFAULT_LOCK_LEASE,
            namespace: ":memcached:".into(),
            persistent: true,
            on_error: OnError::default(),
            lock: LockOptions::new(),
            clock: None,
        }
    }

    /// Sets the server's name or address. Defaults to `127.0.0.1`.
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.host = Some(host.into());
        self
    }

    /// Sets the server's port. Defaults to 11211.
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Adds a server as `memcached://host`, `memcached://host:port` or `memcached+unix:///path`, instead
    /// of a host and port.
    ///
    /// Each further call adds a node. Keys are spread over the nodes by rendezvous hashing, so all
    /// processes must list the same nodes, spelled identically, in any order. Adding or removing a node
    /// remaps only that node's share of the keys; their limits start over.
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.urls.push(url.into());
        self
    }

    /// Sets the maximum number of connections to each node, for each runtime in which the backend is
    /// used. Must be from 1 to 4096. Defaults to [`Memcached::DEFAULT_POOL_SIZE`]. A connection serves
    /// one call at a time.
    ///
    /// Keep the sum over all processes below the server's own limit (`-c`, 1024 by default). If the
    /// server accepts fewer, calls share the connections that are open.
    pub fn pool_size(mut self, connections: usize) -> Self {
        self.pool_size = connections;
        self
    }

    /// Sets the number of connections to each node that `initialize` (a lifespan) opens. Must not be
    /// above [`pool_size`](Self::pool_size). Defaults to 1.
    pub fn pool_minsize(mut self, connections: usize) -> Self {
        self.pool_minsize = connections;
        self
    }

    /// Sets the timeout of one call to a server. It includes the wait for a connection and, for half of
    /// it at most, the time to make one. Must be above zero and at most a minute. Defaults to
    /// [`Memcached::DEFAULT_COMMAND_TIMEOUT`], which is below a throttle's own deadline, so that an error
    /// tells what was slow.
    ///
    /// A decision takes one or two calls, and more if others change the same key.
    pub fn command_timeout(mut self, timeout: Duration) -> Self {
        self.command_timeout = timeout;
        self
    }

    /// Sets whether [`clear`](crate::Backend::clear) is supported. Defaults to `false`: then the end of a
    /// lifespan leaves everything to expire.
    ///
    /// Tracking takes no round trip: the generation number of each node is read together with each item.
    /// All processes of a namespace must agree on this setting, because a process that tracks ignores
    /// items of one that does not. See the [module's](super) guarantees.
    pub fn track_keys(mut self, track_keys: bool) -> Self {
        self.track_keys = track_keys;
        self
    }

    /// Sets the namespace, the prefix of every key: 1 to 64 bytes of letters, digits and `_.:-`. Defaults
    /// to `:memcached:`.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// Sets whether counted hits outlive the lifespan. Defaults to `true`: other processes count on the
    /// same server, and a rolling deploy must not reset every limit. With `false` the end of the last
    /// lifespan in this process clears the namespace for all of them; a warning is logged when it begins.
    /// `false` needs [`track_keys`](Self::track_keys).
    pub fn persistent(mut self, persistent: bool) -> Self {
        self.persistent = persistent;
        self
    }

    /// Sets the error policy of throttles that have none of their own: what is decided when the backend
    /// fails. Defaults to [`OnError::default`].
    pub fn on_error(mut self, policy: OnError) -> Self {
        self.on_error = policy;
        self
    }

    /// Sets the default of [`LockOptions::blocking`](crate::LockOptions::blocking): whether to wait for a
    /// lock that is held. Defaults to `true`.
    pub fn lock_blocking(mut self, blocking: bool) -> Self {
        self.lock = self.lock.blocking(blocking);
        self
    }

    /// Sets the default of [`LockOptions::ttl`](crate::LockOptions::ttl): the time after which a lock
    /// expires. Must be at least 5 ms. Defaults to `None`: such a lock is a [lease](Self::lock_lease).
    pub fn lock_ttl(mut self, ttl: Option<Duration>) -> Self {
        self.lock = self.lock.ttl(ttl);
        self
    }

    /// Sets the TTL of a lease, which is a lock without a TTL of its own. It is renewed every third of
    /// this time while its guard lives, for a day at most. After a crash the lock is free some 2 s after
    /// the lease ends. Must be at least 1 s. Defaults to [`Memcached::DEFAULT_LOCK_LEASE`].
    pub fn lock_lease(mut self, ttl: Duration) -> Self {
        self.lock_lease = ttl;
        self
    }

    /// Sets the default of [`LockOptions::blocking_timeout`](crate::LockOptions::blocking_timeout): the
    /// longest wait for a lock. Defaults to `None`, which has no bound.
    pub fn lock_blocking_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.lock = self.lock.blocking_timeout(timeout);
        self
    }

    /// Sets the clock. Defaults to the [`WallClock`], on which all processes must agree. With any other
    /// clock, servers keep each item for an hour at least.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Checks the settings and builds the backend. Does not connect.
    ///
    /// # Errors
    ///
    /// When a setting is out of its range, or the server is given both as a URL and as a host or port.
    pub fn build(self) -> Result<Memcached, BuildError> {
        if !(1..=MAX_POOL).contains(&self.pool_size) {
            let problem = format!("is {}; use 1 to {MAX_POOL}", self.pool_size);
            return Err(BuildError::setting("pool_size", problem));
        }
        if self.pool_minsize > self.pool_size {
            let (least, most) = (self.pool_minsize, self.pool_size);
            let problem = format!("is {least}, above the pool_size of {most}; use at most that");
            return Err(BuildError::setting("pool_minsize", problem));
        }
        if self.command_timeout.is_zero() || self.command_timeout > LONGEST_CALL {
            let problem = format!("is {:?}; use above zero to a minute", self.command_timeout);
            return Err(BuildError::setting("command_timeout", problem));
        }
        if self.lock_lease < SHORTEST_LEASE {
            let problem = format!("is {:?}; use a second or more", self.lock_lease);
            return Err(BuildError::setting("lock_lease", problem));
        }
        if let Some(ttl) = self.lock.explicit_ttl().filter(|ttl| *ttl < SHORTEST_TTL) {
            let problem = format!("is {ttl:?}; use {SHORTEST_TTL:?} or more");
            return Err(BuildError::setting("lock_ttl", problem));
        }
        let addresses = self.addresses()?;
        let clock = self.clock.clone().unwrap_or_else(|| Arc::new(WallClock::new()));
        let core = BackendCore::new(NAME, self.namespace.clone(), clock)?
            .persistent(self.persistent)
            .shared(true)
            .on_error(self.on_error.clone())
            .lock_defaults(self.lock);
        Ok(Memcached::from_parts(&self, core, addresses))
    }

    fn addresses(&self) -> Result<Vec<Address>, BuildError> {
        if self.urls.is_empty() {
            let host = self.host.as_deref().unwrap_or(DEFAULT_HOST);
            let address = Address::tcp(host, self.port.unwrap_or(DEFAULT_PORT));
            let problem = "is not a host name or an address";
            return Ok(vec![address.ok_or_else(|| BuildError::setting("host", problem))?]);
        }
        if self.host.is_some() || self.port.is_some() {
            let problem = "was given together with a host or port; use one of them";
            return Err(BuildError::setting("url", problem));
        }
        let mut addresses: Vec<Address> = Vec::with_capacity(self.urls.len());
        for url in &self.urls {
            let address =
                Address::parse(url).map_err(|problem| BuildError::setting("url", problem))?;
            if addresses.contains(&address) {
                let problem = format!("names {address} twice; name each node once");
                return Err(BuildError::setting("url", problem));
            }
            addresses.push(address);
        }
        Ok(addresses)
    }
}

impl fmt::Debug for MemcachedBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the URLs, which may hold a password by mistake.
        f.debug_struct("MemcachedBuilder")
            .field("namespace", &self.namespace)
            .field("nodes", &self.urls.len().max(1))
            .field("pool_size", &self.pool_size)
            .field("track_keys", &self.track_keys)
            .finish_non_exhaustive()
    }
}
