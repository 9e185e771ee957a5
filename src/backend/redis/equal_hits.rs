//! Equal hits on one key that are asked together: one script makes them all.

use std::collections::HashSet;
use std::ops::Range;

use super::decide::Request;
use super::decisions::KEYS_OF_SCRIPT;
use crate::key::Key;
use crate::step::Step;
use crate::strategy::Op;

/// What one question is about.
#[derive(Clone, Copy)]
pub(super) struct Plan<'a> {
    pub(super) steps: &'a [(Key<'a>, Step<'a>)],
    /// Those that are one and the same, or one alone, by their places among the steps.
    pub(super) hits: &'a [Range<usize>],
    /// One for each of these.
    pub(super) requests: &'a [Request],
}

/// What one script decides.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum OneScript<'a> {
    /// Several keys, each once, by the places of their requests.
    Each(&'a [usize]),
    /// One key several times: the place of its request, and those of the steps.
    Times(usize, Range<usize>),
}

impl OneScript<'_> {
    /// Returns the places of its keys.
    fn keys(&self) -> &[usize] {
        match self {
            Self::Each(keys) => keys,
            Self::Times(key, _) => std::slice::from_ref(key),
        }
    }

    pub(super) fn times(&self) -> usize {
        match self {
            Self::Each(_) => 1,
            Self::Times(_, steps) => steps.len(),
        }
    }
}

/// Returns the steps, in their order, with equal hits on one key that follow each other as one.
pub(super) fn equal_hits(steps: &[(Key<'_>, Step<'_>)]) -> Vec<Range<usize>> {
    let mut hits: Vec<Range<usize>> = Vec::new();
    for (index, (key, step)) in steps.iter().enumerate() {
        match hits.last_mut() {
            Some(equal) if is_same_hit(&steps[equal.start], (key, step)) => equal.end = index + 1,
            _ => hits.push(index..index + 1),
        }
    }
    hits
}

fn is_same_hit(first: &(Key<'_>, Step<'_>), (key, step): (&Key<'_>, &Step<'_>)) -> bool {
    step.op() == Op::Take && step.cost() > 0 && first.1.is_same(step) && first.0.is_same(key)
}

/// Divides what one server is asked, in its order, so that no script takes long.
pub(super) fn scripts<'a>(
    mut group: &'a [usize],
    hits: &[Range<usize>],
    requests: &[Request],
) -> Vec<OneScript<'a>> {
    let mut scripts = Vec::new();
    while let Some(first) = group.first() {
        let single = group.iter().position(|index| hits[*index].len() > 1).unwrap_or(group.len());
        let (keys, rest) = group.split_at(single.min(KEYS_OF_SCRIPT));
        if !keys.is_empty() {
            scripts.push(OneScript::Each(keys));
            group = rest;
            continue;
        }
        let (most, Range { mut start, end }) =
            (requests[*first].most_times(), hits[*first].clone());
        while start < end {
            let next = end.min(start + most);
            scripts.push(OneScript::Times(*first, start..next));
            start = next;
        }
        group = &group[1..];
    }
    scripts
}

/// Returns the scripts, in their order, as rounds in which no key is in two of them: of scripts that are sent together
/// one may have to be sent once more, and comes after the others then.
pub(super) fn rounds<'s, 'a>(
    mut scripts: &'s [OneScript<'a>],
    keys: &[Vec<u8>],
) -> Vec<&'s [OneScript<'a>]> {
    let mut rounds = Vec::new();
    while !scripts.is_empty() {
        let mut seen = HashSet::new();
        let comes_again = |script: &OneScript<'_>| {
            let again = script.keys().iter().any(|key| seen.contains(&keys[*key]));
            seen.extend(script.keys().iter().map(|key| &keys[*key]));
            again
        };
        let length = scripts.iter().position(comes_again).unwrap_or(scripts.len());
        let (round, rest) = scripts.split_at(length);
        rounds.push(round);
        scripts = rest;
    }
    rounds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::KeyPart;
    use crate::rate::Rate;
    use crate::strategy::{Limit, SlidingWindowLog, TokenBucket};

    #[test]
    fn only_equal_hits_that_follow_each_other_are_one() {
        let limit = |rate| [Limit::new(rate, TokenBucket::new()).unwrap()];
        let (limits, equal, others) =
            (limit(Rate::per_minute(5)), limit(Rate::per_minute(5)), limit(Rate::per_minute(6)));
        let debt = [Limit::new(Rate::per_minute(5), TokenBucket::new().max_debt(1)).unwrap()];
        let (a, b) = ([KeyPart::bytes(b"a")], [KeyPart::bytes(b"b")]);
        let hit = |limits| Step::new(limits, 2, Op::Take);
        let on = |parts, step| (Key::new("t", parts), step);
        let steps = [
            on(&a, hit(&limits)),
            on(&a, hit(&equal)),
            on(&a, hit(&others)),
            on(&a, hit(&debt)),
            on(&a, hit(&limits)),
            on(&b, hit(&limits)),
            on(&b, hit(&limits).leave(1)),
            on(&b, hit(&limits).leave(1)),
            (Key::new("u", &b), hit(&limits).leave(1)),
            on(&b, Step::new(&limits, 2, Op::Peek)),
            on(&b, Step::new(&limits, 2, Op::Peek)),
            on(&b, Step::new(&limits, 0, Op::Take)),
            on(&b, Step::new(&limits, 0, Op::Take)),
        ];
        let lengths: Vec<usize> = equal_hits(&steps).iter().map(Range::len).collect();
        assert_eq!(lengths, [2, 1, 1, 1, 1, 2, 1, 1, 1, 1, 1]);
        assert!(equal_hits(&[]).is_empty());
    }

    #[test]
    fn no_key_is_in_two_scripts_of_a_round() {
        let names = ["a", "b", "a", "c"].map(|name| name.as_bytes().to_vec());
        let scripts = [
            // Within a script they keep their order.
            OneScript::Each(&[0, 1, 2]),
            OneScript::Each(&[3]),
            OneScript::Times(2, 2..4),
            OneScript::Times(2, 4..6),
            OneScript::Each(&[1]),
        ];
        let lengths: Vec<usize> =
            rounds(&scripts, &names).iter().map(|round| round.len()).collect();
        assert_eq!(lengths, [2, 1, 2]);
        assert!(rounds(&[], &names).is_empty());
    }

    #[test]
    fn scripts_keep_the_order_and_take_no_more_than_their_most() {
        let bucket = [Limit::new(Rate::per_minute(5), TokenBucket::new()).unwrap()];
        let log = [Limit::new(Rate::per_minute(5), SlidingWindowLog::new()).unwrap()];
        let request = |limits| Request::new(&Step::new(limits, 1, Op::Take), None).unwrap();
        let requests = [&bucket, &bucket, &bucket, &log, &bucket].map(|limits| request(limits));
        let hits = [0..1, 1..2, 2..602, 602..642, 642..643];
        let group = [0, 1, 2, 3, 4];
        assert_eq!(
            scripts(&group, &hits, &requests),
            [
                OneScript::Each(&[0, 1]),
                OneScript::Times(2, 2..258),
                OneScript::Times(2, 258..514),
                OneScript::Times(2, 514..602),
                OneScript::Times(3, 602..618),
                OneScript::Times(3, 618..634),
                OneScript::Times(3, 634..642),
                OneScript::Each(&[4]),
            ]
        );
        let many: Vec<usize> = (0..70).collect();
        let alone: Vec<_> = (0..70).map(|index| index..index + 1).collect();
        let requests: Vec<_> = (0..70).map(|_| request(&bucket)).collect();
        let lengths: Vec<usize> = scripts(&many, &alone, &requests)
            .iter()
            .map(|script| match script {
                OneScript::Each(keys) => keys.len(),
                OneScript::Times(..) => 0,
            })
            .collect();
        assert_eq!(lengths, [32, 32, 6]);
    }
}
