//! [`RedisBuilder`].

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use redis::RedisResult;
use redis::aio::ConnectionManager;

use super::connection::Connection;
use super::groups::Groups;
use super::keys::Keys;
use super::lock::DEFAULT_LEASE;
use super::node::DEFAULT_FENCE_TTL;
#[cfg(feature = "redis-sentinel")]
use super::sentinel::Sentinels;
use super::servers::ServerSpec;
use super::source::Source;
use super::{NAME, Redis};
use crate::backend::BackendCore;
use crate::clock::{Clock, WallClock};
use crate::error::BuildError;
use crate::lock::{LockOptions, SHORTEST_TTL};
use crate::on_error::OnError;

const LONGEST_CALL: Duration = Duration::from_secs(60);
const LONGEST_START: Duration = Duration::from_secs(3600);

/// The servers that keep locks.
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LockType {
    /// On the servers of the backend itself. A failover to a replica can lose a lock; its fencing token
    /// shows that.
    #[default]
    Single,
    /// On a majority of independent masters, given by their URLs: an odd number, at least three, none a
    /// replica of another.
    Redlock(Vec<String>),
}

/// Builds a [`Redis`] backend. Setters cannot fail; `build` checks the settings.
#[must_use = "a builder does nothing until `build`"]
pub struct RedisBuilder {
    source: Option<SourceSpec>,
    /// The names of the sources that were given; one is right.
    given: Vec<&'static str>,
    namespace: String,
    persistent: bool,
    on_error: OnError,
    pub(super) lock_type: LockType,
    lock: LockOptions,
    pub(super) lock_lease: Duration,
    pub(super) lock_fence_ttl: Duration,
    clock: Option<Arc<dyn Clock>>,
    pub(super) command_timeout: Duration,
    pub(super) connect_timeout: Duration,
    pub(super) initialize_timeout: Duration,
    pub(super) max_in_flight: usize,
    /// Each group with its throttles.
    groups: Vec<(String, Vec<String>)>,
}

/// Where connections come from, before anything is checked.
enum SourceSpec {
    Url(String),
    Ready(Box<Source>),
    #[cfg(feature = "redis-cluster")]
    Cluster(Vec<String>),
    #[cfg(feature = "redis-sentinel")]
    Sentinels(Vec<String>, String),
}

impl RedisBuilder {
    pub(super) fn new() -> Self {
        Self {
            source: None,
            given: Vec::new(),
            namespace: ":redis:".into(),
            persistent: true,
            on_error: OnError::default(),
            lock_type: LockType::default(),
            lock: LockOptions::new(),
            lock_lease: DEFAULT_LEASE,
            lock_fence_ttl: DEFAULT_FENCE_TTL,
            clock: None,
            command_timeout: Redis::DEFAULT_COMMAND_TIMEOUT,
            connect_timeout: Duration::from_millis(250),
            initialize_timeout: Duration::from_secs(5),
            max_in_flight: 10_000,
            groups: Vec::new(),
        }
    }

    fn source(mut self, name: &'static str, source: SourceSpec) -> Self {
        self.given.push(name);
        self.source = Some(source);
        self
    }

    /// Connects to one server: `redis://[user:password@]host[:port][/db]`, `rediss://` for TLS (feature
    /// `redis-rustls`), or `unix:///path`.
    pub fn url(self, url: impl Into<String>) -> Self {
        self.source("url", SourceSpec::Url(url.into()))
    }

    /// Sets an async function that returns a connection, for full control. It is called again for each
    /// reconnect, within [`connect_timeout`](Self::connect_timeout), on the runtime of the background
    /// work, so it must not block. Do not set a response timeout on what it returns: the backend has its
    /// own. A connection is dropped when it is replaced and never closed by force, so the function may
    /// return clones.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use traffik::{Redis, redis};
    ///
    /// let client = redis::Client::open("redis://10.0.0.5/3")?;
    /// let backend = Redis::builder()
    ///     .factory(move || {
    ///         let client = client.clone();
    ///         async move { client.get_multiplexed_async_connection().await }
    ///     })
    ///     .build()?;
    /// # drop(backend);
    /// # Ok(())
    /// # }
    /// ```
    pub fn factory<C, F>(self, make: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        C: Into<Connection>,
        F: Future<Output = RedisResult<C>> + Send + 'static,
    {
        self.source("factory", SourceSpec::Ready(Box::new(Source::factory(make))))
    }

    /// Uses a connection manager that the program already has. It reconnects by its own settings and
    /// lives on the runtime that made it, which must not stand idle. The backend cannot replace one of
    /// its connections that has gone silent, so give it a response timeout and few retries, or prefer a
    /// URL.
    pub fn connection_manager(self, manager: ConnectionManager) -> Self {
        self.source(
            "connection_manager",
            SourceSpec::Ready(Box::new(Source::Given(manager.into()))),
        )
    }

    /// Connects to a Redis cluster, by the URLs of some of its nodes. Feature `redis-cluster`.
    ///
    /// The other nodes are discovered from these, and are connected with the credentials and the TLS of
    /// the first URL. Each node has one connection, replicas too. A node that is down or silent affects
    /// only the keys that it serves, and the URL of a node that is gone costs nothing while another
    /// answers.
    #[cfg(feature = "redis-cluster")]
    pub fn cluster<U: Into<String>>(self, urls: impl IntoIterator<Item = U>) -> Self {
        let urls = urls.into_iter().map(Into::into).collect();
        self.source("cluster", SourceSpec::Cluster(urls))
    }

    /// Connects to the master that sentinels name for `service`, by the URLs of the sentinels.
    /// Credentials, database and TLS of the first URL are used for the service's servers too. Feature
    /// `redis-sentinel`.
    ///
    /// All sentinels are asked at the same time, so one that is down or silent costs nothing.
    #[cfg(feature = "redis-sentinel")]
    pub fn sentinels<U: Into<String>>(
        self,
        urls: impl IntoIterator<Item = U>,
        service: impl Into<String>,
    ) -> Self {
        let urls = urls.into_iter().map(Into::into).collect();
        self.source("sentinels", SourceSpec::Sentinels(urls, service.into()))
    }

    /// Sets the namespace, the prefix of every key, which separates applications on one server: 1 to 64
    /// bytes of letters, digits and `_.:-`. Defaults to `:redis:`.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// Sets whether counted hits outlive the lifespan. Defaults to `true`: other processes count on the
    /// same server, and a rolling deploy must not reset every limit. With `false` the end of the last
    /// lifespan in this process clears the namespace for all of them; a warning is logged when it begins.
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

    /// Sets the servers that keep locks. Defaults to [`LockType::Single`].
    pub fn lock_type(mut self, lock_type: LockType) -> Self {
        self.lock_type = lock_type;
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
    /// this time while its guard lives, for a day at most. After a crash the lock is free when the lease
    /// ends. Must be at least 5 ms, and should be seconds. Defaults to 10 s.
    pub fn lock_lease(mut self, ttl: Duration) -> Self {
        self.lock_lease = ttl;
        self
    }

    /// Sets how long after a lock was last taken the server remembers its fencing token, which is never
    /// shorter than the TTL that it was taken with. Each name takes some 130 bytes of the server's memory
    /// meanwhile. Must be above zero. Defaults to 7 days.
    ///
    /// Shorten it if lock names are many and used once. Tokens rise with the server's time too, so they
    /// may fail to rise only after the server's clock was set back by more than this.
    pub fn lock_fence_ttl(mut self, ttl: Duration) -> Self {
        self.lock_fence_ttl = ttl;
        self
    }

    /// Sets the default of [`LockOptions::blocking_timeout`](crate::LockOptions::blocking_timeout): the
    /// longest wait for a lock. Defaults to `None`, which has no bound.
    pub fn lock_blocking_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.lock = self.lock.blocking_timeout(timeout);
        self
    }

    /// Sets the clock of decisions. Defaults to the server's own, which all processes share. With any
    /// other clock all processes must agree on the time, and the server keeps each state for an hour at
    /// least, because it cannot know when the state expires.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Sets the timeout of one call, with connecting, redirections and safe retries. Must be above zero and at most a
    /// minute. Keep it below the throttle's deadline, so that an error tells what was slow. Defaults to
    /// [`Redis::DEFAULT_COMMAND_TIMEOUT`].
    pub fn command_timeout(mut self, timeout: Duration) -> Self {
        self.command_timeout = timeout;
        self
    }

    /// Sets the timeout of one attempt to connect. Must be above zero and at most a minute. Attempts go on in the
    /// background, so it may be longer than a call. It is also the time that a silent connection has to answer a
    /// probe, for which it counts as 1 s at most. Defaults to 250 ms: raise it if the server is far away.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets how long `initialize` (a lifespan) waits for a server that is starting. Must be above zero and at most an
    /// hour. Defaults to 5 s.
    pub fn initialize_timeout(mut self, timeout: Duration) -> Self {
        self.initialize_timeout = timeout;
        self
    }

    /// Sets the maximum number of calls in flight to one server; further calls fail at once with
    /// [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded). Each node of a cluster has its own count.
    /// Must be above zero. Defaults to 10,000.
    pub fn max_in_flight(mut self, calls: usize) -> Self {
        self.max_in_flight = calls;
        self
    }

    /// Keeps the keys of these throttles together, so that [`all`](crate::all) decides on several of them by
    /// one script on a cluster too: those that begin with the same part are in one slot. May be repeated.
    ///
    /// The throttles of `requests` and `tokens` per tenant, say, whose keys begin with the tenant. What it costs:
    /// all keys that begin alike are on one server, which serves some 150,000 decisions a second. The names
    /// of stored keys change by it, so throttles start over when they join a group or leave it, and all
    /// processes must agree. On a single server it changes nothing else, for that decides so anyway.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let backend = traffik::Redis::builder()
    ///     .url("redis://127.0.0.1")
    ///     .namespace("shop")
    ///     .group("llm", ["requests", "tokens"])
    ///     .build()?;
    /// let name = backend.stored_name("tokens", "tenant-7")?;
    /// assert_eq!(name.as_deref(), Some("shop|t|{llm|tenant-7}|tokens|tenant-7"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn group(
        mut self,
        name: impl Into<String>,
        throttles: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        self.groups.push((name.into(), throttles.into_iter().map(Into::into).collect()));
        self
    }

    /// Checks the settings and builds the backend. Does not connect: `initialize` (a lifespan) does, or
    /// else the first hit.
    ///
    /// # Errors
    ///
    /// When a setting is out of its range, or there is not exactly one source of connections. An error
    /// never repeats a URL.
    pub fn build(mut self) -> Result<Redis, BuildError> {
        let target = self.checked_target()?;
        self.check_times()?;
        let given_clock = self.clock.take();
        let clock = given_clock.clone().unwrap_or_else(|| Arc::new(WallClock::new()));
        let core = BackendCore::new(NAME, self.namespace.clone(), clock)?
            .persistent(self.persistent)
            .shared(true)
            .on_error(self.on_error.clone())
            .lock_defaults(self.lock);
        let lock_sources = self.lock_sources()?;
        let keys = Keys::new(core.namespace()).with_groups(Groups::new(&self.groups)?);
        Ok(Redis::from_parts(self, target, lock_sources, (core, keys), given_clock))
    }

    fn checked_target(&mut self) -> Result<ServerSpec, BuildError> {
        if self.given.len() > 1 {
            let given = self.given.join(" and ");
            return Err(BuildError::setting("source", format!("is given as {given}; give one")));
        }
        match self.source.take() {
            None => Err(BuildError::setting(
                "source",
                "is missing; say where the server is, as with url(\"redis://127.0.0.1\")",
            )),
            Some(SourceSpec::Url(url)) => {
                Source::server(&url).map(|source| ServerSpec::One(Box::new(source)))
            }
            Some(SourceSpec::Ready(source)) => Ok(ServerSpec::One(source)),
            #[cfg(feature = "redis-cluster")]
            Some(SourceSpec::Cluster(urls)) => {
                super::cluster::Seeds::new(&urls).map(ServerSpec::Cluster)
            }
            #[cfg(feature = "redis-sentinel")]
            Some(SourceSpec::Sentinels(urls, service)) => {
                let sentinels = Sentinels::new(&urls, &service, self.connect_timeout)?;
                Ok(ServerSpec::One(Box::new(Source::Sentinels(Arc::new(sentinels)))))
            }
        }
    }

    fn check_times(&self) -> Result<(), BuildError> {
        if self.lock_fence_ttl.is_zero() {
            return Err(BuildError::setting("lock_fence_ttl", "is zero; use a duration above it"));
        }
        let bounded = [
            ("command_timeout", self.command_timeout, LONGEST_CALL, "a minute"),
            ("connect_timeout", self.connect_timeout, LONGEST_CALL, "a minute"),
            ("initialize_timeout", self.initialize_timeout, LONGEST_START, "an hour"),
        ];
        for (setting, time, longest, name) in bounded {
            if time.is_zero() || time > longest {
                let problem = format!("is {time:?}; use above zero to {name}");
                return Err(BuildError::setting(setting, problem));
            }
        }
        let ttl = self.lock.explicit_ttl().unwrap_or(SHORTEST_TTL);
        for (setting, time) in [("lock_ttl", ttl), ("lock_lease", self.lock_lease)] {
            if time < SHORTEST_TTL {
                let problem = format!("is {time:?}; use {SHORTEST_TTL:?} or more");
                return Err(BuildError::setting(setting, problem));
            }
        }
        if self.max_in_flight == 0 {
            return Err(BuildError::setting("max_in_flight", "is 0; use 1 or more"));
        }
        Ok(())
    }

    fn lock_sources(&self) -> Result<Vec<Source>, BuildError> {
        let LockType::Redlock(urls) = &self.lock_type else { return Ok(Vec::new()) };
        if urls.len() < 3 || urls.len() % 2 == 0 {
            return Err(BuildError::setting(
                "lock_type",
                format!("has {} masters; redlock needs an odd number, at least 3", urls.len()),
            ));
        }
        let sources = urls.iter().map(|url| Source::server(url)).collect::<Result<Vec<_>, _>>()?;
        let mut names: Vec<String> = sources.iter().map(|source| format!("{source:?}")).collect();
        names.sort();
        names.dedup();
        if names.len() < urls.len() {
            return Err(BuildError::setting(
                "lock_type",
                "names a master twice; redlock needs independent ones",
            ));
        }
        Ok(sources)
    }
}

impl fmt::Debug for LockType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // URLs may hold passwords.
        match self {
            Self::Single => f.write_str("Single"),
            Self::Redlock(urls) => write!(f, "Redlock({} masters)", urls.len()),
        }
    }
}

impl fmt::Debug for RedisBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBuilder")
            .field("source", &self.given)
            .field("namespace", &self.namespace)
            .field("lock_type", &self.lock_type)
            .finish_non_exhaustive()
    }
}
