//! Whatever is stored under a key, a step has an answer or an error, and its write can be read.
//!
//! The property, and a test of it by proptest, are in `src/fuzz/`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| traffik::fuzz::stored_state(bytes));
