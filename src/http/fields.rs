//! [`Fields`]: what a client is told about its limits, in header fields.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};

use super::decisions::{RequestDecision, narrowest};
use crate::decision::{DecidedBy, Decision, Denial, LimitAnswer, Outcome};
use crate::strategy::Limit;

static RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
static RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
static X_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
static X_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
static X_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// Which fields tell a client about its limits. `Retry-After` of a denial comes with each of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fields {
    /// `RateLimit-Policy` and `RateLimit`, as revision 11 of the IETF's draft "RateLimit header fields for HTTP" has
    /// them. The default. Later revisions may differ, which is why it is named.
    ///
    /// ```text
    /// RateLimit-Policy: "burst";q=20;w=2, "daily";q=5000;w=86400
    /// RateLimit: "burst";r=19;t=2, "daily";r=4711;t=3600
    /// ```
    ///
    /// An item for each limit, under its [name](crate::Limit::name): `q` units in a window of `w` seconds, of which
    /// `r` are left, and in `t` seconds there will be more. Of a bucket `q` is the burst and `w` the time in which it
    /// fills, which is the same rate; `w` is left out if it is not whole seconds. Nothing of a key is in them.
    #[default]
    Draft11,
    /// `X-RateLimit-Limit`, `-Remaining` and `-Reset`, of the limit that is felt first. The reset is in seconds from
    /// now; others send a date or an epoch under that name.
    XRateLimit,
    /// Both of these.
    Both,
    /// None but `Retry-After`.
    None,
}

/// On which responses the fields are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FieldsOn {
    /// On all. The default.
    #[default]
    All,
    /// On those of requests that were allowed.
    Allowed,
    /// On denials.
    Denied,
}

impl FieldsOn {
    pub(super) const fn includes(self, is_denied: bool) -> bool {
        match self {
            Self::All => true,
            Self::Allowed => !is_denied,
            Self::Denied => is_denied,
        }
    }
}

impl Fields {
    const fn has_draft(self) -> bool {
        matches!(self, Self::Draft11 | Self::Both)
    }

    const fn has_x(self) -> bool {
        matches!(self, Self::XRateLimit | Self::Both)
    }

    /// Appends the fields of these decisions. `told` is the wait that a denial tells.
    pub(super) fn append<'d>(
        self,
        headers: &mut HeaderMap,
        decisions: &'d [RequestDecision],
        policy_of: impl Fn(&'d RequestDecision) -> Option<HeaderValue>,
        told: Option<u64>,
    ) {
        if self.has_draft() {
            for one in decisions {
                if let (Some(policy), Some(state)) = (policy_of(one), state_of(one, told)) {
                    headers.append(&RATELIMIT_POLICY, policy);
                    headers.append(&RATELIMIT, state);
                }
            }
        }
        if self.has_x()
            && let Some(one) = narrowest(decisions)
            && has_figures(&one.decision)
        {
            let seconds = told.filter(|_| one.decision.is_denied());
            let seconds = seconds.unwrap_or_else(|| whole_seconds(one.decision.reset_after()));
            headers.append(&X_LIMIT, one.decision.burst().into());
            headers.append(&X_REMAINING, one.decision.remaining().into());
            headers.append(&X_RESET, seconds.into());
        }
    }
}

/// Sets `Retry-After`, unless who made the response did.
pub(super) fn set_retry_after(headers: &mut HeaderMap, told: Option<u64>) {
    if let Some(seconds) = told {
        headers.entry(RETRY_AFTER).or_insert_with(|| seconds.into());
    }
}

/// Returns whole seconds, rounded up, at least 1.
pub(super) fn whole_seconds(time: Duration) -> u64 {
    let seconds = time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0));
    seconds.clamp(1, LARGEST)
}

/// The largest integer of a structured field (RFC 9651, section 3.3.1).
const LARGEST: u64 = 999_999_999_999_999;

/// Returns whether limits were asked, and answered by themselves.
fn has_figures(decision: &Decision) -> bool {
    let by_limits = matches!(decision.denial(), None | Some(Denial::Limited | Denial::Never));
    decision.decided_by() == DecidedBy::Backend && by_limits && decision.answers().len() > 0
}

/// Returns the value of `RateLimit-Policy` for limits, but for those that limit nothing.
pub(super) fn policy_of(limits: &[Limit]) -> Option<HeaderValue> {
    let mut text = String::with_capacity(32 * limits.len());
    for limit in limits.iter().filter(|limit| !limit.rate().is_unlimited()) {
        separate(&mut text);
        push_name(&mut text, &limit.name());
        let rate = limit.rate();
        let _ = write!(text, ";q={}", rate.effective_burst());
        if let Some(seconds) = window_of(limit) {
            let _ = write!(text, ";w={seconds}");
        }
    }
    value_of(text)
}

/// Returns the seconds in which the quota comes back, if they are whole.
fn window_of(limit: &Limit) -> Option<u64> {
    let rate = limit.rate();
    let micros = u128::from(rate.effective_burst()) * rate.period().as_micros();
    let divisor = u128::from(rate.limit()) * 1_000_000;
    let seconds = micros.checked_div(divisor).filter(|seconds| seconds * divisor == micros)?;
    u64::try_from(seconds).ok().filter(|seconds| (1..=LARGEST).contains(seconds))
}

/// Returns the value of `RateLimit` for a decision.
fn state_of(one: &RequestDecision, told: Option<u64>) -> Option<HeaderValue> {
    let decision = &one.decision;
    if !has_figures(decision) {
        return None;
    }
    let limits = limits_of(one);
    let mut text = String::with_capacity(40 * limits.len());
    for (index, (limit, answer)) in limits.iter().zip(decision.answers()).enumerate() {
        if limit.rate().is_unlimited() {
            continue;
        }
        separate(&mut text);
        push_name(&mut text, &limit.name());
        let mut remaining = answer.remaining();
        let seconds = match answer.outcome() {
            Outcome::Allowed => Some(until_more(limit, &answer)),
            // What the denied one waits for is what the client is told.
            Outcome::Denied { .. } if decision.denied_by() == Some(index) && told.is_some() => told,
            Outcome::Denied { retry_after } => Some(whole_seconds(retry_after)),
            Outcome::Never => None,
        };
        // Of a cost above what is left, a rest may remain.
        remaining = remaining.min(limit.rate().effective_burst());
        let _ = write!(text, ";r={remaining}");
        if let Some(seconds) = seconds {
            let _ = write!(text, ";t={seconds}");
        }
    }
    value_of(text)
}

/// Returns in how many seconds there is more: when the limit is as new, but never so soon that the units which are
/// left come faster than the rate.
fn until_more(limit: &Limit, answer: &LimitAnswer) -> u64 {
    let rate = limit.rate();
    let spread = u128::from(answer.remaining()) * rate.period().as_micros();
    let spread = spread.div_ceil((u128::from(rate.limit()) * 1_000_000).max(1));
    let spread = u64::try_from(spread).unwrap_or(LARGEST).min(LARGEST);
    whole_seconds(answer.reset_after()).max(spread)
}

/// Returns the limits that were asked, in the order of the answers.
pub(super) fn limits_of(one: &RequestDecision) -> &[Limit] {
    one.decision.brought().unwrap_or_else(|| one.throttle.limits())
}

fn separate(text: &mut String) {
    if !text.is_empty() {
        text.push_str(", ");
    }
}

/// Writes a string of a structured field (RFC 9651, section 4.1.6). Names of limits are printable ASCII.
fn push_name(text: &mut String, name: &str) {
    text.push('"');
    for char in name.chars() {
        match char {
            '"' | '\\' => text.extend(['\\', char]),
            ' '..='~' => text.push(char),
            _ => text.push('?'),
        }
    }
    text.push('"');
}

/// `None` for nothing.
fn value_of(text: String) -> Option<HeaderValue> {
    if text.is_empty() {
        return None;
    }
    HeaderValue::from_maybe_shared(Bytes::from(text)).ok()
}
