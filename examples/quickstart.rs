//! Hits, a denial, a cost, a peek, two limits; then a web server's log through a throttle.
//!
//! `cargo run --example quickstart`. To copy it, take `traffik` and `tokio` with its macros; the last part
//! reads a log that is packed, by `flate2`.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::time::Duration;

use flate2::read::GzDecoder;
use traffik::{HitOptions, InMemory, ManualClock, Outcome, Throttle, Timestamp};

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

    println!("\na web server's log of a day, with 30 a minute for each client:");
    replay("examples/data/access.log.gz").await
}

/// Sends each line of a log through a throttle whose clock follows the log. The example `replay` does more.
async fn replay(path: &str) -> Result<(), Box<dyn Error>> {
    let clock = ManualClock::new();
    let backend = InMemory::builder().clock(clock.clone()).build()?;
    let throttle = Throttle::builder("replay").rate("30/min").backend(backend).build()?;
    // Requests and denials of each client.
    let mut clients: BTreeMap<String, (u32, u32)> = BTreeMap::new();

    let file = File::open(path).map_err(|error| format!("{path}: {error}"))?;
    for line in BufReader::new(GzDecoder::new(file)).lines() {
        let line = line?;
        // 127.0.0.1 - - [23/Nov/2026:07:19:12 +0000] "GET / HTTP/1.1" ...
        let client = line.split(' ').next().unwrap_or_default();
        let time: Vec<u64> = line.split(['[', ':', ' ']).filter_map(|it| it.parse().ok()).collect();
        let [hours, minutes, seconds, ..] = time[..] else { continue };
        let of_day = Duration::from_secs(hours * 3600 + minutes * 60 + seconds);
        clock.set(Timestamp::ZERO.saturating_add(of_day));

        let is_denied = throttle.hit(client).await?.is_denied();
        let (requests, denials) = clients.entry(client.to_owned()).or_default();
        *requests += 1;
        *denials += u32::from(is_denied);
    }

    let requests: u32 = clients.values().map(|(requests, _)| requests).sum();
    println!("  {requests} requests of {} clients; these would be limited:", clients.len());
    for (client, (requests, denials)) in clients.iter().filter(|(_, (_, denials))| *denials > 0) {
        println!("  {client}  {denials:3} of {requests:3} denied");
    }
    Ok(())
}
