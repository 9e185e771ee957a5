//! [`Master`]: a server that keeps locks, with the releases that are due on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::node::LockNode;
use crate::background::Home;
use crate::clock::monotonic_now;
use crate::lock::{Lane, ReleaseOutcome, Releaser, ToRelease, User, WaitQueue};

#[derive(Debug)]
pub(super) struct Master {
    pub(super) node: LockNode,
    pub(super) releaser: Releaser,
}

/// A lock that somebody asks for.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) name: Arc<str>,
    /// Never used again, so a release may be repeated.
    pub(super) owner: Arc<str>,
    pub(super) ttl: Duration,
    /// The backend stays connected for it, also once it is closed.
    pub(super) _user: User,
}

/// A lock that was taken.
#[derive(Debug)]
pub(super) struct Acquisition {
    pub(super) fence: Option<u64>,
    pub(super) valid_until: Instant,
    pub(super) places: Vec<Place>,
}

/// The outcome of asking for a lock.
#[derive(Debug)]
pub(super) enum Acquired {
    Taken(Acquisition),
    /// Not had: held by another, for that long if that is known.
    Held(Option<Duration>),
}

/// A master that may keep a lock for us.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) master: usize,
    /// Whether it said so.
    pub(super) granted: bool,
}

impl Master {
    pub(super) fn new(node: LockNode) -> Self {
        Self { node, releaser: Releaser::on(Home::Steady) }
    }

    /// Releases a lock without waiting.
    pub(super) fn release_later(
        &self,
        wanted: &Wanted,
        asked: ToRelease,
        freed: Option<Arc<Freed>>,
    ) {
        let (node, wanted) = (self.node.clone(), wanted.clone());
        self.releaser.send(asked, move || {
            let (node, wanted, freed) = (node.clone(), wanted.clone(), freed.clone());
            async move {
                match node.release(&wanted.name, &wanted.owner).await {
                    Ok(true) => {
                        if let Some(freed) = freed {
                            freed.on_one_more();
                        }
                        ReleaseOutcome::Released
                    }
                    Ok(false) => ReleaseOutcome::NotOurs,
                    Err(error) => ReleaseOutcome::of_error(&error),
                }
            }
        });
    }
}

/// Wakes the waiters for a lock in this process, when enough masters have released it that another can
/// have it.
#[derive(Debug)]
pub(super) struct Freed {
    pub(super) waiting: Arc<WaitQueue>,
    pub(super) name: Arc<str>,
    pub(super) needed: usize,
    pub(super) released: AtomicUsize,
}

impl Freed {
    fn on_one_more(&self) {
        if self.released.fetch_add(1, Ordering::Relaxed) + 1 >= self.needed {
            self.waiting.released(&self.name);
        }
    }
}

/// The masters on which a try may have taken a lock. Dropped, it releases the lock there, in the
/// background: because the try failed, or because nobody waits for it any more.
pub(super) struct Traces<'a> {
    masters: &'a [Master],
    wanted: &'a Wanted,
    sent: Instant,
    places: Vec<Place>,
    freed: Option<Arc<Freed>>,
}

impl<'a> Traces<'a> {
    /// Of a try that asks these masters from now on. `freed` is told of what is released.
    pub(super) fn new(
        masters: &'a [Master],
        asked: impl IntoIterator<Item = usize>,
        wanted: &'a Wanted,
        freed: Option<Arc<Freed>>,
    ) -> Self {
        let places = asked.into_iter().map(|master| Place { master, granted: false }).collect();
        Self { masters, wanted, sent: monotonic_now(), places, freed }
    }

    pub(super) fn granted(&mut self, master: usize) {
        for place in &mut self.places {
            place.granted |= place.master == master;
        }
    }

    /// That master surely does not keep it for us.
    pub(super) fn none_on(&mut self, master: usize) {
        self.places.retain(|place| place.master != master);
    }

    pub(super) fn places(&self) -> &[Place] {
        &self.places
    }

    /// It was taken, and is released by its guard.
    pub(super) fn keep(mut self) -> Vec<Place> {
        std::mem::take(&mut self.places)
    }
}

impl Drop for Traces<'_> {
    fn drop(&mut self) {
        let in_vain = ToRelease::in_vain(self.sent, self.wanted.ttl);
        for place in &self.places {
            let asked = ToRelease { granted: place.granted, ..in_vain };
            self.masters[place.master].release_later(self.wanted, asked, self.freed.clone());
        }
    }
}

/// Releases what a guard held, in the background.
pub(super) fn release_later(
    masters: &[Master],
    places: &[Place],
    wanted: &Wanted,
    (taken_at, until): (Instant, Instant),
    freed: &Arc<Freed>,
) {
    for place in places {
        // What was not answered for may still be under way, as with a try.
        let least = ToRelease::in_vain(taken_at, wanted.ttl).until;
        let until = if place.granted { until } else { until.max(least) };
        let asked = ToRelease { lane: Lane::Guard, granted: place.granted, at: taken_at, until };
        masters[place.master].release_later(wanted, asked, Some(Arc::clone(freed)));
    }
}
