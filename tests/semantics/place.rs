//! One throttle on each kind of state, for tests that say in numbers what they expect.

use std::time::Duration;

use traffik::{
    Clock, Decision, Denial, Error, HitOptions, InMemory, ManualClock, Rate, Receipt, Throttle,
    Timestamp,
};

use crate::model::Rule;
use crate::store::Bytes;
use crate::world::{LONG_KEY, SHORT_KEY, at_once, memory, throttle};
use test_support::wait_of;

/// A throttle, its clock, and where its only key lives.
pub(crate) struct Place {
    pub(crate) label: &'static str,
    pub(crate) clock: ManualClock,
    pub(crate) throttle: Throttle,
    key: &'static str,
    home: Home,
}

enum Home {
    Memory(InMemory),
    Bytes(Bytes),
}

/// What a decision says, without whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) denial: Option<Denial>,
    pub(crate) remaining: u32,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) reset_after: Duration,
}

impl From<&Decision> for Said {
    fn from(decision: &Decision) -> Self {
        Self {
            denial: decision.denial(),
            remaining: decision.remaining(),
            retry_after: wait_of(decision),
            reset_after: decision.reset_after(),
        }
    }
}

impl Place {
    /// In memory with a short key and with a long one, and as bytes; each on its own clock, which
    /// starts on a boundary of all windows up to a day.
    pub(crate) fn each(rules: &[Rule]) -> [Self; 3] {
        let in_memory = |label, key| {
            let clock = ManualClock::new();
            let home = memory(&clock);
            let throttle = throttle(NAME, rules, home.clone());
            Self { label, clock, throttle, key, home: Home::Memory(home) }
        };
        let clock = ManualClock::new();
        let home = Bytes::that_keep(&clock);
        let throttle = throttle(NAME, rules, home.clone());
        let (label, key) = ("bytes", SHORT_KEY);
        [
            in_memory("memory, short key", SHORT_KEY),
            in_memory("memory, long key", LONG_KEY),
            Self { label, clock, throttle, key, home: Home::Bytes(home) },
        ]
    }

    /// The same key and backend under other limits, as after a restart with another configuration.
    pub(crate) fn changed_to(&self, rules: &[Rule]) -> Self {
        let (throttle, home) = match &self.home {
            Home::Memory(home) => (throttle(NAME, rules, home.clone()), Home::Memory(home.clone())),
            Home::Bytes(home) => (throttle(NAME, rules, home.clone()), Home::Bytes(home.clone())),
        };
        Self { label: self.label, clock: self.clock.clone(), throttle, key: self.key, home }
    }

    pub(crate) fn hit(&self) -> Decision {
        at_once(self.throttle.hit(self.key)).unwrap()
    }

    pub(crate) fn hit_cost(&self, units: u32) -> Decision {
        self.hit_with(HitOptions::new().cost(units)).unwrap()
    }

    pub(crate) fn hit_rate(&self, rate: Rate) -> Decision {
        self.hit_with(HitOptions::new().replace_rates([rate])).unwrap()
    }

    pub(crate) fn hit_with(&self, options: HitOptions) -> Result<Decision, Error> {
        at_once(self.throttle.hit_with(self.key, options))
    }

    pub(crate) fn peek_with(&self, options: HitOptions) -> Result<Decision, Error> {
        at_once(self.throttle.peek_with(self.key, options))
    }

    pub(crate) fn peek(&self) -> Decision {
        at_once(self.throttle.peek(self.key)).unwrap()
    }

    pub(crate) fn says(&self) -> Said {
        Said::from(&self.peek())
    }

    /// Takes what must pass.
    pub(crate) fn take(&self, units: u32) {
        drop(self.take_for(units));
    }

    /// Takes what must pass, and keeps the receipt.
    pub(crate) fn take_for(&self, units: u32) -> Receipt {
        let decision = self.hit_cost(units);
        assert!(decision.is_allowed(), "{}: {units} units: {decision:?}", self.label);
        decision.receipt().unwrap()
    }

    pub(crate) fn refund(&self, receipt: Receipt) {
        at_once(self.throttle.refund(self.key, receipt)).unwrap();
    }

    pub(crate) fn wait(&self, time: Duration) {
        self.clock.advance(time);
    }

    pub(crate) fn go_back(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap();
        let now = self.clock.now().as_micros() - micros;
        self.clock.set(Timestamp::from_micros(now));
    }

    /// Whether nothing is stored at all.
    pub(crate) fn is_empty(&self) -> bool {
        match &self.home {
            Home::Memory(memory) => memory.key_count() == 0,
            Home::Bytes(bytes) => bytes.value().is_none(),
        }
    }

    /// The stored bytes, where there are some to look at.
    pub(crate) fn value(&self) -> Option<Vec<u8>> {
        match &self.home {
            Home::Memory(_) => None,
            Home::Bytes(bytes) => bytes.value(),
        }
    }
}

/// None of what is tested depends on it.
const NAME: &str = "places";

pub(crate) const MICRO: Duration = Duration::from_micros(1);

pub(crate) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}
