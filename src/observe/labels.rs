//! The values of labels: words that stay the same.

use super::DecisionMade;
use crate::decision::{DecidedBy, Denial, Outcome};
use crate::error::{Effect, ErrorKind};

pub(super) const fn outcome(made: &DecisionMade<'_>) -> &'static str {
    match made.outcome {
        Outcome::Allowed if made.withdrawn => "withdrawn",
        Outcome::Allowed if made.shadowed.is_some() => "shadowed",
        Outcome::Allowed => "allowed",
        Outcome::Denied { .. } => "denied",
        Outcome::Never => "never",
    }
}

pub(super) const fn reason(denial: Option<Denial>) -> &'static str {
    match denial {
        None => "none",
        Some(Denial::Limited) => "limited",
        Some(Denial::Never) => "never",
        Some(Denial::Full) => "full",
        Some(Denial::Policy) => "policy",
        Some(Denial::Blocked) => "blocked",
    }
}

pub(super) const fn decided_by(decided_by: DecidedBy) -> &'static str {
    match decided_by {
        DecidedBy::Backend => "backend",
        DecidedBy::Fallback => "fallback",
        DecidedBy::Exempt => "exempt",
        DecidedBy::Unlimited => "unlimited",
        DecidedBy::Overflow => "overflow",
        DecidedBy::Policy => "policy",
        DecidedBy::Off => "off",
    }
}

pub(super) const fn kind(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Unavailable => "unavailable",
        ErrorKind::Timeout => "timeout",
        ErrorKind::Overloaded => "overloaded",
        ErrorKind::Contended => "contended",
        ErrorKind::Corrupt => "corrupt",
        ErrorKind::Full => "full",
        ErrorKind::NotFound => "not_found",
        ErrorKind::NotANumber => "not_a_number",
        ErrorKind::OutOfRange => "out_of_range",
        ErrorKind::Unsupported => "unsupported",
        ErrorKind::TooManyRates => "too_many_rates",
        ErrorKind::Closed => "closed",
        ErrorKind::Misconfigured => "misconfigured",
        ErrorKind::Other => "other",
    }
}

pub(super) const fn effect(effect: Effect) -> &'static str {
    match effect {
        Effect::NotApplied => "not_applied",
        Effect::Ambiguous => "ambiguous",
    }
}
