//! Counts failed logins only, without a race.
//!
//! The unit is taken **before** the password is looked at, and given back when it was right. Whoever
//! peeks first and counts afterwards lets all of them through who come at the same moment.
//!
//! `cargo run --example login`

#![allow(clippy::print_stdout, reason = "an example")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use traffik::{Error, InMemory, LifespanExt, Throttle};

/// What a login came to.
#[derive(Debug, PartialEq)]
enum Login {
    Welcome,
    WrongPassword,
    TryLater,
}

struct Accounts {
    failures: Throttle,
    /// How often a password was compared: what an attacker wants to do often.
    compared: AtomicU32,
}

impl Accounts {
    async fn login(&self, user: &str, password: &str) -> Result<Login, Error> {
        let permit = match self.failures.reserve(("user", user), 1).await {
            Ok(permit) => permit,
            Err(Error::Denied(_)) => return Ok(Login::TryLater),
            Err(error) => return Err(error),
        };
        // The comparison takes its time, and others come meanwhile.
        self.compared.fetch_add(1, Ordering::Relaxed);
        tokio::task::yield_now().await;
        if password == "correct horse" {
            permit.refund().await?;
            return Ok(Login::Welcome);
        }
        // Dropped without a word it would stay used too: a request that is cut off is no free guess.
        permit.commit();
        Ok(Login::WrongPassword)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let backend = InMemory::new();
    let life = backend.lifespan().await?;
    let failures =
        Throttle::builder("failed logins").rate("5/15min").backend(backend.clone()).build()?;
    let accounts = Arc::new(Accounts { failures, compared: AtomicU32::new(0) });

    for _ in 0..20 {
        assert_eq!(accounts.login("alice", "correct horse").await?, Login::Welcome);
    }
    println!("alice logged in 20 times: none of them counts");

    let mut guesses = tokio::task::JoinSet::new();
    for number in 0..200 {
        let accounts = Arc::clone(&accounts);
        guesses.spawn(async move { accounts.login("bob", &format!("guess {number}")).await });
    }
    let before = accounts.compared.load(Ordering::Relaxed);
    let mut refused = 0;
    while let Some(login) = guesses.join_next().await {
        refused += u32::from(login?? == Login::TryLater);
    }
    let compared = accounts.compared.load(Ordering::Relaxed) - before;
    println!("of 200 guesses at bob's password at once, {refused} were refused");
    assert!(refused >= 195 && compared <= 5);

    assert_eq!(accounts.login("bob", "correct horse").await?, Login::TryLater);
    println!("now bob himself has to wait");
    life.close().await?;
    Ok(())
}
