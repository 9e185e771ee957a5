//! [`LimitTexts`]: what fields say of limits, as far as it never changes.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Deref;
use std::sync::Arc;

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

/// The texts of a throttle's limits.
#[derive(Clone, Debug)]
pub(super) enum Texts {
    /// Until the process ends: so a response needs no count of who has them, which all cores would write.
    Kept(&'static LimitTexts),
    Counted(Arc<LimitTexts>),
}

impl Deref for Texts {
    type Target = LimitTexts;

    fn deref(&self) -> &LimitTexts {
        match self {
            Self::Kept(texts) => texts,
            Self::Counted(texts) => texts,
        }
    }
}

impl From<LimitTexts> for Texts {
    fn from(texts: LimitTexts) -> Self {
        Self::Counted(Arc::new(texts))
    }
}

/// Texts that are kept until the process ends.
pub(super) struct KeptTexts {
    most: usize,
    by_limits: Mutex<Option<ByLimits>>,
}

/// By the names and rates of limits.
type ByLimits = HashMap<Box<[(Box<str>, Rate)]>, &'static LimitTexts>;

/// Settings that are loaded anew have mostly the limits that they had. One takes some 300 bytes for each of its limits.
pub(super) static KEPT_TEXTS: KeptTexts = KeptTexts::new(1024);

impl KeptTexts {
    const fn new(most: usize) -> Self {
        Self { most, by_limits: Mutex::new(None) }
    }

    /// Once there are too many, new ones are counted.
    pub(super) fn of(&self, limits: &[Limit]) -> Texts {
        let key: Box<[_]> = limits.iter().map(|one| (one.name().into(), *one.rate())).collect();
        let mut kept = self.by_limits.lock();
        let kept = kept.get_or_insert_default();
        let is_full = kept.len() >= self.most;
        match kept.entry(key) {
            Entry::Occupied(texts) => Texts::Kept(texts.get()),
            Entry::Vacant(_) if is_full => LimitTexts::of(limits).into(),
            Entry::Vacant(place) => Texts::Kept(place.insert(LimitTexts::of(limits).leaked())),
        }
    }
}

impl LimitTexts {
    fn leaked(mut self) -> &'static Self {
        // A static text, whose clones are not counted either.
        let policy = self.policy.as_ref().and_then(|policy| policy.to_str().ok());
        self.policy = policy.map(|policy| HeaderValue::from_static(policy.to_owned().leak()));
        Box::leak(Box::new(self))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::throttle::Throttle;

    fn limits(name: &str, rate: &str) -> Vec<Limit> {
        let throttle = Throttle::builder(name).rate(rate).backend(crate::InMemory::new());
        throttle.build().unwrap().limits().to_vec()
    }

    #[test]
    fn keeps_texts_once_and_not_without_bound() {
        let kept = KeptTexts::new(2);
        let first = kept.of(&limits("a", "1/s"));
        let again = kept.of(&limits("a", "1/s"));
        assert!(std::ptr::eq(&*first, &*again), "the same limits have the same texts");
        let second = kept.of(&limits("a", "2/s"));
        assert!(matches!(second, Texts::Kept(_)));
        assert_ne!(first.policy, second.policy);
        let third = kept.of(&limits("b", "1/s"));
        assert!(matches!(third, Texts::Counted(_)), "a third is one too many");
        assert_eq!(format!("{:?}", *third), format!("{:?}", LimitTexts::of(&limits("b", "1/s"))));
        assert!(std::ptr::eq(&*first, &*kept.of(&limits("a", "1/s"))));
    }

    #[test]
    fn kept_texts_are_those_of_the_limits() {
        for rate in ["1/s", "100/min burst 7", "unlimited", "3/1500ms"] {
            let limits = limits("name \u{e9}", rate);
            let (kept, made) = (KeptTexts::new(1).of(&limits), LimitTexts::of(&limits));
            assert_eq!(format!("{:?}", *kept), format!("{made:?}"), "{rate}");
        }
    }
}
