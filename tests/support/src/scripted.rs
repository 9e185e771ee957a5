//! A backend that does as it is told, call by call, for tests of what is around a backend.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use traffik::backend::{Answers, BackendCore, Result};
use traffik::step::{BlockChange, KeyState, Step};
use traffik::{
    Backend, BackendError, Decision, Effect, ErrorKind, HasCore, InMemory, Key, LockError,
    LockGuard, LockOptions, Locks, Ttl, Values,
};

/// What a call comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Play {
    /// The answer of an in-memory backend.
    Answer,
    /// ... after that time.
    AnswerAfter(Duration),
    /// ... as it is now, but told after that time.
    AnswerIsLate(Duration),
    /// An error, and nothing was done.
    Refuse(ErrorKind),
    /// An error after it was done.
    FailAfterwards(ErrorKind),
    /// No answer, and nothing was done.
    Silence,
    /// No answer after it was done.
    SilenceAfterwards,
}

impl Play {
    const fn waits(self) -> bool {
        match self {
            Self::Answer | Self::Refuse(_) | Self::FailAfterwards(_) => false,
            Self::AnswerAfter(_) | Self::AnswerIsLate(_) => true,
            Self::Silence | Self::SilenceAfterwards => true,
        }
    }
}

/// Plays a script. Clones play the same one.
#[derive(Clone, Debug)]
pub struct Scripted {
    memory: InMemory,
    /// Whether a play that does not wait is played by `try_apply` too.
    is_at_once: bool,
    script: Arc<Mutex<Script>>,
}

#[derive(Debug)]
struct Script {
    /// Of the next calls, whatever they ask.
    next: VecDeque<Play>,
    /// Of the others, by the first part of their key.
    of_keys: HashMap<Vec<u8>, Play>,
    /// Of all others.
    others: Play,
    asked: Vec<&'static str>,
}

impl Scripted {
    /// Answers as that backend does, until it is told otherwise.
    pub fn around(memory: InMemory) -> Self {
        let script = Script {
            next: VecDeque::new(),
            of_keys: HashMap::new(),
            others: Play::Answer,
            asked: Vec::new(),
        };
        Self { memory, is_at_once: false, script: Arc::new(Mutex::new(script)) }
    }

    /// Decides by [`try_apply`](Backend::try_apply) too, unless it is to wait, or to be silent: then it leaves the play
    /// to [`apply`](Backend::apply).
    #[must_use]
    pub fn at_once(mut self) -> Self {
        self.is_at_once = true;
        self
    }

    pub fn new() -> Self {
        Self::around(InMemory::new())
    }

    /// From now on.
    pub fn plays(&self, play: Play) {
        self.script.lock().others = play;
    }

    /// From now on, about keys that begin with that part.
    pub fn plays_for(&self, part: &str, play: Play) {
        self.script.lock().of_keys.insert(part.as_bytes().to_vec(), play);
    }

    /// The next calls first.
    pub fn plays_next(&self, plays: impl IntoIterator<Item = Play>) {
        self.script.lock().next.extend(plays);
    }

    /// How often it was asked for that so far.
    pub fn asked(&self, operation: &str) -> usize {
        self.script.lock().asked.iter().filter(|asked| **asked == operation).count()
    }

    /// How often it was asked for anything so far.
    pub fn asked_in_all(&self) -> usize {
        self.script.lock().asked.len()
    }

    /// What it answers from.
    pub fn memory(&self) -> &InMemory {
        &self.memory
    }

    fn play(&self, operation: &'static str, key: Option<&Key<'_>>) -> Play {
        let mut script = self.script.lock();
        script.asked.push(operation);
        let play = script.of(key);
        script.next.pop_front();
        play
    }

    async fn call<T, E: From<BackendError>, F: Future<Output = Result<T, E>>>(
        &self,
        operation: &'static str,
        key: Option<&Key<'_>>,
        work: impl FnOnce() -> F,
    ) -> Result<T, E> {
        match self.play(operation, key) {
            Play::Answer => work().await,
            Play::AnswerAfter(time) => {
                tokio::time::sleep(time).await;
                work().await
            }
            Play::AnswerIsLate(time) => {
                let answer = work().await;
                tokio::time::sleep(time).await;
                answer
            }
            Play::Refuse(kind) => Err(failure(operation, kind, false).into()),
            Play::FailAfterwards(kind) => {
                let _ = work().await;
                Err(failure(operation, kind, true).into())
            }
            Play::Silence => std::future::pending().await,
            Play::SilenceAfterwards => {
                let _ = work().await;
                std::future::pending().await
            }
        }
    }
}

impl Script {
    /// Of the next call, if it is about that key.
    fn of(&self, key: Option<&Key<'_>>) -> Play {
        let of_key = || self.of_keys.get(key?.parts().first()?.as_bytes()).copied();
        self.next.front().copied().or_else(of_key).unwrap_or(self.others)
    }
}

/// Returns the error of a call that was done all the same, or not at all.
fn failure(operation: &'static str, kind: ErrorKind, is_done: bool) -> BackendError {
    let effect = if is_done { Effect::Ambiguous } else { Effect::NotApplied };
    BackendError::new("scripted", operation, kind).with_effect(effect)
}

impl HasCore for Scripted {
    fn core(&self) -> &BackendCore {
        self.memory.core()
    }
}

#[async_trait]
impl Values for Scripted {
    async fn get(&self, key: &Key<'_>) -> Result<Option<Vec<u8>>> {
        self.call("get", Some(key), || self.memory.get(key)).await
    }
    async fn compare_and_set(
        &self,
        key: &Key<'_>,
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
        ttl: Ttl,
    ) -> Result<bool> {
        let work = || self.memory.compare_and_set(key, expected, new, ttl);
        self.call("compare_and_set", Some(key), work).await
    }
}

#[async_trait]
impl Locks for Scripted {
    async fn lock(&self, name: &str, options: LockOptions) -> Result<LockGuard, LockError> {
        self.call("lock", None, || self.memory.lock(name, options)).await
    }
}

#[async_trait]
impl Backend for Scripted {
    async fn initialize(&self) -> Result<()> {
        self.call("initialize", None, || self.memory.initialize()).await
    }
    async fn ready(&self) -> Result<()> {
        self.call("ready", None, || self.memory.ready()).await
    }
    async fn clear(&self) -> Result<()> {
        self.call("clear", None, || self.memory.clear()).await
    }
    async fn close(&self) -> Result<()> {
        self.call("close", None, || self.memory.close()).await
    }
    fn stop(&self) {
        self.script.lock().asked.push("stop");
        self.memory.stop();
    }
    fn try_apply(&self, key: &Key<'_>, step: &Step<'_>) -> Option<Result<Decision>> {
        let play = self.script.lock().of(Some(key));
        if !self.is_at_once || play.waits() {
            return None;
        }
        match self.play("try_apply", Some(key)) {
            Play::Refuse(kind) => Some(Err(failure("try_apply", kind, false))),
            Play::FailAfterwards(kind) => {
                let _ = self.memory.try_apply(key, step);
                Some(Err(failure("try_apply", kind, true)))
            }
            _ => self.memory.try_apply(key, step),
        }
    }
    async fn apply(&self, key: &Key<'_>, step: &Step<'_>) -> Result<Decision> {
        self.call("apply", Some(key), || self.memory.apply(key, step)).await
    }
    /// Those that are answered at once come first; then the silent ones keep it.
    async fn apply_many(&self, steps: &[(Key<'_>, Step<'_>)], answers: &Answers) {
        self.script.lock().asked.push("apply_many");
        let mut asked = Vec::new();
        for (index, (key, step)) in steps.iter().enumerate() {
            let mut call = Box::pin(self.apply(key, step));
            match std::future::poll_fn(|cx| std::task::Poll::Ready(call.as_mut().poll(cx))).await {
                std::task::Poll::Ready(answer) => answers.put(index, answer),
                std::task::Poll::Pending => asked.push((index, call)),
            }
        }
        for (index, call) in asked {
            answers.put(index, call.await);
        }
    }
    async fn apply_all(&self, hits: &[(Key<'_>, Step<'_>)]) -> Option<Result<Vec<Decision>>> {
        let key = hits.first().map(|(key, _)| key);
        let work = || async { self.memory.apply_all(hits).await.transpose() };
        self.call("apply_all", key, work).await.transpose()
    }
    async fn change_block(&self, key: &Key<'_>, change: BlockChange) -> Result<bool> {
        self.call("change_block", Some(key), || self.memory.change_block(key, change)).await
    }
    async fn inspect(&self, key: &Key<'_>) -> Result<KeyState> {
        self.call("inspect", Some(key), || self.memory.inspect(key)).await
    }
    async fn forget(&self, key: &Key<'_>) -> Result<()> {
        self.call("forget", Some(key), || self.memory.forget(key)).await
    }
}
