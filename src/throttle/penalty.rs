//! [`Penalty`]: blocks a key that was denied too often.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::begun::BegunHit;
use super::{Mode, Throttle};
use crate::backend::Backend;
use crate::clock::{Timestamp, micros_ceil};
use crate::decision::{DecidedBy, Decision, Denial};
use crate::error::BuildError;
use crate::key::{Key, KeyPart};
use crate::step::BlockChange;
use crate::strategy::Op;
use crate::timer::Deadline;

/// The most denials that each of two generations remembers: some megabytes together.
const MOST_REMEMBERED: usize = 32_768;
/// The most denials that a rule may ask for.
const MOST_DENIALS: u32 = 1_000;

/// A rule that blocks a key which goes on though it is denied.
///
/// After so many denials of its limits within some time, the key is [blocked](Throttle::block) for a while, in all
/// processes that share the store. Hits on it are then denied whatever its limits say, which costs the store less
/// than counting them. A block is never made shorter by the rule.
///
/// Denials are counted in each process by itself, of each throttle at most 65,536: beyond that those of the keys
/// that were not denied for longest are forgotten, and nobody is blocked for another's denials. Not counted is
/// what an error policy, a full memory or a block denies, what a peek says, what is let pass in
/// [`Mode::Shadow`], and what a caller is told who waits for its turn, by [`acquire`](Throttle::acquire). A [`reset`](Throttle::reset) or an
/// [`unblock`](Throttle::unblock) forgets the key's denials in its process; other processes keep theirs.
///
/// ```
/// use std::time::Duration;
///
/// use traffik::{Denial, InMemory, Penalty, Throttle};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (hour, minute) = (Duration::from_secs(3600), Duration::from_secs(60));
/// let login = Throttle::builder("login")
///     .rate("5/min")
///     .penalty(Penalty::block_for(hour).after(3).within(minute))
///     .backend(InMemory::new())
///     .build()?;
/// for _ in 0..5 {
///     assert!(login.hit("mallory").await?.is_allowed());
/// }
/// for _ in 0..2 {
///     assert_eq!(login.hit("mallory").await?.denial(), Some(Denial::Limited));
/// }
/// assert_eq!(login.hit("mallory").await?.denial(), Some(Denial::Blocked));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a penalty does nothing until a throttle has it"]
pub struct Penalty {
    block_for: Duration,
    denials: u32,
    within: Duration,
}

impl Penalty {
    /// Blocks a key for that long.
    pub const fn block_for(time: Duration) -> Self {
        Self { block_for: time, denials: 10, within: Duration::from_secs(60) }
    }

    /// Sets after how many denials: 1 to 1,000. Defaults to 10.
    pub const fn after(mut self, denials: u32) -> Self {
        self.denials = denials;
        self
    }

    /// Sets within which time these must come. Defaults to a minute.
    pub const fn within(mut self, time: Duration) -> Self {
        self.within = time;
        self
    }

    pub(super) fn check(&self, throttle: &str) -> Result<(), BuildError> {
        let problem = match self {
            Self { denials: 0, .. } => {
                "after 0 denials would block everybody; use 1 or more".to_owned()
            }
            Self { denials, .. } if *denials > MOST_DENIALS => {
                format!("after {denials} denials; the most is {MOST_DENIALS}")
            }
            Self { block_for, .. } if block_for.is_zero() => "blocks for no time".to_owned(),
            Self { within, .. } if within.is_zero() => "within no time".to_owned(),
            _ => return Ok(()),
        };
        Err(BuildError::setting("penalty", format!("of throttle {throttle:?}: {problem}")))
    }
}

/// The denials of a throttle's keys in this process.
#[derive(Debug)]
pub(super) struct Denials {
    rule: Penalty,
    /// Microseconds.
    within: u64,
    remembered: Mutex<Remembered>,
}

/// Two generations: what is not denied again in the time of the rule, or while the younger one fills, is dropped
/// with the older one.
#[derive(Debug, Default)]
struct Remembered {
    young: DenialsByKey,
    old: DenialsByKey,
    began: Timestamp,
    being_blocked: HashSet<Box<[u8]>, ahash::RandomState>,
}

/// A key that is being blocked, until it is dropped.
#[derive(Debug)]
pub(super) struct Blocking<'a> {
    denials: &'a Denials,
    key: Box<[u8]>,
}

#[derive(Debug, Default)]
struct DenialsByKey {
    keys: HashMap<Box<[u8]>, VecDeque<Timestamp>, ahash::RandomState>,
    denials: usize,
}

impl Denials {
    pub(super) fn new(rule: Penalty) -> Self {
        let remembered = Mutex::default();
        Self { rule, within: micros_ceil(rule.within), remembered }
    }

    /// Counts a denial. If that is one too many the key starts over, and is to be blocked; until that is done
    /// no denial of it is counted.
    fn count(&self, key: Vec<u8>, now: Timestamp) -> Option<Blocking<'_>> {
        let key = key.into_boxed_slice();
        let mut remembered = self.remembered.lock();
        if remembered.being_blocked.contains(&key) {
            return None;
        }
        remembered.age(now, self.within);
        let Remembered { young, old, .. } = &mut *remembered;
        let mut denials = match (young.take(&key), old.take(&key)) {
            (Some(denials), _) | (None, Some(denials)) => denials,
            (None, None) => VecDeque::new(),
        };
        // It counts on `(now - within, now]`, as an entry of a log does.
        let is_over = |denied_at: &Timestamp| denied_at.saturating_add_micros(self.within) <= now;
        while denials.front().is_some_and(is_over) {
            denials.pop_front();
        }
        denials.push_back(now);
        let enough = usize::try_from(self.rule.denials).unwrap_or(usize::MAX);
        if denials.len() >= enough {
            remembered.being_blocked.insert(key.clone());
            return Some(Blocking { denials: self, key });
        }
        if young.denials + denials.len() > MOST_REMEMBERED {
            remembered.begin(now);
        }
        remembered.young.put(key, denials);
        None
    }

    /// Forgets the denials of a key.
    fn forget(&self, key: &[u8]) {
        let Remembered { young, old, .. } = &mut *self.remembered.lock();
        let _ = (young.take(key), old.take(key));
    }
}

impl Drop for Blocking<'_> {
    fn drop(&mut self) {
        self.denials.remembered.lock().being_blocked.remove(&self.key);
    }
}

impl Remembered {
    fn age(&mut self, now: Timestamp, within: u64) {
        // Also after the clock was put back.
        if now < self.began || self.began.saturating_add_micros(within) <= now {
            self.begin(now);
        }
    }

    /// Begins another generation.
    fn begin(&mut self, now: Timestamp) {
        self.old = std::mem::take(&mut self.young);
        self.began = now;
    }
}

impl DenialsByKey {
    fn take(&mut self, key: &[u8]) -> Option<VecDeque<Timestamp>> {
        let denials = self.keys.remove(key)?;
        self.denials -= denials.len();
        Some(denials)
    }

    fn put(&mut self, key: Box<[u8]>, denials: VecDeque<Timestamp>) {
        self.denials += denials.len();
        self.keys.insert(key, denials);
    }
}

/// Returns a key as it is remembered: a long one by its SHA-256, so that the table stays small.
fn remembered_as(encoded: Vec<u8>) -> Vec<u8> {
    const LONG: usize = 64;
    if encoded.len() <= LONG {
        return encoded;
    }
    // No other key begins so.
    let mut digest = vec![b'#'];
    digest.extend_from_slice(&Sha256::digest(encoded));
    digest
}

impl Throttle {
    /// Forgets the denials of a key in this process.
    pub(super) fn forget_denials(&self, key: &Key<'_>) {
        if let Some(denials) = &self.inner.denials {
            denials.forget(&remembered_as(key.encode()));
        }
    }

    /// Returns whether denials of that hit are counted: nobody is punished for what is only looked at.
    #[inline]
    pub(super) fn is_penalized(&self, hit: BegunHit) -> bool {
        self.inner.denials.is_some() && hit.mode == Mode::Enforce
    }

    /// Counts a denial of a hit; of anything else nothing. If that is one too many the key is to be blocked.
    #[inline]
    pub(super) fn count_denial(
        &self,
        backend: &dyn Backend,
        key: &[KeyPart<'_>],
        (op, hit): (Op, BegunHit),
        decision: &Decision,
    ) -> Option<Blocking<'_>> {
        let denials = self.inner.denials.as_ref().filter(|_| self.is_penalized(hit))?;
        let is_hit = matches!(op, Op::Take | Op::TakeUpTo);
        // Those of a fallback are others: a share may be all that it has.
        let is_by_limits = decision.decided_by() != DecidedBy::Fallback
            && matches!(decision.denial(), Some(Denial::Limited | Denial::Never));
        if !is_hit || !is_by_limits {
            return None;
        }
        let key = Key::new(&self.inner.name, key);
        denials.count(remembered_as(key.encode()), backend.core().clock().now())
    }

    /// Blocks a key for its penalty, by that deadline.
    #[cold]
    pub(super) async fn block_for_penalty(
        &self,
        blocking: Blocking<'_>,
        backend: &dyn Backend,
        key: &[KeyPart<'_>],
        decision: Decision,
        deadline: Option<Deadline>,
    ) -> Decision {
        let time = blocking.denials.rule.block_for;
        let key = Key::new(&self.inner.name, key);
        let blocked = backend.change_block(&key, BlockChange::Lengthen(time));
        let deadline = deadline.unwrap_or_else(|| self.deadline());
        let call = (backend.core().name(), "change_block");
        match self.call(call, deadline, blocked).await {
            Ok(_was_blocked) => decision.blocked_for(time),
            Err(error) => {
                self.tell_failure(&error);
                if let Some(suppressed) = self.inner.log.pass() {
                    let throttle = self.name();
                    tracing::warn!(throttle, %error, suppressed, "a key was denied too often, and could not be blocked");
                }
                decision
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_micros(1_000_000_000);

    fn after(millis: u64) -> Timestamp {
        START.saturating_add_micros(millis * 1_000)
    }

    fn denials(denials: u32, within: u64) -> Denials {
        let rule = Penalty::block_for(Duration::from_secs(1)).after(denials);
        Denials::new(rule.within(Duration::from_millis(within)))
    }

    fn deny(denials: &Denials, key: &str, at: u64) -> bool {
        denials.count(key.as_bytes().to_vec(), after(at)).is_some()
    }

    #[test]
    fn as_many_as_the_rule_says_within_its_time() {
        let table = denials(3, 100);
        for (at, expected) in [
            (0, false),
            (50, false),
            (100, false),
            (120, true),
            (130, false),
            (140, false),
            (150, true),
        ] {
            // The first is over at 100, so the third counts with the second alone.
            assert_eq!(deny(&table, "a", at), expected, "{at}");
        }
        assert!(!deny(&table, "b", 151), "each key for itself");
        assert!(deny(&denials(1, 100), "a", 0));
        // However slowly: never three in the time.
        let table = denials(3, 100);
        assert!((0..1_000).all(|number| !deny(&table, "a", number * 51)));
    }

    #[test]
    fn a_flood_of_keys_is_forgotten_and_blocks_nobody() {
        let table = denials(5, 1_000);
        let remembered = |table: &Denials| {
            let Remembered { young, old, .. } = &*table.remembered.lock();
            let counted = |one: &DenialsByKey| one.keys.values().map(VecDeque::len).sum::<usize>();
            assert_eq!((counted(young), counted(old)), (young.denials, old.denials));
            young.denials + old.denials
        };
        for number in 0..200_000u32 {
            assert!(!deny(&table, &number.to_string(), 0));
            // One that is denied again and again is caught in the midst of it.
            if number.is_multiple_of(10_000) {
                assert_eq!(deny(&table, "a", 0), number % 50_000 == 40_000, "{number}");
            }
        }
        assert!((1..=2 * MOST_REMEMBERED).contains(&remembered(&table)));
        assert!(!deny(&table, "b", 3_000));
        assert!(!deny(&table, "b", 5_000));
        assert_eq!(remembered(&table), 1, "the flood is over");
    }

    #[test]
    fn long_keys_stay_apart_in_little_room() {
        let key = |end: &[u8]| remembered_as([&[b't'; 4_000][..], end].concat());
        assert_eq!(key(b"a").len(), 33);
        assert_ne!(key(b"a"), key(b"b"));
        assert_eq!(remembered_as(b"t\x01t\x01a".to_vec()), b"t\x01t\x01a");
    }

    #[test]
    fn a_clock_that_steps_back_blocks_nobody_falsely() {
        let table = denials(3, 100);
        assert!(!deny(&table, "a", 10_000));
        assert!(!deny(&table, "a", 5_000));
        assert!(deny(&table, "a", 5_000), "three within 100 ms of some clock");
        assert!(!deny(&table, "b", 10_000));
        assert!(!deny(&table, "b", 10_200));
        assert!(!deny(&table, "b", 10_400));
    }
}
