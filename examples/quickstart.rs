//! Hits, a denial, a cost, a peek, two limits; then a real access log through a throttle.
//!
//! `cargo run --example quickstart`

#[path = "replay/simulation/mod.rs"]
#[allow(dead_code, reason = "the `replay` example uses all of it")]
mod simulation;

use std::{error::Error, fs::File};

use simulation::{kind::Kind, lines::Lines, replay};
use traffik::{HitOptions, InMemory, Outcome, Rate, Throttle};

const LOG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/access.log.gz");

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let backend = InMemory::new();

    println!("3 a minute, for each key:");
    let api = Throttle::builder("api").rate("3/min").backend(backend.clone()).build()?;
    for _ in 0..4 {
        let decision = api.hit("alice").await?;
        match decision.outcome() {
            Outcome::Allowed => println!("  alice   {decision}"),
            Outcome::Denied { retry_after } => {
                println!("  alice   denied, retry after {:.1} s", retry_after.as_secs_f64());
            }
            Outcome::Never => println!("  alice   denied, and no wait helps"),
        }
    }
    println!(
        "  bob     {}, with a cost of 2",
        api.hit_with("bob", HitOptions::new().cost(2)).await?
    );
    println!("  bob     {}, by a peek, which takes nothing", api.peek("bob").await?);

    println!("\n2 a second and 20 a minute, all or nothing:");
    let login = Throttle::builder("login").rates(["2/s", "20/min"]).backend(backend).build()?;
    for _ in 0..3 {
        let decision = login.hit("alice").await?;
        match login.denied_by(&decision) {
            Some(limit) => println!("  alice   denied by {}", limit.rate()),
            None => println!("  alice   {decision}"),
        }
    }

    println!("\nA web server's log, with 30 a minute for each client:");
    let mut lines = Lines::new(File::open(LOG)?)?;
    let log = replay(&mut lines, Rate::per_minute(30), &[Kind::TokenBucket]).await?;
    println!("  {} requests of {} clients; these would be limited:", log.requests, log.clients);
    for limited in &log.limited {
        let (client, agent) = (&limited.client, limited.agent.as_deref().unwrap_or("-"));
        println!("  {client}  {:3} of {:3} denied  {agent}", limited.denied, limited.requests);
    }
    Ok(())
}
