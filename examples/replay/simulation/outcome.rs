//! What a replay found.

use std::time::Duration;

use traffik::{BuildError, Decision, Timestamp};

use super::kind::Kind;

/// The malformed lines that are kept to be shown.
const MOST_SHOWN: usize = 5;
/// The most bytes of the log that are shown in one place.
const MOST_TEXT: usize = 60;

#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) requests: u64,
    pub(crate) clients: usize,
    /// The first and the last instant of the log; `None` if it has no request.
    pub(crate) span: Option<(Timestamp, Timestamp)>,
    pub(crate) back: Back,
    pub(crate) skipped: Skipped,
    /// One for each strategy, in the order given.
    pub(crate) tallies: Vec<Tally>,
    /// Who was limited by the first strategy, the most often denied first.
    pub(crate) limited: Vec<Limited>,
}

/// Lines that are older than one before them.
#[derive(Debug, Default)]
pub(crate) struct Back {
    pub(crate) lines: u64,
    pub(crate) furthest: Duration,
}

/// Lines that could not be read.
#[derive(Debug, Default)]
pub(crate) struct Skipped {
    pub(crate) lines: u64,
    /// The first few: the line's number, what is wrong, and how it starts.
    pub(crate) shown: Vec<(u64, &'static str, String)>,
}

/// What one strategy made of the log.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) kind: Kind,
    pub(crate) allowed: u64,
    pub(crate) denied: u64,
    /// How many clients were limited.
    pub(crate) clients: usize,
    /// Why this strategy cannot keep the rate, if so; then it counted nothing.
    pub(crate) refused: Option<BuildError>,
}

/// A client that was limited.
#[derive(Debug)]
pub(crate) struct Limited {
    pub(crate) client: String,
    pub(crate) requests: u64,
    pub(crate) denied: u64,
    /// When it was denied first.
    pub(crate) first: Timestamp,
    /// The longest `retry_after`; `None` if no wait would have helped.
    pub(crate) longest_wait: Option<Duration>,
    /// The user agent of the first request that was denied.
    pub(crate) agent: Option<String>,
}

impl Outcome {
    /// Notes the time of a request, in the order of the file.
    pub(super) fn note(&mut self, at: Timestamp) {
        self.requests += 1;
        let (first, last) = self.span.unwrap_or((at, at));
        self.span = Some((first.min(at), last.max(at)));
        let back = last.saturating_duration_since(at);
        self.back.lines += u64::from(!back.is_zero());
        self.back.furthest = self.back.furthest.max(back);
    }

    pub(super) fn skip(&mut self, number: u64, problem: &'static str, line: &[u8]) {
        self.skipped.lines += 1;
        if self.skipped.shown.len() < MOST_SHOWN {
            self.skipped.shown.push((number, problem, excerpt(line)));
        }
    }
}

impl Tally {
    pub(super) fn new(kind: Kind, refused: Option<BuildError>) -> Self {
        Self { kind, allowed: 0, denied: 0, clients: 0, refused }
    }
}

impl Limited {
    /// A client at its first denial.
    pub(super) fn new(client: &str, at: Timestamp, agent: Option<&[u8]>) -> Self {
        Self {
            client: client.to_owned(),
            requests: 0,
            denied: 0,
            first: at,
            longest_wait: Some(Duration::ZERO),
            agent: agent.map(excerpt),
        }
    }

    pub(super) fn deny(&mut self, decision: &Decision) {
        self.denied += 1;
        self.longest_wait = match decision.outcome() {
            traffik::Outcome::Denied { retry_after } => {
                self.longest_wait.map(|longest| longest.max(retry_after))
            }
            traffik::Outcome::Allowed | traffik::Outcome::Never => None,
        };
    }
}

/// The start of a text that a stranger wrote, with control bytes escaped: a terminal obeys those.
fn excerpt(text: &[u8]) -> String {
    let shown = &text[..text.len().min(MOST_TEXT)];
    let dots = if shown.len() < text.len() { "..." } else { "" };
    format!("{}{dots}", shown.escape_ascii())
}
