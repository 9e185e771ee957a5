//! Counter arithmetic, the same in every backend.

use super::{MAX_COUNTER, Result};
use crate::error::{BackendError, ErrorKind};

/// Returns the number of a stored counter.
pub(crate) fn parse(backend: &'static str, operation: &'static str, value: &[u8]) -> Result<u64> {
    let number = std::str::from_utf8(value)
        .ok()
        .filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
    number
        .and_then(|text| text.parse().ok())
        .filter(|number| *number <= MAX_COUNTER)
        .ok_or_else(|| BackendError::new(backend, operation, ErrorKind::NotANumber))
}

/// Returns the sum, within the range.
pub(crate) fn add(
    backend: &'static str,
    operation: &'static str,
    number: u64,
    by: u64,
) -> Result<u64> {
    number
        .checked_add(by)
        .filter(|sum| *sum <= MAX_COUNTER)
        .ok_or_else(|| BackendError::new(backend, operation, ErrorKind::OutOfRange))
}
