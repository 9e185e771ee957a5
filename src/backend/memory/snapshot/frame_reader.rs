//! Reads the header and the frames, and checks each before anything of it is used.

use std::hash::Hasher;
use std::io::{self, Read};

use siphasher::sip::SipHasher13;

use super::fields::Fields;
use super::format::{Kind, MAGIC, VERSION, VERSION_AT};
use crate::clock::Timestamp;
use crate::error::RestoreError;

/// Reads frames. No `Debug`, for it has the secret.
pub(super) struct FrameReader<R> {
    from: R,
    /// Bytes that were read.
    at: u64,
    /// Of all that was read.
    checksum: SipHasher13,
    header: Header,
    payload: Vec<u8>,
}

/// What the header says.
#[derive(Clone, Copy)]
pub(super) struct Header {
    pub(super) secret: [u64; 2],
    pub(super) taken_at: Timestamp,
}

impl<R: Read> FrameReader<R> {
    /// Reads the header.
    pub(super) fn new(from: R) -> Result<Self, RestoreError> {
        let header = Header { secret: [0; 2], taken_at: Timestamp::ZERO };
        let checksum = SipHasher13::new();
        let mut reader = Self { from, at: 0, checksum, header, payload: Vec::new() };
        let magic: [u8; 8] = reader.take("the beginning of a snapshot")?;
        if magic != MAGIC {
            return Err(RestoreError::damaged(
                0,
                format!(
                    "it begins with \"{}\", where a snapshot begins with \"{}\"",
                    magic.escape_ascii(),
                    MAGIC.escape_ascii()
                ),
            ));
        }
        let version: [u8; 4] = reader.take("a version")?;
        check_version(u32::from_le_bytes(version))?;
        let words: [u8; 24] = reader.take("the rest of a header")?;
        let mut fields = Fields::new(&words, reader.at - 24);
        reader.header.secret = [fields.u64()?, fields.u64()?];
        let taken_at = fields.u64()?;
        let [first, second] = reader.header.secret;
        reader.checksum = SipHasher13::new_with_keys(first, second);
        for part in [&magic[..], &version, &words] {
            reader.checksum.write(part);
        }
        reader.check(0, "the header")?;
        reader.header.taken_at = Timestamp::from_micros(taken_at);
        Ok(reader)
    }

    pub(super) const fn header(&self) -> Header {
        self.header
    }

    /// Reads the next frame, and gives what it holds.
    pub(super) fn next(&mut self) -> Result<(Kind, Fields<'_>), RestoreError> {
        let start = self.at;
        let [raw] = self.take("another frame, or the end,")?;
        let Some(kind) = Kind::from_raw(raw) else {
            let problem = format!("a frame of the kind {raw}; 1 to 4 would be right");
            return Err(RestoreError::damaged(start, problem));
        };
        let length_bytes: [u8; 8] = self.take("the length of a frame")?;
        let length = u64::from_le_bytes(length_bytes);
        self.payload.clear();
        // Grows by what is there, whatever the length says.
        let read = (&mut self.from).take(length).read_to_end(&mut self.payload);
        let read = read.map_err(|error| RestoreError::io(&error))? as u64;
        self.at += read;
        if read < length {
            let missing = length - read;
            return Err(RestoreError::damaged(
                self.at,
                format!(
                    "it ends here; {missing} bytes more of the frame at byte {start} would be right"
                ),
            ));
        }
        self.checksum.write(&[raw]);
        self.checksum.write(&length_bytes);
        self.checksum.write(&self.payload);
        self.check(start, "the frame")?;
        Ok((kind, Fields::new(&self.payload, start + 9)))
    }

    /// Checks that nothing follows.
    pub(super) fn end(mut self) -> Result<(), RestoreError> {
        let mut byte = [0];
        loop {
            return match self.from.read(&mut byte) {
                Ok(0) => Ok(()),
                Ok(_) => Err(RestoreError::damaged(
                    self.at,
                    "bytes follow the end; none would be right".into(),
                )),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(RestoreError::io(&error)),
            };
        }
    }

    /// Reads the checksum of what began at `start`.
    fn check(&mut self, start: u64, what: &str) -> Result<(), RestoreError> {
        let right = self.checksum.finish();
        let bytes: [u8; 8] = self.take("a checksum")?;
        let found = u64::from_le_bytes(bytes);
        if found != right {
            return Err(RestoreError::damaged(
                start,
                format!(
                    "{what} that begins here has the checksum {found:016x}; {right:016x} would be right"
                ),
            ));
        }
        self.checksum.write(&bytes);
        Ok(())
    }

    fn take<const N: usize>(&mut self, what: &str) -> Result<[u8; N], RestoreError> {
        let mut bytes = [0; N];
        self.from.read_exact(&mut bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                RestoreError::damaged(self.at, format!("it ends where {what} would be right"))
            }
            _ => RestoreError::io(&error),
        })?;
        self.at += N as u64;
        Ok(bytes)
    }
}

fn check_version(found: u32) -> Result<(), RestoreError> {
    match found {
        VERSION => Ok(()),
        0 => Err(RestoreError::damaged(VERSION_AT, format!("version 0; {VERSION} would be right"))),
        found => Err(RestoreError::Version { found, newest: VERSION }),
    }
}
