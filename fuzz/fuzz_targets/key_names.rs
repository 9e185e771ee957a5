//! Two things have one stored name exactly if they are the same.
//!
//! The property, and a test of it by proptest, are in `src/fuzz/`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| traffik::fuzz::key_names(bytes));
