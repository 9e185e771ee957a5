//! [`InMemoryBuilder`].

use std::fmt;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::InMemory;
use super::snapshot::{Settings, Source};
use crate::backend::BackendCore;
use crate::clock::{Clock, SystemClock};
use crate::error::BuildError;
use crate::lock::LockOptions;
use crate::on_error::OnError;

/// The most shards.
const MAX_SHARDS: usize = 65_536;

/// The order in which waiters get a lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LockKind {
    /// Strictly first come, first served.
    Fair,
    /// A caller that comes when the lock is free may take it before the waiters: faster, and mostly in
    /// order.
    #[default]
    Unfair,
}

/// The decision about a hit that needs room for a new key when `max_keys` is reached. A hit that its
/// limits deny is denied in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overflow {
    /// Deny it, to be tried again after a second. Keys that are counted go on as usual, so a flood of
    /// made-up keys cannot push out the counter of one that is limited.
    #[default]
    Deny,
    /// Let it pass, uncounted.
    Allow,
}

/// Builds an [`InMemory`] backend. Setters cannot fail; `build` checks the settings.
#[must_use = "a builder does nothing until `build`"]
pub struct InMemoryBuilder {
    namespace: String,
    /// `None` where its user does not say.
    persistent: Option<bool>,
    on_error: OnError,
    number_of_shards: Option<usize>,
    pub(super) cleanup_frequency: Option<Duration>,
    pub(super) lock_kind: LockKind,
    lock: LockOptions,
    pub(super) max_keys: Option<usize>,
    pub(super) overflow: Overflow,
    clock: Option<Arc<dyn Clock>>,
    pub(super) snapshots: Settings,
}

impl InMemoryBuilder {
    pub(super) fn new() -> Self {
        Self {
            namespace: ":memory:".into(),
            persistent: None,
            on_error: OnError::default(),
            number_of_shards: None,
            cleanup_frequency: Some(Duration::from_secs(10)),
            lock_kind: LockKind::default(),
            lock: LockOptions::new(),
            max_keys: Some(InMemory::DEFAULT_MAX_KEYS),
            overflow: Overflow::default(),
            clock: None,
            snapshots: Settings::default(),
        }
    }

    /// Sets the namespace, which is used in logs: in-memory backends share nothing. Must be 1 to 64 bytes
    /// of letters, digits and `_.:-`. Defaults to `:memory:`.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// Sets whether counted hits outlive a lifespan, for the next lifespan of the same backend. Defaults
    /// to `false`, and to `true` with a [`snapshot_file`](Self::snapshot_file).
    pub fn persistent(mut self, persistent: bool) -> Self {
        self.persistent = Some(persistent);
        self
    }

    /// Sets the error policy of throttles that have none of their own: what is decided when the backend
    /// fails. Memory itself does not fail; a custom strategy that finds its state corrupt does. Defaults
    /// to [`OnError::default`].
    pub fn on_error(mut self, policy: OnError) -> Self {
        self.on_error = policy;
        self
    }

    /// Sets the number of shards, from 1 to 65,536. Each shard has its own lock. More shards shorten the
    /// pause while a table grows and use more memory. Defaults to 16 for each core, rounded up to a power
    /// of two, and at least 64.
    pub fn number_of_shards(mut self, shards: usize) -> Self {
        self.number_of_shards = Some(shards);
        self
    }

    pub(super) fn shards(&self) -> usize {
        self.number_of_shards.unwrap_or_else(|| {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            (cores * 16).clamp(64, MAX_SHARDS).next_power_of_two()
        })
    }

    /// Sets the interval at which a background task removes expired keys. Must be above zero. With `None`
    /// only new keys remove others: each insert looks at a few. Defaults to 10 s.
    ///
    /// The task runs from `initialize` (a lifespan) until the backend is closed or dropped.
    pub fn cleanup_frequency(mut self, frequency: Option<Duration>) -> Self {
        self.cleanup_frequency = frequency;
        self
    }

    /// Sets the order in which waiters get a lock. Defaults to [`LockKind::Unfair`].
    pub fn lock_kind(mut self, kind: LockKind) -> Self {
        self.lock_kind = kind;
        self
    }

    /// Sets the default of [`LockOptions::blocking`](crate::LockOptions::blocking): whether to wait for a
    /// lock that is held. Defaults to `true`.
    pub fn lock_blocking(mut self, blocking: bool) -> Self {
        self.lock = self.lock.blocking(blocking);
        self
    }

    /// Sets the default of [`LockOptions::ttl`](crate::LockOptions::ttl): the time after which a lock
    /// expires. Must be above zero. Defaults to `None`: it never expires.
    pub fn lock_ttl(mut self, ttl: Option<Duration>) -> Self {
        self.lock = self.lock.ttl(ttl);
        self
    }

    /// Sets the default of [`LockOptions::blocking_timeout`](crate::LockOptions::blocking_timeout): the
    /// longest wait for a lock. Defaults to `None`, which has no bound.
    pub fn lock_blocking_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.lock = self.lock.blocking_timeout(timeout);
        self
    }

    /// Sets the maximum number of keys, above zero. A key of a throttle counts as one, whatever limits it
    /// has, and so does each value. `None` has no bound. Defaults to [`InMemory::DEFAULT_MAX_KEYS`].
    ///
    /// Expired entries make room: a bucket that is full again, a window that is past, an expired value. A
    /// hit that finds no free slot looks at up to 512 slots for one. If all are in use, a new key gets
    /// the [`overflow`](Self::overflow) decision. A key in use is never evicted, and always has the room
    /// that its limits need: memory grows to `max_keys` times the number of limits at most, and the
    /// rates that hits bring to a key (32 that count, and some that are over).
    pub fn max_keys(mut self, keys: Option<usize>) -> Self {
        self.max_keys = keys;
        self
    }

    /// Sets the decision about new keys when `max_keys` is reached. Defaults to [`Overflow::Deny`].
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = overflow;
        self
    }

    /// Sets the clock. Defaults to a [`SystemClock`].
    ///
    /// Another clock may step back. So expired entries stay for an hour while there is room, and a clock
    /// that steps back by less than that finds them again.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Keeps what is counted in a file: it is restored when the backend is built, and written at the end of each
    /// lifespan, and by [`close`](crate::Backend::close). Defaults to none.
    ///
    /// So limits survive a restart of the process; one whose period or strategy has changed begins anew. If the file is
    /// not there, it is a first start; if its folder is not there or not writable, or the file is damaged,
    /// [`build`](Self::build) fails. It is restored by `build` and not when a lifespan begins, for keys are hashed by its
    /// secret, and hits need no lifespan; a later lifespan of the same backend goes on with what is in memory. The end of
    /// a lifespan clears nothing then: the backend is [`persistent`](Self::persistent).
    ///
    /// Without a [lifespan](crate::lifespan) nothing is written by itself, and a lifespan that is dropped writes nothing
    /// either; a warning tells so when the backend is dropped. Then, and when a process dies, the file is as it was
    /// written last: set [`snapshot_every`](Self::snapshot_every) too. A close that cannot write returns that error,
    /// and writes when it is called again. How the file is written, and why it is secret:
    /// [`write_snapshot`](InMemory::write_snapshot).
    ///
    /// Give each backend a file of its own, and build the next backend of a file when the one before is closed: of two
    /// that write one file the last one counts, which a warning tells. A relative path is one from the folder in which
    /// the backend is built. A folder may be reached by symbolic links, which are followed then and not later: do not name
    /// the file by a link that moves with each release. A file that is a link, a device or a pipe is refused.
    ///
    /// To close takes as long as the disk does. Where that may be a network's, put a limit around it, and end the process
    /// by [`exit`](std::process::exit) or the runtime by its `shutdown_timeout`: a thread that hangs in a write goes on, and
    /// a runtime that is dropped waits for it.
    ///
    /// ```
    /// use traffik::{InMemory, LifespanExt, Throttle};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let path = std::env::temp_dir().join(format!("traffik-doc-file-{}", std::process::id()));
    /// for remaining in [4, 3] {
    ///     // Each time as a process that starts.
    ///     let backend = InMemory::builder().snapshot_file(&path).build()?;
    ///     let life = backend.lifespan().await?;
    ///     let throttle = Throttle::builder("api").rate("5/h").backend(backend).build()?;
    ///     assert_eq!(throttle.hit("alice").await?.remaining(), remaining);
    ///     life.close().await?;
    /// }
    /// # std::fs::remove_file(&path)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn snapshot_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.snapshots.file = Some(path.into());
        self
    }

    /// Writes the [`snapshot_file`](Self::snapshot_file) in the background too, that long after it was written last, from
    /// `initialize` (a lifespan) until the backend is closed or dropped. Must be above zero. It is written
    /// even if nothing was counted. A write that fails is logged, and tried again. Defaults to the end of a
    /// lifespan alone.
    ///
    /// What is counted after the last write is lost with a process that dies: keys then have what they used since back.
    pub fn snapshot_every(mut self, every: Duration) -> Self {
        self.snapshots.every = Some(every);
        self
    }

    /// Restores a snapshot from a file when the backend is built. It must be there: what is missing is an error. Replaces
    /// other settings to restore from. Defaults to none.
    ///
    /// Each key goes on as it was; what is over by now is left out. An instant that is later than now, since the clock
    /// was set back, becomes now, and counts stay; but a key that a strategy of your own counts stands still until
    /// then, for which of its words are instants that strategy alone knows. Keys for which [`max_keys`](Self::max_keys)
    /// has no room are left out, with a warning, and meet the [`overflow`](Self::overflow) decision as any new key of a
    /// full memory; [`restored`](InMemory::restored) tells how many.
    pub fn restore(mut self, path: impl Into<PathBuf>) -> Self {
        self.snapshots.source = Some(Source::Required(path.into()));
        self
    }

    /// Restores as [`restore`](Self::restore) does from a file that is not there at the first start; its folder must be.
    pub fn restore_existing(mut self, path: impl Into<PathBuf>) -> Self {
        self.snapshots.source = Some(Source::Existing(path.into()));
        self
    }

    /// Restores as [`restore`](Self::restore) does from a reader, which is read to its end by [`build`](Self::build). It
    /// need not have a buffer of its own.
    pub fn restore_from(mut self, reader: impl Read + Send + 'static) -> Self {
        self.snapshots.source = Some(Source::reader(reader));
        self
    }

    /// Checks the settings and builds the backend.
    ///
    /// # Errors
    ///
    /// When a setting is out of its range, or a snapshot cannot be restored: [`BuildError::Restore`].
    pub fn build(self) -> Result<InMemory, BuildError> {
        let given = self.shards();
        if !(1..=MAX_SHARDS).contains(&given) {
            return Err(BuildError::setting(
                "number_of_shards",
                format!("is {given}; use 1 to {MAX_SHARDS}"),
            ));
        }
        if self.cleanup_frequency == Some(Duration::ZERO) {
            return Err(BuildError::setting(
                "cleanup_frequency",
                "is zero; use some seconds, or None to leave it to new keys",
            ));
        }
        if self.max_keys == Some(0) {
            return Err(BuildError::setting(
                "max_keys",
                "is 0; use 1 or more, or None for no bound",
            ));
        }
        if self.lock.explicit_ttl() == Some(Duration::ZERO) {
            return Err(BuildError::setting(
                "lock_ttl",
                "is zero; use a duration above it, or None",
            ));
        }
        self.snapshots.check(self.persistent)?;
        let persistent = self.persistent.unwrap_or(self.snapshots.file.is_some());
        let system = self.clock.is_none().then(SystemClock::new);
        let clock = match (&self.clock, &system) {
            (Some(clock), _) => Arc::clone(clock),
            (None, Some(system)) => Arc::new(system.clone()),
            (None, None) => unreachable!("a system clock where there is no other"),
        };
        let core = BackendCore::new(super::NAME, self.namespace.clone(), clock)?
            .persistent(persistent)
            .on_error(self.on_error.clone())
            .lock_defaults(self.lock);
        InMemory::from_parts(self, core, system)
    }
}

impl fmt::Debug for InMemoryBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InMemoryBuilder")
            .field("namespace", &self.namespace)
            .field("number_of_shards", &self.shards())
            .field("max_keys", &self.max_keys)
            .finish_non_exhaustive()
    }
}
