//! [`Memcached`]: state on Memcached servers, for stacks that already run them. Feature `memcached`.
//!
//! The same decisions as every backend, by the same pure functions, shared by all processes that name the
//! same servers and namespace. What a Memcached server does not promise, this backend cannot either:
//!
//! | matter | what holds |
//! | --- | --- |
//! | **atomicity** | A decision, also over several limits, is one `cas` of one item: exact, however many processes hit the key. [`multi_set`](Values::multi_set) sets one value after the other; [`multi_get`](Values::multi_get) reads some 60 keys of one node at a time. Every other primitive is atomic. |
//! | **eviction** | A server that is short of memory evicts the items that were not used for longest, and one that restarts has none: such a limit starts over, so more may pass. Give limits a server that does not evict (`evictions` in its `stats`). Out of memory under `-M` is an error for the policy, also for known keys. |
//! | **expiry** | Each item carries its own end, to the microsecond. The server's, in whole seconds, is later, and only frees memory: the TTL rounded up and two seconds more (one for its tick, one for a tick that comes late); beyond 30 days a date, and no later than 2038. |
//! | **clocks** | Time is the client's wall clock, read at each call. A process whose clock is ahead by some seconds ends windows and fills buckets for all by so much early, once: within a key time only goes forward. The key's time then stands still until the other clocks have caught up, so a client that is denied meanwhile waits for as long as that clock was ahead: a day if it was a day. One whose clock is behind counts in the newest window that others reached. Keep the clocks of all processes together (NTP). |
//! | **size** | All limits of a key are one item of at most 1 MB: sliding window logs of 65,408 entries together. A hit on longer ones is [`ErrorKind::Misconfigured`]. |
//! | **locks** | Best effort: see below. |
//! | **clear** | Only with [`track_keys`](MemcachedBuilder::track_keys). |
//!
//! # What a decision costs
//!
//! | | round trips |
//! | --- | --- |
//! | a hit that passes, a refund | 2: `gets`, `cas` (`add` for a new key) |
//! | a hit that is denied, a peek | 1 |
//! | several hits on one key at the same time in one process | 2 for up to 256 of them |
//! | hits on many keys by [`hit_many`](crate::Throttle::hit_many) | 2 for some 60 keys of one node |
//!
//! Each attempt that lost against another process is two more. It is made again at once, at most 256
//! times or until the throttle's deadline; then it is [`ErrorKind::Contended`], for the policy. A process
//! that won a contended key leaves it to the others for some milliseconds, so that none starves.
//!
//! Hits that come together are decided by a task of their own, in the order in which they came. A caller
//! that is dropped or not polled any more holds up no other, and a strategy that panics does so in its
//! own caller alone.
//!
//! # Runtimes
//!
//! Every call needs a tokio runtime; without one it is [`ErrorKind::Misconfigured`]. A backend may be used
//! in several runtimes of one process: each has its own connections, at most
//! [`pool_size`](MemcachedBuilder::pool_size) to each node, which are closed when it ends.
//!
//! # Locks
//!
//! A lock is an item that only one process can add, released and extended by `cas`, so never another's.
//! It is **best effort**: an evicted lock or a restarted server lets a second holder in while the first
//! still believes to hold it, and for that reason [`fencing_token`](LockGuard::fencing_token) is `None`.
//! Use one only where doing the work twice is wasteful but harmless. [`is_valid`](LockGuard::is_valid)
//! goes by the monotonic clock, from before the server was asked.
//!
//! Without a TTL a lock is a lease of [`lock_lease`](MemcachedBuilder::lock_lease), renewed every third
//! of it while the guard lives, for a day at most. Acquisitions, renewals and the releases of dropped
//! guards run on one thread of the library's own, so they go on while the runtime of their caller stands
//! idle or has ended. An acquisition that is cancelled goes on to its end and releases what it took.
//! [`close`](Backend::close) waits for the releases of guards that were dropped before, for the time of
//! one call at most; locks that are still held are released by their guards as ever.
//!
//! A server counts in whole seconds: the lock of a process that crashed is free 1 to 3 s after its TTL, so
//! one of 100 ms is free within some 3 s.
//!
//! # Clearing
//!
//! A server cannot list its keys. With [`track_keys`](MemcachedBuilder::track_keys) each node has a
//! *generation*, a number that is read together with each item, and what carries another number is as good
//! as missing. [`clear`](Backend::clear) raises it: one step for each node, however many keys there are. It
//! reaches all nodes that answer, and its error names those that do not. A hit that is under way
//! meanwhile counts as before the clear. A generation that is lost, by a restart or an eviction, begins
//! anew, which is a clear of that node.
//!
//! Without it `clear` is [`ErrorKind::Unsupported`], and the end of a lifespan that is to clear logs
//! one warning and leaves everything to expire.
//! [`flush_all_of_dedicated_servers`](Memcached::flush_all_of_dedicated_servers) is for servers that
//! nobody else uses.
//!
//! # Several nodes
//!
//! A node that is down or silent fails the hits on its own keys, and no others. So one node that answers
//! is enough for [`initialize`](Backend::initialize) and [`ready`](Backend::ready);
//! [`nodes`](Memcached::nodes) says which of them do, and `initialize` names the others in a warning.
//!
//! # Errors
//!
//! Each call has its own [timeout](MemcachedBuilder::command_timeout). A connection whose call was
//! dropped or failed is closed, so no reply ever reaches another caller. After a byte was written and no
//! answer was read, a write is [`Effect::Ambiguous`](crate::Effect); all else did not happen. Nothing is
//! tried again but a call of which nothing was sent, or a read, on a connection that turns out to be
//! dead.
//!
//! One that breaks, or whose call had no answer for a quarter of its time, speaks for the others of its pool:
//! those that are idle and have said nothing since are closed, too. So after a node was cut off without a
//! word only those calls wait in vain that were made before the first of them gave up, and not one for each
//! connection.
//!
//! A server that refuses further connections is no failure while this pool has some that are open: calls
//! wait for those.
//!
//! # Security
//!
//! The text protocol has no password here and no encryption: keep the servers on a private network or a
//! UNIX socket. A server that wants a password is [`ErrorKind::Misconfigured`]. Keys are percent-encoded
//! before anything is sent, so no key can smuggle in a command; long ones are replaced by a SHA-256.
//! Replies are bounded, and must fit their command.

mod address;
mod builder;
mod coalesce;
mod connection;
mod decide;
mod errors;
mod exptime;
#[cfg(any(test, traffik_fuzz))]
pub(crate) mod fuzz;
mod generation;
mod gets_command;
mod health;
mod item;
mod keys;
mod lock;
mod many;
mod nodes;
mod pace;
mod pending;
mod per_runtime;
mod pool;
mod primitives;
mod protocol;
mod reply;
mod store;
mod store_command;
mod stream;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

pub use builder::MemcachedBuilder;

use super::change::{self, Changed};
use super::{Answers, Backend, BackendCore, HasCore, Locks, Result, Ttl, Values, names};
use crate::background::Home;
use crate::clock::monotonic_now;
use crate::decision::Decision;
use crate::error::ErrorKind;
use crate::key::{Key, KeyError, ToKey};
use crate::lock::{LockError, LockGuard, LockOptions, Releaser, WaitQueue};
use crate::step::{BlockChange, KeyState, Step};
use crate::timer;
use address::Address;
use coalesce::Coalescer;
use item::ExptimePolicy;
use nodes::Nodes;
use protocol::Command;

const NAME: &str = "memcached";
/// While somebody else moves the clock.
const KEEP_BY_ANOTHER_CLOCK: Duration = Duration::from_secs(60 * 60);

/// A backend on one Memcached server or several. See the [module](self) for its guarantees.
///
/// Cheap to clone; clones are the same backend. It connects when it is first used, or when a
/// [`lifespan`](crate::LifespanExt::lifespan) begins.
///
/// ```no_run
/// use traffik::{LifespanExt, Memcached, Throttle};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let backend = Memcached::builder()
///     .url("memcached://cache-1.internal")
///     .url("memcached://cache-2.internal")
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
pub struct Memcached {
    inner: Arc<MemcachedInner>,
}

#[derive(Debug)]
struct MemcachedInner {
    core: BackendCore,
    nodes: Arc<Nodes>,
    command_timeout: Duration,
    exptime_policy: ExptimePolicy,
    coalescer: Coalescer,
    /// Where each node's generation is, if keys are tracked.
    generation_key: Option<String>,
    waiting: Arc<WaitQueue>,
    /// One for each node.
    releasers: Vec<Releaser>,
    lease: Duration,
}

impl Memcached {
    /// Default maximum number of connections to each node. More brought no throughput in a measurement
    /// with 64 tasks.
    pub const DEFAULT_POOL_SIZE: usize = 32;
    /// Default timeout of one call to a server.
    pub const DEFAULT_COMMAND_TIMEOUT: Duration = Duration::from_millis(200);
    /// Default TTL of a lease, which is a lock without a TTL of its own.
    pub const DEFAULT_LOCK_LEASE: Duration = Duration::from_secs(30);

    /// Starts from the default settings: one server on `127.0.0.1:11211`.
    pub fn builder() -> MemcachedBuilder {
        MemcachedBuilder::new()
    }

    /// Deletes **everything** on every node, whoever wrote it: other namespaces, other applications, and
    /// the locks. For servers that nobody else uses.
    ///
    /// ```no_run
    /// # async fn example(backend: traffik::Memcached) -> Result<(), Box<dyn std::error::Error>> {
    /// backend.flush_all_of_dedicated_servers().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When a node cannot be reached, with the names of all such; the others are empty then.
    ///
    /// # Cancel safety
    ///
    /// When dropped, some nodes may be empty and others not.
    pub async fn flush_all_of_dedicated_servers(&self) -> Result<()> {
        const OPERATION: &str = "flush_all";
        let flush = |inner: Arc<MemcachedInner>, node| async move {
            inner.nodes.call(node, OPERATION, Command::FlushAll).await.map(drop)
        };
        self.open(OPERATION)?.on_all_nodes(OPERATION, flush).await
    }

    /// Returns the name of the item that holds the state of a throttle's key, to look a customer up;
    /// `None` for a key that is exempt.
    ///
    /// It is the namespace, `/t/`, the throttle and each part of the key after a slash, with all but
    /// visible ASCII, slashes, braces and `%` percent-encoded. A name of more than 250 bytes is replaced
    /// by a digest.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let backend = traffik::Memcached::builder().namespace("shop:prod").build()?;
    /// let name = backend.stored_name("api", ("tenant-7", "alice@example.com"))?;
    /// assert_eq!(name.as_deref(), Some("shop:prod/t/api/tenant-7/alice@example.com"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When a hit would refuse the key.
    pub fn stored_name(&self, throttle: &str, key: impl ToKey) -> Result<Option<String>, KeyError> {
        let namespace = self.inner.core.namespace();
        names::stored_name(throttle, &key, |key| keys::of_key(namespace, key).into_bytes())
    }

    fn from_parts(builder: &MemcachedBuilder, core: BackendCore, addresses: Vec<Address>) -> Self {
        let for_at_least =
            if builder.clock.is_some() { KEEP_BY_ANOTHER_CLOCK } else { Duration::ZERO };
        let (least, most) = (builder.pool_minsize, builder.pool_size);
        let releasers = addresses.iter().map(|_| Releaser::on(Home::Own)).collect();
        Self {
            inner: Arc::new(MemcachedInner {
                core,
                nodes: Arc::new(Nodes::new(addresses, builder.command_timeout, least, most)),
                command_timeout: builder.command_timeout,
                exptime_policy: ExptimePolicy { for_at_least },
                coalescer: Coalescer::new(),
                generation_key: builder.track_keys.then(|| keys::of_generation(&builder.namespace)),
                waiting: Arc::new(WaitQueue::new(NAME)),
                releasers,
                lease: builder.lock_lease,
            }),
        }
    }

    /// Does to a value what `change` says.
    async fn update<T: Send>(
        &self,
        operation: &'static str,
        key: &Key<'_>,
        change: impl Fn(Option<&[u8]>) -> Changed<T> + Send + Sync,
    ) -> Result<T> {
        self.open(operation)?.update(operation, key, change).await
    }

    /// Returns the open backend, for one operation.
    fn open(&self, operation: &'static str) -> Result<&Arc<MemcachedInner>> {
        if self.inner.nodes.is_closed() {
            return Err(errors::closed(operation));
        }
        timer::require(NAME, operation)?;
        Ok(&self.inner)
    }
}

impl fmt::Debug for Memcached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memcached")
            .field("namespace", &self.inner.core.namespace())
            .field("nodes", &self.inner.nodes)
            .finish_non_exhaustive()
    }
}

impl HasCore for Memcached {
    fn core(&self) -> &BackendCore {
        &self.inner.core
    }
}

#[async_trait]
impl Values for Memcached {
    async fn get(&self, key: &Key<'_>) -> Result<Option<Vec<u8>>> {
        self.open("get")?.value(key).await
    }

    async fn compare_and_set(
        &self,
        key: &Key<'_>,
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
        ttl: Ttl,
    ) -> Result<bool> {
        self.update("compare_and_set", key, change::replace(expected, new, ttl)).await
    }

    async fn set(&self, key: &Key<'_>, value: &[u8], ttl: Option<Duration>) -> Result<()> {
        self.update("set", key, change::set(value, ttl)).await
    }

    async fn delete(&self, key: &Key<'_>) -> Result<bool> {
        self.update("delete", key, change::delete()).await
    }

    async fn increment(&self, key: &Key<'_>, by: u64) -> Result<u64> {
        const OPERATION: &str = "increment";
        self.update(OPERATION, key, change::add((NAME, OPERATION), by, Ttl::Keep)).await
    }

    async fn increment_with_ttl(&self, key: &Key<'_>, by: u64, ttl: Duration) -> Result<u64> {
        const OPERATION: &str = "increment_with_ttl";
        self.update(OPERATION, key, change::add((NAME, OPERATION), by, Ttl::IfNone(ttl))).await
    }

    async fn decrement(&self, key: &Key<'_>, by: u64) -> Result<u64> {
        const OPERATION: &str = "decrement";
        self.update(OPERATION, key, change::subtract((NAME, OPERATION), by)).await
    }

    async fn expire(&self, key: &Key<'_>, ttl: Duration) -> Result<bool> {
        self.update("expire", key, change::expire(ttl)).await
    }

    async fn multi_get(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Vec<u8>>>> {
        self.open("multi_get")?.values(keys).await
    }

    async fn multi_set(&self, pairs: &[(Key<'_>, &[u8])], ttl: Option<Duration>) -> Result<()> {
        for (done, (key, value)) in pairs.iter().enumerate() {
            let set = self.update("multi_set", key, change::set(value, ttl)).await;
            set.map_err(|error| error.after(done))?;
        }
        Ok(())
    }
}

#[async_trait]
impl Locks for Memcached {
    async fn lock(&self, name: &str, options: LockOptions) -> Result<LockGuard, LockError> {
        let inner = self.open("lock")?;
        let request = options.resolve(name, inner.core.lock_options())?;
        inner.lock(name, request).await
    }
}

#[async_trait]
impl Backend for Memcached {
    async fn initialize(&self) -> Result<()> {
        timer::require(NAME, "initialize")?;
        self.inner.nodes.open();
        self.inner.warm_up().await
    }

    async fn ready(&self) -> Result<()> {
        self.open("ready")?.ready().await
    }

    async fn clear(&self) -> Result<()> {
        let inner = self.open("clear")?;
        if inner.generation_key.is_none() {
            return Err(errors::failed("clear", ErrorKind::Unsupported).with_message(
                "a server cannot list its keys; build with track_keys(true), or let them expire",
            ));
        }
        inner
            .on_all_nodes("clear", |inner, node| async move { inner.raise("clear", node).await })
            .await
    }

    async fn close(&self) -> Result<()> {
        let inner = &self.inner;
        inner.nodes.close();
        let deadline = monotonic_now() + inner.command_timeout;
        for releaser in &inner.releasers {
            releaser.drained(deadline.saturating_duration_since(monotonic_now())).await;
        }
        Ok(())
    }

    async fn apply(&self, key: &Key<'_>, step: &Step<'_>) -> Result<Decision> {
        self.open("apply")?.apply(key, step).await
    }

    async fn change_block(&self, key: &Key<'_>, change: BlockChange) -> Result<bool> {
        self.open("change_block")?.change_block(key, change).await
    }

    async fn inspect(&self, key: &Key<'_>) -> Result<KeyState> {
        self.open("inspect")?.inspect(key).await
    }

    async fn apply_many(&self, steps: &[(Key<'_>, Step<'_>)], answers: &Answers) {
        match self.open("apply") {
            Ok(inner) => inner.apply_many(steps, answers).await,
            Err(error) => answers.fail(&error),
        }
    }
}
