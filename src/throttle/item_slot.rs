//! [`ItemSlot`]: a slot for one item of a stream or a sink, in which it waits for its turn.

use std::fmt;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use super::{Permit, PermitDrop, Throttle};
use crate::error::Error;
use crate::key::OwnedKey;

type CostOf<T> = Box<dyn FnMut(&T) -> u32 + Send>;

/// A slot for one item. Dropped with one it gives back what was taken for it.
pub(crate) struct ItemSlot<T> {
    throttle: Throttle,
    key: OwnedKey,
    timeout: Option<Duration>,
    cost_of: Option<CostOf<T>>,
    held: Option<HeldItem<T>>,
    turn: Turn,
}

struct HeldItem<T> {
    item: T,
    /// `None` is the throttle's default.
    cost: Option<u32>,
}

/// The turn of the item that is held.
#[derive(Default)]
enum Turn {
    #[default]
    Unasked,
    Waits(Pin<Box<dyn Future<Output = Result<Permit, Error>> + Send>>),
    Came(Permit),
}

impl<T> ItemSlot<T> {
    pub(crate) const fn new(throttle: Throttle, key: OwnedKey) -> Self {
        Self { throttle, key, timeout: None, cost_of: None, held: None, turn: Turn::Unasked }
    }

    pub(crate) fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = Some(timeout);
    }

    pub(crate) fn set_cost_of(&mut self, cost_of: impl FnMut(&T) -> u32 + Send + 'static) {
        self.cost_of = Some(Box::new(cost_of));
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.held.is_none()
    }

    /// Returns the item that waits.
    #[cfg(feature = "http")]
    pub(crate) fn held(&self) -> Option<&T> {
        self.held.as_ref().map(|held| &held.item)
    }

    /// Puts an item into an empty slot.
    pub(crate) fn put(&mut self, item: T) {
        let cost = self.cost_of.as_mut().map(|cost_of| cost_of(&item));
        self.held = Some(HeldItem { item, cost });
    }

    /// Waits for the turn of the item. After an error the next poll asks anew.
    pub(crate) fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        loop {
            self.turn = match mem::take(&mut self.turn) {
                Turn::Unasked => self.ask(),
                Turn::Waits(mut acquire) => match acquire.as_mut().poll(cx) {
                    // Whoever goes away before the item leaves gives its units back.
                    Poll::Ready(permit) => Turn::Came(permit?.on_drop(PermitDrop::Refund)),
                    Poll::Pending => {
                        self.turn = Turn::Waits(acquire);
                        return Poll::Pending;
                    }
                },
                Turn::Came(permit) => {
                    self.turn = Turn::Came(permit);
                    return Poll::Ready(Ok(()));
                }
            };
        }
    }

    fn ask(&self) -> Turn {
        let (throttle, key, timeout) = (self.throttle.clone(), self.key.clone(), self.timeout);
        let cost = self.held.as_ref().and_then(|held| held.cost);
        Turn::Waits(Box::pin(async move {
            let mut acquire = throttle.acquire(key);
            if let Some(cost) = cost {
                acquire = acquire.cost(cost);
            }
            if let Some(timeout) = timeout {
                acquire = acquire.timeout(timeout);
            }
            acquire.run().await
        }))
    }

    /// Lets the item go, whose turn has come: its units stay used.
    pub(crate) fn release(&mut self) -> Option<T> {
        if let Turn::Came(permit) = mem::take(&mut self.turn) {
            permit.commit();
        }
        self.held.take().map(|held| held.item)
    }

    /// Lets the item go, whose turn has come, with what was taken for it.
    #[cfg(feature = "stream")]
    pub(crate) fn release_with_permit(&mut self) -> Option<(T, Permit)> {
        let Turn::Came(permit) = mem::take(&mut self.turn) else { return None };
        self.held.take().map(|held| (held.item, permit))
    }

    /// Takes the item out, and gives back what was taken for it.
    pub(crate) fn take(&mut self) -> Option<T> {
        self.turn = Turn::Unasked;
        self.held.take().map(|held| held.item)
    }

    /// Adds to the text of an adaptor what it does with its items.
    pub(crate) fn debug(&self, f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
        f.debug_struct(name)
            .field("throttle", &self.throttle.name())
            .field("key", &self.key)
            .field("timeout", &self.timeout)
            .field("holds_item", &!self.is_empty())
            .finish_non_exhaustive()
    }
}
