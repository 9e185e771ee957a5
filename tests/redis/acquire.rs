//! Waiting for one's turn in several processes: by the server's reservations nobody asks twice, and each
//! gets its share.

use std::time::Duration;

use tokio::task::JoinSet;
use traffik::{FixedWindow, Redis, Throttle, TokenBucket};

use test_support::remote::callers_who_go_away_lose_nothing;
use test_support::servers::wait::now;
use test_support::servers::{RedisServer, Workers, workers};

const PROCESSES: usize = 3;
const TASKS: usize = 20;
const PER_SECOND: u32 = 50;
const BURST: u32 = 5;
const SECONDS: u64 = 4;

fn throttle(url: &str, window: bool) -> Throttle {
    let backend = Redis::builder().url(url).namespace("acquire").build().unwrap();
    let builder = Throttle::builder("sends").deadline(Duration::from_secs(5)).backend(backend);
    let rate =
        if window { format!("{PER_SECOND}/s") } else { format!("{PER_SECOND}/s burst {BURST}") };
    let builder = match window {
        true => builder.limit(rate.as_str(), FixedWindow::new()),
        false => builder.limit(rate.as_str(), TokenBucket::new()),
    };
    builder.build().unwrap()
}

/// Grants and the longest wait of each task, in milliseconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by another test as a process of its own"]
async fn worker() {
    if workers::number().is_none() {
        return;
    }
    let throttle = throttle(&workers::variable("URL"), workers::variable("KIND") == "window");
    workers::ready();
    let (start, mut tasks) = (now(), JoinSet::new());
    for _ in 0..TASKS {
        let throttle = throttle.clone();
        tasks.spawn(async move {
            let (mut grants, mut longest) = (0u32, 0);
            while start.elapsed() < Duration::from_secs(SECONDS) {
                let asked = now();
                throttle.acquire("line").await.unwrap().commit();
                grants += 1;
                longest = longest.max(asked.elapsed().as_millis());
            }
            format!("{grants} {longest}")
        });
    }
    let start = start.elapsed();
    let all = tasks.join_all().await.join(" ");
    workers::report(&format!("{} {all}", start.as_millis()));
}

fn run(kind: &str) {
    let server = RedisServer::start();
    let envs = [("URL", server.url()), ("KIND", kind.to_owned())];
    let envs: Vec<_> = envs.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut workers = Workers::spawn(PROCESSES, "acquire::worker", &envs);
    let start = now();
    workers.start_together();
    let reports = workers.results();
    let elapsed = start.elapsed();
    let asked = server.calls("evalsha") + server.calls("eval");
    let (mut grants, mut longest) = (Vec::new(), Vec::new());
    for report in &reports {
        let numbers: Vec<u64> = report.split(' ').skip(1).map(|it| it.parse().unwrap()).collect();
        grants.extend(numbers.iter().step_by(2).copied());
        longest.extend(numbers.iter().skip(1).step_by(2).copied());
    }
    let total: u64 = grants.iter().sum();
    println!(
        "{kind}: {total} grants, {asked} asked, in {elapsed:?}: {grants:?}, waits {longest:?}"
    );
    let per_second = u64::from(PER_SECOND);
    let seconds = u64::try_from(elapsed.as_millis()).unwrap();
    let tasks = (PROCESSES * TASKS) as u64;
    let most = match kind {
        "window" => (seconds / 1000 + 2) * per_second,
        _ => u64::from(BURST) + per_second * seconds / 1000 + 1,
    };
    assert!(total <= most, "{total} of {most}");
    assert!(total + tasks >= per_second * SECONDS, "{total} in {SECONDS} s");
    if kind == "window" {
        // One more for each process and window, of which a wait ends with its question.
        let windows = seconds / 1000 + 2;
        assert!(asked <= total + windows * PROCESSES as u64 * 2 + tasks, "{asked} for {total}");
        return;
    }
    // Each process may find the script unknown to the server, and send it.
    let most = total + PROCESSES as u64;
    assert!(asked <= most, "one question for each grant: {asked} for {total}");
    let (least, most) = (grants.iter().min().unwrap(), grants.iter().max().unwrap());
    assert!(most - least <= 2, "each gets its turn: {grants:?}");
    // All 60 before it: 1.2 s.
    let ideal = tasks * 1000 / per_second;
    let waited = *longest.iter().max().unwrap();
    assert!(waited * 10 <= ideal * 13, "{waited} ms, ideal {ideal}");
}

#[test]
fn by_buckets_each_grant_is_one_question_and_each_task_gets_its_turn() {
    run("bucket");
}

#[test]
fn by_windows_one_of_each_process_asks() {
    run("window");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f22_who_goes_away_gives_back_what_was_reserved() {
    let server = RedisServer::start();
    let backend = Redis::new(server.url()).unwrap();
    callers_who_go_away_lose_nothing(backend).await;
}
