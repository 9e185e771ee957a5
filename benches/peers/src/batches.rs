//! Hits on many keys together, against one after the other, from one task.

#![allow(clippy::disallowed_methods, reason = "a benchmark reads the real clock")]

use std::time::{Duration, Instant};

use traffik::Throttle;

use crate::output::median;

const KEYS: u32 = 100;
const TIME: Duration = Duration::from_millis(400);

/// Measures both in turns. Returns a line with the medians and that of the ratio.
pub async fn compare(name: &str, throttle: &Throttle, rounds: usize) -> String {
    let (mut single, mut together, mut ratio) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=rounds {
        let one = rate(async || {
            for key in 0..KEYS {
                let decision = throttle.hit(key).await.expect("a decision");
                assert!(decision.is_allowed(), "{decision:?}");
            }
        });
        let one = one.await;
        let many = rate(async || {
            for decision in throttle.hit_many(0..KEYS).await {
                assert!(decision.expect("a decision").is_allowed());
            }
        });
        let many = many.await;
        // The first is to warm up.
        if round > 0 {
            single.push(one);
            together.push(many);
            ratio.push(many / one);
        }
    }
    let (one, many, ratio) = (median(&single), median(&together), median(&ratio));
    format!(
        "{name}: one task, {KEYS} keys: hits {one:.0} a second, hit_many {many:.0}, {ratio:.1} times as many \
         (goal 5)"
    )
}

async fn rate(mut batch: impl AsyncFnMut()) -> f64 {
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < TIME {
        batch().await;
        count += KEYS;
    }
    f64::from(count) / start.elapsed().as_secs_f64()
}
