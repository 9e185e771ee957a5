//! A Memcached reply is read alike in whatever pieces it comes.
//!
//! The property, and a test of it by proptest, are in `src/fuzz/`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| traffik::fuzz::memcached_reply(bytes));
