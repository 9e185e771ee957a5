//! [`TrackDenied`]: who is denied most.

use std::fmt;
use std::hash::Hasher;
use std::sync::Arc;

use parking_lot::Mutex;
use siphasher::sip128::{Hasher128, SipHasher13};

use super::space_saving::SpaceSaving;
use crate::error::BuildError;
use crate::key::{Key, KeyPart, OwnedKey};
use crate::random;

/// The most keys that may be tracked.
const MOST: usize = 65_536;

/// How a throttle tracks who is denied most; see [`ThrottleBuilder::track_denied`].
///
/// [`ThrottleBuilder::track_denied`]: crate::ThrottleBuilder::track_denied
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "it tracks nothing until a throttle has it"]
pub struct TrackDenied {
    capacity: usize,
    has_raw_keys: bool,
}

impl TrackDenied {
    /// Tracks up to `capacity` keys, 1 to 65,536, of some 100 bytes each, and with
    /// [raw keys](Self::raw_keys) also these.
    ///
    /// Of `n` denials in all, each key with more than `n / capacity` is found: 1,000 find whoever has a thousandth.
    pub const fn new(capacity: usize) -> Self {
        Self { capacity, has_raw_keys: false }
    }

    /// Keeps the keys themselves, beside their digests: they may be personal data, or secrets. A key above
    /// [`MAX_KEY_BYTES`](crate::key::MAX_KEY_BYTES) is kept as it is stored, by its SHA-256. Defaults to digests alone.
    pub const fn raw_keys(mut self) -> Self {
        self.has_raw_keys = true;
        self
    }

    pub(crate) fn check(&self, throttle: &str) -> Result<(), BuildError> {
        if (1..=MOST).contains(&self.capacity) {
            return Ok(());
        }
        let problem =
            format!("of throttle {throttle:?} is {}; it must be 1 to {MOST}", self.capacity);
        Err(BuildError::setting("track_denied", problem))
    }
}

/// A key that was denied often; see [`Throttle::top_denied`](crate::Throttle::top_denied).
#[derive(Clone, PartialEq, Eq)]
pub struct DeniedKey {
    digest: DeniedDigest,
    key: Option<Arc<OwnedKey>>,
    denials: u64,
    max_overestimate: u64,
    shadowed: u64,
}

impl DeniedKey {
    /// Returns the digest, to be compared with that of a key that you know:
    /// [`Throttle::denied_digest`](crate::Throttle::denied_digest).
    #[must_use]
    pub const fn digest(&self) -> DeniedDigest {
        self.digest
    }

    /// Returns the key, if [raw keys](TrackDenied::raw_keys) are kept: the bytes of each part as it was counted, which of
    /// an address are its 4 or 16 octets (behind the layer's identities those of the network that counts as one).
    #[must_use]
    pub fn key(&self) -> Option<&OwnedKey> {
        self.key.as_deref()
    }

    /// Returns how often it was denied: at most so often, and at least so often less
    /// [`max_overestimate`](Self::max_overestimate).
    #[must_use]
    pub const fn denials(&self) -> u64 {
        self.denials
    }

    /// Returns by how much [`denials`](Self::denials) may be too high: the count of the key whose place it took.
    #[must_use]
    pub const fn max_overestimate(&self) -> u64 {
        self.max_overestimate
    }

    /// Returns how many of these it was let pass in [`Mode::Shadow`](crate::Mode::Shadow), since it has its place.
    #[must_use]
    pub const fn shadowed(&self) -> u64 {
        self.shadowed
    }
}

impl fmt::Debug for DeniedKey {
    /// Leaves the key out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeniedKey")
            .field("digest", &self.digest)
            .field("denials", &self.denials)
            .field("max_overestimate", &self.max_overestimate)
            .field("shadowed", &self.shadowed)
            .finish_non_exhaustive()
    }
}

/// A digest of a key: SipHash-1-3 with 128 bits, by a secret that each throttle draws when it is built. It says nothing
/// of the key to who does not have the throttle, and means nothing in another process.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeniedDigest(u128);

impl fmt::Display for DeniedDigest {
    /// In 32 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for DeniedDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The denials of a throttle, by key.
pub(crate) struct DeniedSketch {
    has_raw_keys: bool,
    /// As it is before the first byte.
    hasher: SipHasher13,
    counts: Mutex<SpaceSaving<DeniedDigest, Tag>>,
}

/// What is known of a key beside its count.
#[derive(Clone)]
struct Tag {
    key: Option<Arc<OwnedKey>>,
    shadowed: u64,
}

impl DeniedSketch {
    pub(crate) fn new(track: TrackDenied) -> Self {
        let [one, two] = random::secret();
        Self {
            has_raw_keys: track.has_raw_keys,
            hasher: SipHasher13::new_with_keys(one, two),
            counts: Mutex::new(SpaceSaving::new(track.capacity)),
        }
    }

    /// Returns the digest of a key, as it is stored.
    pub(crate) fn digest(&self, key: &[KeyPart<'_>]) -> DeniedDigest {
        let mut hasher = self.hasher;
        hasher.write(&Key::new("", key).encode());
        DeniedDigest(hasher.finish128().into())
    }

    /// Counts a denial of a key, as it is stored.
    pub(crate) fn count(&self, key: &[KeyPart<'_>], is_shadowed: bool) {
        let digest = self.digest(key);
        let mut counts = self.counts.lock();
        let raw = || self.has_raw_keys.then(|| Arc::new(OwnedKey::of(key)));
        let tag = counts.count(digest, || Tag { key: raw(), shadowed: 0 });
        tag.shadowed += u64::from(is_shadowed);
    }

    /// Returns the `most` keys with the highest counts, the highest first.
    pub(crate) fn top(&self, most: usize) -> Vec<DeniedKey> {
        // Copied first: denials wait for the lock.
        let counters = self.counts.lock().counters().to_vec();
        let keys = counters.into_iter().map(|counter| DeniedKey {
            digest: counter.key,
            key: counter.tag.key,
            denials: counter.count,
            max_overestimate: counter.error,
            shadowed: counter.tag.shadowed,
        });
        let mut keys: Vec<_> = keys.collect();
        // Of equal counts the surer one.
        keys.sort_unstable_by_key(|key| {
            (std::cmp::Reverse(key.denials), key.max_overestimate, key.digest)
        });
        keys.truncate(most);
        keys
    }

    pub(crate) fn reset(&self) {
        self.counts.lock().clear();
    }
}

impl fmt::Debug for DeniedSketch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeniedSketch")
            .field("has_raw_keys", &self.has_raw_keys)
            .finish_non_exhaustive()
    }
}
