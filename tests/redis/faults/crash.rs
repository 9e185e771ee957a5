//! The server dies, with its data or without.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::RwLock;
use tokio::task::JoinSet;
use traffik::{
    Backend, DecidedBy, Effect, Error, FixedWindow, LockOptions, Locks, OnError, Redis, Throttle,
    Values,
};

use super::common::{
    PLENTY, admits, builder, clock, ends, heals, patient, soak, throttle, until, used,
};
use test_support::servers::{RedisServer, Workers, pause, workers};

const ON_DISK: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];
const TASKS: usize = 8;

/// What the callers of hits were told.
#[derive(Debug, Default)]
struct Oracle {
    admitted: AtomicU32,
    denied: AtomicU32,
    ambiguous: AtomicU32,
    not_applied: AtomicU32,
}

impl Oracle {
    async fn hit(&self, throttle: &Throttle, key: &str) -> bool {
        let told = match ends(throttle.hit(key)).await {
            Ok(decision) => {
                assert_eq!(decision.decided_by(), DecidedBy::Backend);
                if decision.is_allowed() { &self.admitted } else { &self.denied }
            }
            Err(Error::Backend(error)) => {
                assert!(!error.kind().bypasses_policy(), "{error:?}");
                let applied = error.effect() == Effect::Ambiguous;
                if applied { &self.ambiguous } else { &self.not_applied }
            }
            Err(other) => panic!("{other:?}"),
        };
        told.fetch_add(1, Ordering::SeqCst);
        std::ptr::eq(told, &self.admitted)
    }

    fn counts(&self) -> [u32; 4] {
        [&self.admitted, &self.denied, &self.ambiguous, &self.not_applied]
            .map(|count| count.load(Ordering::SeqCst))
    }
}

/// Hits two keys, one with few units and one with plenty, until it is told to stop.
#[test]
#[ignore = "run by another test as a process of its own"]
fn worker() {
    if workers::number().is_none() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let [few, plenty] = runtime.block_on(hit_until_told());
    let numbers = [few.counts(), plenty.counts()].concat();
    workers::report(&numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(" "));
}

async fn hit_until_told() -> [Arc<Oracle>; 2] {
    let backend = builder(workers::variable("URL")).build().unwrap();
    let few = throttle(&backend, workers::variable("FEW").parse().unwrap());
    let plenty = throttle(&backend, PLENTY);
    let oracles: [Arc<Oracle>; 2] = Default::default();
    let stop = std::path::PathBuf::from(workers::variable("STOP"));
    workers::ready();
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        let (few, plenty, oracles) = (few.clone(), plenty.clone(), oracles.clone());
        let stop = stop.clone();
        tasks.spawn(async move {
            while !stop.exists() {
                oracles[0].hit(&few, "few").await;
                oracles[1].hit(&plenty, "plenty").await;
                // Denials by a connection that is down come at once.
                pause::pace(Duration::from_millis(1)).await;
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    oracles
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn f01_killed_under_load_with_its_data_on_disk_never_admits_too_many() {
    const FEW: u32 = 2_000;
    let mut server = RedisServer::with(&ON_DISK);
    let stop = server.dir().join("stop");
    let (url, few) = (server.url(), FEW.to_string());
    let envs = [("URL", url.as_str()), ("FEW", &few), ("STOP", stop.to_str().unwrap())];
    let mut processes = Workers::spawn(3, "faults::crash::worker", &envs);
    processes.start_together();
    for _ in 0..if soak() { 100 } else { 6 } {
        // The new server has counted nothing yet.
        until("hits come", || server.calls("evalsha") >= 100).await;
        server.kill();
        pause::lasts(Duration::from_millis(50)).await;
        server.restart();
    }
    until("hits come", || server.calls("evalsha") >= 100).await;
    std::fs::write(&stop, "").unwrap();
    let mut sums = [0; 8];
    for line in processes.results() {
        for (sum, number) in sums.iter_mut().zip(line.split(' ')) {
            *sum += number.parse::<u32>().unwrap();
        }
    }
    let [admitted, _, ambiguous, _, admitted_of_plenty, _, ambiguous_of_plenty, _] = sums;
    let backend = patient(&url);
    let used_few = used(&throttle(&backend, FEW), "few", FEW).await;
    let used_plenty = used(&throttle(&backend, PLENTY), "plenty", PLENTY).await;
    let told = format!("{sums:?}, used {used_few} and {used_plenty}");
    // Nothing that was admitted is forgotten, and nothing is used that nobody was told of.
    assert!(admitted <= used_few && used_few <= admitted + ambiguous, "{told}");
    assert!(admitted_of_plenty <= used_plenty, "{told}");
    assert!(used_plenty <= admitted_of_plenty + ambiguous_of_plenty, "{told}");
    assert!(admitted > 0 && ambiguous_of_plenty > 0, "it was killed under load: {told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f01_killed_under_load_in_each_window_admits_no_more_than_the_limit() {
    const LIMIT: u32 = 100;
    let mut server = RedisServer::with(&ON_DISK);
    admits_in_windows(&mut server, LIMIT, |_losses| LIMIT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f01_killed_under_load_without_its_data_admits_the_limit_for_each_loss() {
    const LIMIT: u32 = 100;
    let mut server = RedisServer::start();
    admits_in_windows(&mut server, LIMIT, |losses| LIMIT * (1 + losses)).await;
}

/// Kills the server in each window, and compares what was admitted in it.
async fn admits_in_windows(server: &mut RedisServer, limit: u32, most: impl Fn(u32) -> u32) {
    const LOSSES: u32 = 2;
    let clock = clock();
    // A hit and a move of the clock exclude each other: so each hit is of one window.
    let window = Arc::new(RwLock::new(Arc::new(Oracle::default())));
    let running = Arc::new(AtomicBool::new(true));
    let backend = builder(server.url()).clock(clock.clone()).build().unwrap();
    let mut tasks = JoinSet::new();
    for _ in 0..16 {
        let (window, running) = (Arc::clone(&window), Arc::clone(&running));
        let throttle = throttle(&backend, limit);
        tasks.spawn(async move {
            while running.load(Ordering::SeqCst) {
                let oracle = window.read().await;
                oracle.hit(&throttle, "key").await;
                drop(oracle);
                pause::pace(Duration::from_millis(1)).await;
            }
        });
    }
    for number in 0..if soak() { 30 } else { 3 } {
        let oracle = Arc::clone(&*window.read().await);
        for _ in 0..LOSSES {
            until("hits come", || server.calls("evalsha") >= 20).await;
            server.restart();
        }
        until("the limit is reached", || {
            let [admitted, denied, ambiguous, _] = oracle.counts();
            admitted + ambiguous >= limit && denied > 0
        })
        .await;
        let mut window = window.write().await;
        let admitted = oracle.counts()[0];
        assert!(admitted <= most(LOSSES), "{admitted} admitted in window {number}: {oracle:?}");
        *window = Arc::default();
        clock.advance(Duration::from_secs(24 * 3600));
    }
    running.store(false, Ordering::SeqCst);
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f01_the_policy_decides_while_the_server_is_down() {
    let mut server = RedisServer::start();
    let backend = builder(server.url()).build().unwrap();
    let by = |policy| {
        let builder = Throttle::builder("policy").limit("5/day", FixedWindow::new());
        builder.backend(backend.clone()).on_error(policy).build().unwrap()
    };
    let raising = by(OnError::Raise);
    admits(&raising, "b").await;
    server.kill();
    for _ in 0..20 {
        let decision = ends(by(OnError::Allow).hit("a")).await.unwrap();
        assert!(decision.is_allowed() && decision.decided_by() == DecidedBy::Policy);
        let decision = ends(by(OnError::default()).hit("a")).await.unwrap();
        assert!(decision.is_denied() && decision.decided_by() == DecidedBy::Policy);
        assert!(ends(raising.hit("a")).await.is_err());
    }
    server.restart();
    assert_eq!(heals("a hit", || raising.hit("b")).await.decided_by(), DecidedBy::Backend);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f02_restarted_without_data_it_heals_and_tokens_still_rise() {
    let mut server = RedisServer::start();
    let backend = builder(server.url()).build().unwrap();
    let throttle = throttle(&backend, 2);
    let options = LockOptions::new().ttl(Some(Duration::from_secs(3600)));
    let mut last = 0;
    for _ in 0..5 {
        let admitted = heals("a hit", || throttle.hit("key")).await;
        assert!(admitted.is_allowed(), "the counters begin anew: {admitted:?}");
        let guard = heals("a lock", || backend.lock("lock", options)).await;
        let token = guard.fencing_token().unwrap();
        assert!(token > last, "{token} after {last}");
        last = token;
        server.restart();
        heals("the connection", || backend.ready()).await;
        assert!(!ends(guard.release()).await.unwrap(), "it was lost with the data");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f03_scripts_flushed_beside_the_load_are_never_seen() {
    const TASKS: u32 = 16;
    const HITS: u32 = 250;
    let server = RedisServer::start();
    let backend = patient(server.url());
    let throttle = throttle(&backend, TASKS * HITS / 2);
    let done = Arc::new(AtomicBool::new(false));
    let mut flusher = server.connect().unwrap();
    let flushes = std::thread::spawn({
        let done = Arc::clone(&done);
        move || {
            while !done.load(Ordering::SeqCst) {
                assert_eq!(flusher.cmd("SCRIPT FLUSH").unwrap().text(), "OK");
                pause::blocking::pace(Duration::from_micros(500));
            }
        }
    });
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        let (throttle, backend): (Throttle, Redis) = (throttle.clone(), backend.clone());
        tasks.spawn(async move {
            let mut admitted = 0;
            for _ in 0..HITS {
                admitted += u32::from(ends(throttle.hit("key")).await.unwrap().is_allowed());
                ends(backend.increment(&traffik::Key::value("count"), 1)).await.unwrap();
            }
            admitted
        });
    }
    let admitted: u32 = tasks.join_all().await.into_iter().sum();
    done.store(true, Ordering::SeqCst);
    flushes.join().unwrap();
    assert_eq!(admitted, TASKS * HITS / 2);
    let count = backend.get(&traffik::Key::value("count")).await.unwrap();
    assert_eq!(count.unwrap(), (TASKS * HITS).to_string().as_bytes());
    assert!(server.calls("eval") > 1, "the source was sent again");
}
