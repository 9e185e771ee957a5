//! A backend of your own, from two operations on a plain map: limits, counters and locks.
//!
//! A store of yours takes the place of the map in `backend.rs`. The suite in `traffik::conformance`
//! (feature `conformance`) says whether it keeps the contract of `Backend`.
//!
//! `cargo run --example custom_backend`, and `cargo test --example custom_backend` for its tests.

mod backend;

use std::error::Error;
use std::time::Duration;

use backend::MapBackend;
use traffik::{
    Key, LifespanExt, LockError, LockOptions, Locks, ManualClock, SlidingWindowLog, Throttle,
    Values,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let clock = ManualClock::new();
    let backend = MapBackend::new("example", clock.clone())?;
    let life = backend.lifespan().await?;

    println!("limits, by the default `apply` on get and compare_and_set:");
    let throttle = Throttle::builder("api")
        .rate("3/min")
        .limit("4/hour", SlidingWindowLog::new())
        .backend(backend.clone())
        .build()?;
    for seconds in [0, 0, 1, 1, 60, 60] {
        clock.advance(Duration::from_secs(seconds));
        let decision = throttle.hit("alice").await?;
        print!("  +{seconds:2} s  {decision}");
        match decision.denied_by() {
            Some(index) => println!(", by {}", throttle.limits()[index].rate()),
            None => println!(),
        }
    }

    println!("\na counter that lives for a minute:");
    let key = Key::value("visits");
    for seconds in [0, 59, 1] {
        clock.advance(Duration::from_secs(seconds));
        let visits = backend.increment_with_ttl(&key, 1, Duration::from_secs(60)).await?;
        println!("  +{seconds:2} s  {visits}");
    }

    println!("\na lock:");
    let guard = backend.lock("nightly", LockOptions::new()).await?;
    println!("  taken");
    match backend.lock("nightly", LockOptions::new().blocking(false)).await {
        Err(LockError::Held) => println!("  not taken twice: {}", LockError::Held),
        other => println!("  {other:?}"),
    }
    println!("  released, and it was still ours: {}", guard.release().await?);

    life.close().await?;
    if let Err(error) = throttle.hit("alice").await {
        println!("\nafter the end of the lifespan:\n  {error}");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
