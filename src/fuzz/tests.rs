//! The targets of `fuzz/`, by proptest, and on their seeds.

use std::path::Path;

use proptest::prelude::*;

use super::*;

/// What a target takes.
type Property = fn(&[u8]);

const TARGETS: [(&str, Property); 5] = [
    ("rate_text", rate_text),
    ("stored_state", stored_state),
    ("key_names", key_names),
    ("memcached_reply", memcached_reply),
    ("script_reply", script_reply),
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
}
