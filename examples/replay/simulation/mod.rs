//! Replays an access log through throttles, by the log's own time.
//!
//! The backend's clock is a [`ManualClock`] that is set to the time of each line, so an hour of traffic
//! takes no hour, and the same log always gives the same answer.
//!
//! A log is not sorted: a server writes a request down when it is done, and some write the time at
//! which it came. The lines are replayed in the order of the file all the same, since sorting would
//! take the whole log into memory. The library handles a clock that goes back: for a key, time then
//! stands still, and nothing extra is granted.

pub(crate) mod kind;
pub(crate) mod lines;
pub(crate) mod log;
pub(crate) mod outcome;
pub(crate) mod time;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::error::Error;

use traffik::{BuildError, InMemory, ManualClock, Rate, Throttle};

use kind::Kind;
use lines::{Line, Lines};
use log::{Entry, Malformed};
use outcome::{Limited, Outcome, Tally};

/// Replays a log through one throttle for each strategy. The first one's decisions are kept in detail.
///
/// # Errors
///
/// When the log cannot be read.
pub(crate) async fn replay(
    lines: &mut Lines<'_>,
    rate: Rate,
    kinds: &[Kind],
) -> Result<Outcome, Box<dyn Error>> {
    let mut simulation = Simulation::new(rate, kinds)?;
    loop {
        let number = lines.number() + 1;
        let (line, entry) = match lines.read()? {
            None => return Ok(simulation.finish()),
            Some(Line::Whole([])) => continue,
            Some(Line::Whole(line)) => (line, log::parse(line)),
            Some(Line::TooLong(line)) => (line, Err(Malformed("the line is longer than 64 KiB"))),
        };
        match entry {
            Ok(entry) => simulation.hit(entry).await?,
            Err(problem) => simulation.outcome.skip(number, problem.0, line),
        }
    }
}

struct Simulation {
    clock: ManualClock,
    runs: Vec<(Tally, Option<Throttle>)>,
    clients: HashMap<String, Client>,
    outcome: Outcome,
}

#[derive(Default)]
struct Client {
    requests: u64,
    /// Which runs limited it.
    limited: [bool; Kind::ALL.len()],
    /// What the first run did to it.
    details: Option<Limited>,
}

impl Simulation {
    fn new(rate: Rate, kinds: &[Kind]) -> Result<Self, BuildError> {
        let clock = ManualClock::new();
        // A log has as many clients as it has.
        let backend = InMemory::builder().clock(clock.clone()).max_keys(None).build()?;
        let run = |kind: &Kind| match kind.throttle(rate, backend.clone()) {
            Ok(throttle) => (Tally::new(*kind, None), Some(throttle)),
            Err(error) => (Tally::new(*kind, Some(error)), None),
        };
        Ok(Self {
            clock,
            runs: kinds.iter().map(run).collect(),
            clients: HashMap::new(),
            outcome: Outcome::default(),
        })
    }

    async fn hit(&mut self, entry: Entry<'_>) -> Result<(), traffik::Error> {
        self.outcome.note(entry.at);
        self.clock.set(entry.at);
        if !self.clients.contains_key(&entry.client) {
            self.clients.insert(entry.client.clone(), Client::default());
        }
        let Some(client) = self.clients.get_mut(&entry.client) else { return Ok(()) };
        client.requests += 1;
        for (index, (tally, throttle)) in self.runs.iter_mut().enumerate() {
            let Some(throttle) = throttle else { continue };
            let decision = throttle.hit(&entry.client).await?;
            if decision.is_allowed() {
                tally.allowed += 1;
                continue;
            }
            tally.denied += 1;
            tally.clients += usize::from(!client.limited[index]);
            client.limited[index] = true;
            if index == 0 {
                let first = || Limited::new(&entry.client, entry.at, entry.agent);
                client.details.get_or_insert_with(first).deny(&decision);
            }
        }
        Ok(())
    }

    fn finish(self) -> Outcome {
        let clients = self.clients.len();
        let details = |client: Client| {
            client.details.map(|limited| Limited { requests: client.requests, ..limited })
        };
        let mut limited: Vec<_> = self.clients.into_values().filter_map(details).collect();
        // The name decides a tie, so that the same log gives the same report.
        limited.sort_by(|a, b| (Reverse(a.denied), &a.client).cmp(&(Reverse(b.denied), &b.client)));
        let tallies = self.runs.into_iter().map(|(tally, _)| tally).collect();
        Outcome { clients, limited, tallies, ..self.outcome }
    }
}

#[cfg(test)]
mod tests;
