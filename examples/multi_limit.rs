//! Several limits on one key: a hit passes all of them, or takes nothing of any.
//!
//! `cargo run --example multi_limit`

use std::error::Error;
use std::time::Duration;

use traffik::{
    Decision, FixedWindow, HitOptions, InMemory, ManualClock, Outcome, Throttle, TokenBucket,
};

/// Against a burst, against a long crowd, and what the customer has paid for. Each limit may have a
/// strategy of its own.
fn limits(clock: &ManualClock) -> Result<Throttle, Box<dyn Error>> {
    Ok(Throttle::builder("search")
        .limit("2/s", TokenBucket::new())
        .limit("5/min", FixedWindow::new())
        .limit("8/day", FixedWindow::new())
        .backend(InMemory::builder().clock(clock.clone()).build()?)
        .build()?)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let clock = ManualClock::new();
    let search = limits(&clock)?;
    println!("limits: 2/s, 5/min and 8/day on one key\n");
    println!("  time   hits  passed  what stopped the rest");
    let mut time = Duration::ZERO;
    // A client that tries four times, again and again.
    for pause in [0, 1, 1, 1, 57, 1] {
        clock.advance(Duration::from_secs(pause));
        time += Duration::from_secs(pause);
        let mut passed = 0;
        let mut stopped = String::from("nothing");
        for _ in 0..4 {
            let decision = search.hit("alice").await?;
            passed += u32::from(decision.is_allowed());
            if decision.is_denied() {
                stopped = why(&search, &decision);
            }
        }
        println!("  {:>3} s     4  {passed:6}  {stopped}", time.as_secs());
    }
    println!(
        "\n8 of 24 hits passed, which is all that the day has: a hit that one limit denied took"
    );
    println!("nothing of the other two.\n");

    let large = search.hit_with("bob", HitOptions::new().cost(3)).await?;
    println!("A hit with a cost of 3: {}", why(&search, &large));
    println!("and bob still has {} for now", search.peek("bob").await?.remaining());
    Ok(())
}

/// Which limit denied, and what to do about it.
fn why(throttle: &Throttle, decision: &Decision) -> String {
    let limit = match throttle.denied_by(decision) {
        Some(limit) => format!("{} ({})", limit.name(), limit.rate()),
        None => "no limit".into(),
    };
    match decision.outcome() {
        Outcome::Allowed => "allowed".into(),
        Outcome::Denied { retry_after } => format!("{limit}, retry after {retry_after:?}"),
        Outcome::Never => format!("{limit}, which it can never pass"),
    }
}
