//! Waves of steps: those of different keys go together, and those of one key one after the other.

use std::collections::HashMap;

use crate::key::Key;
use crate::step::Step;

/// Returns the places of the steps in waves: the first of each key, the second of each, and so on.
pub(super) fn waves(steps: &[(Key<'_>, Step<'_>)]) -> Vec<Vec<usize>> {
    let mut waves: Vec<Vec<usize>> = Vec::new();
    let mut seen: HashMap<Vec<u8>, usize> = HashMap::new();
    for (index, (key, _)) in steps.iter().enumerate() {
        let wave = seen.entry(key.encode()).or_default();
        if *wave == waves.len() {
            waves.push(Vec::new());
        }
        waves[*wave].push(index);
        *wave += 1;
    }
    waves
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::KeyPart;
    use crate::strategy::Op;

    #[test]
    fn each_key_comes_once_in_a_wave_and_in_its_order() {
        let (a, b) = ([KeyPart::bytes(b"a")], [KeyPart::bytes(b"b")]);
        let step = |parts| (Key::new("t", parts), Step::new(&[], 1, Op::Take));
        assert_eq!(
            waves(&[step(&a), step(&b), step(&a), step(&a)]),
            [vec![0, 1], vec![2], vec![3]]
        );
        assert!(waves(&[]).is_empty());
    }
}
