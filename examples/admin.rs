//! An operator's tool: looks a customer up in Redis or Memcached, blocks him, and lets him go.
//!
//! ```sh
//! cargo run --features redis,memcached --example admin -- \
//!     redis://127.0.0.1 shop:prod show api tenant-7 alice@example.com
//! ```
//!
//! It finds what a service has counted by the documented names: the namespace of its backend, the name of the
//! throttle, and the parts of the key. It needs not know the rates. With `--rate` (and that strategy is a bucket) it
//! also says what is left.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example")]

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use traffik::key::{KeyPart, MAX_KEY_BYTES};
use traffik::step::{BlockChange, KeyState};
use traffik::{Backend, Key, Memcached, Rate, Redis, Throttle};

const USAGE: &str = "\
usage: admin <url> <namespace> <command> <throttle> <key part>... [option]

url        redis://host, rediss://host, memcached://host; more nodes of Memcached after commas
namespace  of the service's backend, such as shop:prod
command    name     the name under which the key is stored
           show     its block, and what each limit has counted; with --rate 100/min also what is left
           block    deny every hit on it, for an hour or --for 30s, 15m, 2h, 7d
           unblock  end a block; counts stay
           reset    forget all that is counted for it, and its block
throttle   its name, such as api:items
key part   one to four, as text
--group    a group of the service's backend, as llm=requests,tokens; once for each that it has";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The two backends, as one.
struct Store {
    backend: Arc<dyn Backend>,
    stored_name: String,
}

async fn run(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let (words, options) = split_options(arguments)?;
    let [url, namespace, command, throttle, key @ ..] = &words[..] else {
        return Err(USAGE.into());
    };
    if key.is_empty() || key.len() > traffik::key::MAX_KEY_PARTS {
        return Err(format!("a key has one to four parts, not {}\n\n{USAGE}", key.len()).into());
    }
    let parts: Vec<KeyPart<'_>> = key.iter().map(|part| KeyPart::bytes(part.as_bytes())).collect();
    let key = Key::new(throttle, &parts);
    if parts.iter().map(|part| part.as_bytes().len()).sum::<usize>() > MAX_KEY_BYTES {
        return Err(
            "so long a key is stored by its digest; look it up by the throttle itself".into()
        );
    }
    let Store { backend, stored_name } =
        connect(url, namespace, throttle, &parts, &options.groups)?;
    match command.as_str() {
        "name" => println!("{stored_name}"),
        "show" => {
            println!("{stored_name}");
            show(&backend.inspect(&key).await?);
            if let Some(rate) = options.rate {
                let throttle = Throttle::builder(throttle.as_str()).rate(rate).backend(backend);
                let found = throttle.build()?.inspect(Parts(&parts)).await?;
                for inspected in found.limits() {
                    let (left, burst) = (inspected.answer.remaining(), inspected.answer.burst());
                    println!("  {}: {left} of {burst} left", inspected.limit.rate());
                }
            }
        }
        "block" => {
            let time = options.time.unwrap_or(Duration::from_secs(3600));
            backend.change_block(&key, BlockChange::Replace(time)).await?;
            println!("blocked for {time:?}");
        }
        "unblock" => match backend.change_block(&key, BlockChange::Remove).await? {
            true => println!("not blocked any more"),
            false => println!("was not blocked"),
        },
        "reset" => {
            backend.forget(&key).await?;
            println!("forgotten");
        }
        other => return Err(format!("there is no command {other:?}\n\n{USAGE}").into()),
    }
    Ok(())
}

/// A key of parts that are given one by one.
struct Parts<'a>(&'a [KeyPart<'a>]);

impl traffik::ToKey for Parts<'_> {
    fn to_key(&self) -> traffik::key::KeyParts<'_> {
        traffik::key::KeyParts::several(self.0)
    }
}

fn connect(
    url: &str,
    namespace: &str,
    throttle: &str,
    parts: &[KeyPart<'_>],
    groups: &[Group],
) -> Result<Store, Box<dyn Error>> {
    let exempt = || "the key is exempt";
    let time = Duration::from_secs(3);
    if url.starts_with("memcached://") {
        if !groups.is_empty() {
            return Err("only Redis has groups".into());
        }
        let builder = Memcached::builder().namespace(namespace).command_timeout(time);
        let backend = url.split(',').fold(builder, |builder, node| builder.url(node)).build()?;
        let stored_name = backend.stored_name(throttle, Parts(parts))?.ok_or_else(exempt)?;
        return Ok(Store { backend: Arc::new(backend), stored_name });
    }
    let mut builder = Redis::builder().url(url).namespace(namespace).command_timeout(time);
    for (group, throttles) in groups {
        builder = builder.group(group, throttles.iter().map(String::as_str));
    }
    let backend = builder.build()?;
    let stored_name = backend.stored_name(throttle, Parts(parts))?.ok_or_else(exempt)?;
    Ok(Store { backend: Arc::new(backend), stored_name })
}

fn show(state: &KeyState) {
    let now = state.read_at();
    match state.blocked_until() {
        Some(until) => println!("  blocked for {:?} more", until.saturating_duration_since(now)),
        None => println!("  not blocked"),
    }
    if state.parts().is_empty() {
        println!("  nothing is counted");
    }
    for part in state.parts() {
        let strategy = part.strategy.name().unwrap_or("a strategy of the service's own");
        let brought =
            part.rate.map(|rate| format!(", brought by hits: {rate}")).unwrap_or_default();
        println!(
            "  {strategy} of {:?}{brought}: last hit {:?} ago, all back in {:?}",
            part.period,
            now.saturating_duration_since(part.changed_at),
            part.reset_at.saturating_duration_since(now),
        );
    }
}

#[derive(Default)]
struct Options {
    rate: Option<Rate>,
    time: Option<Duration>,
    groups: Vec<Group>,
}

/// A name, and the throttles.
type Group = (String, Vec<String>);

fn split_options(arguments: &[String]) -> Result<(Vec<String>, Options), Box<dyn Error>> {
    let (mut words, mut options) = (Vec::new(), Options::default());
    let mut rest = arguments.iter();
    while let Some(word) = rest.next() {
        let mut value = || rest.next().ok_or_else(|| format!("{word} needs a value\n\n{USAGE}"));
        match word.as_str() {
            "--rate" => options.rate = Some(value()?.parse()?),
            "--for" => options.time = Some(duration(value()?)?),
            "--group" => options.groups.push(group(value()?)?),
            option if option.starts_with("--") => {
                return Err(format!("there is no option {option}\n\n{USAGE}").into());
            }
            word => words.push(word.to_owned()),
        }
    }
    Ok((words, options))
}

/// Reads `llm=requests,tokens`.
fn group(text: &str) -> Result<Group, Box<dyn Error>> {
    let (name, throttles) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} is no group; write llm=requests,tokens"))?;
    Ok((name.to_owned(), throttles.split(',').map(str::to_owned).collect()))
}

/// Reads `30s`, `15m`, `2h` or `7d`.
fn duration(text: &str) -> Result<Duration, Box<dyn Error>> {
    let refused = || format!("{text:?} is no time; write 30s, 15m, 2h or 7d");
    let unit = text.chars().last().ok_or_else(refused)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(refused().into()),
    };
    let number: u32 = text[..text.len() - 1].parse().map_err(|_| refused())?;
    Ok(Duration::from_secs(seconds) * number)
}
