//! What must hold of the limits of one throttle.

use super::MAX_NAME;
use crate::error::BuildError;
use crate::excerpt::Excerpt;
use crate::strategy::Limit;

/// Refuses two limits whose state could not be told apart where it is stored.
pub(super) fn check_states(throttle: &str, limits: &[Limit]) -> Result<(), BuildError> {
    for (second, limit) in limits.iter().enumerate() {
        let same = |other: &Limit| other.part() == limit.part();
        if limit.rate().is_unlimited() {
            continue;
        }
        if let Some(first) = limits[..second].iter().position(same) {
            return Err(BuildError::SameState { throttle: throttle.to_owned(), first, second });
        }
    }
    Ok(())
}

/// Tells default names apart: limits of one period and different strategies would have the same.
pub(super) fn number_default_names(mut limits: Box<[Limit]>) -> Box<[Limit]> {
    for index in 1..limits.len() {
        let (before, after) = limits.split_at_mut(index);
        let limit = &mut after[0];
        let name = limit.name().into_owned();
        if limit.explicit_name().is_none() && before.iter().any(|other| other.name() == name) {
            *limit = limit.clone().named(format!("{name}#{}", index + 1));
        }
    }
    limits
}

/// Refuses names that a report could not carry, or not tell apart.
pub(super) fn check_names(throttle: &str, limits: &[Limit]) -> Result<(), BuildError> {
    for (index, limit) in limits.iter().enumerate() {
        let Some(name) = limit.explicit_name() else { continue };
        let printable = name.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
        if !(1..=MAX_NAME).contains(&name.len()) || !printable {
            return Err(BuildError::setting(
                "limit name",
                format!(
                    "{} must be 1 to {MAX_NAME} bytes of printable ASCII",
                    Excerpt(name.as_bytes())
                ),
            ));
        }
        let same = |other: &Limit| other.name() == name;
        if limits[..index].iter().any(same) || limits[index + 1..].iter().any(same) {
            let (throttle, name) = (throttle.to_owned(), name.to_owned());
            return Err(BuildError::SameName { throttle, name });
        }
    }
    Ok(())
}
