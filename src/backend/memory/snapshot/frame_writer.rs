//! Writes the header and the frames.

use std::hash::Hasher;
use std::io::{self, Write};

use siphasher::sip::SipHasher13;

use super::format::{Counts, Kind, MAGIC, VERSION};
use crate::clock::Timestamp;

/// Writes frames, each by one write.
pub(super) struct FrameWriter<W> {
    out: W,
    /// Of all that was written.
    checksum: SipHasher13,
    frame: Vec<u8>,
}

impl<W: Write> FrameWriter<W> {
    /// Writes the header.
    pub(super) fn new(out: W, secret: [u64; 2], taken_at: Timestamp) -> io::Result<Self> {
        let checksum = SipHasher13::new_with_keys(secret[0], secret[1]);
        let mut writer = Self { out, checksum, frame: Vec::new() };
        writer.frame.extend_from_slice(&MAGIC);
        writer.frame.extend_from_slice(&VERSION.to_le_bytes());
        for word in secret {
            writer.frame.extend_from_slice(&word.to_le_bytes());
        }
        writer.frame.extend_from_slice(&taken_at.as_micros().to_le_bytes());
        writer.seal()?;
        Ok(writer)
    }

    pub(super) fn frame(&mut self, kind: Kind, payload: &[u8]) -> io::Result<()> {
        self.frame.push(kind.raw());
        self.frame.extend_from_slice(&(payload.len() as u64).to_le_bytes());
        self.frame.extend_from_slice(payload);
        self.seal()
    }

    /// Writes the end, and all that lies in a buffer of the other.
    pub(super) fn end(mut self, counts: Counts) -> io::Result<W> {
        let Counts { throttles, keys, values } = counts;
        self.frame(Kind::End, [throttles, keys, values].map(u64::to_le_bytes).as_flattened())?;
        self.out.flush()?;
        Ok(self.out)
    }

    /// Returns what it wrote to, without an end.
    #[cfg(test)]
    pub(super) fn into_inner(self) -> W {
        self.out
    }

    fn seal(&mut self) -> io::Result<()> {
        self.checksum.write(&self.frame);
        let checksum = self.checksum.finish().to_le_bytes();
        self.checksum.write(&checksum);
        self.frame.extend_from_slice(&checksum);
        let written = self.out.write_all(&self.frame);
        self.frame.clear();
        written
    }
}
