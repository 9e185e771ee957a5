//! Properties of what reads foreign bytes, which hold for any bytes: the targets in `fuzz/` try them, and so
//! do the tests here, by proptest and on the targets' seeds.
//!
//! Public only under `--cfg traffik_fuzz`, and not under the `fuzzing` that cargo-fuzz sets for every crate:
//! whoever fuzzes a service with this crate in it gets the crate as it is.

#[cfg(feature = "http")]
mod client_address;
mod input;
#[cfg(all(feature = "redis", feature = "memcached"))]
mod key_names;
mod rate_text;
mod snapshot;
mod stored_state;
#[cfg(all(test, feature = "redis", feature = "memcached", feature = "http", unix))]
mod tests;

#[cfg(feature = "http")]
pub use self::client_address::client_address;
pub(crate) use self::input::{Input, limits};
#[cfg(all(feature = "redis", feature = "memcached"))]
pub(crate) use self::key_names::Named;
#[cfg(all(feature = "redis", feature = "memcached"))]
pub use self::key_names::key_names;
pub use self::rate_text::rate_text;
pub use self::snapshot::snapshot;
pub use self::stored_state::stored_state;

/// A reply of a Memcached server is read alike in whatever pieces it comes, and what does not fit its command
/// is no answer.
#[cfg(all(feature = "memcached", unix))]
pub fn memcached_reply(bytes: &[u8]) {
    crate::backend::memcached::fuzz::reply(bytes);
}

/// What is read from the reply of a script is what stands there, or nothing.
#[cfg(feature = "redis")]
pub fn script_reply(bytes: &[u8]) {
    crate::backend::redis::fuzz::script_reply(bytes);
}
