//! What is read as a rate is written so that it is read again.
//!
//! The property, and a test of it by proptest, are in `src/fuzz/`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| traffik::fuzz::rate_text(bytes));
