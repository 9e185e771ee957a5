//! A gateway to a language model: requests a minute *and* tokens a minute for each tenant.
//!
//! How many tokens an answer has is known when it has been written. So the gateway takes an estimate of both
//! limits together, lets the answer stream through, and settles with the truth: also when the client hangs up in
//! the middle, and when the answer was longer than was thought.
//!
//! `cargo run --example llm_gateway`

#![allow(clippy::print_stdout, reason = "an example")]

use std::error::Error;
use std::time::Duration;

use tokio::sync::mpsc;
use traffik::{HitOptions, InMemory, LifespanExt, ManualClock, Outcome, Permit, Throttle, all};

struct Gateway {
    requests: Throttle,
    tokens: Throttle,
}

/// What the client is told.
#[derive(Debug)]
enum Reply {
    Streaming(Answer),
    /// 429, with the limit that denied.
    TryLater(&'static str, Duration),
    /// 400: no wait would help.
    TooLong,
}

impl Gateway {
    async fn complete(
        &self,
        tenant: &str,
        prompt: u32,
        max_tokens: u32,
    ) -> Result<Reply, traffik::Error> {
        // Both or none: whoever is out of tokens does not lose a request by asking. Where the store decides in
        // order, the narrow limit comes first.
        let estimate = HitOptions::new().cost(prompt + max_tokens);
        let decision =
            all().hit(&self.requests, tenant).hit_with(&self.tokens, tenant, estimate).await?;
        let limit = if decision.denied_by() == Some(0) { "requests" } else { "tokens" };
        match decision.outcome() {
            Outcome::Allowed => {}
            Outcome::Denied { retry_after } => return Ok(Reply::TryLater(limit, retry_after)),
            Outcome::Never => return Ok(Reply::TooLong),
        }
        let permits = decision.into_permits().unwrap_or_default();
        let Some(tokens) = permits.into_iter().nth(1) else { return Ok(Reply::TooLong) };
        Ok(Reply::Streaming(Answer {
            words: model(max_tokens),
            bill: Bill { permit: Some(tokens), used: prompt },
        }))
    }
}

/// An answer that is still being written.
#[derive(Debug)]
struct Answer {
    words: mpsc::Receiver<&'static str>,
    bill: Bill,
}

impl Answer {
    async fn next(&mut self) -> Option<&'static str> {
        let word = self.words.recv().await;
        self.bill.used += u32::from(word.is_some());
        word
    }

    /// Settles when the last word is there.
    async fn finish(mut self) -> Result<u32, traffik::Error> {
        let used = self.bill.used;
        if let Some(permit) = self.bill.permit.take() {
            permit.settle(used).await?;
        }
        Ok(used)
    }
}

/// What was used so far. A client that hangs up pays for that, and not for the estimate.
#[derive(Debug)]
struct Bill {
    permit: Option<Permit>,
    used: u32,
}

impl Drop for Bill {
    fn drop(&mut self) {
        let Some(permit) = self.permit.take() else { return };
        let used = self.used;
        tokio::spawn(async move {
            if let Err(error) = permit.settle(used).await {
                // The estimate stays counted: too much, never too little.
                eprintln!("not settled: {error}");
            }
        });
    }
}

/// Stands for the model: writes up to so many words.
fn model(max_tokens: u32) -> mpsc::Receiver<&'static str> {
    let (sender, words) = mpsc::channel(16);
    tokio::spawn(async move {
        for number in 0..max_tokens {
            let word = if number % 2 == 0 { "ping" } else { "pong" };
            // The client has gone.
            if sender.send(word).await.is_err() {
                return;
            }
        }
    });
    words
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // A `Redis` backend, where several gateways share the limits. Here time stands still, so that the figures are
    // the same in each run.
    let backend = InMemory::builder().clock(ManualClock::new()).build()?;
    let life = backend.lifespan().await?;
    let throttle = |name, rate| Throttle::builder(name).rate(rate).backend(backend.clone()).build();
    let gateway = Gateway {
        requests: throttle("llm:requests", "4/min")?,
        tokens: throttle("llm:tokens", "1000/min")?,
    };
    let left = async |tenant: &str| -> Result<(u32, u32), traffik::Error> {
        let requests = gateway.requests.peek(tenant).await?.remaining();
        Ok((requests, gateway.tokens.peek(tenant).await?.remaining()))
    };

    // An estimate of 500, of which 140 were used.
    let Reply::Streaming(mut answer) = gateway.complete("acme", 100, 400).await? else {
        return Err("a new tenant has all its tokens".into());
    };
    for _ in 0..40 {
        answer.next().await;
    }
    let used = answer.finish().await?;
    println!("acme used {used} of 500 reserved tokens; left: {:?}", left("acme").await?);
    assert_eq!((used, left("acme").await?), (140, (3, 860)));

    // The client hangs up after ten words.
    if let Reply::Streaming(mut answer) = gateway.complete("acme", 100, 400).await? {
        for _ in 0..10 {
            answer.next().await;
        }
    }
    while left("acme").await?.1 != 750 {
        tokio::task::yield_now().await;
    }
    println!("a client hung up after 10 words; left: {:?}", left("acme").await?);

    // Too many tokens for now: the request is not counted either.
    let reply = gateway.complete("acme", 100, 700).await?;
    let Reply::TryLater("tokens", wait) = reply else { return Err(format!("{reply:?}").into()) };
    println!("out of tokens for {:.1} s; left: {:?}", wait.as_secs_f64(), left("acme").await?);
    assert_eq!(left("acme").await?, (2, 750));
    let reply = gateway.complete("acme", 100, 5_000).await?;
    assert!(matches!(reply, Reply::TooLong), "more than a minute has: {reply:?}");

    // The bill may be higher than the estimate. What is missing is charged, and paid off by waiting.
    if let Reply::Streaming(mut answer) = gateway.complete("acme", 10, 90).await? {
        answer.bill.used += 1_000; // the model thought for a long time
        answer.next().await;
        let used = answer.finish().await?;
        println!("{used} tokens on an estimate of 100; left: {:?}", left("acme").await?);
    }
    assert_eq!(left("acme").await?.1, 0);
    let reply = gateway.complete("acme", 1, 1).await?;
    assert!(matches!(reply, Reply::TryLater("tokens", _)), "{reply:?}");
    println!("others are not concerned: {:?}", left("initech").await?);
    life.close().await?;
    Ok(())
}
