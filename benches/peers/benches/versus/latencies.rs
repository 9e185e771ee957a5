//! Many durations in little memory, and two ways to take them.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Steps between two powers of two: a quantile is right to about 3 %, the worst value exactly.
const STEPS: u32 = 32;

pub(crate) struct Latencies {
    counts: Vec<u64>,
    number: u64,
    worst: Duration,
}

impl Latencies {
    pub(crate) fn new() -> Self {
        Self { counts: vec![0; (65 * STEPS) as usize], number: 0, worst: Duration::ZERO }
    }

    #[inline(always)]
    pub(crate) fn note(&mut self, duration: Duration) {
        let nanos = duration.as_nanos() as u64 | 1;
        let power = nanos.ilog2();
        // The five bits after the highest one.
        let step = (u128::from(nanos) << 5 >> power) as u32 - STEPS;
        self.counts[(power * STEPS + step) as usize] += 1;
        self.number += 1;
        self.worst = self.worst.max(duration);
    }

    pub(crate) fn worst_micros(&self) -> f64 {
        self.worst.as_nanos() as f64 / 1000.0
    }

    /// What all but the fraction `above` are below, in microseconds.
    pub(crate) fn quantile_micros(&self, above: f64) -> f64 {
        let mut left = (self.number as f64 * above) as u64;
        for (index, &count) in self.counts.iter().enumerate().rev() {
            if count > left {
                let (power, step) = (index as u32 / STEPS, index as u32 % STEPS);
                let upper =
                    f64::from(STEPS + step + 1) / f64::from(STEPS) * 2f64.powi(power as i32);
                return (upper / 1000.0).min(self.worst_micros());
            }
            left -= count;
        }
        0.0
    }
}

/// How long calls take by the wall, and how much processor time they use.
///
/// The second leaves out when the machine did something else, which on a shared machine takes longer
/// than any call; it leaves out waiting for a lock as well.
pub(crate) struct Both {
    pub(crate) wall: Latencies,
    pub(crate) processor: Latencies,
}

impl Both {
    pub(crate) fn new() -> Self {
        Self { wall: Latencies::new(), processor: Latencies::new() }
    }

    #[inline(always)]
    pub(crate) fn time<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let used = processor_time();
        let start = Instant::now();
        let result = work();
        self.wall.note(start.elapsed());
        self.processor.note(processor_time().saturating_sub(used));
        result
    }
}

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
