//! [`Change`]: the effect of an operation on a value. The operations are pure functions, the same in
//! every backend that reads a value and writes it back.

use std::time::Duration;

use super::{Result, Ttl, counter};
use crate::error::{BackendError, ErrorKind};

/// What becomes of a value.
#[derive(Debug)]
pub(crate) enum Change {
    /// It stays as it is.
    Keep,
    /// It is replaced or made.
    Put(Vec<u8>, Ttl),
    Remove,
}

/// The outcome of an operation, and what becomes of the value.
pub(crate) type Changed<T> = Result<(T, Change)>;

pub(crate) fn set(
    value: &[u8],
    ttl: Option<Duration>,
) -> impl Fn(Option<&[u8]>) -> Changed<()> + Send + Sync {
    move |_| Ok(((), Change::Put(value.to_vec(), ttl.into())))
}

pub(crate) fn delete() -> impl Fn(Option<&[u8]>) -> Changed<bool> + Send + Sync {
    |found| Ok((found.is_some(), Change::Remove))
}

pub(crate) fn replace(
    expected: Option<&[u8]>,
    new: Option<&[u8]>,
    ttl: Ttl,
) -> impl Fn(Option<&[u8]>) -> Changed<bool> + Send + Sync {
    move |found| {
        Ok(match new {
            _ if found != expected => (false, Change::Keep),
            Some(new) => (true, Change::Put(new.to_vec(), ttl)),
            None => (true, Change::Remove),
        })
    }
}

pub(crate) fn expire(ttl: Duration) -> impl Fn(Option<&[u8]>) -> Changed<bool> + Send + Sync {
    move |found| {
        Ok(match found {
            None => (false, Change::Keep),
            Some(value) => (true, Change::Put(value.to_vec(), Ttl::After(ttl))),
        })
    }
}

/// Adds to a counter; a missing one counts as 0.
pub(crate) fn add(
    (backend, operation): (&'static str, &'static str),
    by: u64,
    ttl: Ttl,
) -> impl Fn(Option<&[u8]>) -> Changed<u64> + Send + Sync {
    move |found| {
        let number = found.map_or(Ok(0), |value| counter::parse(backend, operation, value))?;
        let sum = counter::add(backend, operation, number, by)?;
        Ok((sum, Change::Put(sum.to_string().into_bytes(), ttl)))
    }
}

/// Subtracts from a counter, not below 0; a missing one is an error.
pub(crate) fn subtract(
    (backend, operation): (&'static str, &'static str),
    by: u64,
) -> impl Fn(Option<&[u8]>) -> Changed<u64> + Send + Sync {
    move |found| {
        let missing = || BackendError::new(backend, operation, ErrorKind::NotFound);
        let number = counter::parse(backend, operation, found.ok_or_else(missing)?)?;
        let left = number.saturating_sub(by);
        Ok((left, Change::Put(left.to_string().into_bytes(), Ttl::Keep)))
    }
}
