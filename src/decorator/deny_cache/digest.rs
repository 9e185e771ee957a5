//! Keyed digests of keys and questions: of any length, in 16 bytes, and nobody outside can make two that are equal.

use std::hash::Hash;

use siphasher::sip128::{Hasher128, SipHasher13};

use crate::key::Key;
use crate::random;
use crate::step::Step;

/// The digest of a key of a throttle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct KeyDigest(pub(super) [u64; 2]);

/// The digest of a key and what is asked about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StepDigest([u64; 2]);

/// SipHash-1-3 with a secret of its own.
#[derive(Debug)]
pub(super) struct Digests(SipHasher13);

impl Digests {
    pub(super) fn new() -> Self {
        let [first, second] = random::secret();
        Self(SipHasher13::new_with_keys(first, second))
    }

    pub(super) fn of_key(&self, key: &Key<'_>) -> KeyDigest {
        let mut hasher = self.0;
        key.throttle().hash(&mut hasher);
        for part in key.parts() {
            // Each after its length.
            part.as_bytes().hash(&mut hasher);
        }
        KeyDigest(words(&hasher))
    }

    /// A hit and a peek are one question, for they have one answer.
    pub(super) fn of_step(&self, key: KeyDigest, step: &Step<'_>) -> StepDigest {
        let mut hasher = self.0;
        key.hash(&mut hasher);
        (step.cost(), step.units_to_leave()).hash(&mut hasher);
        for limit in step.limits() {
            limit.identity().hash(&mut hasher);
        }
        StepDigest(words(&hasher))
    }
}

fn words(hasher: &SipHasher13) -> [u64; 2] {
    let hash = hasher.finish128();
    [hash.h1, hash.h2]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::KeyPart;
    use crate::rate::Rate;
    use crate::strategy::{FixedWindow, Limit, Op, TokenBucket};

    #[test]
    fn only_equal_questions_have_equal_digests() {
        let digests = Digests::new();
        let bytes = |text: &'static str| KeyPart::bytes(text.as_bytes());
        let of_key = |throttle, parts: &[KeyPart<'_>]| digests.of_key(&Key::new(throttle, parts));
        let key = of_key("t", &[bytes("a"), bytes("b")]);
        assert_eq!(key, of_key("t", &[bytes("a"), bytes("b")]));
        assert_ne!(key, of_key("t", &[bytes("b"), bytes("a")]));
        assert_ne!(key, of_key("t", &[bytes("ab")]));
        assert_ne!(key, of_key("ta", &[bytes("b")]));
        assert_ne!(of_key("t", &[bytes("a")]), digests.of_key(&Key::value("a")));
        assert_ne!(key, Digests::new().of_key(&Key::new("t", &[bytes("a"), bytes("b")])));

        let minute = Rate::per_minute(5);
        let limit = [Limit::new(minute, TokenBucket::new()).unwrap()];
        let same = [Limit::new(minute, TokenBucket::new()).unwrap().named("other")];
        let of = |step: Step<'_>| digests.of_step(key, &step);
        let digest = of(Step::new(&limit, 1, Op::Take));
        assert_eq!(digest, of(Step::new(&same, 1, Op::Peek)));
        let others = [
            Limit::new(Rate::per_minute(6), TokenBucket::new()).unwrap(),
            Limit::new(Rate::per_minute(5).burst(6), TokenBucket::new()).unwrap(),
            Limit::new(Rate::per_hour(5), TokenBucket::new()).unwrap(),
            Limit::new(minute, TokenBucket::new().max_debt(1)).unwrap(),
            Limit::new(minute, FixedWindow::new()).unwrap(),
            limit[0].clone().brought_beside(&limit[0]),
        ];
        for other in &others {
            let other = std::slice::from_ref(other);
            assert_ne!(digest, of(Step::new(other, 1, Op::Take)), "{other:?}");
        }
        assert_ne!(digest, of(Step::new(&limit, 2, Op::Take)));
        assert_ne!(digest, of(Step::new(&limit, 1, Op::Take).leave(1)));
        let both = [limit[0].clone(), others[2].clone()];
        assert_ne!(digest, of(Step::new(&both, 1, Op::Take)));
        let of_other = of_key("t", &[bytes("b")]);
        assert_ne!(digest, digests.of_step(of_other, &Step::new(&limit, 1, Op::Take)));
    }
}
