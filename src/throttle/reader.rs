//! [`Throttle::throttle_reader`]: a reader whose bytes wait for their turn.

use std::fmt;
use std::io;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, ReadBuf};

use super::Throttle;
use super::item_slot::ItemSlot;
use crate::key::{KeyError, OwnedKey, ToKey};

/// The most bytes that are read ahead.
const CHUNK: usize = 16 * 1024;

pin_project! {
    /// A reader whose bytes wait for their turn; see [`Throttle::throttle_reader`].
    #[must_use]
    pub struct ThrottledReader<R> {
        #[pin]
        reader: R,
        slot: ItemSlot<Vec<u8>>,
        // Whose turn has come, and which were not asked for yet.
        free: Vec<u8>,
        // How many of these were taken.
        taken: usize,
        // For the next.
        room: Vec<u8>,
        at_once: usize,
    }
}

impl Throttle {
    /// Lets each byte of a reader wait for its turn, as [`acquire`](Self::acquire) does: a byte costs a unit.
    ///
    /// Bytes are read first, at most 16 KiB and at most the smallest burst at once, and then their turn is waited
    /// for; so a reader that has nothing takes nothing.
    ///
    /// ```
    /// use tokio::io::AsyncReadExt;
    /// use traffik::{InMemory, Throttle};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let downloads =
    ///     Throttle::builder("downloads").rate("10MB/s burst 64KiB").backend(InMemory::new()).build()?;
    /// let file = &b"a file"[..];
    /// let mut file = downloads.throttle_reader("alice", file)?;
    /// let mut text = String::new();
    /// file.read_to_string(&mut text).await?;
    /// assert_eq!(text, "a file");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When the key has too many parts.
    ///
    /// The reader returns an error of [`acquire`](Self::acquire) as one of kind [`io::ErrorKind::Other`], with it as
    /// its source, and keeps the bytes: the next read asks for them again.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when a future that reads is dropped. A reader that is dropped drops what it has read ahead.
    pub fn throttle_reader<R>(
        &self,
        key: impl ToKey,
        reader: R,
    ) -> Result<ThrottledReader<R>, KeyError> {
        let mut slot = ItemSlot::new(self.clone(), OwnedKey::new(&key)?);
        slot.set_cost_of(|bytes: &Vec<u8>| u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        let at_once = self.bytes_at_once(CHUNK);
        Ok(ThrottledReader { reader, slot, free: Vec::new(), taken: 0, room: Vec::new(), at_once })
    }
}

impl<R> ThrottledReader<R> {
    /// Sets the longest wait of each chunk. Defaults to none. If its turn comes later, that is an error at once.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.slot.set_timeout(timeout);
        self
    }

    /// Returns the inner reader.
    pub const fn get_ref(&self) -> &R {
        &self.reader
    }

    /// Returns the inner reader, and what was read ahead of whoever reads: what waited for its turn is given back.
    pub fn into_parts(mut self) -> (R, Vec<u8>) {
        let mut ahead = self.free.split_off(self.taken);
        ahead.extend(self.slot.take().unwrap_or_default());
        (self.reader, ahead)
    }

    /// Returns the inner reader. Bytes that are read from it do not wait, and overtake those that do.
    pub const fn get_mut(&mut self) -> &mut R {
        &mut self.reader
    }
}

impl<R: AsyncRead> AsyncRead for ThrottledReader<R> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.project();
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if *this.taken == this.free.len() {
            if this.slot.is_empty() {
                // As large as it was, or will ever be.
                this.room.resize(*this.at_once, 0);
                let mut read = ReadBuf::new(this.room);
                ready!(this.reader.poll_read(cx, &mut read))?;
                let filled = read.filled().len();
                if filled == 0 {
                    return Poll::Ready(Ok(()));
                }
                this.room.truncate(filled);
                this.slot.put(mem::take(this.room));
            }
            ready!(this.slot.poll_turn(cx)).map_err(io::Error::other)?;
            let free = this.slot.release().unwrap_or_default();
            *this.room = mem::replace(this.free, free);
            *this.taken = 0;
        }
        let left = &this.free[*this.taken..];
        let count = left.len().min(buffer.remaining());
        buffer.put_slice(&left[..count]);
        *this.taken += count;
        Poll::Ready(Ok(()))
    }
}

impl<R> fmt::Debug for ThrottledReader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.slot.debug(f, "ThrottledReader")
    }
}
