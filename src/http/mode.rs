//! [`ModeSwitch`]: the [`Mode`] of a layer, switched at run time.

use std::sync::Arc;

use crate::throttle::{Mode, ModeCell};

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
///
/// A throttle has a [mode of its own](crate::Throttle::set_mode), which holds wherever it is asked. In a layer the one
/// of the two holds that denies less. In [`Mode::Shadow`] a request is served without fields: what would have been
/// denied is in its [`Decisions`](super::Decisions), in the log at debug level, and told to
/// [`on_denied`](super::ThrottleLayer::on_denied). So is a request of which nobody can tell whose it is, and one whose
/// throttle fails. In [`Mode::Off`] nobody is asked, and its [`Decisions`](super::Decisions) are empty.
#[derive(Clone, Debug, Default)]
pub struct ModeSwitch(Arc<ModeCell>);

impl ModeSwitch {
    /// Starts in this mode.
    #[must_use]
    pub fn new(mode: Mode) -> Self {
        Self(Arc::new(ModeCell::new(mode)))
    }

    /// Sets the mode, from the next request on. A change is logged.
    pub fn set(&self, mode: Mode) {
        let before = self.0.set(mode);
        if before != mode {
            tracing::info!(?before, ?mode, "the throttles of a layer were switched");
        }
    }

    /// Returns the mode.
    #[must_use]
    #[inline]
    pub fn get(&self) -> Mode {
        self.0.get()
    }
}
