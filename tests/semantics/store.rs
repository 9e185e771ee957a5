//! A backend that keeps one key as bytes, and does nothing but `Step::decide` on them.
//!
//! What a store of bytes would do, so that the stored form takes the same way as memory: through the
//! throttle. It also is the only way to a refund, which nobody but a throttle can ask for.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use traffik::backend::{Result, Settings};
use traffik::strategy::{Evaluation, Step, StepError, Write};
use traffik::{
    Backend, BackendError, Clock, Decision, ErrorKind, Key, LockError, LockGuard, LockOptions,
    ManualClock, Timestamp,
};

#[derive(Clone, Debug)]
pub(crate) struct Bytes {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: Settings,
    clock: ManualClock,
    /// Whether a value goes when its time to live is over.
    expires: bool,
    cell: Mutex<Cell>,
}

#[derive(Debug, Default)]
struct Cell {
    value: Option<Vec<u8>>,
    gone_at: Timestamp,
    asked: u64,
    last: Option<std::result::Result<Option<Write>, StepError>>,
}

impl Bytes {
    /// Keeps each value until it is replaced: its time to live is at least what was asked for.
    pub(crate) fn that_keep(clock: &ManualClock) -> Self {
        Self::new(clock, false)
    }

    /// Lets each value go at the very end of its time to live.
    pub(crate) fn that_expire(clock: &ManualClock) -> Self {
        Self::new(clock, true)
    }

    fn new(clock: &ManualClock, expires: bool) -> Self {
        let settings = Settings::new("bytes", "tests", Arc::new(clock.clone())).unwrap();
        let cell = Mutex::default();
        Self { shared: Arc::new(Shared { settings, clock: clock.clone(), expires, cell }) }
    }

    /// What is stored.
    pub(crate) fn value(&self) -> Option<Vec<u8>> {
        self.shared.cell.lock().unwrap().value.clone()
    }

    /// Stores something else.
    pub(crate) fn set_value(&self, value: Option<Vec<u8>>) {
        *self.shared.cell.lock().unwrap() =
            Cell { value, gone_at: Timestamp::MAX, ..Cell::default() };
    }

    /// What the last step wrote.
    pub(crate) fn last_write(&self) -> Option<Write> {
        let cell = self.shared.cell.lock().unwrap();
        match &cell.last {
            None | Some(Err(StepError::TooManyRates)) => None,
            Some(Ok(write) | Err(StepError::Corrupt { write, .. })) => write.clone(),
            Some(Err(other)) => panic!("an error that is new to this test: {other:?}"),
        }
    }

    /// Whether the last step found its state corrupt.
    pub(crate) fn was_corrupt(&self) -> bool {
        let cell = self.shared.cell.lock().unwrap();
        matches!(cell.last, Some(Err(StepError::Corrupt { .. })))
    }

    /// How often it was asked.
    pub(crate) fn asked(&self) -> u64 {
        self.shared.cell.lock().unwrap().asked
    }

    fn decide(&self, step: &Step<'_>) -> Result<Decision> {
        let now = self.shared.clock.now();
        let mut cell = self.shared.cell.lock().unwrap();
        if self.shared.expires && cell.gone_at <= now {
            cell.value = None;
        }
        let (write, answer, last) = match step.decide(cell.value.as_deref(), now) {
            Ok(Evaluation { decision, write, .. }) => (write.clone(), Ok(decision), Ok(write)),
            Err(error) => {
                let (write, kind) = match &error {
                    StepError::Corrupt { write, .. } => (write.clone(), ErrorKind::Corrupt),
                    _ => (None, ErrorKind::TooManyRates),
                };
                (write, Err(BackendError::new("bytes", "apply", kind)), Err(error))
            }
        };
        match write {
            None => {}
            Some(Write::Put { value, keep_for, .. }) => {
                cell.value = Some(value);
                cell.gone_at = now.after(keep_for);
            }
            Some(Write::Delete) => cell.value = None,
            Some(other) => panic!("a write that is new to this test: {other:?}"),
        }
        cell.asked += 1;
        cell.last = Some(last);
        answer
    }
}

fn unused<T>(operation: &'static str) -> Result<T> {
    Err(BackendError::new("bytes", operation, ErrorKind::Unsupported))
}

#[async_trait]
impl Backend for Bytes {
    fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    fn try_apply(&self, _key: &Key<'_>, step: &Step<'_>) -> Option<Result<Decision>> {
        Some(self.decide(step))
    }

    async fn clear(&self) -> Result<()> {
        self.set_value(None);
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }

    async fn get(&self, _key: &Key<'_>) -> Result<Option<Vec<u8>>> {
        unused("get")
    }

    async fn set(&self, _: &Key<'_>, _: &[u8], _: Option<Duration>) -> Result<()> {
        unused("set")
    }

    async fn delete(&self, _key: &Key<'_>) -> Result<bool> {
        unused("delete")
    }

    async fn increment(&self, _: &Key<'_>, _: u64) -> Result<u64> {
        unused("increment")
    }

    async fn decrement(&self, _: &Key<'_>, _: u64) -> Result<u64> {
        unused("decrement")
    }

    async fn increment_with_ttl(&self, _: &Key<'_>, _: u64, _: Duration) -> Result<u64> {
        unused("increment_with_ttl")
    }

    async fn expire(&self, _: &Key<'_>, _: Duration) -> Result<bool> {
        unused("expire")
    }

    async fn compare_and_set(
        &self,
        _: &Key<'_>,
        _: Option<&[u8]>,
        _: Option<&[u8]>,
        _: Option<Duration>,
    ) -> Result<bool> {
        unused("compare_and_set")
    }

    async fn lock(&self, _: &str, _: LockOptions) -> Result<LockGuard, LockError> {
        Err(BackendError::new("bytes", "lock", ErrorKind::Unsupported).into())
    }
}
