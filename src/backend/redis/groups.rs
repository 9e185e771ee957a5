//! [`Groups`]: throttles whose keys lie in one slot of a cluster where they begin with the same part.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::BuildError;

/// The group of each throttle that has one.
#[derive(Clone, Debug, Default)]
pub(super) struct Groups(HashMap<String, Arc<str>>);

impl Groups {
    /// Of each group's name with its throttles.
    pub(super) fn new(groups: &[(String, Vec<String>)]) -> Result<Self, BuildError> {
        let refused = |problem| Err(BuildError::setting("group", problem));
        let mut by_throttle: HashMap<String, Arc<str>> = HashMap::new();
        for (number, (name, throttles)) in groups.iter().enumerate() {
            if name.is_empty() || throttles.is_empty() {
                return refused(format!("{name:?} needs a name and at least one throttle"));
            }
            if groups[..number].iter().any(|(other, _)| other == name) {
                return refused(format!("{name:?} is given twice; name all its throttles at once"));
            }
            for throttle in throttles {
                let other = by_throttle.insert(throttle.clone(), name.as_str().into());
                if let Some(other) = other.filter(|other| **other != **name) {
                    return refused(format!(
                        "{name:?} has the throttle {throttle:?}, as {other:?} has; a throttle has one group"
                    ));
                }
            }
        }
        Ok(Self(by_throttle))
    }

    /// Returns the group of a throttle.
    pub(super) fn of(&self, throttle: &str) -> Option<&str> {
        self.0.get(throttle).map(|group| &**group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(groups: &[(&str, &[&str])]) -> Result<Groups, String> {
        let owned = |throttles: &[&str]| throttles.iter().map(|one| (*one).to_owned()).collect();
        let groups: Vec<_> =
            groups.iter().map(|(name, throttles)| ((*name).to_owned(), owned(throttles))).collect();
        Groups::new(&groups).map_err(|error| error.to_string())
    }

    #[test]
    fn a_throttle_has_one_group_or_none() {
        let known = groups(&[("g", &["a", "b", "a"]), ("h", &["c"])]).unwrap();
        assert_eq!((known.of("a"), known.of("c"), known.of("d")), (Some("g"), Some("h"), None));
        for (bad, expected) in [
            (&[("g", &["a"][..]), ("h", &["a"])][..], "a throttle has one group"),
            (&[("g", &["a"]), ("g", &["b"])], "given twice"),
            (&[("g", &[])], "at least one throttle"),
            (&[("", &["a"])], "needs a name"),
        ] {
            let error = groups(bad).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
