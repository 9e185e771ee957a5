//! [`Mode`]: whether a layer enforces, only looks, or is off; switched at run time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// What a layer does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mode {
    /// Denies what its throttles deny. The default.
    #[default]
    Enforce,
    /// Asks its throttles and serves all the same, without fields: what would have been denied is in the
    /// [`Decisions`](super::Decisions) of the request, in the log at debug level, and told to
    /// [`on_denied`](super::ThrottleLayer::on_denied). To try limits on real traffic. A throttle's
    /// [`Penalty`](crate::Penalty) blocks all the same: leave it out meanwhile.
    Shadow,
    /// Asks nobody: all requests are served, and their [`Decisions`](super::Decisions) are empty.
    Off,
}

/// A switch for the [`Mode`] of one layer or several, shared by its clones.
///
/// ```
/// use traffik::http::{Everyone, Mode, ModeSwitch, ThrottleLayer};
/// # use traffik::{InMemory, Throttle};
/// # let throttle = Throttle::builder("api").rate("5/s").backend(InMemory::new()).build()?;
///
/// let switch = ModeSwitch::new(Mode::Shadow);
/// let layer = ThrottleLayer::new(throttle, Everyone).mode(&switch);
/// // ... once the limits have proved right, and from any thread ...
/// switch.set(Mode::Enforce);
/// # drop(layer);
/// # Ok::<(), traffik::BuildError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct ModeSwitch(Arc<AtomicU8>);

impl ModeSwitch {
    const SHADOW: u8 = 1;
    const OFF: u8 = 2;

    /// Starts in this mode.
    #[must_use]
    pub fn new(mode: Mode) -> Self {
        let switch = Self::default();
        switch.set(mode);
        switch
    }

    /// Sets the mode, from the next request on.
    pub fn set(&self, mode: Mode) {
        let number = match mode {
            Mode::Enforce => 0,
            Mode::Shadow => Self::SHADOW,
            Mode::Off => Self::OFF,
        };
        self.0.store(number, Ordering::Relaxed);
    }

    /// Returns the mode.
    #[must_use]
    #[inline]
    pub fn get(&self) -> Mode {
        match self.0.load(Ordering::Relaxed) {
            Self::SHADOW => Mode::Shadow,
            Self::OFF => Mode::Off,
            _ => Mode::Enforce,
        }
    }
}
