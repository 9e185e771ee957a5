//! [`all`]: hits on several keys or throttles, all or nothing.

use std::fmt;
use std::future::IntoFuture;
use std::pin::Pin;

use super::combined::CombinedDecision;
use super::together::{self, HitEntry};
use super::{Mode, Permit, Throttle};
use crate::error::Error;
use crate::hit_options::HitOptions;
use crate::key::{OwnedKey, ToKey};

/// Starts hits that count together or not at all, on several keys, throttles and backends.
///
/// Add them with [`hit`](All::hit), and await: if all pass, all are counted, and if one is denied none is. So a
/// request that one limit turns away costs nothing of the others.
///
/// ```
/// use traffik::{HitOptions, InMemory, Throttle, all};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let backend = InMemory::new();
/// let throttle = |name, rate| Throttle::builder(name).rate(rate).backend(backend.clone()).build();
/// let (requests, tokens) = (throttle("requests", "60/min")?, throttle("tokens", "1000/min")?);
///
/// let prompt = HitOptions::new().cost(400); // tokens
/// for expected in [true, true, false] {
///     let decision =
///         all().hit(&requests, "tenant-7").hit_with(&tokens, "tenant-7", prompt.clone()).await?;
///     assert_eq!(decision.is_allowed(), expected);
/// }
/// assert_eq!(requests.peek("tenant-7").await?.remaining(), 58, "the third is not counted");
/// # Ok(())
/// # }
/// ```
///
/// How it is done depends on where the counts are:
///
/// * **In memory** all keys are decided in one step.
/// * **On Redis** by one script, up to 32 keys; on a cluster only if they are in one slot, for which
///   throttles are [grouped]. Else in order, as below.
/// * **On Memcached**, and over several backends, in the order in which they are given. When one is denied,
///   those before it are given back; until then others may see them as used. So put the narrow limit first,
///   which denies most: a client's before the service's.
///
/// Entries of the same throttle, key and backend are one, and their costs add up. A failure of a backend is decided
/// for each entry by the policy of its throttle; all must pass. All together end within the longest deadline of
/// these throttles, plus the limits of their error handlers.
///
/// Entries of throttles in [`Mode::Shadow`] deny nothing, and take nothing from the others: each is asked by itself when
/// the others have passed, and not at all if these are denied. Of those that are [off](Mode::Off) nobody is asked.
///
/// # Errors
///
/// When awaited: [`Error::NoEntries`], and [`Error::TooManyEntries`] beyond 256. [`Error::HitOptions`] if entries
/// that are one have different rates, or their costs are together above [`u32::MAX`]. And as for
/// [`Throttle::hit_with`].
///
/// # Cancel safety
///
/// May be dropped: what was taken is given back. See [`CombinedDecision`].
///
#[cfg_attr(feature = "redis", doc = "[grouped]: crate::backend::redis::RedisBuilder::group")]
#[cfg_attr(not(feature = "redis"), doc = "[grouped]: crate::guide::redis")]
pub fn all() -> All {
    All { entries: Vec::new() }
}

/// Hits that count together or not at all; see [`all`]. Await it.
#[must_use = "it does nothing until it is awaited"]
pub struct All {
    entries: Vec<HitEntry>,
}

impl All {
    /// Adds a hit of a throttle's default cost.
    pub fn hit(self, throttle: &Throttle, key: impl ToKey) -> Self {
        self.hit_with(throttle, key, HitOptions::new())
    }

    /// Adds a hit with its own cost or rates.
    pub fn hit_with(self, throttle: &Throttle, key: impl ToKey, options: HitOptions) -> Self {
        self.hit_in(throttle.mode(), throttle, key, options)
    }

    /// As [`hit_with`](Self::hit_with), in a mode that may be another than the throttle's.
    pub(crate) fn hit_in(
        mut self,
        mode: Mode,
        throttle: &Throttle,
        key: impl ToKey,
        options: HitOptions,
    ) -> Self {
        let (throttle, key) = (throttle.clone(), OwnedKey::new(&key));
        self.entries.push(HitEntry { throttle, key, options, mode });
        self
    }

    /// Takes all for work whose costs are known only afterwards: a [`Permit`] for each entry, in their order.
    ///
    /// ```
    /// use traffik::{HitOptions, InMemory, Throttle, all};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let backend = InMemory::new();
    /// # let throttle = |name, rate| Throttle::builder(name).rate(rate).backend(backend.clone()).build();
    /// # let (requests, tokens) = (throttle("requests", "60/min")?, throttle("tokens", "1000/min")?);
    /// let estimate = HitOptions::new().cost(400);
    /// let hits = all().hit(&requests, "tenant-7").hit_with(&tokens, "tenant-7", estimate);
    /// let mut permits = hits.reserve().await?;
    /// let tokens_taken = permits.pop().expect("one for each");
    /// // ... ask the model, which says how many it used ...
    /// tokens_taken.settle(150).await?;
    /// assert_eq!(tokens.peek("tenant-7").await?.remaining(), 850);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Denied`] with the decision of the entry that denied, and as for [`all`]. Which entry that was, says
    /// [`CombinedDecision::denied_by`], if these are awaited instead.
    ///
    /// # Cancel safety
    ///
    /// As for the hits: see [`CombinedDecision`].
    pub async fn reserve(self) -> Result<Vec<Permit>, Error> {
        match self.await?.into_permits() {
            Ok(permits) => Ok(permits),
            Err(denied) => Err(Error::Denied(Box::new(denied.into_denial()))),
        }
    }
}

impl IntoFuture for All {
    type Output = Result<CombinedDecision, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(together::decide(self.entries))
    }
}

impl fmt::Debug for All {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.entries.iter().map(|entry| (entry.throttle.name(), &entry.key)))
            .finish()
    }
}
