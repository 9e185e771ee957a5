//! A backend as one on a server is: there is no fast path, and each question is on its way for a while.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::Notify;
use traffik::backend::{Answers, BackendCore, Prepared, Result};
use traffik::step::{BlockChange, KeyState, Step};
use traffik::strategy::{Limit, Op};
use traffik::{
    Backend, BackendError, Decision, Effect, ErrorKind, HasCore, Key, LockError, LockGuard,
    LockOptions, Locks, Ttl, Values,
};

/// A backend behind a [`Wire`].
#[derive(Clone, Debug)]
pub struct Distant {
    inner: Arc<dyn Backend>,
    wire: Arc<Wire>,
}

/// The way to a backend: what is on it may be held up, before it has arrived or when it was done.
#[derive(Debug, Default)]
pub struct Wire {
    state: Mutex<State>,
    released: Notify,
    /// Of what is held up.
    changed: Notify,
    questions: AtomicU64,
    steps: AtomicU64,
    held: AtomicUsize,
    most_held: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    held: Option<Place>,
    failure: Option<(ErrorKind, Effect)>,
    panics: bool,
}

/// Where hits and peeks are held up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Request,
    Reply,
}

impl Wire {
    /// From now on hits and peeks are held up there.
    pub fn hold(&self, place: Place) {
        self.state.lock().held = Some(place);
    }

    /// Lets all go on.
    pub fn release(&self) {
        self.state.lock().held = None;
        self.released.notify_waiters();
    }

    /// From now on each decision fails, with nothing done.
    pub fn fail(&self, kind: ErrorKind, effect: Effect) {
        self.state.lock().failure = Some((kind, effect));
    }

    /// From now on each decision panics.
    pub fn panic(&self) {
        self.state.lock().panics = true;
    }

    pub fn heal(&self) {
        let mut state = self.state.lock();
        (state.failure, state.panics) = (None, false);
    }

    /// How many questions about decisions were asked.
    pub fn questions(&self) -> u64 {
        self.questions.load(Ordering::SeqCst)
    }

    /// How many steps they had.
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::SeqCst)
    }

    /// How many questions are held up now.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::SeqCst)
    }

    /// How many were held up at the same time at most.
    pub fn most_held(&self) -> usize {
        self.most_held.load(Ordering::SeqCst)
    }

    /// Waits until at least so many questions are held up.
    pub async fn until_held(&self, questions: usize) {
        self.until(|held| held >= questions).await;
    }

    /// Waits until at most so many questions are held up.
    pub async fn until_only(&self, questions: usize) {
        self.until(|held| held <= questions).await;
    }

    async fn until(&self, is_so: impl Fn(usize) -> bool) {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if is_so(self.held()) {
                return;
            }
            changed.await;
        }
    }

    async fn pass(&self, place: Place, op: Op) {
        if !matches!(op, Op::Take | Op::Peek) {
            return;
        }
        loop {
            let mut released = pin!(self.released.notified());
            released.as_mut().enable();
            if self.state.lock().held != Some(place) {
                return;
            }
            let _held = Held::new(self);
            released.await;
        }
    }

    async fn ask(&self, steps: &[(Key<'_>, Step<'_>)]) -> Result<()> {
        self.questions.fetch_add(1, Ordering::SeqCst);
        self.steps.fetch_add(steps.len() as u64, Ordering::SeqCst);
        on_its_way().await;
        if let Some((_, step)) = steps.first() {
            self.pass(Place::Request, step.op()).await;
        }
        let state = self.state.lock();
        assert!(!state.panics, "as it was told");
        match state.failure {
            None => Ok(()),
            Some((kind, effect)) => {
                Err(BackendError::new("distant", "apply", kind).with_effect(effect))
            }
        }
    }

    async fn reply(&self, steps: &[(Key<'_>, Step<'_>)]) {
        if let Some((_, step)) = steps.first() {
            self.pass(Place::Reply, step.op()).await;
        }
        on_its_way().await;
    }
}

/// Lets others run meanwhile, as they would. A time limit polls once more at once, and several lie within each other.
async fn on_its_way() {
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
}

struct Held<'a>(&'a Wire);

impl<'a> Held<'a> {
    fn new(wire: &'a Wire) -> Self {
        let now = wire.held.fetch_add(1, Ordering::SeqCst) + 1;
        wire.most_held.fetch_max(now, Ordering::SeqCst);
        wire.changed.notify_waiters();
        Self(wire)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::SeqCst);
        self.0.changed.notify_waiters();
    }
}

impl Distant {
    pub fn new(inner: impl Backend) -> Self {
        Self { inner: Arc::new(inner), wire: Arc::default() }
    }

    pub fn wire(&self) -> Arc<Wire> {
        Arc::clone(&self.wire)
    }

    /// The backend itself, as another process reaches it.
    pub fn directly(&self) -> &dyn Backend {
        &*self.inner
    }
}

impl HasCore for Distant {
    fn core(&self) -> &BackendCore {
        self.inner.core()
    }
}

#[async_trait]
impl Values for Distant {
    async fn get(&self, key: &Key<'_>) -> Result<Option<Vec<u8>>> {
        self.inner.get(key).await
    }
    async fn compare_and_set(
        &self,
        key: &Key<'_>,
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
        ttl: Ttl,
    ) -> Result<bool> {
        self.inner.compare_and_set(key, expected, new, ttl).await
    }
    async fn set(&self, key: &Key<'_>, value: &[u8], ttl: Option<Duration>) -> Result<()> {
        self.inner.set(key, value, ttl).await
    }
    async fn delete(&self, key: &Key<'_>) -> Result<bool> {
        self.inner.delete(key).await
    }
    async fn increment(&self, key: &Key<'_>, by: u64) -> Result<u64> {
        self.inner.increment(key, by).await
    }
    async fn increment_with_ttl(&self, key: &Key<'_>, by: u64, ttl: Duration) -> Result<u64> {
        self.inner.increment_with_ttl(key, by, ttl).await
    }
    async fn decrement(&self, key: &Key<'_>, by: u64) -> Result<u64> {
        self.inner.decrement(key, by).await
    }
    async fn expire(&self, key: &Key<'_>, ttl: Duration) -> Result<bool> {
        self.inner.expire(key, ttl).await
    }
    async fn multi_get(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Vec<u8>>>> {
        self.inner.multi_get(keys).await
    }
    async fn multi_set(&self, pairs: &[(Key<'_>, &[u8])], ttl: Option<Duration>) -> Result<()> {
        self.inner.multi_set(pairs, ttl).await
    }
}

#[async_trait]
impl Locks for Distant {
    async fn lock(&self, name: &str, options: LockOptions) -> Result<LockGuard, LockError> {
        self.inner.lock(name, options).await
    }
}

#[async_trait]
impl Backend for Distant {
    async fn initialize(&self) -> Result<()> {
        self.inner.initialize().await
    }
    async fn ready(&self) -> Result<()> {
        self.inner.ready().await
    }
    async fn clear(&self) -> Result<()> {
        self.inner.clear().await
    }
    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
    fn stop(&self) {
        self.inner.stop();
    }
    fn prepare(&self, _throttle: &str, _limits: &[Limit]) -> Option<Prepared> {
        None
    }
    fn try_apply(&self, _key: &Key<'_>, _step: &Step<'_>) -> Option<Result<Decision>> {
        None
    }
    async fn apply(&self, key: &Key<'_>, step: &Step<'_>) -> Result<Decision> {
        let steps = [(*key, *step)];
        self.wire.ask(&steps).await?;
        let decision = self.inner.apply(key, step).await;
        self.wire.reply(&steps).await;
        decision
    }
    async fn apply_many(&self, steps: &[(Key<'_>, Step<'_>)], answers: &Answers) {
        if let Err(error) = self.wire.ask(steps).await {
            for place in 0..steps.len() {
                let same = BackendError::new("distant", "apply_many", error.kind());
                answers.put(place, Err(same.with_effect(error.effect())));
            }
            return;
        }
        let own = Answers::new(steps.len());
        self.inner.apply_many(steps, &own).await;
        self.wire.reply(steps).await;
        for (place, answer) in own.into_answers().enumerate() {
            answers.put(place, answer.unwrap());
        }
    }
    fn decides_equal_hits_at_once(&self) -> bool {
        true
    }

    async fn apply_all(&self, hits: &[(Key<'_>, Step<'_>)]) -> Option<Result<Vec<Decision>>> {
        if let Err(error) = self.wire.ask(hits).await {
            return Some(Err(error));
        }
        let decisions = self.inner.apply_all(hits).await;
        self.wire.reply(hits).await;
        decisions
    }
    async fn change_block(&self, key: &Key<'_>, change: BlockChange) -> Result<bool> {
        self.inner.change_block(key, change).await
    }
    async fn inspect(&self, key: &Key<'_>) -> Result<KeyState> {
        self.inner.inspect(key).await
    }
    async fn forget(&self, key: &Key<'_>) -> Result<()> {
        self.inner.forget(key).await
    }
}
