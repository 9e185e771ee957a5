//! [`Throttle::throttle_body`]: a body whose bytes wait for their turn.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use thiserror::Error as ThisError;

use crate::error::Error;
use crate::key::{KeyError, OwnedKey, ToKey};
use crate::throttle::{ItemSlot, Throttle};

/// The most bytes that go at once.
const CHUNK: usize = 64 * 1024;

pin_project! {
    /// A body whose bytes wait for their turn; see [`Throttle::throttle_body`].
    #[must_use]
    pub struct ThrottledBody<B> {
        #[pin]
        body: B,
        slot: ItemSlot<Bytes>,
        // What is left of a frame.
        rest: Bytes,
        trailers: Option<HeaderMap>,
        has_ended: bool,
        at_once: usize,
    }
}

/// Why a [`ThrottledBody`] failed.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum ThrottledBodyError<E> {
    /// The turn of its bytes did not come.
    #[error(transparent)]
    Throttle(#[from] Error),
    /// The inner body failed.
    #[error(transparent)]
    Body(E),
}

impl Throttle {
    /// Lets each byte of a body wait for its turn, as [`acquire`](Self::acquire) does: a byte costs a unit.
    ///
    /// Frames are split so that at most 64 KiB, and at most the smallest burst, go at once. Trailers cost nothing.
    ///
    /// ```
    /// use http_body_util::{BodyExt, Full};
    /// use traffik::{InMemory, Throttle};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let downloads =
    ///     Throttle::builder("downloads").rate("10MB/s burst 1MiB").backend(InMemory::new()).build()?;
    /// let body = Full::<bytes::Bytes>::from("a large file");
    /// let body = downloads.throttle_body("alice", body)?;
    /// assert_eq!(body.collect().await?.to_bytes(), "a large file");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When the key has too many parts.
    ///
    /// The body ends with an error of [`acquire`](Self::acquire) as [`ThrottledBodyError::Throttle`].
    ///
    /// # Cancel safety
    ///
    /// A body that is dropped gives back what it had reserved for bytes that did not go.
    pub fn throttle_body<B: Body>(
        &self,
        key: impl ToKey,
        body: B,
    ) -> Result<ThrottledBody<B>, KeyError> {
        let mut slot = ItemSlot::new(self.clone(), OwnedKey::new(&key)?);
        slot.set_cost_of(|bytes: &Bytes| u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        Ok(ThrottledBody {
            body,
            slot,
            rest: Bytes::new(),
            trailers: None,
            has_ended: false,
            at_once: self.bytes_at_once(CHUNK),
        })
    }
}

impl<B> ThrottledBody<B> {
    /// Sets the longest wait of each chunk. Defaults to none. If its turn comes later, that is an error at once.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.slot.set_timeout(timeout);
        self
    }

    /// Returns the inner body.
    pub const fn get_ref(&self) -> &B {
        &self.body
    }
}

impl<B: Body> Body for ThrottledBody<B> {
    type Data = Bytes;
    type Error = ThrottledBodyError<B::Error>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let mut this = self.project();
        loop {
            if this.slot.is_empty() && !this.rest.is_empty() {
                let count = this.rest.len().min(*this.at_once);
                this.slot.put(this.rest.split_to(count));
            }
            if !this.slot.is_empty() {
                if let Err(error) = ready!(this.slot.poll_turn(cx)) {
                    // A body ends with its first error.
                    drop(this.slot.take());
                    (*this.rest, *this.trailers, *this.has_ended) = (Bytes::new(), None, true);
                    return Poll::Ready(Some(Err(error.into())));
                }
                let bytes = this.slot.release().unwrap_or_default();
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            if let Some(trailers) = this.trailers.take() {
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
            if *this.has_ended {
                return Poll::Ready(None);
            }
            match ready!(this.body.as_mut().poll_frame(cx)) {
                None => *this.has_ended = true,
                Some(Err(error)) => {
                    *this.has_ended = true;
                    return Poll::Ready(Some(Err(ThrottledBodyError::Body(error))));
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(mut data) => *this.rest = data.copy_to_bytes(data.remaining()),
                    Err(frame) => *this.trailers = frame.into_trailers().ok(),
                },
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let has_none = self.slot.is_empty() && self.rest.is_empty() && self.trailers.is_none();
        has_none && (self.has_ended || self.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        if self.has_ended && self.trailers.is_none() {
            return SizeHint::with_exact(0);
        }
        let held = self.rest.len() + self.slot.held().map_or(0, Bytes::len);
        let held = u64::try_from(held).unwrap_or(u64::MAX);
        let inner = self.body.size_hint();
        let mut hint = SizeHint::new();
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(held));
        }
        hint.set_lower(inner.lower().saturating_add(held));
        hint
    }
}

impl<B> fmt::Debug for ThrottledBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.slot.debug(f, "ThrottledBody")
    }
}
