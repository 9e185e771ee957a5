//! [`Denied`]: a request that is not served, and the answer to it.

use std::fmt;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{Response, StatusCode};

use super::decisions::RequestDecision;
use super::fields::{limits_of, whole_seconds};
use super::identity::Refusal;
use crate::decision::{Denial, Outcome};
use crate::error::Error;

/// Why a request is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeniedReason {
    /// A limit is used up for now: 429.
    Limited,
    /// The request costs more than can ever pass, so no wait helps: 429 without `Retry-After`.
    Never,
    /// The key is [blocked](crate::Throttle::block): 429.
    Blocked,
    /// The error policy denies while the store fails, the backend is full, or an error came out of a throttle whose
    /// policy is to [raise](crate::OnError::Raise) it: 503.
    Unavailable,
    /// Nobody knows whose request it is: the status that the identity was given for that.
    Unidentified,
    /// A mistake of the program, such as a closed backend or a wrong password; see the log: 500.
    Misconfigured,
}

/// A request that is not served, with all that an answer to it may say.
pub struct Denied<'d> {
    pub(super) request: &'d Parts,
    pub(super) reason: DeniedReason,
    pub(super) decisions: &'d [RequestDecision],
    pub(super) denied_by: Option<usize>,
    pub(super) refusal: Option<&'d Refusal>,
    /// What the client is told to wait.
    pub(super) wait: Option<Duration>,
    pub(super) is_enforced: bool,
}

impl<'d> Denied<'d> {
    /// Returns the head of the request.
    #[must_use]
    pub const fn request(&self) -> &'d Parts {
        self.request
    }

    /// Returns why it is denied.
    #[must_use]
    pub const fn reason(&self) -> DeniedReason {
        self.reason
    }

    /// Returns the status of the default answer.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self.reason {
            DeniedReason::Limited | DeniedReason::Never | DeniedReason::Blocked => {
                StatusCode::TOO_MANY_REQUESTS
            }
            DeniedReason::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            DeniedReason::Unidentified => {
                self.refusal.map_or(StatusCode::FORBIDDEN, Refusal::status)
            }
            DeniedReason::Misconfigured => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Returns the seconds of `Retry-After`: the [`wait`](Self::wait) rounded up, at least 1. `None` where no wait
    /// helps.
    #[must_use]
    pub fn retry_after(&self) -> Option<u64> {
        self.wait.map(whole_seconds)
    }

    /// Returns how long the client is told to wait: the decision's wait, and what
    /// [`jitter`](super::ThrottleLayer::jitter) adds. `None` where no wait helps.
    #[must_use]
    pub const fn wait(&self) -> Option<Duration> {
        self.wait
    }

    /// Returns `true` if the request is denied; `false` in [`Mode::Shadow`](super::Mode::Shadow), where it would have
    /// been, and is served.
    #[must_use]
    pub const fn is_enforced(&self) -> bool {
        self.is_enforced
    }

    /// Returns the decision that denied. `None` if no throttle did.
    #[must_use]
    pub fn deciding(&self) -> Option<&'d RequestDecision> {
        self.decisions.get(self.denied_by?)
    }

    /// Returns the decisions of all throttles that were asked.
    #[must_use]
    pub const fn decisions(&self) -> &'d [RequestDecision] {
        self.decisions
    }

    /// Returns the names of the limits that deny, also of rules [without fields](super::Rule::without_fields), of which
    /// clients are not told.
    #[must_use]
    pub fn violated(&self) -> Vec<String> {
        violated(self.deny())
    }

    /// Returns those of which the client is told.
    pub(super) fn told(&self) -> Vec<String> {
        violated(self.deny().filter(|one| one.is_told))
    }

    /// Returns the decisions that deny; those that would, where that is only looked at.
    fn deny(&self) -> impl Iterator<Item = &'d RequestDecision> {
        let is_enforced = self.is_enforced;
        self.decisions.iter().filter(move |one| one.decision.is_denied() == is_enforced)
    }

    /// Returns a sentence for people that says what is wrong.
    #[must_use]
    pub fn detail(&self) -> String {
        let after = match self.retry_after() {
            Some(1) => "; retry after 1 second".to_owned(),
            Some(seconds) => format!("; retry after {seconds} seconds"),
            None => String::new(),
        };
        match self.reason {
            DeniedReason::Limited => format!("too many requests{after}"),
            DeniedReason::Never if self.deciding().is_some_and(|one| one.decision.limit() == 0) => {
                "no request passes this limit; a retry does not help".into()
            }
            DeniedReason::Never => {
                "the request costs more than its limit ever lets pass; a retry does not help".into()
            }
            DeniedReason::Blocked => format!("requests are blocked after abnormal usage{after}"),
            DeniedReason::Unavailable => format!("the service is limited for now{after}"),
            DeniedReason::Unidentified => {
                self.refusal.map_or_else(String::new, |refusal| refusal.text().to_owned())
            }
            DeniedReason::Misconfigured => "the service cannot count its requests".into(),
        }
    }

    /// Returns a response with the default [`status`](Self::status), and this body.
    #[must_use]
    pub fn response<T>(&self, body: T) -> Response<T> {
        let mut response = Response::new(body);
        *response.status_mut() = self.status();
        response
    }

    /// Returns the default answer: `application/problem+json` (RFC 9457), with the types that the draft of the
    /// fields asks for.
    #[must_use]
    pub fn problem(&self) -> Response<Bytes> {
        let mut response = self.response(Bytes::from(self.problem_text()));
        let json = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        response
    }

    fn problem_text(&self) -> String {
        let (kind, title) = match self.reason {
            DeniedReason::Limited | DeniedReason::Never => ("quota-exceeded", "Quota exceeded"),
            DeniedReason::Blocked => ("abnormal-usage-detected", "Abnormal usage detected"),
            DeniedReason::Unavailable => {
                ("temporary-reduced-capacity", "Temporarily reduced capacity")
            }
            DeniedReason::Unidentified | DeniedReason::Misconfigured => {
                ("", self.status().canonical_reason().unwrap_or_default())
            }
        };
        let mut text = String::with_capacity(256);
        text.push_str("{\"type\":\"");
        match kind {
            "" => text.push_str("about:blank"),
            kind => {
                let _ = write!(text, "https://iana.org/assignments/http-problem-types#{kind}");
            }
        }
        let _ = write!(text, "\",\"title\":\"{title}\",\"status\":{}", self.status().as_u16());
        text.push_str(",\"detail\":");
        push_json(&mut text, &self.detail());
        if matches!(self.reason, DeniedReason::Limited | DeniedReason::Never) {
            text.push_str(",\"violated-policies\":[");
            for (index, name) in self.told().iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                push_json(&mut text, name);
            }
            text.push(']');
        }
        text.push('}');
        text
    }
}

fn violated<'d>(decisions: impl Iterator<Item = &'d RequestDecision>) -> Vec<String> {
    let mut names = Vec::new();
    for one in decisions.filter(|one| one.decision.denied_by_or_shadowed().is_some()) {
        if !one.decision.decided_by().is_by_limits() {
            // By the rate alone, or by a throttle that an error handler asked.
            let limit = one.throttle.denied_by(&one.decision);
            names.extend(limit.map(|limit| limit.name().into_owned()));
            continue;
        }
        let denies = limits_of(one).iter().zip(one.decision.answers());
        let denies = denies.filter(|(_, answer)| answer.outcome() != Outcome::Allowed);
        names.extend(denies.map(|(limit, _)| limit.name().into_owned()));
    }
    names
}

/// Writes a string of JSON (RFC 8259, section 7).
fn push_json(text: &mut String, value: &str) {
    text.push('"');
    for char in value.chars() {
        match char {
            '"' | '\\' => text.extend(['\\', char]),
            '\0'..='\x1f' => {
                let _ = write!(text, "\\u{:04x}", u32::from(char));
            }
            _ => text.push(char),
        }
    }
    text.push('"');
}

impl fmt::Debug for Denied<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Denied")
            .field("reason", &self.reason)
            .field("status", &self.status())
            .field("wait", &self.wait)
            .field("violated", &self.violated())
            .finish_non_exhaustive()
    }
}

/// Is told of each request that is not served.
pub(super) type OnDenied = Arc<dyn Fn(&Denied<'_>) + Send + Sync>;
type Respond = dyn Fn(&Denied<'_>) -> Response<Bytes> + Send + Sync;

/// Makes the answer to a request that is not served.
#[derive(Clone)]
pub(super) struct Responder(Arc<Respond>);

impl Responder {
    pub(super) fn new<T: Into<Bytes>>(
        respond: impl Fn(&Denied<'_>) -> Response<T> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(move |denied| respond(denied).map(Into::into)))
    }

    pub(super) fn respond(&self, denied: &Denied<'_>) -> Response<Bytes> {
        (self.0)(denied)
    }
}

impl DeniedReason {
    /// Of a denial by a decision.
    pub(super) const fn of(denial: Option<Denial>) -> Self {
        match denial {
            Some(Denial::Never) => Self::Never,
            Some(Denial::Blocked) => Self::Blocked,
            Some(Denial::Full | Denial::Policy) => Self::Unavailable,
            Some(Denial::Limited) | None => Self::Limited,
        }
    }

    /// Of an error of a throttle.
    pub(super) fn of_error(error: &Error) -> Self {
        match error {
            Error::Backend(error) if !error.kind().bypasses_policy() => Self::Unavailable,
            _ => Self::Misconfigured,
        }
    }
}

/// Returns the wait that a denial tells.
pub(super) fn wait_of(outcome: Outcome, jitter: Duration) -> Option<Duration> {
    match outcome {
        Outcome::Denied { retry_after } if jitter.is_zero() => Some(retry_after),
        Outcome::Denied { retry_after } => {
            Some(retry_after.saturating_add(crate::random::up_to(jitter)))
        }
        Outcome::Allowed | Outcome::Never => None,
    }
}
