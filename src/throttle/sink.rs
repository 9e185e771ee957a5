//! [`Throttle::throttle_sink`]: a sink whose items wait for their turn.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_sink::Sink;
use pin_project_lite::pin_project;
use thiserror::Error as ThisError;

use super::Throttle;
use super::item_slot::ItemSlot;
use crate::error::Error;
use crate::key::{KeyError, OwnedKey, ToKey};

pin_project! {
    /// A sink whose items wait for their turn; see [`Throttle::throttle_sink`].
    #[must_use = "sinks do nothing unless polled"]
    pub struct ThrottledSink<Si, Item> {
        #[pin]
        sink: Si,
        slot: ItemSlot<Item>,
        // Whether the inner sink may hold back what was sent.
        is_unflushed: bool,
    }
}

/// Why an item was not sent, by a [`ThrottledSink`].
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum ThrottledSinkError<E> {
    /// Its turn did not come. The sink keeps the item, and the next poll asks for it again.
    #[error(transparent)]
    Throttle(#[from] Error),
    /// The inner sink failed.
    #[error(transparent)]
    Sink(E),
}

impl Throttle {
    /// Lets each item for a sink wait for its turn, in order, as [`acquire`](Self::acquire) does.
    ///
    /// The sink holds one item. Whoever makes it ready, flushes or closes it waits for the turn of that item, which
    /// then goes to the inner sink, and its units stay used. It costs the throttle's default cost, or what
    /// [`cost_of`](ThrottledSink::cost_of) says, and may wait as long as [`timeout`](ThrottledSink::timeout)
    /// lets it. Meanwhile those that were sent before it are flushed.
    ///
    /// ```
    /// use futures_util::{SinkExt, sink};
    /// use traffik::{InMemory, Throttle};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mails = Throttle::builder("mails").rate("500/s burst 1").backend(InMemory::new()).build()?;
    /// let outbox = sink::drain(); // where letters are sent
    /// let mut outbox = mails.throttle_sink("smtp", outbox)?;
    /// for letter in ["a", "b", "c"] {
    ///     outbox.feed(letter).await?;
    /// }
    /// outbox.close().await?; // sends the last one
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The turn comes first and the inner sink's readiness after it, so that nothing of the inner sink is kept from
    /// others for as long as a turn takes. After an inner sink was not ready for a while the next item may be free
    /// too: over any time as many items leave as the limit lets, and at most one more.
    ///
    /// # Errors
    ///
    /// When the key has too many parts.
    ///
    /// The sink returns an error of [`acquire`](Self::acquire) as [`ThrottledSinkError::Throttle`], and keeps the
    /// item. The next poll asks for it again, at once and as a hit of its own: wait as long as a denial says, then
    /// flush. Do not send the item again, for it would go twice. An error that stays comes again at each
    /// poll, such as a denial with [`Outcome::Never`](crate::Outcome::Never) for a cost above the burst:
    /// [take the item out](ThrottledSink::take_held).
    ///
    /// An error of the inner sink is [`ThrottledSinkError::Sink`]. The item is kept if the inner sink did not
    /// become ready, and lost if it refused it.
    ///
    /// # Panics
    ///
    /// `start_send` panics if the sink is not ready, which `poll_ready` tells.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when a future that flushes is dropped: the sink keeps the item and its place. A sink that
    /// is dropped drops the item that it holds, and gives back what was reserved for it, as
    /// [`acquire`](Self::acquire) does. [`into_parts`](ThrottledSink::into_parts) keeps the item.
    pub fn throttle_sink<Si: Sink<Item>, Item>(
        &self,
        key: impl ToKey,
        sink: Si,
    ) -> Result<ThrottledSink<Si, Item>, KeyError> {
        let slot = ItemSlot::new(self.clone(), OwnedKey::new(&key)?);
        Ok(ThrottledSink { sink, slot, is_unflushed: false })
    }
}

impl<Si, Item> ThrottledSink<Si, Item> {
    /// Sets how many units an item costs; it is asked once for each item that comes from now on. Defaults to the
    /// throttle's default cost.
    pub fn cost_of(mut self, cost_of: impl FnMut(&Item) -> u32 + Send + 'static) -> Self {
        self.slot.set_cost_of(cost_of);
        self
    }

    /// Sets the longest wait of each item, from when it is asked for. Defaults to none. If its turn comes later,
    /// that is an error at once.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.slot.set_timeout(timeout);
        self
    }

    /// Returns the inner sink.
    pub const fn get_ref(&self) -> &Si {
        &self.sink
    }

    /// Returns the inner sink. An item that is sent by it does not wait, and overtakes the one that is held.
    pub const fn get_mut(&mut self) -> &mut Si {
        &mut self.sink
    }

    /// Takes out the item that waits, and gives back what was reserved for it.
    #[must_use = "the item is dropped with it"]
    pub fn take_held(self: Pin<&mut Self>) -> Option<Item> {
        self.project().slot.take()
    }

    /// Returns the inner sink, and the item that waits; what was reserved for it is given back.
    pub fn into_parts(mut self) -> (Si, Option<Item>) {
        let held = self.slot.take();
        (self.sink, held)
    }
}

impl<Si: Sink<Item>, Item> ThrottledSink<Si, Item> {
    /// Sends the item that is held, once its turn has come.
    fn poll_send(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), ThrottledSinkError<Si::Error>>> {
        let mut this = self.project();
        if this.slot.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let Poll::Ready(turn) = this.slot.poll_turn(cx) else {
            // What had its turn does not wait for another's.
            if *this.is_unflushed {
                ready!(this.sink.poll_flush(cx)).map_err(ThrottledSinkError::Sink)?;
                *this.is_unflushed = false;
            }
            return Poll::Pending;
        };
        turn?;
        ready!(this.sink.as_mut().poll_ready(cx)).map_err(ThrottledSinkError::Sink)?;
        if let Some(item) = this.slot.release() {
            *this.is_unflushed = true;
            this.sink.start_send(item).map_err(ThrottledSinkError::Sink)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl<Si: Sink<Item>, Item> Sink<Item> for ThrottledSink<Si, Item> {
    type Error = ThrottledSinkError<Si::Error>;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.poll_send(cx)
    }

    fn start_send(self: Pin<&mut Self>, item: Item) -> Result<(), Self::Error> {
        let slot = self.project().slot;
        assert!(
            slot.is_empty(),
            "the sink holds an item: poll_ready must succeed before start_send"
        );
        slot.put(item);
        Ok(())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        ready!(self.as_mut().poll_send(cx))?;
        let this = self.project();
        ready!(this.sink.poll_flush(cx)).map_err(ThrottledSinkError::Sink)?;
        *this.is_unflushed = false;
        Poll::Ready(Ok(()))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        ready!(self.as_mut().poll_send(cx))?;
        self.project().sink.poll_close(cx).map_err(ThrottledSinkError::Sink)
    }
}

impl<Si, Item> fmt::Debug for ThrottledSink<Si, Item> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.slot.debug(f, "ThrottledSink")
    }
}
