//! What these tests share: backends, hits that must fail or heal, and the log.

use std::cell::RefCell;
use std::io::{Result as IoResult, Write};
use std::sync::{Mutex, Once};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;
use traffik::backend::redis::RedisBuilder;
use traffik::strategy::{Answer, CorruptState, Op, State, Verdict};
use traffik::{
    BackendError, DecidedBy, Decision, Effect, Error, ErrorKind, OnError, Rate, Redis, Strategy,
    Throttle, Timestamp,
};

use test_support::servers::wait::{self, now};
use test_support::wait_of;

/// For what ends by itself; long, for a machine that does other things too.
pub(crate) const LONG: Duration = Duration::from_secs(40);
/// The time of a call that is expected to fail after it was tried again and again.
pub(crate) const SHORT: Duration = Duration::from_millis(600);
pub(crate) const NAMESPACE: &str = "states";
/// The capacity of [`throttle`], which no test uses up.
pub(crate) const CAPACITY: u32 = 1_000_000;

/// A backend's builder, patient enough for a slow machine.
pub(crate) fn patient() -> RedisBuilder {
    let second = Duration::from_secs(1);
    Redis::builder().namespace(NAMESPACE).command_timeout(5 * second).connect_timeout(5 * second)
}

/// One whose calls fail sooner.
pub(crate) fn hasty() -> RedisBuilder {
    patient().command_timeout(SHORT)
}

/// A throttle that raises errors and counts exactly for a day.
pub(crate) fn throttle(backend: &Redis) -> Throttle {
    with_policy(backend, OnError::Raise)
}

pub(crate) fn with_policy(backend: &Redis, policy: OnError) -> Throttle {
    Throttle::builder("states")
        .limit(format!("{CAPACITY}/366d").as_str(), traffik::FixedWindow::new())
        .backend(backend.clone())
        .deadline(LONG)
        .on_error(policy)
        .build()
        .unwrap()
}

/// The backend's error of a result that must be one.
#[track_caller]
pub(crate) fn backend_error<T>(result: Result<T, Error>) -> BackendError {
    match result {
        Err(Error::Backend(error)) => error,
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("no error"),
    }
}

/// Hits until it is refused with that text, and holds the error to what each refusal must be. A server
/// may need a moment to get into its state, and a machine may be too slow for one call.
pub(crate) async fn refused(throttle: &Throttle, text: &str) -> BackendError {
    refused_for(throttle, "a", text).await
}

pub(crate) async fn refused_for(throttle: &Throttle, key: &str, text: &str) -> BackendError {
    let start = now();
    loop {
        let outcome = throttle.hit(key).await;
        if let Err(Error::Backend(error)) = &outcome
            && error.to_string().contains(text)
        {
            assert_eq!(error.effect(), Effect::NotApplied, "{error}");
            return backend_error(outcome);
        }
        assert!(start.elapsed() < LONG, "never refused with {text:?}: {outcome:?}");
    }
}

/// As [`refused`], and each policy does what it says.
pub(crate) async fn refused_by_policy(backend: &Redis, text: &str) {
    let error = refused(&throttle(backend), text).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let allowed = with_policy(backend, OnError::Allow).hit("a").await.unwrap();
    assert_eq!((allowed.is_allowed(), allowed.decided_by()), (true, DecidedBy::Policy));
    let wait = Duration::from_secs(7);
    let denied = with_policy(backend, OnError::throttle(wait)).hit("a").await.unwrap();
    assert_eq!((denied.decided_by(), wait_of(&denied)), (DecidedBy::Policy, Some(wait)));
}

/// Hits until it is answered.
pub(crate) async fn heals(throttle: &Throttle) -> Decision {
    heals_for(throttle, "a").await
}

pub(crate) async fn heals_for(throttle: &Throttle, key: &str) -> Decision {
    wait::heals("a hit", LONG, || throttle.hit(key)).await
}

/// Waits until it holds.
pub(crate) async fn eventually(what: &str, holds: impl AsyncFnMut() -> bool) {
    wait::eventually(what, LONG, holds).await;
}

/// A strategy of a user's own, for which the server has no script: it counts for a day.
#[derive(Debug)]
pub(crate) struct Own;

impl Strategy for Own {
    fn evaluate(
        &self,
        rate: &Rate,
        state: &mut State,
        now: Timestamp,
        cost: u32,
        op: Op,
    ) -> Result<Answer, CorruptState> {
        let used = match *state.words() {
            [] => 0,
            [used] if used <= u64::from(u32::MAX) => used,
            _ => return Err(CorruptState("own: expected one small word")),
        };
        let (limit, after) = (u64::from(rate.limit()), used + u64::from(cost));
        let reset_at = now.saturating_add(Duration::from_secs(86_400));
        let verdict = match after > limit {
            true => Verdict::Denied { retry_at: reset_at },
            false => Verdict::Allowed,
        };
        let takes = op == Op::Take && verdict == Verdict::Allowed;
        let used = if takes { after } else { used };
        state.set(&[used]);
        let remaining = u32::try_from(limit.saturating_sub(used)).unwrap_or(u32::MAX);
        Ok(Answer { verdict, remaining, reset_at })
    }
}

/// What this thread logs from now on. A test that reads it runs on one thread only; what is logged in
/// the background comes from others, and is told by a text that only this test has.
pub(crate) struct Log;

/// What all threads log.
static ALL: Mutex<Vec<u8>> = Mutex::new(Vec::new());

thread_local! {
    static LINES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Log {
    /// One subscriber for the whole process, since the interest in a message is kept for all threads.
    pub(crate) fn start() -> Self {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            tracing_subscriber::fmt()
                .with_ansi(false)
                .with_max_level(tracing::Level::DEBUG)
                .with_writer(ThreadLog)
                .init();
        });
        LINES.with(|lines| lines.borrow_mut().clear());
        Self
    }

    pub(crate) fn text(&self) -> String {
        LINES.with(|lines| String::from_utf8_lossy(&lines.borrow()).into_owned())
    }

    /// What any thread has logged with that text in the line.
    pub(crate) fn anywhere(&self, text: &str) -> String {
        let all = ALL.lock().unwrap();
        let all = String::from_utf8_lossy(&all);
        let lines: Vec<&str> = all.lines().filter(|line| line.contains(text)).collect();
        lines.join("\n")
    }

    /// The warnings that hold that text.
    pub(crate) fn warnings(&self, text: &str) -> usize {
        let is = |line: &&str| line.contains("WARN") && line.contains(text);
        self.text().lines().filter(is).count()
    }
}

#[derive(Clone, Copy)]
struct ThreadLog;

impl Write for ThreadLog {
    fn write(&mut self, bytes: &[u8]) -> IoResult<usize> {
        LINES.with(|lines| lines.borrow_mut().extend_from_slice(bytes));
        ALL.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> IoResult<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for ThreadLog {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        *self
    }
}
