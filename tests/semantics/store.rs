//! A backend that keeps one key as bytes, and does nothing but `Step::evaluate` on them.
//!
//! What a store of bytes would do, so that the stored form takes the same way as memory: through the
//! throttle. It also is the only way to a refund, which nobody but a throttle can ask for.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use traffik::backend::{BackendCore, Result};
use traffik::step::{Evaluation, Step, StepError, Write};
use traffik::{
    Backend, BackendError, Clock, Decision, ErrorKind, HasCore, Key, Locks, ManualClock, Timestamp,
    Ttl, Values,
};

#[derive(Clone, Debug)]
pub(crate) struct Bytes {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    core: BackendCore,
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
        let core = BackendCore::new("bytes", "tests", Arc::new(clock.clone())).unwrap();
        let cell = Mutex::default();
        Self { shared: Arc::new(Shared { core, clock: clock.clone(), expires, cell }) }
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
        let (write, answer, last) = match step.evaluate(cell.value.as_deref(), now) {
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
            Some(Write::Put { value, ttl, .. }) => {
                cell.value = Some(value);
                cell.gone_at = now.saturating_add(ttl);
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

impl HasCore for Bytes {
    fn core(&self) -> &BackendCore {
        &self.shared.core
    }
}

#[async_trait]
impl Values for Bytes {
    async fn get(&self, _key: &Key<'_>) -> Result<Option<Vec<u8>>> {
        unused("get")
    }

    async fn compare_and_set(
        &self,
        _: &Key<'_>,
        _: Option<&[u8]>,
        _: Option<&[u8]>,
        _: Ttl,
    ) -> Result<bool> {
        unused("compare_and_set")
    }
}

impl Locks for Bytes {}

#[async_trait]
impl Backend for Bytes {
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
}
