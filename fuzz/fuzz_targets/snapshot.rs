//! Whatever bytes a snapshot has, it is an error with a place, or a memory that works and can be written again.
//!
//! The property, and a test of it by proptest, are in `src/fuzz/`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| traffik::fuzz::snapshot(bytes));
