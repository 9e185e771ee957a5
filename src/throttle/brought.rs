//! Rates that a hit brings: the limits that they make, and the way of such a hit in memory.

use std::cell::RefCell;
use std::sync::Arc;

use super::Throttle;
use crate::decision::{BroughtLimits, Decision};
use crate::error::Error;
use crate::hit_options::HitOptions;
use crate::key::{self, ToKey};
use crate::rate::Rate;
use crate::step::MAX_LIMITS;
use crate::strategy::meter::Demand;
use crate::strategy::{Limit, Op};

/// Lists of limits that a thread remembers. Plans are few, and to make their limits takes longer than the hit.
const REMEMBERED: usize = 16;

thread_local! {
    /// Of a thread by itself, so that no two count the uses of one list at the same place.
    static LISTS: RefCell<[Option<List>; REMEMBERED]> = const { RefCell::new([const { None }; REMEMBERED]) };
}

/// What a hit brought to a throttle, and the limits that this made.
struct List {
    throttle: u64,
    replaces: bool,
    rates: Box<[Rate]>,
    limits: BroughtLimits,
}

impl List {
    fn is_of(&self, throttle: u64, options: &HitOptions) -> bool {
        self.throttle == throttle
            && self.replaces == options.replaces
            && *self.rates == *options.rates()
    }
}

/// Returns where a list is, if it is remembered.
fn place(throttle: u64, options: &HitOptions) -> usize {
    let mix = |all: u64, rate: &Rate| {
        let rate = u64::from(rate.limit()) ^ rate.period_micros().rotate_left(32);
        (all ^ rate).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    };
    let hash = options.rates().iter().fold(throttle, mix);
    (hash >> 60) as usize
}

const _: () = assert!(REMEMBERED == 1 << (64 - 60));

impl Throttle {
    /// Keeps the limits that a hit brought in its decision, if that is about them.
    pub(super) fn with_brought(&self, decision: Decision, limits: &BroughtLimits) -> Decision {
        let is_of_these = decision.is_bound_to(self.inner.id);
        match decision.decided_by() {
            by if by.is_by_limits() => decision.with_limits(limits.clone()),
            _ if is_of_these => decision.with_limits(limits.clone()),
            _ => decision,
        }
    }

    /// The limits of a hit that brings rates; `None` if it brings none. One that equals an own limit is
    /// that limit, and one that comes twice counts once.
    #[inline]
    pub(super) fn brought_by(&self, options: &HitOptions) -> Result<Option<BroughtLimits>, Error> {
        match options.brings_rates() {
            false => Ok(None),
            true => self.remembered(options).map(Some),
        }
    }

    fn remembered(&self, options: &HitOptions) -> Result<BroughtLimits, Error> {
        let (id, at) = (self.inner.id, place(self.inner.id, options));
        let found = LISTS.try_with(|lists| {
            let lists = lists.borrow();
            lists[at].as_ref().filter(|list| list.is_of(id, options)).map(|it| it.limits.clone())
        });
        if let Ok(Some(limits)) = found {
            return Ok(limits);
        }
        let limits = self.limits_of(options)?;
        // A user's strategy may hold what is to be dropped with the throttle.
        if self.inner.limits[0].compiled().is_custom() {
            return Ok(limits);
        }
        let list = List {
            throttle: id,
            replaces: options.replaces,
            rates: options.rates().into(),
            limits: limits.clone(),
        };
        // Dropped when the lists are in use no more.
        drop(LISTS.try_with(|lists| lists.borrow_mut()[at].replace(list)));
        Ok(limits)
    }

    #[cold]
    fn limits_of(&self, options: &HitOptions) -> Result<BroughtLimits, Error> {
        let own = &self.inner.limits;
        let mut limits: Vec<Limit> = if options.replaces { Vec::new() } else { own.to_vec() };
        for rate in options.rates() {
            let limit = Limit::new(*rate, Arc::clone(own[0].strategy()))
                .map_err(|source| Error::Limit { throttle: self.inner.name.to_string(), source })?;
            let limit = match own.iter().find(|own| own.counts_like(&limit)) {
                Some(own) => own.clone(),
                None => limit.brought_beside(&own[0]),
            };
            if !limits.iter().any(|other| other.counts_like(&limit)) {
                limits.push(limit);
            }
        }
        let problem = match limits.len() {
            0 => "replace_rates was given no rate; give it one, or leave it out".to_owned(),
            count if count > MAX_LIMITS => {
                format!("it would have {count} limits; a hit has at most {MAX_LIMITS}")
            }
            _ => return Ok(limits.into()),
        };
        Err(Error::HitOptions { throttle: self.inner.name.to_string(), problem })
    }

    /// Decides a hit that brings one rate, where that is sure to succeed: in memory. `None`, with nothing done, to
    /// take the other way.
    pub(super) fn try_brought(
        &self,
        key: &(impl ToKey + ?Sized),
        options: &HitOptions,
        demand: (Demand, Op),
    ) -> Option<Decision> {
        let (prepared, key) = (self.prepared()?, key.to_key());
        let key = key::short_enough(&key)?;
        let limits = self.remembered(options).ok()?;
        let [limit] = &*limits else { return None };
        let (inline, hash) = prepared.try_brought(key, limit, demand)?;
        let inline = self.finish(key, inline, || hash ^ self.inner.seed);
        Some(Decision::from(inline).with_limits(limits))
    }
}
