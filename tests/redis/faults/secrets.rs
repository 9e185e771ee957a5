//! Passwords appear nowhere.

use std::error::Error;
use std::fmt::Debug;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;
use traffik::backend::redis::{LockType, RedisBuilder};
use traffik::{Backend, Key, LockOptions, Locks, Redis, Values};

use super::common::{PLENTY, ends, throttle};
use test_support::servers::{RedisServer, Workers, ports, workers};

const PASSWORD: &str = "hunter2-and-3";
/// As it stands in a URL, if it has signs that must be escaped.
const ESCAPED: &str = "hunter2%2Dand%2D3";

/// All that could be read by somebody.
#[derive(Clone, Debug, Default)]
struct Seen(Arc<Mutex<Vec<u8>>>);

impl Seen {
    fn debug(&self, value: &impl Debug) {
        writeln!(self.0.lock().unwrap(), "{value:?} {value:#?}").unwrap();
    }

    fn error(&self, error: &(dyn Error + 'static)) {
        self.debug(&error);
        let mut next = Some(error);
        while let Some(error) = next {
            writeln!(self.0.lock().unwrap(), "{error} {error:?}").unwrap();
            next = error.source();
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }

    #[track_caller]
    fn has_no_secret(&self) {
        let text = self.text();
        for secret in [PASSWORD, ESCAPED, "hunter2"] {
            let at = text.find(secret);
            let around = at.map(|at| &text[at.saturating_sub(300)..at]);
            assert!(at.is_none(), "a secret after {around:?}");
        }
    }
}

impl Write for Seen {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Seen {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Uses a backend in each way, and keeps what it says.
async fn use_it(seen: &Seen, builder: RedisBuilder) {
    let builder = builder.initialize_timeout(Duration::from_millis(300));
    seen.debug(&builder);
    let backend = match builder.build() {
        Ok(backend) => backend,
        Err(error) => return seen.error(&error),
    };
    seen.debug(&backend);
    let throttle = throttle(&backend, PLENTY);
    seen.debug(&throttle);
    if let Err(error) = ends(backend.initialize()).await {
        seen.error(&error);
    }
    match ends(throttle.hit("key")).await {
        Ok(decision) => seen.debug(&decision),
        Err(error) => seen.error(&error),
    }
    if let Err(error) = ends(backend.get(&Key::value("key"))).await {
        seen.error(&error);
    }
    match ends(backend.lock("lock", LockOptions::new().blocking(false))).await {
        Ok(guard) => seen.debug(&guard),
        Err(error) => seen.error(&error),
    }
    if let Err(error) = ends(backend.clear()).await {
        seen.error(&error);
    }
}

/// What is logged is caught by thread, and only reliably where no other thread logs.
#[test]
#[ignore = "run by another test as a process of its own"]
fn worker() {
    if workers::number().is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(look_everywhere());
        workers::report("nothing seen");
    }
}

#[test]
fn f15_passwords_appear_nowhere() {
    assert_eq!(Workers::run(1, "faults::secrets::worker", &[]), ["nothing seen"]);
}

async fn look_everywhere() {
    let seen = Seen::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(seen.clone())
        .finish();
    // For the whole process, since it has threads in the background.
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let mut server = RedisServer::with(&["--requirepass", "right"]);
    let open = RedisServer::start();
    let host = |server: &RedisServer| format!("127.0.0.1:{}", server.port());
    let nobody = format!("127.0.0.1:{}", ports::free());
    let good = RedisServer::with(&["--requirepass", PASSWORD]);
    let at = |host: &str| {
        ["redis://:", "redis://user:", "rediss://:", "redis://hunter2:"]
            .map(|start| format!("{start}{PASSWORD}@{host}"))
    };
    let mut urls: Vec<String> = [host(&server), host(&open), host(&good), nobody.clone()]
        .iter()
        .flat_map(|host| at(host))
        .collect();
    urls.push(format!("redis://:{ESCAPED}@{}", host(&server)));
    for broken in ["127.0.0.1:port", "127.0.0.1:99999", "127.0.0.1/no-number", "[::1", " ", ""] {
        urls.extend(at(broken));
    }
    urls.push(format!("http://:{PASSWORD}@{nobody}"));
    urls.push(PASSWORD.to_owned());
    for url in &urls {
        use_it(&seen, Redis::builder().url(url)).await;
        seen.has_no_secret();
    }
    let wrong = at(&host(&server));
    use_it(&seen, Redis::builder().cluster(wrong.clone())).await;
    use_it(&seen, Redis::builder().cluster(at("127.0.0.1:port"))).await;
    use_it(&seen, Redis::builder().cluster(at(&nobody))).await;
    use_it(&seen, Redis::builder().sentinels(wrong.clone(), "service")).await;
    use_it(&seen, Redis::builder().sentinels(at(&nobody), "service")).await;
    seen.has_no_secret();
    let redlock = LockType::Redlock(wrong[..3].to_vec());
    seen.debug(&redlock);
    let redlock = LockType::Redlock(vec![
        wrong[0].clone(),
        at(&host(&good))[0].clone(),
        at(&nobody)[0].clone(),
    ]);
    use_it(&seen, Redis::builder().url(open.url()).lock_type(redlock)).await;
    seen.has_no_secret();

    // Good, until the server changes its mind.
    let backend = Redis::builder().url(server.url()).build().unwrap();
    backend.initialize().await.unwrap();
    server.cmd(&format!("CONFIG SET requirepass {PASSWORD}"));
    server.kill();
    for _ in 0..20 {
        if let Err(error) = ends(backend.ready()).await {
            seen.error(&error);
        }
    }
    seen.debug(&backend);
    seen.has_no_secret();
    let text = seen.text();
    assert!(text.contains("no connection; trying again"), "logs are caught:\n{text}");
    assert!(text.contains(&host(&server)), "addresses are shown");
}
