//! Whatever a client writes into a forwarding header, what the proxies add to its right says whose request it is.
//!
//! The property, and a test of it by proptest, are in `src/fuzz/`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| traffik::fuzz::client_address(bytes));
