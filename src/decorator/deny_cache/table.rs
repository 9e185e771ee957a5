//! [`Table`]: the denials that are remembered, and which of those under way may still be.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::digest::{KeyDigest, StepDigest};
use crate::clock::Timestamp;
use crate::decision::Decision;
use crate::step::Step;
use crate::strategy::Strategy;

/// The most denials of one set.
const WAYS: usize = 8;

/// Denials by the digest of their key: each key has its place in one small set, where it pushes out another if
/// there is no room.
#[derive(Debug)]
pub(super) struct Table {
    sets: Box<[Mutex<Set>]>,
}

#[derive(Debug, Default)]
struct Set {
    denials: Vec<CachedDenial>,
    /// Counts what is put here or recalled.
    uses: u64,
    forgotten: Forgotten,
}

/// Which keys of a set were forgotten lately: what was asked about them before must not be remembered.
#[derive(Debug, Default)]
struct Forgotten {
    /// How often any was.
    times: u64,
    /// The last of them, and when that was, counted in times.
    keys: Vec<(KeyDigest, u64)>,
    /// When that was of all that are not among them at the latest.
    others: u64,
}

impl Forgotten {
    fn note(&mut self, key: KeyDigest) {
        self.times += 1;
        if let Some((_, time)) = self.keys.iter_mut().find(|(known, _)| *known == key) {
            *time = self.times;
        } else if self.keys.len() < WAYS {
            self.keys.push((key, self.times));
        } else if let Some(oldest) = self.keys.iter_mut().min_by_key(|(_, time)| *time) {
            self.others = oldest.1;
            *oldest = (key, self.times);
        }
    }

    fn note_all(&mut self) {
        self.times += 1;
        self.others = self.times;
        self.keys.clear();
    }

    /// Returns whether the key may have been forgotten after that many times.
    fn is_since(&self, key: KeyDigest, times: u64) -> bool {
        let of_key = self.keys.iter().find(|(known, _)| *known == key);
        of_key.map_or(self.others, |(_, time)| *time) > times
    }
}

#[derive(Debug)]
struct CachedDenial {
    key: KeyDigest,
    step: StepDigest,
    asked_at: Moment,
    /// For how long it holds from then on.
    time: Duration,
    decision: Decision,
    /// When it was used last, counted in the uses of its set.
    used: u64,
    /// Users' own strategies, which are known by where they lie: it must not be free for others.
    _strategies: Box<[Arc<dyn Strategy>]>,
}

/// A question to the store, when it was asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenQuestion {
    key: KeyDigest,
    step: StepDigest,
    asked_at: Moment,
    /// How often any key of its set was forgotten before.
    forgotten: u64,
}

/// A moment by the runtime's monotonic time, and by the backend's clock, in whose time its waits are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) monotonic: Instant,
    pub(super) clock: Timestamp,
}

impl CachedDenial {
    /// Returns the time that has passed by the backend's clock, while it holds: by that and by monotonic time, whatever
    /// one of them does. Not once the clock was put back, for then the waits are longer.
    fn age(&self, now: Moment) -> Option<Duration> {
        let holds = now.monotonic.saturating_duration_since(self.asked_at.monotonic) < self.time;
        let age = now.clock.saturating_duration_since(self.asked_at.clock);
        (holds && now.clock >= self.asked_at.clock && age < self.time).then_some(age)
    }

    /// Returns when it ends, if the clocks agree.
    fn until(&self) -> Instant {
        let Moment { monotonic, .. } = self.asked_at;
        monotonic.checked_add(self.time).unwrap_or(monotonic)
    }
}

impl OpenQuestion {
    /// That is about to be asked.
    pub(super) const fn new(key: KeyDigest, step: StepDigest, asked_at: Moment) -> Self {
        Self { key, step, asked_at, forgotten: 0 }
    }
}

impl Table {
    pub(super) fn new(most: usize) -> Self {
        Self { sets: (0..most.div_ceil(WAYS)).map(|_| Mutex::default()).collect() }
    }

    #[expect(clippy::cast_possible_truncation, reason = "less than the number of sets")]
    fn set(&self, key: KeyDigest) -> &Mutex<Set> {
        let share = u128::from(key.0[0]) * self.sets.len() as u128;
        &self.sets[(share >> u64::BITS) as usize]
    }

    /// Returns the denial of that question, if one is remembered and may be used, as it is told now; else the question, to
    /// be asked.
    pub(super) fn recall(
        &self,
        question: OpenQuestion,
        is_open: bool,
    ) -> Result<Decision, OpenQuestion> {
        let now = question.asked_at;
        let mut set = self.set(question.key).lock();
        let of_it =
            |denied: &CachedDenial| denied.step == question.step && denied.key == question.key;
        let place = set.denials.iter().position(of_it);
        if let Some(place) = place.filter(|_| is_open) {
            if let Some(age) = set.denials[place].age(now) {
                set.uses += 1;
                set.denials[place].used = set.uses;
                return Ok(set.denials[place].decision.clone().later(age));
            }
            let over = set.denials.swap_remove(place);
            let question = OpenQuestion { forgotten: set.forgotten.times, ..question };
            drop(set);
            drop(over);
            return Err(question);
        }
        Err(OpenQuestion { forgotten: set.forgotten.times, ..question })
    }

    /// Remembers a denial for a time from the question on, unless its key was forgotten meanwhile.
    pub(super) fn remember(
        &self,
        question: &OpenQuestion,
        step: &Step<'_>,
        decision: &Decision,
        time: Duration,
    ) {
        let OpenQuestion { key, step: digest, asked_at, forgotten } = *question;
        let own = step.limits().iter().filter(|limit| limit.is_by_own_strategy());
        let strategies = own.map(|limit| Arc::clone(limit.strategy())).collect();
        let denied = CachedDenial {
            key,
            step: digest,
            asked_at,
            time,
            decision: decision.clone(),
            used: 0,
            _strategies: strategies,
        };
        // A user's strategy may be dropped by this, which is not for a lock.
        let pushed_out = self.set(key).lock().put(denied, forgotten);
        drop(pushed_out);
    }

    /// Forgets what is remembered of a key, and what is under way: it may pass now.
    pub(super) fn forget(&self, key: KeyDigest) {
        self.remove(key, |set| set.forgotten.note(key));
    }

    /// Forgets what is remembered of a key: it has less left than was said.
    pub(super) fn outdate(&self, key: KeyDigest) {
        self.remove(key, |_| {});
    }

    fn remove(&self, key: KeyDigest, note: impl FnOnce(&mut Set)) {
        let mut set = self.set(key).lock();
        note(&mut set);
        let gone: Vec<CachedDenial> =
            set.denials.extract_if(.., |denied| denied.key == key).collect();
        drop(set);
        drop(gone);
    }

    /// Forgets all.
    pub(super) fn forget_all(&self) {
        for set in &self.sets {
            let mut set = set.lock();
            set.forgotten.note_all();
            let gone = std::mem::take(&mut set.denials);
            drop(set);
            drop(gone);
        }
    }

    /// Returns how many denials are remembered now.
    pub(super) fn count(&self, now: Moment) -> usize {
        let of_set = |set: &Mutex<Set>| {
            set.lock().denials.iter().filter(|denied| denied.age(now).is_some()).count()
        };
        self.sets.iter().map(of_set).sum()
    }
}

impl Set {
    /// Returns what is not remembered any more, or not at all.
    fn put(&mut self, mut denied: CachedDenial, forgotten: u64) -> Option<CachedDenial> {
        if self.forgotten.is_since(denied.key, forgotten) {
            return Some(denied);
        }
        let same = |known: &CachedDenial| known.step == denied.step && known.key == denied.key;
        let place = self.denials.iter().position(same);
        let place = place.or_else(|| match self.denials.len() {
            0..WAYS => None,
            // What is over, else what was used longest ago: a flood of keys then pushes out itself.
            _ => {
                let now = denied.asked_at.monotonic;
                let rank = |denied: &CachedDenial| (denied.until() > now, denied.used);
                (0..WAYS).min_by_key(|place| rank(&self.denials[*place]))
            }
        });
        self.uses += 1;
        denied.used = self.uses;
        match place {
            // Of two that were asked at the same time the later one.
            Some(place)
                if same(&self.denials[place]) && self.denials[place].until() > denied.until() =>
            {
                Some(denied)
            }
            Some(place) => Some(std::mem::replace(&mut self.denials[place], denied)),
            None => {
                self.denials.push(denied);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_apart_by_when_they_were_forgotten() {
        let key = |number| KeyDigest([number, 0]);
        let mut forgotten = Forgotten::default();
        assert!(!forgotten.is_since(key(0), 0));
        forgotten.note(key(0));
        assert!(forgotten.is_since(key(0), 0));
        assert!(!forgotten.is_since(key(0), 1) && !forgotten.is_since(key(1), 0));
        for _ in 0..100 {
            forgotten.note(key(1));
        }
        assert!(!forgotten.is_since(key(2), 0), "one that goes on disturbs no other");
        for number in 2..=8 {
            forgotten.note(key(number));
        }
        assert!(forgotten.is_since(key(0), 0), "pushed out, but not before the question");
        assert!(!forgotten.is_since(key(0), 1));
        let times = forgotten.times;
        forgotten.note_all();
        assert!((0..20).all(|number| forgotten.is_since(key(number), times)));
        assert!((0..20).all(|number| !forgotten.is_since(key(number), times + 1)));
    }
}
