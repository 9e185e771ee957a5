//! [`Digest`]: replaces a key that is too long to be stored.

use sha2::{Digest as _, Sha256};

use super::{KeyPart, KeyParts, MAX_KEY_BYTES, MAX_KEY_PARTS, Prefix};

/// One more than any other key has, so a digest never meets a key that somebody made up.
const PARTS: usize = MAX_KEY_PARTS + 1;
/// The first part. Stored names that are readable show it.
const MARK: [u8; 6] = *b"sha256";

/// The SHA-256 of a key's parts, as the parts of a key: a mark, and 64 hexadecimal digits in four parts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Digest([KeyPart<'static>; PARTS]);

impl Digest {
    /// Of each part after its length, so two keys that differ have different digests.
    #[cold]
    #[inline(never)]
    fn of(parts: &[KeyPart<'_>]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update(Prefix::of(part.as_bytes().len()).as_bytes());
            hash.update(part.as_bytes());
        }
        let mut all = [KeyPart::inline(MARK); PARTS];
        let hash = hash.finalize();
        let (quarters, _) = hash.as_slice().as_chunks::<8>();
        for (part, quarter) in all[1..].iter_mut().zip(quarters) {
            *part = KeyPart::inline(hex(*quarter));
        }
        Self(all)
    }
}

fn hex(bytes: [u8; 8]) -> [u8; 16] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = [0; 16];
    for (pair, byte) in out.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
        *pair = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
    }
    out
}

/// Returns the parts of a key that is stored as it is; `None` for one that is exempt, wrong, or too long.
#[inline]
pub(crate) fn short_enough<'a>(key: &'a KeyParts<'a>) -> Option<&'a [KeyPart<'a>]> {
    key.as_slice().ok()?.filter(|parts| is_bounded(parts))
}

#[inline]
fn is_bounded(parts: &[KeyPart<'_>]) -> bool {
    parts.iter().map(|part| part.as_bytes().len()).sum::<usize>() <= MAX_KEY_BYTES
}

/// Returns the parts as they are if they have at most [`MAX_KEY_BYTES`], and else, out of `room`, those
/// of their digest.
#[inline]
pub(crate) fn bounded<'a>(
    parts: &'a [KeyPart<'a>],
    room: &'a mut Option<Digest>,
) -> &'a [KeyPart<'a>] {
    if is_bounded(parts) {
        return parts;
    }
    &room.insert(Digest::of(parts)).0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::Config;

    use super::*;

    /// The parts under which a key is stored.
    fn stored(parts: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let parts: Vec<_> = parts.iter().map(|part| KeyPart::bytes(part)).collect();
        let mut room = None;
        bounded(&parts, &mut room).iter().map(|part| part.as_bytes().to_vec()).collect()
    }

    #[test]
    fn only_what_is_too_long_is_replaced() {
        let fits = [vec![b'k'; MAX_KEY_BYTES - 1], vec![b'k']];
        assert_eq!(stored(&fits), fits);
        let long = stored(&[vec![b'k'; MAX_KEY_BYTES], vec![b'k']]);
        assert_eq!(long.len(), MAX_KEY_PARTS + 1, "no other key has so many parts");
        assert_eq!(long[0], MARK);
    }

    /// Computed by another program, and never to change: it is in shared stores.
    #[test]
    fn the_digest_is_of_each_part_after_its_length() {
        let key = stored(&[vec![b'k'; 5000], b"a".to_vec()]);
        assert_eq!(
            key[1..].concat(),
            b"14906449462a3a05b2ea945f1d31c0a6f408fdcbe220d7c137940b48b8406a05"
        );
    }

    proptest! {
        #![proptest_config(Config { cases: 200, failure_persistence: None, ..Config::default() })]
        #[test]
        fn f31_long_keys_stay_apart(
            a in prop::collection::vec(prop::collection::vec(0u8..2, 0..4), 0..3),
            b in prop::collection::vec(prop::collection::vec(0u8..2, 0..4), 0..3),
            at in 0usize..3,
        ) {
            // A long part at the same place in both, or at the end of the shorter one.
            let long = |mut parts: Vec<Vec<u8>>| {
                let at = at.min(parts.len());
                parts.insert(at, vec![0; MAX_KEY_BYTES + 1]);
                parts
            };
            let (a, b) = (long(a), long(b));
            prop_assert_eq!(a == b, stored(&a) == stored(&b));
            prop_assert_ne!(stored(&a), a);
        }

        #[test]
        fn f31_where_a_long_key_is_divided_matters(cut: prop::sample::Index, other: prop::sample::Index) {
            let bytes = vec![b'k'; MAX_KEY_BYTES + 10];
            let divided = |cut: &prop::sample::Index| {
                let (head, tail) = bytes.split_at(cut.index(bytes.len()));
                stored(&[head.to_vec(), tail.to_vec()])
            };
            let same = cut.index(bytes.len()) == other.index(bytes.len());
            prop_assert_eq!(same, divided(&cut) == divided(&other));
        }
    }
}
