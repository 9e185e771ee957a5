//! Goes on limiting while Redis is away.
//!
//! ```sh
//! cargo run --features redis --example resilient                          # nobody is there
//! cargo run --features redis --example resilient -- redis://127.0.0.1     # stop and start the server meanwhile
//! ```

use std::error::Error;
use std::time::Duration;

use traffik::decorator::Resilience;
use traffik::lifespan::{LifespanOptions, Start};
use traffik::{InMemory, LifespanExt, Redis, Throttle};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::args().nth(1);
    let is_there = url.is_some();
    // A port on which nobody listens.
    let redis = Redis::builder().url(url.unwrap_or_else(|| "redis://127.0.0.1:1".to_owned()));
    let redis = redis.namespace("examples:resilient").build()?;

    // Once, for all throttles: a deny cache, shared questions, a circuit breaker and retries around Redis, and memory
    // when it is away.
    let backend = Resilience::recommended().fallback(InMemory::new()).around(redis)?;
    let degraded = LifespanOptions::new().start(Start::Degraded);
    let life = backend.lifespan_with(degraded).await?;
    let api = Throttle::builder("api").rate("5/min").backend(backend).build()?;

    for number in 1..=if is_there { 60 } else { 7 } {
        let decision = api.hit("alice").await?;
        println!("hit {number}: {decision}, by {:?}", decision.decided_by());
        tokio::time::sleep(Duration::from_millis(if is_there { 1_000 } else { 10 })).await;
    }
    life.close().await?;
    Ok(())
}
