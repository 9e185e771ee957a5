//! [`Throttle::throttle_writer`]: a writer whose bytes wait for their turn.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::io::AsyncWrite;

use super::item_slot::ItemSlot;
use super::{Permit, PermitDrop, Throttle};
use crate::key::{KeyError, OwnedKey, ToKey};

/// The most bytes whose turn is waited for together.
const CHUNK: usize = 16 * 1024;

pin_project! {
    /// A writer whose bytes wait for their turn; see [`Throttle::throttle_writer`].
    #[must_use]
    pub struct ThrottledWriter<W> {
        #[pin]
        writer: W,
        // Of so many bytes that are to be written.
        slot: ItemSlot<u32>,
        credit: Credit,
        at_once: usize,
    }
}

/// Bytes whose turn has come, and which are not written yet. Dropped, it gives them back.
#[derive(Default)]
struct Credit {
    permit: Option<Permit>,
    /// As many as were taken, unless nothing is counted.
    left: u32,
}

impl Throttle {
    /// Lets each byte for a writer wait for its turn, as [`acquire`](Self::acquire) does: a byte costs a unit.
    ///
    /// At most 16 KiB and at most the smallest burst are written at once. The turn comes first, and then they are
    /// written; what the writer does not take stays free for the next write, and is given back by a drop.
    ///
    /// ```
    /// use tokio::io::AsyncWriteExt;
    /// use traffik::{InMemory, Throttle};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let uploads =
    ///     Throttle::builder("uploads").rate("10MB/s burst 64KiB").backend(InMemory::new()).build()?;
    /// let mut file = uploads.throttle_writer("alice", Vec::new())?;
    /// file.write_all(b"a file").await?;
    /// assert_eq!(file.get_ref(), b"a file");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When the key has too many parts.
    ///
    /// The writer returns an error of [`acquire`](Self::acquire) as one of kind [`io::ErrorKind::Other`], with it as
    /// its source; nothing is written then.
    ///
    /// # Cancel safety
    ///
    /// As the inner writer: a future of `write` that is dropped has written nothing.
    pub fn throttle_writer<W>(
        &self,
        key: impl ToKey,
        writer: W,
    ) -> Result<ThrottledWriter<W>, KeyError> {
        let mut slot = ItemSlot::new(self.clone(), OwnedKey::new(&key)?);
        slot.set_cost_of(|bytes: &u32| *bytes);
        let at_once = self.bytes_at_once(CHUNK);
        Ok(ThrottledWriter { writer, slot, credit: Credit::default(), at_once })
    }
}

impl<W> ThrottledWriter<W> {
    /// Sets the longest wait of each chunk. Defaults to none. If its turn comes later, that is an error at once.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.slot.set_timeout(timeout);
        self
    }

    /// Returns the inner writer.
    pub const fn get_ref(&self) -> &W {
        &self.writer
    }

    /// Returns the inner writer. What was free to be written is given back.
    pub fn into_inner(self) -> W {
        self.writer
    }

    /// Returns the inner writer. Bytes that are written to it do not wait.
    pub const fn get_mut(&mut self) -> &mut W {
        &mut self.writer
    }
}

impl<W: AsyncWrite> AsyncWrite for ThrottledWriter<W> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        if bytes.is_empty() {
            return this.writer.poll_write(cx, bytes);
        }
        if this.credit.left == 0 {
            if this.slot.is_empty() {
                let wanted = bytes.len().min(*this.at_once);
                this.slot.put(u32::try_from(wanted).unwrap_or(u32::MAX));
            }
            ready!(this.slot.poll_turn(cx)).map_err(io::Error::other)?;
            if let Some((left, permit)) = this.slot.release_with_permit() {
                *this.credit = Credit { permit: Some(permit), left };
            }
        }
        let free = usize::try_from(this.credit.left).unwrap_or(usize::MAX).min(bytes.len());
        let written = ready!(this.writer.poll_write(cx, &bytes[..free]))?;
        this.credit.use_up(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().writer.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().writer.poll_shutdown(cx)
    }
}

impl Credit {
    fn use_up(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(u32::try_from(bytes).unwrap_or(u32::MAX));
        if self.left == 0
            && let Some(permit) = self.permit.take()
        {
            permit.commit();
        }
    }
}

impl Drop for Credit {
    fn drop(&mut self) {
        let Some(permit) = self.permit.take() else { return };
        let units = permit.units();
        let parts = permit.divide(&[units.saturating_sub(self.left), self.left.min(units)]);
        let mut parts = parts.into_iter();
        if let Some(used) = parts.next() {
            used.commit();
        }
        // The others are given back as they are dropped.
        drop(parts.map(|rest| rest.on_drop(PermitDrop::Refund)).collect::<Vec<_>>());
    }
}

impl<W> fmt::Debug for ThrottledWriter<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.slot.debug(f, "ThrottledWriter")
    }
}
