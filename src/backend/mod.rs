//! The [`Backend`] trait and its implementations.
//!
#![doc = include_str!("../../docs/tables/backends.md")]
//!
//! A backend of your own implements [`HasCore`], of [`Values`] `get` and `compare_and_set`, of
//! [`Backend`] `clear` and `close`, and [`Locks`], whose defaults refuse. All else has defaults: other
//! values and counters, and [`apply`](Backend::apply), which makes exact decisions from these two. The
//! suite in `traffik::conformance` (feature `conformance`) checks it, whole or by part.
//!
#![cfg_attr(not(feature = "redis"), doc = "[`Redis`]: crate::guide::redis")]
#![cfg_attr(feature = "redis", doc = "[`Redis`]: crate::Redis")]
#![cfg_attr(not(feature = "memcached"), doc = "[`Memcached`]: crate::guide::memcached")]
#![cfg_attr(feature = "memcached", doc = "[`Memcached`]: crate::Memcached")]

mod answers;
mod by_key;
mod change;
mod core;
mod counter;
mod forward;
mod lifespans;
mod locks;
#[cfg(feature = "memcached")]
#[cfg_attr(docsrs, doc(cfg(feature = "memcached")))]
pub mod memcached;
mod memory;
#[cfg(any(feature = "redis", feature = "memcached", test))]
mod names;
mod optimistic;
#[cfg(feature = "redis")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
pub mod redis;
mod values;

use std::time::Duration;

use async_trait::async_trait;

pub use self::answers::Answers;
pub use self::core::{BackendCore, HasCore, Stat};
pub use locks::Locks;
#[cfg(feature = "memcached")]
#[cfg_attr(docsrs, doc(cfg(feature = "memcached")))]
pub use memcached::{Memcached, MemcachedBuilder};
pub use memory::{InMemory, InMemoryBuilder, LockKind, Overflow, Prepared, Restored};
pub use values::{MAX_COUNTER, Ttl, Values};

pub(crate) use by_key::by_key;
pub(crate) use forward::erase;

use crate::decision::Decision;
use crate::error::BackendError;
use crate::join::join_all;
use crate::key::Key;
use crate::step::{BlockChange, KeyState, Step};
use crate::strategy::Limit;

/// A result of a backend.
pub type Result<T, E = BackendError> = std::result::Result<T, E>;

/// A store of limiter state: its lifecycle, and the decisions that are made there.
///
/// Its values and counters are [`Values`], its locks are [`Locks`]. Object-safe: an `Arc<dyn Backend>`
/// gives all of it, and `Arc<B>` and `Box<B>` are backends if `B` is.
///
/// # Contract
///
/// * **Atomicity.** Each method takes effect at one instant, or not at all, unless its docs say otherwise.
/// * **Keys.** Distinct keys never collide, whatever bytes they contain, but by digests of long ones. A key of one
///   namespace never collides with one of another.
/// * **Expiry.** A value lives at least as long as its TTL; a TTL is rounded up to what the store can measure,
///   and a TTL of zero removes the value at once. An expired value reads as missing. A store drops no value
///   early, unless its docs say that it can (eviction).
/// * **Effect.** An error tells whether the operation may have happened; see [`Effect`](crate::Effect).
///   No decision that may have happened is retried; what may be repeated without harm (`clear`, the release
///   of a lock) is.
/// * **Cancel safety.** A future of these traits may be dropped at any await. The operation may then have
///   happened or not; no later call reads its reply, and no lock stays held by it.
/// * **After [`close`](Self::close)** every method fails with
///   [`ErrorKind::Closed`](crate::ErrorKind::Closed), but for [`core`](HasCore::core),
///   [`initialize`](Self::initialize), [`close`](Self::close) and [`stop`](Self::stop). Callers that are
///   waiting for a lock already keep waiting.
#[async_trait]
pub trait Backend: Values + Locks {
    /// Connects, and starts background tasks. Opens a backend again that was closed; may be called while it
    /// is in use. Idempotent.
    ///
    /// Dropped or failed, it leaves the backend open, to connect when it is used: a lifespan that
    /// starts [degraded](crate::lifespan::Start::Degraded) gives it half a second, and then asks
    /// [`ready`](Self::ready) until the store answers.
    async fn initialize(&self) -> Result<()> {
        Ok(())
    }

    /// Checks that the store is reachable and accepts requests. A hit that has something to write may fail
    /// all the same, as on a server that is out of memory.
    ///
    /// ```
    /// use traffik::{Backend, InMemory, LifespanExt};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let backend = InMemory::new();
    /// let life = backend.lifespan().await?; // calls `initialize`
    /// backend.ready().await?;
    /// life.close().await?; // calls `clear`, in memory, and `close`
    /// assert!(backend.ready().await.is_err(), "closed");
    /// # Ok(())
    /// # }
    /// ```
    async fn ready(&self) -> Result<()> {
        self.get(&Key::value("traffik:ready")).await.map(drop)
    }

    /// Removes this namespace's limiter states and values. Never its locks, never another namespace.
    ///
    /// ```
    /// use traffik::{Backend, InMemory, Key, Values};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let backend = InMemory::new();
    /// backend.set(&Key::value("a"), b"1", None).await?;
    /// backend.clear().await?;
    /// assert_eq!(backend.get(&Key::value("a")).await?, None);
    /// # Ok(())
    /// # }
    /// ```
    async fn clear(&self) -> Result<()>;

    /// Stops background tasks and releases the store. Idempotent.
    ///
    /// ```
    /// use traffik::{Backend, InMemory, Key, Values};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let backend = InMemory::new();
    /// backend.close().await?;
    /// assert!(backend.get(&Key::value("a")).await.is_err(), "closed");
    /// backend.initialize().await?;
    /// assert!(backend.get(&Key::value("a")).await.is_ok(), "open again");
    /// # Ok(())
    /// # }
    /// ```
    async fn close(&self) -> Result<()>;

    /// Stops background tasks without waiting. Never blocks or panics, in or out of a runtime.
    fn stop(&self) {}

    /// Prepares the fast path of the hits of one throttle, which asks for it once. `None`, the default, if
    /// there is none.
    ///
    /// A backend that wraps another and need not see each hit forwards this; one that must see them returns
    /// `None`.
    fn prepare(&self, throttle: &str, limits: &[Limit]) -> Option<Prepared> {
        let _ = (throttle, limits);
        None
    }

    /// Decides at once where no waiting is needed; `None` to call [`apply`](Self::apply).
    fn try_apply(&self, key: &Key<'_>, step: &Step<'_>) -> Option<Result<Decision>> {
        let _ = (key, step);
        None
    }

    /// Decides one step, atomically.
    ///
    /// The default reads the state, runs [`Step::evaluate`], and writes it back by
    /// [`compare_and_set`](Values::compare_and_set), a bounded number of times with jittered backoff; then
    /// it fails with [`ErrorKind::Contended`](crate::ErrorKind::Contended). The state is stored for an hour
    /// longer than it matters, so that a clock which steps back by less finds what counts again. A state
    /// that cannot be read is replaced by one that holds this hit, counted, and reported as
    /// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt): ambiguous, or not applied where nothing was written, as by a
    /// peek.
    ///
    /// ```
    /// use traffik::key::KeyPart;
    /// use traffik::step::Step;
    /// use traffik::strategy::{Limit, Op};
    /// use traffik::{Backend, InMemory, Key, Rate, TokenBucket};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// // As a throttle does.
    /// let limits = [Limit::new(Rate::per_minute(5), TokenBucket::new())?];
    /// let parts = [KeyPart::bytes(b"alice")];
    /// let step = Step::new(&limits, 2, Op::Take);
    /// let decision = InMemory::new().apply(&Key::new("api", &parts), &step).await?;
    /// assert_eq!(decision.remaining(), 3);
    /// # Ok(())
    /// # }
    /// ```
    async fn apply(&self, key: &Key<'_>, step: &Step<'_>) -> Result<Decision> {
        optimistic::apply(self.core(), &optimistic::ByValues(self), key, step).await
    }

    /// Decides several steps, each by itself, with as few questions to the store as it needs. Puts in a decision
    /// or an error for each, as soon as it is known: a throttle waits no longer than its deadline, and uses what
    /// has been put in by then. A step that is never answered fails.
    ///
    /// Steps of one key count in the order in which they are given. The default applies those of different keys at
    /// the same time.
    ///
    /// ```
    /// use traffik::backend::Answers;
    /// use traffik::key::KeyPart;
    /// use traffik::step::Step;
    /// use traffik::strategy::{Limit, Op};
    /// use traffik::{Backend, InMemory, Key, Rate, TokenBucket};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let limits = [Limit::new(Rate::per_minute(5), TokenBucket::new())?];
    /// let (alice, bob) = ([KeyPart::bytes(b"alice")], [KeyPart::bytes(b"bob")]);
    /// let hit = Step::new(&limits, 1, Op::Take);
    /// let steps = [(Key::new("api", &alice), hit), (Key::new("api", &bob), hit)];
    /// let answers = Answers::new(steps.len());
    /// InMemory::new().apply_many(&steps, &answers).await;
    /// for answer in answers.into_answers() {
    ///     assert_eq!(answer.expect("answered")?.remaining(), 4);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    async fn apply_many(&self, steps: &[(Key<'_>, Step<'_>)], answers: &Answers) {
        let asked = by_key(steps).into_iter().map(|of_key| async move {
            for index in of_key {
                let (key, step) = &steps[index];
                answers.put(index, self.apply(key, step).await);
            }
        });
        join_all(asked).await;
    }

    /// Returns whether [`apply_many`](Self::apply_many) decides equal hits on one key by one question, so that those who
    /// hit a key at the same time had better [ask together](crate::decorator::Coalesce). `false`, the default, if it
    /// asks about one after the other, or puts them together by itself.
    fn decides_equal_hits_at_once(&self) -> bool {
        false
    }

    /// Returns the time after which another backend decides in place of this one at the latest, as in a
    /// [`Failover`](crate::decorator::Failover). `None`, the default, for one that stands alone; a backend that wraps
    /// another must forward this, or two fallbacks may lie in one stack unseen.
    ///
    /// A receipt knows of one fallback only, so a backend that has one is refused as the primary or the fallback of
    /// another. A throttle of such a backend whose deadline is not above that time says so in the log when it is built;
    /// of an ambient backend nothing is known by then.
    fn fallback_after(&self) -> Option<Duration> {
        None
    }

    /// Decides hits on several keys in one step, all or nothing: takes them all if all pass, and else none.
    /// `None`, the default, with nothing done, if it cannot for these.
    ///
    /// No key comes twice, and each step is an [`Op::Take`](crate::strategy::Op::Take). Returns a decision
    /// for each, in their order; where any denies, what a peek would say, and nothing is taken. An error
    /// concerns all of them. Also `None` if a state cannot be read, a hit would bring one rate too many, or
    /// no room is left for a key: then they are decided one after the other, and each says so for itself.
    ///
    /// Backends of one type with the same [`id`](HasCore::id) are taken for one, which is asked for all.
    ///
    /// ```
    /// use traffik::key::KeyPart;
    /// use traffik::step::Step;
    /// use traffik::strategy::{Limit, Op};
    /// use traffik::{Backend, InMemory, Key, Rate, TokenBucket};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let backend = InMemory::new();
    /// let (two, none) = (Rate::per_minute(2), Rate::per_minute(0));
    /// let limits = |rate| Limit::new(rate, TokenBucket::new()).map(|limit| [limit]);
    /// let (two, none, alice) = (limits(two)?, limits(none)?, [KeyPart::bytes(b"alice")]);
    /// let (requests, exports) = (Key::new("requests", &alice), Key::new("exports", &alice));
    /// let hits =
    ///     [(requests, Step::new(&two, 1, Op::Take)), (exports, Step::new(&none, 1, Op::Take))];
    /// if let Some(decisions) = backend.apply_all(&hits).await {
    ///     let decisions = decisions?;
    ///     assert!(decisions[0].is_allowed() && decisions[1].is_denied());
    /// }
    /// let left = backend.apply(&requests, &Step::new(&two, 1, Op::Peek)).await?.remaining();
    /// assert_eq!(left, 2, "nothing was taken");
    /// # Ok(())
    /// # }
    /// ```
    async fn apply_all(&self, hits: &[(Key<'_>, Step<'_>)]) -> Option<Result<Vec<Decision>>> {
        let _ = hits;
        None
    }

    /// Blocks a throttle's key, or ends its block: every hit on it is denied while it lasts. Returns whether it
    /// was blocked. Atomic; changes nothing else of the key.
    ///
    /// The default changes the stored state by [`Values`], as that of [`apply`](Self::apply) does. So a backend
    /// that decides by states of its own must have all of `apply`, this, [`inspect`](Self::inspect) and
    /// [`forget`](Self::forget), or a block would reach no hit.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use traffik::key::KeyPart;
    /// use traffik::step::BlockChange;
    /// use traffik::{Backend, InMemory, Key};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (backend, alice) = (InMemory::new(), [KeyPart::bytes(b"alice")]);
    /// let key = Key::new("api", &alice);
    /// let hour = BlockChange::Replace(Duration::from_secs(3600));
    /// assert!(!backend.change_block(&key, hour).await?);
    /// assert!(backend.inspect(&key).await?.blocked_until().is_some());
    /// assert!(backend.change_block(&key, BlockChange::Remove).await?, "it was blocked");
    /// # Ok(())
    /// # }
    /// ```
    async fn change_block(&self, key: &Key<'_>, change: BlockChange) -> Result<bool> {
        optimistic::change_block(self.core(), &optimistic::ByValues(self), key, change).await
    }

    /// Returns what is stored of a throttle's key, for an operator. Where the states are is a matter of
    /// [`change_block`](Self::change_block) too.
    async fn inspect(&self, key: &Key<'_>) -> Result<KeyState> {
        optimistic::inspect(self.core(), &optimistic::ByValues(self), key).await
    }

    /// Forgets all limits of a throttle's key, and its block.
    async fn forget(&self, key: &Key<'_>) -> Result<()> {
        self.delete(key).await.map(drop)
    }
}
