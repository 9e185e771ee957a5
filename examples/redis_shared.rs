//! Two processes share one limit on a Redis server.
//!
//! ```sh
//! redis-server --port 6400 --save '' &
//! cargo run --features redis --example redis_shared -- redis://127.0.0.1:6400
//! ```

use std::env;
use std::error::Error;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use traffik::{Backend, Redis, Throttle};

const LIMIT: u32 = 10;
const HITS: u32 = 10;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let url = arguments.next().unwrap_or_else(|| "redis://127.0.0.1".to_owned());
    let done = match arguments.next() {
        None => share(&url).await,
        Some(name) => work(&url, &name).await.map(|admitted| println!("{admitted}")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            eprintln!("usage: redis_shared [redis://host:port]; is a server running there?");
            ExitCode::FAILURE
        }
    }
}

/// Starts two workers and adds up what they were let through.
async fn share(url: &str) -> Result<(), Box<dyn Error>> {
    // Without what an earlier run counted; and a wrong address is found out here.
    let backend = backend(url)?;
    backend.initialize().await?;
    throttle(backend.clone())?.reset("everyone").await?;
    println!("{LIMIT} hits a minute are allowed; two processes make {HITS} each");

    let program = env::current_exe()?;
    let start =
        |name: &str| Command::new(&program).args([url, name]).stdout(Stdio::piped()).spawn();
    let workers = [("first", start("first")?), ("second", start("second")?)];
    let mut sum = 0;
    for (name, worker) in workers {
        let output = worker.wait_with_output()?;
        let admitted: u32 = String::from_utf8(output.stdout)?.trim().parse()?;
        println!("the {name} process got {admitted} through");
        sum += admitted;
    }
    println!("together {sum} of {}", 2 * HITS);

    let next = throttle(backend.clone())?.peek("everyone").await?;
    println!("the next hit would be {next}");
    backend.close().await?;
    Ok(())
}

/// One process: hits as often as it can and counts what passed.
async fn work(url: &str, name: &str) -> Result<u32, Box<dyn Error>> {
    let throttle = throttle(backend(url)?)?;
    let mut admitted = 0;
    for number in 1..=HITS {
        let decision = throttle.hit("everyone").await?;
        eprintln!("  {name}: hit {number} was {decision}");
        admitted += u32::from(decision.is_allowed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(admitted)
}

/// What every process of the application does the same way.
fn backend(url: &str) -> Result<Redis, Box<dyn Error>> {
    Ok(Redis::builder().url(url).namespace("examples:shared").build()?)
}

fn throttle(backend: Redis) -> Result<Throttle, Box<dyn Error>> {
    let throttle = Throttle::builder("shared").rate(format!("{LIMIT}/min")).backend(backend);
    Ok(throttle.on_error(traffik::OnError::Raise).build()?)
}
