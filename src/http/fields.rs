//! [`Fields`]: what a client is told about its limits, in header fields.

use std::borrow::Cow;
use std::mem;
use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};

use super::decisions::{RequestDecision, narrowest};
use super::field_text::{FieldText, number};
use super::limit_texts::{FieldItem, LARGEST, LimitTexts, Texts};
use super::rule::Rule;
use crate::decision::{Decision, Denial, LimitAnswer, Outcome};
use crate::strategy::Limit;
use crate::throttle::Mode;

// Constants, for each use is a copy from the program's own memory. A clone of a static is written by parts, and moved on
// before they have left the store buffer, for which a core waits.
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const X_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const X_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const X_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// Which fields tell a client about its limits. `Retry-After` of a denial comes with each of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fields {
    /// `RateLimit-Policy` and `RateLimit`, as revision 11 of the IETF's draft "RateLimit header fields for HTTP" has
    /// them. The default. Later revisions may differ, which is why it is named.
    ///
    /// ```text
    /// RateLimit-Policy: "burst";q=20;w=2, "daily";q=5000;w=86400
    /// RateLimit: "burst";r=19;t=2, "daily";r=4711;t=3600
    /// ```
    ///
    /// An item for each limit, under its [name](crate::Limit::name): `q` units in a window of `w` seconds, of which
    /// `r` are left. In `t` seconds a request that was denied passes; of one that was allowed it is when all `q` are
    /// back, and `r` units spread over it are no faster than the limit. Of a bucket `q` is the burst and `w` the time in which it
    /// fills, which is the same rate; `w` is left out if it is not whole seconds. Nothing of a key is in them.
    #[default]
    Draft11,
    /// `X-RateLimit-Limit`, `-Remaining` and `-Reset`, of the limit that is felt first. The reset is in seconds from
    /// now; others send a date or an epoch under that name.
    XRateLimit,
    /// Both of these.
    Both,
    /// None but `Retry-After`.
    None,
}

/// On which responses the fields are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FieldsOn {
    /// On all. The default.
    #[default]
    All,
    /// On those of requests that were allowed.
    Allowed,
    /// On denials.
    Denied,
}

impl FieldsOn {
    pub(super) const fn includes(self, is_denied: bool) -> bool {
        match self {
            Self::All => true,
            Self::Allowed => !is_denied,
            Self::Denied => is_denied,
        }
    }
}

impl Fields {
    const fn has_draft(self) -> bool {
        matches!(self, Self::Draft11 | Self::Both)
    }

    const fn has_x(self) -> bool {
        matches!(self, Self::XRateLimit | Self::Both)
    }

    /// Returns the fields of a decision.
    pub(super) fn of_one(self, told: &Told<'_>) -> FieldValues {
        let draft = match self.has_draft() {
            false => DraftValues::None,
            true => told
                .draft_in_numbers()
                .unwrap_or_else(|| DraftValues::Texts(told.draft_in_text().into_iter().collect())),
        };
        FieldValues { draft, x: self.has_x().then(|| told.x()) }
    }

    /// Returns the fields of these decisions.
    pub(super) fn of_several(self, all: &[Told<'_>]) -> FieldValues {
        let draft = match self.has_draft() {
            false => DraftValues::None,
            true => DraftValues::Texts(all.iter().filter_map(Told::draft_in_text).collect()),
        };
        let narrowest = || narrowest(all.iter(), |told| told.decision);
        FieldValues { draft, x: self.has_x().then(narrowest).flatten().map(Told::x) }
    }
}

/// A decision of which a client is told.
pub(super) struct Told<'d> {
    decision: &'d Decision,
    rule: &'d Rule,
    wait: Option<ToldWait>,
}

/// The wait that a client is told when it is denied.
#[derive(Clone, Copy)]
pub(super) struct ToldWait {
    pub(super) seconds: u64,
    /// It is that of this decision, and not of another.
    pub(super) is_its_own: bool,
}

impl<'d> Told<'d> {
    /// `None` where no limit has figures to tell.
    pub(super) fn of(decision: &'d Decision, rule: &'d Rule) -> Option<Self> {
        // What holds for nobody is told nobody.
        let is_enforced = rule.throttle.mode() == Mode::Enforce;
        let is_told = rule.has_fields && is_enforced && has_figures(decision);
        is_told.then_some(Self { decision, rule, wait: None })
    }

    /// Of a request that is denied.
    pub(super) fn of_denied(self, wait: Option<ToldWait>) -> Self {
        Self { wait, ..self }
    }

    fn texts(&self) -> Cow<'d, Texts> {
        match self.decision.brought() {
            None => Cow::Borrowed(&self.rule.texts),
            Some(brought) => Cow::Owned(LimitTexts::of(brought).into()),
        }
    }

    /// `None` for other than one limit.
    fn draft_in_numbers(&self) -> Option<DraftValues> {
        let texts = self.texts();
        let (_, item) = texts.only()?;
        let left = self.left_of(item, 0, &self.decision.answers().next()?);
        Some(DraftValues::One { texts: texts.into_owned(), left })
    }

    /// Returns the policy and what is left.
    fn draft_in_text(&self) -> Option<(HeaderValue, HeaderValue)> {
        let texts = self.texts();
        let answers = self.decision.answers().zip(&texts.items).enumerate();
        let left = answers.filter_map(|(place, (answer, item))| {
            let item = item.as_ref()?;
            Some((item, self.left_of(item, place, &answer)))
        });
        Some((texts.policy.clone()?, text_of(left)?))
    }

    fn x(&self) -> XValues {
        // Of more than one that is denied, each tells the wait of the one that decides.
        let wait = self.wait.filter(|_| self.decision.is_denied()).map(|wait| wait.seconds);
        XValues {
            limit: self.decision.burst(),
            remaining: self.decision.remaining(),
            reset: wait.unwrap_or_else(|| whole_seconds(self.decision.reset_after())),
        }
    }

    fn left_of(&self, item: &FieldItem, limit: usize, answer: &LimitAnswer) -> LimitLeft {
        let seconds = match answer.outcome() {
            Outcome::Allowed => Some(item.until_more(answer)),
            // What the denied one waits for is what the client is told.
            Outcome::Denied { retry_after } => Some(match self.wait {
                Some(wait) if wait.is_its_own && self.decision.denied_by() == Some(limit) => {
                    wait.seconds
                }
                _ => whole_seconds(retry_after),
            }),
            Outcome::Never => None,
        };
        LimitLeft { remaining: answer.remaining(), seconds }
    }
}

/// The values of the fields, of a response that is still to come.
///
/// Mostly they are numbers until then, for texts are large, and moving them from hand to hand costs more than writing
/// them.
#[derive(Debug, Default)]
pub(super) struct FieldValues {
    draft: DraftValues,
    x: Option<XValues>,
}

#[derive(Debug, Default)]
enum DraftValues {
    #[default]
    None,
    /// Of one limit of one throttle, as mostly.
    One { texts: Texts, left: LimitLeft },
    /// For each throttle its policy, and what is left.
    Texts(Vec<(HeaderValue, HeaderValue)>),
}

/// What is left of a limit.
#[derive(Debug)]
struct LimitLeft {
    remaining: u32,
    /// Until there is more; `None` where no wait helps.
    seconds: Option<u64>,
}

#[derive(Debug)]
struct XValues {
    limit: u32,
    remaining: u32,
    reset: u64,
}

impl FieldValues {
    /// Appends them to those of a response.
    pub(super) fn append_to(&mut self, headers: &mut HeaderMap) {
        match mem::take(&mut self.draft) {
            DraftValues::None => {}
            DraftValues::One { texts, left } => {
                if let Some((policy, item)) = texts.only() {
                    headers.append(RATELIMIT_POLICY, policy.clone());
                    if let Some(left) = text_of([(item, left)]) {
                        headers.append(RATELIMIT, left);
                    }
                }
            }
            DraftValues::Texts(values) => {
                for (policy, left) in values {
                    headers.append(RATELIMIT_POLICY, policy);
                    headers.append(RATELIMIT, left);
                }
            }
        }
        if let Some(XValues { limit, remaining, reset }) = self.x.take() {
            headers.append(X_LIMIT, number(limit.into()));
            headers.append(X_REMAINING, number(remaining.into()));
            headers.append(X_RESET, number(reset));
        }
    }
}

/// Returns the value of `RateLimit`.
fn text_of<'i>(all: impl IntoIterator<Item = (&'i FieldItem, LimitLeft)>) -> Option<HeaderValue> {
    let mut text = FieldText::default();
    for (item, LimitLeft { remaining, seconds }) in all {
        text.separate();
        text.push(&item.text);
        text.push_number(remaining.into());
        if let Some(seconds) = seconds {
            text.push(b";t=");
            text.push_number(seconds);
        }
    }
    text.into_value()
}

/// Sets `Retry-After`, unless who made the response did.
pub(super) fn set_retry_after(headers: &mut HeaderMap, told: Option<u64>) {
    if let Some(seconds) = told {
        headers.entry(RETRY_AFTER).or_insert_with(|| number(seconds));
    }
}

/// Returns whole seconds, rounded up, at least 1.
pub(super) fn whole_seconds(time: Duration) -> u64 {
    let seconds = time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0));
    seconds.clamp(1, LARGEST)
}

/// Returns whether limits were asked, and answered by themselves.
fn has_figures(decision: &Decision) -> bool {
    let by_limits = matches!(decision.denial(), None | Some(Denial::Limited | Denial::Never));
    decision.decided_by().is_by_limits() && by_limits && decision.answers().len() > 0
}

/// Returns the limits that were asked, in the order of the answers.
pub(super) fn limits_of(one: &RequestDecision) -> &[Limit] {
    one.decision.brought().unwrap_or_else(|| one.throttle.limits())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::PeerAddr;
    use crate::throttle::Throttle;

    /// Of more limits than are kept.
    #[tokio::test]
    async fn are_the_same_whether_texts_are_kept_or_counted() {
        for rates in [&["9/min"][..], &["9/min", "20/h"], &["unlimited", "9/min"]] {
            let throttle = rates.iter().fold(Throttle::builder("api"), |it, rate| it.rate(*rate));
            let throttle = throttle.backend(crate::InMemory::new()).build().unwrap();
            let decision = throttle.hit("key").await.unwrap();
            let kept = Rule::new(throttle, PeerAddr::new());
            let mut counted = kept.clone();
            counted.texts = LimitTexts::of(kept.throttle.limits()).into();
            let [kept, counted] = [kept, counted].map(|rule| {
                let mut headers = HeaderMap::new();
                let told = Told::of(&decision, &rule).unwrap();
                Fields::Both.of_one(&told).append_to(&mut headers);
                headers
            });
            assert_eq!(kept, counted, "{rates:?}");
            assert!(kept.contains_key(&X_LIMIT), "{kept:?}");
        }
    }
}
