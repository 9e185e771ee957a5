//! How to test a service that is limited: bring a clock that you move, and a backend for each test.
//!
//! The service is given its backend. In production that is one on Redis; each test brings one in memory,
//! with a clock of its own. So tests share nothing, run in parallel, and wait for nothing.
//!
//! `cargo test --example testing_your_service` runs the tests at the end of this file, and
//! `cargo run --example testing_your_service` shows the service.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use traffik::{Backend, BuildError, InMemory, ManualClock, Outcome, SlidingWindowLog, Throttle};

/// The service: three wrong passwords a minute for each user.
struct Logins {
    wrong: Throttle,
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Welcome,
    WrongPassword { attempts_left: u32 },
    TryLater { seconds: u64 },
    Closed,
}

impl Logins {
    fn new(backend: Arc<dyn Backend>) -> Result<Self, BuildError> {
        let wrong = Throttle::builder("logins")
            .limit("3/min", SlidingWindowLog::new())
            .backend(backend)
            .build()?;
        Ok(Self { wrong })
    }

    async fn log_in(&self, user: &str, password: &str) -> Result<Answer, traffik::Error> {
        // Counted before the password is looked at, or many attempts at once would all pass.
        let decision = self.wrong.hit(user).await?;
        match decision.outcome() {
            Outcome::Allowed => {}
            Outcome::Denied { retry_after } => {
                // Whole seconds, rounded up, as in an HTTP `Retry-After`.
                let seconds = retry_after.as_secs() + u64::from(retry_after.subsec_nanos() > 0);
                return Ok(Answer::TryLater { seconds });
            }
            // By a limit of 0, which closes the door.
            Outcome::Never => return Ok(Answer::Closed),
        }
        if password != "correct horse" {
            return Ok(Answer::WrongPassword { attempts_left: decision.remaining() });
        }
        if let Some(receipt) = decision.receipt() {
            // Who knows the password is not limited.
            self.wrong.refund(user, receipt).await?;
        }
        Ok(Answer::Welcome)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let clock = ManualClock::new();
    let backend = InMemory::builder().clock(clock.clone()).build()?;
    let logins = Logins::new(Arc::new(backend))?;
    for (pause, password) in [
        (0, "correct horse"),
        (0, "123456"),
        (5, "password"),
        (5, "qwerty"),
        (5, "letmein"),
        (45, "correct horse"),
    ] {
        clock.advance(Duration::from_secs(pause));
        let answer = logins.log_in("alice", password).await?;
        println!("+{pause:2} s  {password:13}  {answer:?}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use traffik::{DecidedBy, ErrorKind};

    use super::*;

    const RIGHT: &str = "correct horse";

    /// Runs a test with a service, on a backend and a clock of its own.
    async fn with_service(test: impl AsyncFnOnce(Logins, ManualClock)) {
        let clock = ManualClock::new();
        let backend = InMemory::builder().clock(clock.clone()).build().unwrap();
        test(Logins::new(Arc::new(backend)).unwrap(), clock).await;
    }

    #[tokio::test]
    async fn the_fourth_wrong_password_in_a_minute_must_wait() {
        with_service(async |logins, clock| {
            for attempts_left in [2, 1, 0] {
                let answer = logins.log_in("alice", "wrong").await.unwrap();
                assert_eq!(answer, Answer::WrongPassword { attempts_left });
            }
            clock.advance(Duration::from_millis(500));
            let answer = logins.log_in("alice", RIGHT).await.unwrap();
            assert_eq!(answer, Answer::TryLater { seconds: 60 });
        })
        .await;
    }

    #[tokio::test]
    async fn who_waits_as_long_as_told_may_try_again() {
        with_service(async |logins, clock| {
            let seconds = loop {
                match logins.log_in("alice", "wrong").await.unwrap() {
                    Answer::TryLater { seconds } => break seconds,
                    _ => clock.advance(Duration::from_secs(7)),
                }
            };
            // A minute of the service's time passes at once.
            clock.advance(Duration::from_secs(seconds));
            assert_eq!(logins.log_in("alice", RIGHT).await.unwrap(), Answer::Welcome);
        })
        .await;
    }

    #[tokio::test]
    async fn right_passwords_are_not_limited() {
        with_service(async |logins, _clock| {
            for _ in 0..100 {
                assert_eq!(logins.log_in("alice", RIGHT).await.unwrap(), Answer::Welcome);
            }
        })
        .await;
    }

    #[tokio::test]
    async fn users_do_not_share_their_attempts() {
        with_service(async |logins, _clock| {
            for _ in 0..4 {
                let _ = logins.log_in("mallory", "wrong").await.unwrap();
            }
            assert_eq!(logins.log_in("alice", RIGHT).await.unwrap(), Answer::Welcome);
        })
        .await;
    }

    /// A service whose backend is closed must not let everybody in.
    #[tokio::test]
    async fn on_a_closed_backend_nobody_is_let_in() {
        let backend = InMemory::new();
        backend.close().await.unwrap();
        let error =
            Logins::new(Arc::new(backend)).unwrap().log_in("alice", RIGHT).await.unwrap_err();
        let traffik::Error::Backend(error) = error else { panic!("{error:?}") };
        assert_eq!(error.kind(), ErrorKind::Closed);
    }

    #[tokio::test]
    async fn the_backend_decided_and_no_policy() {
        with_service(async |logins, _clock| {
            let decision = logins.wrong.peek("alice").await.unwrap();
            assert_eq!(decision.decided_by(), DecidedBy::Backend);
        })
        .await;
    }
}
