//! How many bytes may go at once: what the adaptors for bodies, readers and writers share.

use super::Throttle;

impl Throttle {
    /// Returns the most bytes that can ever pass together: the smallest burst, at least 1, so that a limit of 0 is
    /// asked, and says that nothing passes.
    pub(crate) fn bytes_at_once(&self, most: usize) -> usize {
        let bursts = self.limits().iter().map(|limit| limit.rate().effective_burst());
        let smallest = bursts.min().unwrap_or(u32::MAX);
        usize::try_from(smallest).unwrap_or(usize::MAX).clamp(1, most)
    }
}
