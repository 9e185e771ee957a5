//! Releases locks on a server in the background.
//!
//! A guard may be dropped anywhere: in a task, on a plain thread, while unwinding, after its runtime is
//! gone. And a try may end without an answer, so that nobody knows whether it took the lock. Both are put
//! into a queue here, and a task asks the server again until it has answered, or until the lock's TTL has
//! freed it. What was never asked comes before what is asked again, and guards come before tries, so a
//! lock that others wait for does not stand behind a server's silence.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use crate::background::{self, Home};
use crate::clock::monotonic_now;
use crate::error::{BackendError, ErrorKind};
use crate::{random, timer};

/// Releases under way at the same time that are asked for the first time, and again.
const FRESH_AT_ONCE: usize = 16;
const RETRIED_AT_ONCE: usize = 4;
/// The most that wait; of more the TTL takes care.
const MOST_GUARDS: usize = 16_384;
const MOST_TRIES: usize = 1_024;
/// After a try without an answer; grows from one to the other.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// A server that answers sooner has carried out in order what it was sent.
const PROMPT: Duration = Duration::from_millis(50);
/// When a server that was slow is asked again after "not yours": what was sent on a connection that is
/// closed by now may come after what was sent on the next. The system gives up such bytes after 5 s.
const LATE_PAUSES: [Duration; 4] = [
    Duration::from_millis(100),
    Duration::from_millis(400),
    Duration::from_millis(1_600),
    Duration::from_millis(6_400),
];
/// How long releases go on after the backend was dropped.
const LAST_TRIES: Duration = Duration::from_secs(2);

type Job = Box<dyn Fn() -> Pin<Box<dyn Future<Output = ReleaseOutcome> + Send>> + Send>;

/// Whose lock is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// One that was held.
    Guard,
    /// One that a try may have taken.
    Try,
}

/// What came of asking a server to release a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReleaseOutcome {
    Released,
    /// The server says that it is another's, or nobody's.
    NotOurs,
    NoAnswer,
    /// The server answered with an error.
    Refused,
}

impl ReleaseOutcome {
    pub(crate) fn of_error(error: &BackendError) -> Self {
        match error.kind() {
            ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Overloaded => Self::NoAnswer,
            _ => Self::Refused,
        }
    }
}

/// What is known of a lock that is to be released.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ToRelease {
    pub(crate) lane: Lane,
    /// Whether the server has said that we hold it. If not, "not yours" may be true only until the
    /// request for the lock arrives.
    pub(crate) granted: bool,
    /// When the server was asked for the lock, or granted it.
    pub(crate) at: Instant,
    /// When its TTL has freed it.
    pub(crate) until: Instant,
}

impl ToRelease {
    /// By a try whose answer was lost. A server that stands still may begin with it, and with the TTL,
    /// when it goes on: so it is asked for a minute at least.
    pub(crate) fn in_vain(at: Instant, ttl: Duration) -> Self {
        const LEAST: Duration = Duration::from_secs(60);
        Self { lane: Lane::Try, granted: false, at, until: later(at, ttl.max(LEAST)) }
    }
}

/// The releases on one server.
#[derive(Debug)]
pub(crate) struct Releaser {
    shared: Arc<Pending>,
    /// Lives as long as the task does.
    task: Mutex<Weak<()>>,
    home: Home,
}

#[derive(Debug, Default)]
struct Pending {
    queue: Mutex<ReleaseQueue>,
    wake: Notify,
    /// Notified when a release has ended, or may have been dropped.
    ended: Notify,
    /// The last release got no answer.
    is_silent: AtomicBool,
}

#[derive(Default)]
struct ReleaseQueue {
    guards: VecDeque<Release>,
    tries: VecDeque<Release>,
    /// Those that are asked again, by when and a number that makes it unique.
    again: BTreeMap<(Instant, u64), Release>,
    numbered: u64,
    fresh_running: usize,
    retried_running: usize,
    closed_at: Option<Instant>,
}

struct Release {
    job: Job,
    asked: ToRelease,
    pause: Duration,
    /// How often it was asked after an answer.
    answers: usize,
    is_fresh: bool,
}

impl Releaser {
    /// A releaser whose tasks live there.
    pub(crate) fn on(home: Home) -> Self {
        Self { shared: Arc::default(), task: Mutex::default(), home }
    }

    /// Starts the task if none runs. Call it inside a runtime, before a lock is given out; else a guard
    /// that is dropped on a plain thread waits for the next runtime.
    pub(crate) fn start(&self) {
        // Releases are tried again after pauses.
        if self.home == Home::Caller && !timer::is_there() {
            return;
        }
        let mut task = self.task.lock();
        if task.upgrade().is_none() {
            let (alive, shared) = (Arc::new(()), Arc::clone(&self.shared));
            *task = Arc::downgrade(&alive);
            let home = self.home;
            // Where there is no runtime nothing is alive, and the queue waits.
            background::start_detached_on(home, async move {
                work(&shared, home).await;
                drop(alive);
            });
        }
    }

    /// Returns whether the server gave no answer to the last release. Whoever has others to ask need not
    /// ask it: the releases that are left find out when it answers again.
    #[cfg(any(feature = "redis", test))]
    pub(crate) fn is_silent(&self) -> bool {
        self.shared.is_silent.load(Ordering::Relaxed)
    }

    /// Waits until each release has been asked for once, for at most that time. What has no answer by then
    /// goes on in the background.
    pub(crate) async fn drained(&self, time: Duration) {
        if !timer::is_there() {
            return;
        }
        let deadline = later(monotonic_now(), time);
        loop {
            let mut ended = std::pin::pin!(self.shared.ended.notified());
            ended.as_mut().enable();
            if !self.shared.queue.lock().has_fresh() {
                return;
            }
            self.start();
            if timeout_at(deadline, ended).await.is_err() {
                return;
            }
        }
    }

    /// Takes a release over. Never blocks or panics, and needs no runtime.
    pub(crate) fn send<F>(&self, asked: ToRelease, job: impl Fn() -> F + Send + 'static)
    where
        F: Future<Output = ReleaseOutcome> + Send + 'static,
    {
        let job: Job = Box::new(move || Box::pin(job()));
        let release = Release { job, asked, pause: SHORTEST_PAUSE, answers: 0, is_fresh: true };
        self.shared.queue.lock().push(release);
        self.shared.wake.notify_one();
        self.start();
    }
}

impl Drop for Releaser {
    fn drop(&mut self) {
        self.shared.queue.lock().closed_at = Some(monotonic_now());
        self.shared.wake.notify_one();
    }
}

async fn work(shared: &Arc<Pending>, home: Home) {
    loop {
        let (releases, due, is_over) = {
            let mut queue = shared.queue.lock();
            let releases = queue.take(monotonic_now());
            let due = queue.again.first_key_value().map(|((due, _), _)| *due);
            // While all places are taken, an end is what comes next.
            let due = due.filter(|_| queue.retried_running < RETRIED_AT_ONCE);
            if queue.is_empty() {
                shared.is_silent.store(false, Ordering::Relaxed);
            }
            (releases, due, queue.is_empty() && queue.closed_at.is_some())
        };
        // Some may have been dropped, because their time is over.
        shared.ended.notify_waiters();
        if is_over {
            return;
        }
        for release in releases {
            let running = UnderWay { shared: Arc::clone(shared), release: Some(release) };
            background::start_detached_on(home, running.run());
        }
        match due {
            None => shared.wake.notified().await,
            Some(due) => drop(timeout_at(due, shared.wake.notified()).await),
        }
    }
}

/// A release under way. If its runtime ends before it does, it goes back into the queue.
struct UnderWay {
    shared: Arc<Pending>,
    release: Option<Release>,
}

impl UnderWay {
    async fn run(mut self) {
        let Some(release) = &self.release else { return };
        let outcome = (release.job)().await;
        let is_silent = outcome == ReleaseOutcome::NoAnswer;
        self.shared.is_silent.store(is_silent, Ordering::Relaxed);
        if let Some(release) = self.release.take() {
            self.shared.ended(release, Some(outcome));
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(release) = self.release.take() {
            self.shared.ended(release, None);
        }
    }
}

impl Pending {
    /// `None` if it did not come to an end.
    fn ended(&self, mut release: Release, outcome: Option<ReleaseOutcome>) {
        let mut queue = self.queue.lock();
        *queue.running(release.is_fresh) -= 1;
        release.is_fresh = false;
        if let Some(pause) = release.pause_after(outcome.unwrap_or(ReleaseOutcome::NoAnswer)) {
            queue.put_off(release, pause);
        }
        drop(queue);
        self.wake.notify_one();
        self.ended.notify_waiters();
    }
}

impl Release {
    /// Returns when to ask again; `None` if there is no need.
    fn pause_after(&mut self, outcome: ReleaseOutcome) -> Option<Duration> {
        match outcome {
            ReleaseOutcome::Released => None,
            ReleaseOutcome::NoAnswer => {
                let pause = self.pause / 2 + random::up_to(self.pause / 2);
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                Some(pause)
            }
            ReleaseOutcome::NotOurs if self.asked.granted || self.asked.at.elapsed() < PROMPT => {
                None
            }
            ReleaseOutcome::NotOurs | ReleaseOutcome::Refused => {
                let pause = LATE_PAUSES.get(self.answers).copied();
                self.answers += 1;
                pause
            }
        }
    }
}

impl ReleaseQueue {
    fn push(&mut self, release: Release) {
        let (lane, most) = match release.asked.lane {
            Lane::Guard => (&mut self.guards, MOST_GUARDS),
            Lane::Try => (&mut self.tries, MOST_TRIES),
        };
        if lane.len() < most {
            lane.push_back(release);
        } else {
            debug!(most, "too many locks wait for their release; this one is left to its ttl");
        }
    }

    fn put_off(&mut self, release: Release, pause: Duration) {
        let most = match release.asked.lane {
            Lane::Guard => MOST_GUARDS,
            Lane::Try => MOST_TRIES,
        };
        if self.again.len() < most {
            self.numbered += 1;
            self.again.insert((later(monotonic_now(), pause), self.numbered), release);
        }
    }

    fn running(&mut self, is_fresh: bool) -> &mut usize {
        if is_fresh { &mut self.fresh_running } else { &mut self.retried_running }
    }

    /// Returns whether there is one that was never asked for to its end.
    fn has_fresh(&self) -> bool {
        !self.guards.is_empty() || !self.tries.is_empty() || self.fresh_running > 0
    }

    fn is_empty(&self) -> bool {
        let waiting = self.guards.len() + self.tries.len() + self.again.len();
        waiting + self.fresh_running + self.retried_running == 0
    }

    /// Returns what may begin now. What the TTL has freed meanwhile is dropped.
    fn take(&mut self, now: Instant) -> Vec<Release> {
        let mut taken = Vec::new();
        if self.closed_at.is_some() {
            // Nobody is left to mind what may still arrive.
            self.again.retain(|_, release| release.answers == 0);
        }
        while self.fresh_running < FRESH_AT_ONCE
            && let Some(release) = self.guards.pop_front().or_else(|| self.tries.pop_front())
        {
            self.begin(release, now, &mut taken);
        }
        while self.retried_running < RETRIED_AT_ONCE
            && let Some(first) = self.again.first_entry()
            && first.key().0 <= now
        {
            let release = first.remove();
            self.begin(release, now, &mut taken);
        }
        taken
    }

    fn begin(&mut self, release: Release, now: Instant, taken: &mut Vec<Release>) {
        let given_up =
            self.closed_at.is_some_and(|closed| now.saturating_duration_since(closed) > LAST_TRIES);
        if now < release.asked.until && !given_up {
            *self.running(release.is_fresh) += 1;
            taken.push(release);
        }
    }
}

/// That long after it, but no more than a year: a clock may end, and a lock of centuries is one of a year.
pub(crate) fn later(now: Instant, wait: Duration) -> Instant {
    const YEAR: Duration = Duration::from_secs(366 * 24 * 3600);
    now + wait.min(YEAR)
}

impl fmt::Debug for ReleaseQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReleaseQueue")
            .field("guards", &self.guards.len())
            .field("tries", &self.tries.len())
            .field("again", &self.again.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use tokio::runtime::Handle;

    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
    }

    fn held() -> ToRelease {
        let at = monotonic_now();
        ToRelease { lane: Lane::Guard, granted: true, at, until: at + TTL }
    }

    /// Counts the times that it is asked, and answers by that number.
    fn send(
        releaser: &Releaser,
        asked: ToRelease,
        answer: impl Fn(u32) -> ReleaseOutcome + Copy + Send + 'static,
    ) -> Arc<AtomicU32> {
        let count = Arc::new(AtomicU32::new(0));
        let counting = Arc::clone(&count);
        releaser.send(asked, move || {
            let outcome = answer(counting.fetch_add(1, Ordering::SeqCst));
            async move {
                tokio::time::sleep(Duration::from_millis(1)).await;
                outcome
            }
        });
        count
    }

    fn times(count: &Arc<AtomicU32>) -> u32 {
        count.load(Ordering::SeqCst)
    }

    #[test]
    fn f23_a_release_from_anywhere_is_done_in_the_runtime_that_lives() {
        let releaser = Arc::new(Releaser::on(Home::Caller));
        let released = |_| ReleaseOutcome::Released;
        let early = send(&releaser, held(), released);
        let first = runtime();
        let foreign = first.block_on(async {
            releaser.start();
            let other = Arc::clone(&releaser);
            let foreign = std::thread::spawn(move || send(&other, held(), released));
            let foreign = foreign.join().unwrap();
            releaser.drained(TTL).await;
            foreign
        });
        assert_eq!(times(&foreign), 1, "handed over from a plain thread");
        assert_eq!(times(&early), 1, "from before there was a runtime");
        drop(first);
        let late = send(&releaser, held(), released);
        assert_eq!(times(&late), 0, "no runtime, no panic");
        runtime().block_on(async {
            releaser.start();
            releaser.drained(TTL).await;
        });
        assert_eq!(times(&late), 1, "by a task of the next runtime");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_server_is_asked_until_it_answers_or_the_ttl_is_over() {
        let releaser = Releaser::on(Home::Caller);
        let answers_late = send(&releaser, held(), |n| {
            if n < 9 { ReleaseOutcome::NoAnswer } else { ReleaseOutcome::Released }
        });
        let silent = send(&releaser, held(), |_| ReleaseOutcome::NoAnswer);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(releaser.is_silent());
        tokio::time::sleep(TTL * 2).await;
        assert_eq!(times(&answers_late), 10);
        let asked = times(&silent);
        assert!((40..100).contains(&asked), "{asked} times in {TTL:?}");
        assert!(!releaser.is_silent(), "there is nothing left to find it out by");
        tokio::time::sleep(TTL).await;
        assert_eq!(times(&silent), asked, "its ttl is over");
    }

    #[tokio::test(start_paused = true)]
    async fn not_ours_is_believed_of_a_prompt_server_and_of_a_lock_that_was_granted() {
        let releaser = Releaser::on(Home::Caller);
        let not_ours = |_| ReleaseOutcome::NotOurs;
        let now = monotonic_now();
        tokio::time::advance(Duration::from_secs(1)).await;
        let granted = send(&releaser, ToRelease { at: now, ..held() }, not_ours);
        let prompt = send(&releaser, ToRelease::in_vain(monotonic_now(), TTL), not_ours);
        let slow = send(&releaser, ToRelease::in_vain(now, TTL), not_ours);
        tokio::time::sleep(TTL).await;
        assert_eq!([times(&granted), times(&prompt)], [1, 1]);
        assert_eq!(times(&slow), 5, "what is under way may still arrive");
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_were_never_asked_do_not_stand_behind_those_without_an_answer() {
        let releaser = Releaser::on(Home::Caller);
        for _ in 0..1000 {
            send(&releaser, ToRelease::in_vain(monotonic_now(), TTL), |_| ReleaseOutcome::NoAnswer);
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        let guard = send(&releaser, held(), |_| ReleaseOutcome::Released);
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(times(&guard), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn draining_waits_for_each_once_and_not_for_a_silent_server() {
        let releaser = Releaser::on(Home::Caller);
        let start = monotonic_now();
        releaser.drained(TTL).await;
        assert_eq!(start.elapsed(), Duration::ZERO, "there is nothing to wait for");
        let done: Vec<_> =
            (0..100).map(|_| send(&releaser, held(), |_| ReleaseOutcome::Released)).collect();
        let silent = send(&releaser, held(), |_| ReleaseOutcome::NoAnswer);
        releaser.drained(TTL).await;
        assert!(done.iter().all(|done| times(done) == 1));
        assert!(times(&silent) >= 1 && start.elapsed() < Duration::from_secs(1));
        let start = monotonic_now();
        let over = ToRelease { until: start, ..held() };
        let never = send(&releaser, over, |_| ReleaseOutcome::NoAnswer);
        releaser.drained(TTL).await;
        assert_eq!((times(&never), start.elapsed()), (0, Duration::ZERO), "its TTL is over");
        let hangs = || async { std::future::pending().await };
        releaser.send(held(), hangs);
        let start = monotonic_now();
        releaser.drained(Duration::from_millis(200)).await;
        assert_eq!(start.elapsed(), Duration::from_millis(200));
    }

    #[tokio::test(start_paused = true)]
    async fn the_queues_are_bounded() {
        let releaser = Releaser::on(Home::Caller);
        for _ in 0..2 * MOST_TRIES {
            send(&releaser, ToRelease::in_vain(monotonic_now(), TTL), |_| ReleaseOutcome::NoAnswer);
        }
        assert_eq!(releaser.shared.queue.lock().tries.len(), MOST_TRIES);
        tokio::time::sleep(Duration::from_secs(1)).await;
        for _ in 0..2 * MOST_TRIES {
            send(&releaser, ToRelease::in_vain(monotonic_now(), TTL), |_| ReleaseOutcome::NoAnswer);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(releaser.shared.queue.lock().again.len() <= MOST_TRIES);
    }

    #[tokio::test(start_paused = true)]
    async fn all_are_done_and_the_task_ends_soon_after_the_last_handle() {
        let releaser = Releaser::on(Home::Caller);
        let done: Vec<_> =
            (0..100).map(|_| send(&releaser, held(), |_| ReleaseOutcome::Released)).collect();
        let silent = send(&releaser, held(), |_| ReleaseOutcome::NoAnswer);
        drop(releaser);
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(done.iter().all(|done| times(done) == 1));
        assert!((2..200).contains(&times(&silent)), "{}", times(&silent));
        assert_eq!(Handle::current().metrics().num_alive_tasks(), 0, "no task is left");
    }
}
