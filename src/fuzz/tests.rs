//! The targets of `fuzz/`, by proptest, and on their seeds.

use std::path::Path;

use proptest::prelude::*;

use super::*;

/// What a target takes.
type Property = fn(&[u8]);

const TARGETS: [(&str, Property); 7] = [
    ("rate_text", rate_text),
    ("stored_state", stored_state),
    ("key_names", key_names),
    ("memcached_reply", memcached_reply),
    ("script_reply", script_reply),
    ("snapshot", snapshot),
    ("client_address", client_address),
];

#[test]
fn each_target_has_seeds_on_which_it_holds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, property) in TARGETS {
        let seeds = std::fs::read_dir(corpus.join(name)).unwrap();
        let seeds: Vec<_> =
            seeds.map(|seed| std::fs::read(seed.unwrap().path()).unwrap()).collect();
        assert!(seeds.len() >= 3, "{name} has {} seeds", seeds.len());
        seeds.iter().for_each(|seed| property(seed));
    }
}

/// They are built apart, by compiler flags of their own, which the soak does: what they call is seen here.
#[test]
fn each_target_calls_its_property_and_nothing_else() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    assert_eq!(std::fs::read_dir(fuzz.join("fuzz_targets")).unwrap().count(), TARGETS.len());
    let listed = std::fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    for (name, _) in TARGETS {
        let path = format!("fuzz_targets/{name}.rs");
        assert!(listed.contains(&format!("name = \"{name}\"\npath = \"{path}\"")), "{name}");
        let target = std::fs::read_to_string(fuzz.join(path)).unwrap();
        let code = target.lines().filter(|line| !line.is_empty() && !line.starts_with("//"));
        let call =
            format!("libfuzzer_sys::fuzz_target!(|bytes: &[u8]| traffik::fuzz::{name}(bytes));");
        assert_eq!(code.collect::<Vec<_>>(), ["#![no_main]", &*call]);
    }
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop_oneof![Just(0), Just(1), Just(u8::MAX), any::<u8>()], 0..400)
}

/// Of which replies are made.
const WORDS: &[&str] = &[
    "VALUE a 0 1 7\r\n",
    "VALUE b 0 1\r\n",
    "x\r\n",
    "END\r\n",
    "STORED\r\n",
    "NOT_STORED\r\n",
    "EXISTS\r\n",
    "NOT_FOUND\r\n",
    "VERSION 1\r\n",
    "OK\r\n",
    "ERROR\r\n",
    "SERVER_ERROR out of memory\r\n",
    "VALUE ",
    "a ",
    "0 ",
    "18446744073709551615 ",
    "\r\n",
    "\n",
    "\r",
];

/// Mostly pieces of which replies are made.
fn reply() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => prop::sample::select(WORDS).prop_map(|word| word.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..4),
    ];
    let pieces = prop::collection::vec(piece, 0..6);
    (any::<[u8; 2]>(), pieces).prop_map(|(head, pieces)| [&head[..], &pieces.concat()].concat())
}

/// Mostly of the letters of rates.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[0-9a-zA-Z/ ._-]{0,24}",
        "[0-9]{1,12} ?(/|per) ?[0-9]{0,3} ?(ms|s|min|h|d|w)( burst [0-9]{1,11})?"
    ]
}

/// Mostly a throttle's name, and keys or values of any bytes after it.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop::collection::vec(prop_oneof![Just(0), Just(1), any::<u8>()], 0..120);
    let frame = (0..6u8, payload).prop_map(|(kind, payload)| {
        [&[kind, u8::try_from(payload.len()).expect("at most 120")], &payload[..]].concat()
    });
    let frames = prop::collection::vec(frame, 0..4).prop_map(|frames| frames.concat());
    (any::<bool>(), frames).prop_map(|(is_named, frames)| match is_named {
        true => [&[1, 1, b't'], &frames[..]].concat(),
        false => frames,
    })
}

/// Mostly pieces of which forwarding headers are made.
fn forwarded() -> impl Strategy<Value = Vec<u8>> {
    const PIECES: &[&str] =
        &["for=", "\"", "\\", ";", ",", " ", "[", "]", ":", "10.0.0.2", "::1", "proto=http", "_x"];
    let piece = prop_oneof![
        4 => prop::sample::select(PIECES).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..4),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn rate_text_holds(text in text()) {
        rate_text(text.as_bytes());
    }

    #[test]
    fn stored_state_holds(bytes in bytes()) {
        stored_state(&bytes);
    }

    #[test]
    fn key_names_holds(bytes in bytes()) {
        key_names(&bytes);
    }

    #[test]
    fn memcached_reply_holds(bytes in reply()) {
        memcached_reply(&bytes);
    }

    #[test]
    fn script_reply_holds(bytes in bytes()) {
        script_reply(&bytes);
    }

    #[test]
    fn snapshot_holds(bytes in frames()) {
        snapshot(&bytes);
    }

    #[test]
    fn client_address_holds(written in forwarded()) {
        client_address(&written);
    }
}
