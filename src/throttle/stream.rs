//! [`Throttle::throttle_stream`]: a stream whose items wait for their turn.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::stream::{FusedStream, Stream};
use pin_project_lite::pin_project;

use super::Throttle;
use super::item_slot::ItemSlot;
use crate::error::Error;
use crate::key::{KeyError, OwnedKey, ToKey};

pin_project! {
    /// A stream whose items wait for their turn; see [`Throttle::throttle_stream`].
    #[must_use = "streams do nothing unless polled"]
    pub struct ThrottledStream<S: Stream> {
        #[pin]
        stream: S,
        slot: ItemSlot<S::Item>,
        has_ended: bool,
    }
}

impl Throttle {
    /// Lets each item of a stream wait for its turn, in order, as [`acquire`](Self::acquire) does.
    ///
    /// An item is pulled first, and then its turn is waited for, so a stream that has none takes nothing. One item
    /// is held; its units stay used once it is yielded. It costs the throttle's default cost, or what
    /// [`cost_of`](ThrottledStream::cost_of) says, and may wait as long as
    /// [`timeout`](ThrottledStream::timeout) lets it.
    ///
    /// ```
    /// use futures_util::{StreamExt, stream};
    /// use traffik::{InMemory, Throttle};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mails = Throttle::builder("mails").rate("500/s burst 1").backend(InMemory::new()).build()?;
    /// let letters = stream::iter(["a", "b", "c"]);
    /// let mut letters = mails.throttle_stream("smtp", letters)?;
    /// # let mut sent = Vec::new();
    /// while let Some(letter) = letters.next().await {
    ///     let letter = letter?;
    ///     // ... send it ...
    ///     # sent.push(letter);
    /// }
    /// # assert_eq!(sent, ["a", "b", "c"]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// A consumer that comes late finds an item whose turn is over, and may find the next one free too: over any
    /// time as many items leave as the limit lets, and at most one more.
    ///
    /// # Errors
    ///
    /// When the key has too many parts.
    ///
    /// The stream yields an error of [`acquire`](Self::acquire) once, and keeps the item. The next poll asks for
    /// it again, at once and as a hit of its own: wait before it as long as a denial says. An error that stays comes
    /// again at each poll, such as a denial with [`Outcome::Never`](crate::Outcome::Never) for a cost above
    /// the burst: [take the item out](ThrottledStream::take_held), or end the loop.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when a future that waits for the next item is dropped: the stream keeps the item and its
    /// place. A stream that is dropped drops the item that it holds, and gives back what was reserved for it, as
    /// [`acquire`](Self::acquire) does. [`into_parts`](ThrottledStream::into_parts) keeps the item.
    pub fn throttle_stream<S: Stream>(
        &self,
        key: impl ToKey,
        stream: S,
    ) -> Result<ThrottledStream<S>, KeyError> {
        let slot = ItemSlot::new(self.clone(), OwnedKey::new(&key)?);
        Ok(ThrottledStream { stream, slot, has_ended: false })
    }
}

impl<S: Stream> ThrottledStream<S> {
    /// Sets how many units an item costs; it is asked once for each item that is pulled from now on. Defaults to
    /// the throttle's default cost.
    pub fn cost_of(mut self, cost_of: impl FnMut(&S::Item) -> u32 + Send + 'static) -> Self {
        self.slot.set_cost_of(cost_of);
        self
    }

    /// Sets the longest wait of each item, from when it is pulled, or asked for again. Defaults to none. If its
    /// turn comes later, that is an error at once.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.slot.set_timeout(timeout);
        self
    }

    /// Returns the inner stream.
    pub const fn get_ref(&self) -> &S {
        &self.stream
    }

    /// Returns the inner stream. An item that is taken from it does not wait.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Takes out the item that waits, and gives back what was reserved for it. The stream goes on with the next.
    ///
    /// ```
    /// use std::pin::pin;
    ///
    /// use futures_util::{StreamExt, stream};
    /// use traffik::{Error, InMemory, Outcome, Throttle};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let rows = Throttle::builder("rows").rate("100/s").backend(InMemory::new()).build()?;
    /// let exports = rows.throttle_stream("db", stream::iter([10, 101, 20]))?;
    /// let mut exports = pin!(exports.cost_of(|rows| *rows));
    /// # let mut skipped = Vec::new();
    /// while let Some(export) = exports.next().await {
    ///     match export {
    ///         Ok(_export) => { /* ... run it ... */ }
    ///         Err(Error::Denied(denied)) if denied.outcome() == Outcome::Never => {
    ///             let too_large = exports.as_mut().take_held();
    ///             # skipped.extend(too_large);
    ///         }
    ///         Err(error) => return Err(error.into()),
    ///     }
    /// }
    /// # assert_eq!(skipped, [101]);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "the item is dropped with it"]
    pub fn take_held(self: Pin<&mut Self>) -> Option<S::Item> {
        self.project().slot.take()
    }

    /// Returns the inner stream, and the item that waits; what was reserved for it is given back.
    pub fn into_parts(mut self) -> (S, Option<S::Item>) {
        let held = self.slot.take();
        (self.stream, held)
    }
}

impl<S: Stream> Stream for ThrottledStream<S> {
    type Item = Result<S::Item, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.project();
        if this.slot.is_empty() {
            if *this.has_ended {
                return Poll::Ready(None);
            }
            match ready!(this.stream.poll_next(cx)) {
                Some(item) => this.slot.put(item),
                None => {
                    *this.has_ended = true;
                    return Poll::Ready(None);
                }
            }
        }
        let turn = ready!(this.slot.poll_turn(cx));
        Poll::Ready(turn.map(|()| this.slot.release()).transpose())
    }

    /// Without an upper bound while there may be items, for errors come besides them.
    fn size_hint(&self) -> (usize, Option<usize>) {
        let held = usize::from(!self.slot.is_empty());
        let (least, most) = if self.has_ended { (0, Some(0)) } else { self.stream.size_hint() };
        (least.saturating_add(held), most.filter(|most| *most == 0 && held == 0))
    }
}

impl<S: Stream> FusedStream for ThrottledStream<S> {
    fn is_terminated(&self) -> bool {
        self.has_ended && self.slot.is_empty()
    }
}

impl<S: Stream> fmt::Debug for ThrottledStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.slot.debug(f, "ThrottledStream")
    }
}
