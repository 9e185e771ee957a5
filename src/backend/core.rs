//! [`BackendCore`]: the settings and statistics of a backend.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::lifespans::Lifespans;
use crate::clock::Clock;
use crate::error::BuildError;
use crate::lock::LockOptions;
use crate::on_error::OnError;
use crate::random;

/// The common part of every backend: its settings, its statistics, and the lifespans that use it.
#[derive(Debug)]
pub struct BackendCore {
    name: &'static str,
    namespace: String,
    /// `None` where its user does not say.
    persistent: Option<bool>,
    shared: bool,
    on_error: OnError,
    lock: LockOptions,
    clock: Arc<dyn Clock>,
    lifespans: Lifespans,
    stats: [AtomicU64; Stat::COUNT],
    /// A number of this store alone; a shared one has that of its backend and namespace, so it is the same
    /// in every process.
    store_id: u64,
}

/// Gives access to the core of a backend. Values, locks and decisions have it in common.
pub trait HasCore: Any + fmt::Debug + Send + Sync {
    /// Returns the settings and statistics.
    fn core(&self) -> &BackendCore;

    /// Returns a number that tells this backend from others while both live; handles of one have the same. A
    /// decorator, which has the core of what it wraps, returns one of its own.
    ///
    /// Hits on backends with the same number are asked together, by [`Backend::apply_all`](super::Backend::apply_all)
    /// of one of them. Defaults to the address of the [`core`](Self::core).
    fn id(&self) -> usize {
        std::ptr::from_ref(self.core()).addr()
    }
}

/// The number of the next store that is not shared.
static NEXT_STORE: AtomicU64 = AtomicU64::new(1);

/// An event that a backend counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stat {
    /// A stored state could not be read.
    Corrupt,
    /// A hit on a new key found `max_keys` reached.
    Overflowed,
    /// An operation lost every attempt to concurrent writers.
    Contended,
}

impl Stat {
    const COUNT: usize = 3;
}

impl BackendCore {
    /// Creates the core of a backend called `name`, with a namespace, a clock and the default settings:
    /// not shared with other processes, and so not persistent, [`OnError::default`],
    /// [`LockOptions::new`].
    ///
    /// # Errors
    ///
    /// When the namespace is not 1 to 64 bytes of letters, digits and `_.:-`.
    pub fn new(
        name: &'static str,
        namespace: impl Into<String>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, BuildError> {
        let namespace = namespace.into();
        let fits = (1..=64).contains(&namespace.len());
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.:-".contains(&byte);
        if !fits || !namespace.bytes().all(allowed) {
            return Err(BuildError::setting(
                "namespace",
                format!("{namespace:?} is not 1 to 64 bytes of letters, digits and \"_.:-\""),
            ));
        }
        Ok(Self {
            name,
            namespace,
            persistent: None,
            shared: false,
            on_error: OnError::default(),
            lock: LockOptions::new(),
            clock,
            lifespans: Lifespans::default(),
            stats: Default::default(),
            store_id: NEXT_STORE.fetch_add(1, Ordering::Relaxed),
        })
    }

    /// Sets whether the end of a lifespan keeps what is stored. Defaults to `true` for a
    /// [shared](Self::shared) store, whose counts belong to other processes too, and else to `false`.
    #[must_use]
    pub fn persistent(mut self, persistent: bool) -> Self {
        self.persistent = Some(persistent);
        self
    }

    /// Sets whether other processes use the same store. Defaults to `false`.
    #[must_use]
    pub fn shared(mut self, shared: bool) -> Self {
        self.shared = shared;
        if shared {
            self.store_id = random::hasher().hash_one((self.name, &self.namespace));
        }
        self
    }

    /// Sets the error policy of throttles that have none of their own. Defaults to [`OnError::default`].
    #[must_use]
    pub fn on_error(mut self, on_error: OnError) -> Self {
        self.on_error = on_error;
        self
    }

    /// Sets the default options of locks. Defaults to [`LockOptions::new`].
    #[must_use]
    pub fn lock_defaults(mut self, lock: LockOptions) -> Self {
        self.lock = lock;
        self
    }

    /// Returns the backend's name, for errors and logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Returns the namespace of its keys.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Returns `true` if the end of a lifespan keeps what is stored.
    #[must_use]
    pub fn is_persistent(&self) -> bool {
        self.persistent.unwrap_or(self.shared)
    }

    /// Returns `true` if other processes use the same store.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    /// Returns the error policy of throttles that have none of their own.
    #[must_use]
    pub fn error_policy(&self) -> &OnError {
        &self.on_error
    }

    /// Returns the default options of locks.
    pub const fn lock_options(&self) -> LockOptions {
        self.lock
    }

    /// Returns the clock.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Returns the number of such events since the backend was built.
    #[must_use]
    pub fn stat(&self, stat: Stat) -> u64 {
        self.stats[stat as usize].load(Ordering::Relaxed)
    }

    /// Counts one such event.
    pub fn record(&self, stat: Stat) {
        self.stats[stat as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Returns a number that tells the store from others, to bind receipts to it.
    pub(crate) fn store_id(&self) -> u64 {
        self.store_id
    }

    /// The lifespans that use the backend.
    pub(crate) fn lifespans(&self) -> &Lifespans {
        &self.lifespans
    }
}
