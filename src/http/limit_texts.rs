//! [`LimitTexts`]: what fields say of limits, as far as it never changes.

use std::collections::HashMap;

use http::HeaderValue;
use parking_lot::Mutex;

use super::field_text::FieldText;
use crate::decision::LimitAnswer;
use crate::rate::Rate;
use crate::strategy::Limit;

/// What the fields say of a throttle's limits, as far as it never changes.
#[derive(Clone, Debug)]
pub(super) struct LimitTexts {
    /// The value of `RateLimit-Policy`, but for limits that limit nothing.
    pub(super) policy: Option<HeaderValue>,
    /// One for each limit; `None` for one that limits nothing.
    pub(super) items: Box<[Option<FieldItem>]>,
}

/// What `RateLimit` says of a limit.
#[derive(Clone, Debug)]
pub(super) struct FieldItem {
    /// Its name and what follows, up to the number of what remains.
    pub(super) text: Box<[u8]>,
    /// In microseconds.
    period: u64,
    /// The units of a period, times the microseconds of a second.
    divisor: u64,
}

/// The largest integer of a structured field (RFC 9651, section 3.3.1).
pub(super) const LARGEST: u64 = 999_999_999_999_999;

const MICROS: u64 = 1_000_000;

/// By the names and rates of limits.
type Kept = HashMap<Box<[(Box<str>, Rate)]>, &'static LimitTexts>;

/// Texts that are kept until the process ends.
static KEPT: Mutex<Option<Kept>> = Mutex::new(None);

/// How many are kept, of some 300 bytes each. Settings that are loaded anew have the same.
const MOST_KEPT: usize = 1024;

impl LimitTexts {
    /// Returns texts that are kept until the process ends: so a response needs no count of them, which all cores would
    /// write. `None` once there are too many.
    pub(super) fn kept(limits: &[Limit]) -> Option<&'static Self> {
        let key: Box<[_]> = limits.iter().map(|one| (one.name().into(), *one.rate())).collect();
        let mut kept = KEPT.lock();
        let kept = kept.get_or_insert_default();
        if kept.len() == MOST_KEPT && !kept.contains_key(&key) {
            return None;
        }
        Some(kept.entry(key).or_insert_with(|| {
            let texts = Self::of(limits);
            let policy = texts.policy.as_ref().and_then(|policy| policy.to_str().ok());
            // A static text, whose clones are not counted either.
            let policy = policy.map(|policy| HeaderValue::from_static(policy.to_owned().leak()));
            Box::leak(Box::new(Self { policy, ..texts }))
        }))
    }

    pub(super) fn of(limits: &[Limit]) -> Self {
        let mut policy = FieldText::default();
        let mut items = Vec::with_capacity(limits.len());
        for limit in limits {
            let rate = limit.rate();
            if rate.is_unlimited() {
                items.push(None);
                continue;
            }
            let mut text = FieldText::default();
            text.push_string(&limit.name());
            policy.separate();
            policy.push(text.as_bytes());
            policy.push(b";q=");
            policy.push_number(rate.effective_burst().into());
            if let Some(seconds) = window_of(limit) {
                policy.push(b";w=");
                policy.push_number(seconds);
            }
            text.push(b";r=");
            let divisor = u64::from(rate.limit()).max(1) * MICROS;
            let (text, period) = (text.as_bytes().into(), rate.period_micros());
            items.push(Some(FieldItem { text, period, divisor }));
        }
        Self { policy: policy.into_value(), items: items.into() }
    }

    /// Returns the policy and the item of the only limit, if there is one alone.
    pub(super) fn only(&self) -> Option<(&HeaderValue, &FieldItem)> {
        match (&self.policy, &*self.items) {
            (Some(policy), [Some(item)]) => Some((policy, item)),
            _ => None,
        }
    }
}

/// Returns the seconds in which the quota comes back, if they are whole.
fn window_of(limit: &Limit) -> Option<u64> {
    let rate = limit.rate();
    let micros = u128::from(rate.effective_burst()) * rate.period().as_micros();
    let divisor = u128::from(rate.limit()) * 1_000_000;
    let seconds = micros.checked_div(divisor).filter(|seconds| seconds * divisor == micros)?;
    u64::try_from(seconds).ok().filter(|seconds| (1..=LARGEST).contains(seconds))
}

impl FieldItem {
    /// Returns in how many seconds there is more: when the limit is as new, but never so soon that the units which
    /// are left come faster than the rate.
    pub(super) fn until_more(&self, answer: &LimitAnswer) -> u64 {
        let seconds = answer.micros_to_reset().div_ceil(MICROS).clamp(1, LARGEST);
        let spread = u128::from(answer.remaining()) * u128::from(self.period);
        // Mostly it is slow enough, and a division is saved.
        if u128::from(seconds) * u128::from(self.divisor) >= spread {
            return seconds;
        }
        u64::try_from(spread.div_ceil(self.divisor.into())).unwrap_or(LARGEST).min(LARGEST)
    }
}
