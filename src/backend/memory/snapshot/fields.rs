//! Reads the fields of a frame whose checksum was right.

use crate::error::RestoreError;

/// What is left of a frame, and where it lies in the snapshot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
    at: u64,
}

impl<'a> Fields<'a> {
    pub(super) const fn new(rest: &'a [u8], at: u64) -> Self {
        Self { rest, at }
    }

    /// Returns where the next field lies.
    pub(super) const fn at(&self) -> u64 {
        self.at
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn u8(&mut self) -> Result<u8, RestoreError> {
        self.take().map(u8::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, RestoreError> {
        self.take().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, RestoreError> {
        self.take().map(u64::from_le_bytes)
    }

    /// All that is left.
    pub(super) fn all(&mut self) -> &'a [u8] {
        self.at += self.rest.len() as u64;
        std::mem::take(&mut self.rest)
    }

    pub(super) fn bytes(&mut self, length: u64) -> Result<&'a [u8], RestoreError> {
        let cut =
            usize::try_from(length).ok().and_then(|length| self.rest.split_at_checked(length));
        let Some((head, rest)) = cut else { return Err(self.too_short(length)) };
        (self.rest, self.at) = (rest, self.at + length);
        Ok(head)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], RestoreError> {
        let Some((head, rest)) = self.rest.split_first_chunk() else {
            return Err(self.too_short(N as u64));
        };
        (self.rest, self.at) = (rest, self.at + N as u64);
        Ok(*head)
    }

    fn too_short(&self, length: u64) -> RestoreError {
        let left = self.rest.len();
        let problem = format!(
            "a field of {length} bytes, where its frame has {left} left; at most these would be right"
        );
        RestoreError::damaged(self.at, problem)
    }
}
