//! Steps by their keys: those of different keys go together, and those of one key one after the other.

use std::collections::HashMap;

use crate::key::Key;
use crate::step::Step;

/// Returns the places of the steps of each key, in their order.
pub(crate) fn by_key(steps: &[(Key<'_>, Step<'_>)]) -> Vec<Vec<usize>> {
    let mut places: Vec<Vec<usize>> = Vec::new();
    let mut seen: HashMap<Vec<u8>, usize> = HashMap::new();
    for (index, (key, _)) in steps.iter().enumerate() {
        let place = *seen.entry(key.encode()).or_insert(places.len());
        if place == places.len() {
            places.push(Vec::new());
        }
        places[place].push(index);
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::KeyPart;
    use crate::strategy::Op;

    #[test]
    fn each_key_has_its_steps_in_their_order() {
        let (a, b) = ([KeyPart::bytes(b"a")], [KeyPart::bytes(b"b")]);
        let step = |parts| (Key::new("t", parts), Step::new(&[], 1, Op::Take));
        assert_eq!(by_key(&[step(&a), step(&b), step(&a), step(&a)]), [vec![0, 2, 3], vec![1]]);
        assert!(by_key(&[]).is_empty());
    }
}
