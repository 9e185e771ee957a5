//! [`Mode`]: whether a throttle enforces, only looks, or is off; switched at run time.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};

use super::Throttle;

/// What a throttle does with its decisions: see [`Throttle::set_mode`].
///
/// | | [`Enforce`](Self::Enforce) | [`Shadow`](Self::Shadow) | [`Off`](Self::Off) |
/// | --- | --- | --- | --- |
/// | a hit within its limits | passes, counted | passes, counted | passes |
/// | a hit beyond them, on a [blocked](Throttle::block) key, or for which the error policy denies or raises | denied | passes, and says what it would have been | passes |
/// | [`take_up_to`](Throttle::take_up_to) | gives what there is | takes what there is, gives all | gives all |
/// | [`acquire`](Throttle::acquire) | waits | takes what there is, passes at once | passes at once |
/// | a [penalty](crate::Penalty) | blocks | does not | does not |
/// | [`charge`](Throttle::charge), [`settle`](Throttle::settle), [`refund`](Throttle::refund) | are counted | are counted | do nothing |
/// | an operator's verbs, such as [`reset`](Throttle::reset) | work | work | work |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Mode {
    /// Denies what the limits deny. The default.
    #[default]
    Enforce,
    /// Asks, counts what passes, and denies nobody: to try limits on real traffic.
    ///
    /// A hit that would have been denied consumes nothing, has no receipt, and says in
    /// [`Decision::shadowed`](crate::Decision::shadowed) what it would have been. So what is counted is what would
    /// be counted if each denied caller stayed away.
    Shadow,
    /// Asks nobody and writes nothing: every hit passes, decided by [`DecidedBy::Off`](crate::DecidedBy::Off).
    Off,
}

impl Mode {
    /// Returns the one of two that denies less: a layer's and its throttle's hold both.
    #[cfg(feature = "http")]
    pub(crate) fn or_milder(self, other: Self) -> Self {
        self.max(other)
    }
}

/// A [`Mode`] that is switched while others read it, and whether hits may take the fast path: one number, which a hit
/// reads once.
pub(crate) struct ModeCell(AtomicU8);

impl ModeCell {
    const SHADOW: u8 = 1;
    const OFF: u8 = 2;
    const MODE: u8 = Self::SHADOW | Self::OFF;
    /// Somebody has to see the hits, whatever the mode is. Never changes.
    const SEEN: u8 = 4;

    pub(crate) const fn new(mode: Mode) -> Self {
        Self(AtomicU8::new(Self::bits(mode)))
    }

    /// Of a throttle whose hits may never take the fast path.
    pub(super) const fn seen(mode: Mode) -> Self {
        Self(AtomicU8::new(Self::bits(mode) | Self::SEEN))
    }

    const fn bits(mode: Mode) -> u8 {
        match mode {
            Mode::Enforce => 0,
            Mode::Shadow => Self::SHADOW,
            Mode::Off => Self::OFF,
        }
    }

    /// Returns the mode before.
    pub(crate) fn set(&self, mode: Mode) -> Mode {
        let before = self.get();
        let seen = self.0.load(Ordering::Relaxed) & Self::SEEN;
        self.0.store(Self::bits(mode) | seen, Ordering::Relaxed);
        before
    }

    #[inline]
    pub(crate) fn get(&self) -> Mode {
        match self.0.load(Ordering::Relaxed) & Self::MODE {
            Self::SHADOW => Mode::Shadow,
            Self::OFF => Mode::Off,
            _ => Mode::Enforce,
        }
    }

    /// Returns whether nothing has to see a hit but the limits: it is enforced, and nobody looks on.
    #[inline]
    pub(super) fn is_plain(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

impl Default for ModeCell {
    fn default() -> Self {
        Self::new(Mode::default())
    }
}

impl fmt::Debug for ModeCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

impl Throttle {
    /// Returns the mode: [`Mode::Enforce`], unless the builder or [`set_mode`](Self::set_mode) says otherwise.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.inner.mode.get()
    }

    /// Switches the mode, of all clones, from the next hit on: from any thread, without waiting.
    ///
    /// Try a new limit before you enforce it, and take one out of the way in an emergency:
    ///
    /// ```
    /// use traffik::{Denial, InMemory, Mode, Throttle};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let api = Throttle::builder("api")
    ///     .rate("1/min")
    ///     .mode(Mode::Shadow)
    ///     .backend(InMemory::new())
    ///     .build()?;
    /// assert!(api.hit("alice").await?.is_allowed());
    /// let decision = api.hit("alice").await?;
    /// assert!(decision.is_allowed());
    /// let shadowed = decision.shadowed().expect("one a minute");
    /// assert_eq!(shadowed.denial(), Denial::Limited);
    ///
    /// api.set_mode(Mode::Enforce);
    /// assert!(api.hit("alice").await?.is_denied());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// A change is logged. A hit that is under way ends in the mode in which it began. Whoever waits already for a turn that
    /// [`acquire`](Self::acquire) reserved waits until it comes.
    pub fn set_mode(&self, mode: Mode) {
        let before = self.inner.mode.set(mode);
        if before != mode {
            tracing::info!(throttle = self.name(), ?before, ?mode, "a throttle was switched");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_changes_nothing_else() {
        for (cell, is_seen) in
            [(ModeCell::new(Mode::Enforce), false), (ModeCell::seen(Mode::Off), true)]
        {
            for mode in [Mode::Shadow, Mode::Off, Mode::Enforce, Mode::Off, Mode::Enforce] {
                cell.set(mode);
                assert_eq!(cell.get(), mode);
                assert_eq!(cell.is_plain(), mode == Mode::Enforce && !is_seen);
            }
        }
    }
}
