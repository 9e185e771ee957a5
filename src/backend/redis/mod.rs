//! [`Redis`]: state on a Redis server, on a cluster, or on the master that sentinels name. Feature
//! `redis`.
//!
//! # What is promised
//!
//! * **One decision is one command** (of our own strategies): a script that runs the same rules as everywhere
//!   else on the server, for several limits too. It is exact over any number of processes.
//!   Hits on many keys by [`hit_many`](crate::Throttle::hit_many) share scripts of up to 32 keys, on a cluster
//!   those of one slot, and are written together.
//! * **Time** is the server's. Processes need not agree on it.
//! * **An answer or an error within the time**, [`RedisBuilder::command_timeout`]. What may have run is never
//!   tried again: such a hit counts as used and not admitted.
//! * **A lost connection is replaced** in the background, and so is a silent one, in about 0.4 s,
//!   whatever deadline the calls have. The state survives as well as the server keeps it.
//! * **A node of a cluster** that is down or silent concerns only the keys that it serves.
//! * **Any runtime**: a backend may be used from several runtimes, and goes on while the one that used it
//!   first stands idle or has ended. Background work runs on a multi-thread runtime of the user's, or
//!   else on one thread of the library's own, which all backends of the process share.
//!
//! The page `docs/redis.md` of the repository says which topology keeps what over a failover, which
//! rights the server's user needs, and which error policy fits.
//!
//! # Primitives
//!
//! Each is one command and atomic; `multi_set` with a TTL of zero is one for each key. On a cluster,
//! [`multi_get`](Values::multi_get), [`multi_set`](Values::multi_set) and [`clear`](Backend::clear) are
//! split by slot, and each slot's part is atomic by itself. `multi_set` of more than 1,000 pairs or 1 MiB
//! is split too, so that hits are not held up; if a part fails, others may be set. A TTL has
//! milliseconds.
//!
//! `clear` looks through the whole key space in small steps, on every master, and removes the states and
//! values of its namespace; what is added meanwhile may stay. A step that is slow or loses its connection
//! is repeated. Locks, their fences and the values that
//! they guard stay.
//!
//! # Locks
//!
//! A lock is a lease on the server. Its [`fencing_token`](crate::LockGuard::fencing_token) rises with
//! each holder, also after the server lost its data, since it is at least the server's time in
//! microseconds. A lock without a TTL is renewed every third of [`lock_lease`](RedisBuilder::lock_lease)
//! while its guard lives, a day at most. A TTL below 5 ms is refused. [`Redis::set_fenced`] writes only
//! while the lock is still held. [`LockType::Redlock`] keeps locks on a majority of independent masters.

mod backoff;
mod blocks;
mod builder;
mod clear;
mod client;
#[cfg(feature = "redis-cluster")]
mod cluster;
mod config_errors;
mod connect;
mod connection;
mod decide;
mod decisions;
mod direct;
mod equal_hits;
mod failure;
mod fenced;
#[cfg(any(test, traffik_fuzz))]
pub(crate) mod fuzz;
#[cfg(any(feature = "redis-cluster", feature = "redis-sentinel"))]
mod gather;
mod groups;
mod in_flight;
mod keys;
mod lock;
mod master;
mod node;
mod pipeline;
mod primitives;
mod redlock;
mod route;
mod scripts;
#[cfg(feature = "redis-sentinel")]
mod sentinel;
mod servers;
mod session;
mod slot_groups;
mod source;
mod startup;
mod supervisor;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;

pub use builder::{LockType, RedisBuilder};
pub use connection::Connection;

use self::client::Client;
use self::keys::Keys;
use self::lock::{Keeper, RedisLocks};
use self::node::LockNode;
use self::redlock::Quorum;
use self::servers::{ServerSpec, Servers};
use self::source::Source;
use self::startup::StartupCheck;
use crate::backend::{
    Answers, Backend, BackendCore, HasCore, Locks, Result, Ttl, Values, names, optimistic,
};
use crate::clock::{Clock, Timestamp};
use crate::decision::Decision;
use crate::error::{BackendError, BuildError, ErrorKind};
use crate::key::{Key, KeyError, ToKey};
use crate::lock::{LockError, LockGuard, LockOptions};
use crate::step::{BlockChange, KeyState, Step};
use crate::timer;

const NAME: &str = "redis";

/// Creates an error of this backend.
fn failed(operation: &'static str, kind: ErrorKind) -> BackendError {
    BackendError::new(NAME, operation, kind)
}

/// A backend on Redis. Cheap to clone; clones are the same backend.
///
/// ```no_run
/// use traffik::{LifespanExt, Redis, Throttle};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let backend = Redis::builder()
///     .url("redis://127.0.0.1")
///     .namespace("shop:prod")
///     .build()?;
/// let life = backend.lifespan().await?;
/// let throttle = Throttle::builder("api").rate("100/min").backend(backend).build()?;
/// let decision = throttle.hit("alice").await?;
/// # drop(decision);
/// life.close().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Redis {
    inner: Arc<RedisInner>,
}

struct RedisInner {
    core: BackendCore,
    /// In place of the server's.
    given_clock: Option<Arc<dyn Clock>>,
    client: Arc<Client>,
    keys: Arc<Keys>,
    locks: Arc<RedisLocks>,
    own: StartupCheck,
    /// Other servers, which keep the locks.
    lock_masters: Vec<StartupCheck>,
    initialize_timeout: Duration,
    closed: AtomicBool,
    /// Whether `initialize` has found that all is as it should be, or `ready` in its place.
    is_checked: AtomicBool,
    /// What is to be said if they found a replica when they last looked.
    replica: Mutex<Option<String>>,
}

impl Redis {
    /// Default timeout of one call; shorter than the deadline of a hit.
    pub const DEFAULT_COMMAND_TIMEOUT: Duration = Duration::from_millis(200);

    /// Creates a backend on one server, with the default settings.
    ///
    /// # Errors
    ///
    /// When the URL is not one of a server.
    pub fn new(url: impl Into<String>) -> Result<Self, BuildError> {
        Self::builder().url(url).build()
    }

    /// Starts from the default settings.
    pub fn builder() -> RedisBuilder {
        RedisBuilder::new()
    }

    fn from_parts(
        builder: RedisBuilder,
        target: ServerSpec,
        lock_sources: Vec<Source>,
        (core, keys): (BackendCore, Keys),
        given_clock: Option<Arc<dyn Clock>>,
    ) -> Self {
        let checked = |target: ServerSpec| {
            let ports = target.ports();
            let servers = Servers::new(target, builder.connect_timeout);
            let client = Client::new(servers, builder.command_timeout, builder.max_in_flight);
            StartupCheck::new(Arc::new(client), ports)
        };
        let keys = Arc::new(keys);
        let own = checked(target);
        let of_locks = lock_sources.into_iter().map(|source| ServerSpec::One(Box::new(source)));
        let lock_masters: Vec<StartupCheck> = of_locks.map(checked).collect();
        let node = |server: &StartupCheck| {
            let (client, keys) = (Arc::clone(&server.client), Arc::clone(&keys));
            LockNode::new(client, keys, builder.lock_fence_ttl)
        };
        let keeper = if lock_masters.is_empty() {
            Keeper::single(node(&own))
        } else {
            Keeper::Redlock(Quorum::new(lock_masters.iter().map(node)))
        };
        let locks = Arc::new(RedisLocks::new(keeper, builder.lock_lease));
        let inner = RedisInner {
            core,
            given_clock,
            client: Arc::clone(&own.client),
            own,
            keys,
            locks,
            lock_masters,
            initialize_timeout: builder.initialize_timeout,
            closed: AtomicBool::new(false),
            is_checked: AtomicBool::new(false),
            replica: Mutex::new(None),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Returns the name under which the server stores the state of a throttle's key, to look a customer
    /// up; `None` for a key that is exempt.
    ///
    /// Its form is documented in `docs/redis.md`.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let backend = traffik::Redis::builder().url("redis://127.0.0.1").namespace("shop:prod").build()?;
    /// let name = backend.stored_name("api", ("tenant-7", "alice@example.com"))?;
    /// assert_eq!(name.as_deref(), Some("shop:prod|t|api|tenant-7|alice@example.com"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When a hit would refuse the key.
    pub fn stored_name(&self, throttle: &str, key: impl ToKey) -> Result<Option<String>, KeyError> {
        names::stored_name(throttle, &key, |key| self.inner.keys.of(key))
    }

    fn open(&self, operation: &'static str) -> Result<&RedisInner> {
        if self.inner.closed.load(Ordering::Relaxed) {
            return Err(failed(operation, ErrorKind::Closed));
        }
        timer::require(NAME, operation)?;
        Ok(&self.inner)
    }

    fn clients(&self) -> impl Iterator<Item = &Arc<Client>> {
        let of_locks = self.inner.lock_masters.iter().map(|master| &master.client);
        std::iter::once(&self.inner.client).chain(of_locks)
    }
}

impl RedisInner {
    /// The time of the clock that was given in place of the server's.
    fn given_time(&self) -> Option<Timestamp> {
        self.given_clock.as_ref().map(|clock| clock.now())
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis")
            .field("namespace", &self.inner.core.namespace())
            .field("source", self.inner.client.servers())
            .finish_non_exhaustive()
    }
}

impl HasCore for Redis {
    fn core(&self) -> &BackendCore {
        &self.inner.core
    }
}

#[async_trait]
impl Values for Redis {
    async fn get(&self, key: &Key<'_>) -> Result<Option<Vec<u8>>> {
        self.open("get")?.get(key).await
    }

    async fn compare_and_set(
        &self,
        key: &Key<'_>,
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
        ttl: Ttl,
    ) -> Result<bool> {
        self.open("compare_and_set")?
            .compare_and_set("compare_and_set", key, expected, new, ttl)
            .await
    }

    async fn set(&self, key: &Key<'_>, value: &[u8], ttl: Option<Duration>) -> Result<()> {
        self.open("set")?.set(key, value, ttl).await
    }

    async fn delete(&self, key: &Key<'_>) -> Result<bool> {
        self.open("delete")?.remove("delete", key).await
    }

    async fn increment(&self, key: &Key<'_>, by: u64) -> Result<u64> {
        self.open("increment")?.increment("increment", key, by, None).await
    }

    async fn increment_with_ttl(&self, key: &Key<'_>, by: u64, ttl: Duration) -> Result<u64> {
        self.open("increment_with_ttl")?.increment("increment_with_ttl", key, by, Some(ttl)).await
    }

    async fn decrement(&self, key: &Key<'_>, by: u64) -> Result<u64> {
        self.open("decrement")?.decrement(key, by).await
    }

    async fn expire(&self, key: &Key<'_>, ttl: Duration) -> Result<bool> {
        self.open("expire")?.expire(key, ttl).await
    }

    async fn multi_get(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Vec<u8>>>> {
        self.open("multi_get")?.multi_get(keys).await
    }

    async fn multi_set(&self, pairs: &[(Key<'_>, &[u8])], ttl: Option<Duration>) -> Result<()> {
        self.open("multi_set")?.multi_set(pairs, ttl).await
    }
}

#[async_trait]
impl Locks for Redis {
    async fn lock(&self, name: &str, options: LockOptions) -> Result<LockGuard, LockError> {
        let inner = self.open("lock")?;
        let request = options.resolve(name, inner.core.lock_options())?;
        inner.locks.lock(name, request).await
    }
}

#[async_trait]
impl Backend for Redis {
    async fn initialize(&self) -> Result<()> {
        timer::require(NAME, "initialize")?;
        self.inner.locks.open();
        for client in self.clients() {
            client.servers().open();
        }
        self.inner.closed.store(false, Ordering::Relaxed);
        self.inner.wait_until_ready().await
    }

    async fn ready(&self) -> Result<()> {
        self.open("ready")?.check().await
    }

    async fn clear(&self) -> Result<()> {
        self.open("clear")?.clear().await
    }

    async fn close(&self) -> Result<()> {
        let inner = &self.inner;
        inner.closed.store(true, Ordering::Relaxed);
        let clients: Vec<_> = self.clients().cloned().collect();
        let close = move || clients.iter().for_each(|client| client.servers().close());
        inner.locks.close(inner.client.timeout(), close).await;
        Ok(())
    }

    fn stop(&self) {
        for client in self.clients() {
            client.servers().stop_tasks();
        }
    }

    async fn apply(&self, key: &Key<'_>, step: &Step<'_>) -> Result<Decision> {
        self.open("apply")?.decide(key, step).await
    }

    async fn apply_many(&self, steps: &[(Key<'_>, Step<'_>)], answers: &Answers) {
        match self.open("apply") {
            Ok(inner) => inner.decide_many(steps, answers).await,
            Err(error) => answers.fail(&error),
        }
    }

    fn decides_equal_hits_at_once(&self) -> bool {
        true
    }

    async fn apply_all(&self, hits: &[(Key<'_>, Step<'_>)]) -> Option<Result<Vec<Decision>>> {
        match self.open("apply") {
            Ok(inner) => inner.decide_all(hits).await,
            Err(closed) => Some(Err(closed)),
        }
    }

    async fn change_block(&self, key: &Key<'_>, change: BlockChange) -> Result<bool> {
        self.open("change_block")?.change_block(key, change).await
    }

    async fn inspect(&self, key: &Key<'_>) -> Result<KeyState> {
        let inner = self.open("inspect")?;
        optimistic::inspect(&inner.core, inner, key).await
    }
}
