//! What the throttles of a layer are asked about a request, and what they answer; at once, if they are in memory.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http::request::Parts;

use super::charge::PendingCharge;
use super::conclude::Admitted;
use super::decisions::{Decisions, RequestDecision};
use super::identity::Refusal;
use super::mode::Mode;
use super::rule::{RequestOptions, Rule};
use super::settings::{Said, Settings};
use crate::decision::Decision;
use crate::error::Error;
use crate::join::join_all;
use crate::key::{OwnedKey, ToKey};
use crate::throttle::{Permit, all};

/// What the throttles say about a request.
#[derive(Debug, Default)]
pub(super) struct RequestAnswer {
    pub(super) decisions: Decisions,
    pub(super) denied: Option<DeniedBy>,
    /// What was taken, where the response decides whether it is charged.
    pub(super) pending: Vec<PendingCharge>,
}

/// What denies a request.
#[derive(Debug)]
pub(super) enum DeniedBy {
    /// A decision, by its place.
    Decision(usize),
    Refusal(Box<Refusal>),
    Error(Box<Error>),
}

/// What comes of a request, or how its answer comes.
pub(super) enum Asking {
    /// No rule concerns it.
    Nobody,
    Admitted(Admitted),
    Denied(Box<Response<Bytes>>),
    Later(RequestAnswerFuture),
}

pub(super) type RequestAnswerFuture = Pin<Box<dyn Future<Output = RequestAnswer> + Send>>;

/// A hit that is to be made for a rule.
struct RuleHit {
    index: usize,
    rule: Arc<Rule>,
    key: OwnedKey,
    options: RequestOptions,
}

impl Settings {
    /// Asks the throttles of the rules that concern a request, and admits or denies it if they answer at once.
    #[inline]
    pub(super) fn ask(&self, request: &mut Parts) -> Asking {
        if self.mode.get() == Mode::Off || self.skips(request) {
            return Asking::Nobody;
        }
        let mut concerned =
            self.rules.iter().enumerate().filter(|(_, rule)| rule.concerns(request));
        let Some(first) = concerned.next() else { return Asking::Nobody };
        let Some(second) = concerned.next() else { return self.ask_one(first, request) };
        let rules = [first, second].into_iter().chain(concerned);
        let hits: Result<Vec<_>, RequestAnswer> =
            rules.map(|(index, rule)| RuleHit::of(index, rule, request)).collect();
        match hits {
            Ok(hits) => Asking::Later(Box::pin(ask_all(hits, Arc::clone(&self.said)))),
            Err(refused) => self.answered(refused, request),
        }
    }

    /// Asks one throttle; at once if it is in memory.
    #[inline]
    fn ask_one(&self, (index, rule): (usize, &Arc<Rule>), request: &mut Parts) -> Asking {
        let identified = rule.identity.identify(request);
        let mut room = None;
        let answer = match identified.key_in(&mut room) {
            Err(refusal) => RequestAnswer::refused(refusal),
            Ok(key) => {
                let options = rule.options.of(request);
                let mut decision = match &options {
                    RequestOptions::Ready(options) => rule.throttle.try_hit(key, options),
                    RequestOptions::Awaited(_) => None,
                };
                let is_allowed = decision.as_ref().is_some_and(Decision::is_allowed);
                if is_allowed && !rule.charge.is_of_outcome() {
                    drop(identified);
                    return Asking::Admitted(self.admit((index, rule), &mut decision, request));
                }
                match decision {
                    Some(decision) => RequestAnswer::of_one(index, rule, key, Ok(decision)),
                    None => match RuleHit::with_key(index, rule, key, options) {
                        Ok(hit) => {
                            let said = Arc::clone(&self.said);
                            return Asking::Later(Box::pin(ask_all(vec![hit], said)));
                        }
                        Err(failed) => failed,
                    },
                }
            }
        };
        drop(identified);
        self.answered(answer, request)
    }

    #[inline(never)]
    fn answered(&self, answer: RequestAnswer, request: &mut Parts) -> Asking {
        match self.conclude(answer, request) {
            Ok(admitted) => Asking::Admitted(admitted),
            Err(response) => Asking::Denied(response),
        }
    }
}

impl RuleHit {
    fn of(index: usize, rule: &Arc<Rule>, request: &Parts) -> Result<Self, RequestAnswer> {
        let identified = rule.identity.identify(request);
        match identified.to_key() {
            Ok(key) => Self::with_key(index, rule, &key, rule.options.of(request)),
            Err(refusal) => Err(RequestAnswer::refused(refusal)),
        }
    }

    fn with_key(
        index: usize,
        rule: &Arc<Rule>,
        key: &impl ToKey,
        options: RequestOptions,
    ) -> Result<Self, RequestAnswer> {
        let key = OwnedKey::new(key).map_err(|error| RequestAnswer::failed(error.into()))?;
        Ok(Self { index, rule: Arc::clone(rule), key, options })
    }
}

/// Asks several throttles, all or nothing.
async fn ask_all(hits: Vec<RuleHit>, said: Arc<Said>) -> RequestAnswer {
    let (asked, options): (Vec<_>, Vec<_>) =
        hits.into_iter().map(|hit| ((hit.index, hit.rule, hit.key), hit.options)).unzip();
    let options = join_all(options.into_iter().map(RequestOptions::get)).await;
    if let ([(index, rule, key)], [options]) = (&asked[..], &options[..]) {
        let decision = rule.throttle.hit_with(key, options.clone()).await;
        return RequestAnswer::of_one(*index, rule, key, decision);
    }
    for (place, (_, rule, key)) in asked.iter().enumerate() {
        let is_same = |(_, other, its_key): &(usize, Arc<Rule>, OwnedKey)| {
            other.throttle.name() == rule.throttle.name() && its_key == key
        };
        if asked[..place].iter().any(is_same) {
            said.twice(rule.throttle.name());
        }
    }
    let mut together = all();
    for ((_, rule, key), options) in asked.iter().zip(options) {
        together = together.hit_with(&rule.throttle, key, options);
    }
    let combined = match together.await {
        Ok(combined) => combined,
        Err(error) => return RequestAnswer::failed(error),
    };
    let mut answer = RequestAnswer::default();
    let mut decisions = Vec::with_capacity(asked.len());
    for (place, (index, rule, _)) in asked.iter().enumerate() {
        if combined.denied_by() == Some(place) {
            answer.denied = Some(DeniedBy::Decision(decisions.len()));
        }
        if let Some(decision) = combined.decision(place) {
            decisions.push(RequestDecision::of(*index, rule, decision.clone()));
        }
    }
    answer.decisions = Decisions::of(decisions);
    if let Ok(permits) = combined.into_permits() {
        let taken = permits.into_iter().zip(&asked);
        answer.pending = taken.filter_map(|(permit, (_, rule, _))| rule.pending(permit)).collect();
    }
    answer
}

impl RequestAnswer {
    #[cold]
    fn refused(refusal: &Refusal) -> Self {
        Self { denied: Some(DeniedBy::Refusal(Box::new(refusal.clone()))), ..Self::default() }
    }

    #[cold]
    fn failed(error: Error) -> Self {
        Self { denied: Some(DeniedBy::Error(Box::new(error))), ..Self::default() }
    }

    fn of_one(
        index: usize,
        rule: &Rule,
        key: &impl ToKey,
        decision: Result<Decision, Error>,
    ) -> Self {
        let decision = match decision {
            Ok(decision) => decision,
            Err(error) => return Self::failed(error),
        };
        let denied = decision.is_denied().then_some(DeniedBy::Decision(0));
        let mut pending = Vec::new();
        // The key was used for a hit, so it is one.
        let told = match denied.is_none() && rule.charge.is_of_outcome() {
            true => {
                let told = decision.clone();
                if let Ok(key) = OwnedKey::new(key) {
                    let permit = Permit::of(rule.throttle.clone(), key, decision);
                    pending.extend(rule.pending(permit));
                }
                told
            }
            false => decision,
        };
        let decisions = Decisions::of([RequestDecision::of(index, rule, told)]);
        Self { decisions, denied, pending }
    }
}

impl Rule {
    /// What waits for the response, if that decides.
    fn pending(&self, permit: Permit) -> Option<PendingCharge> {
        self.charge.is_of_outcome().then(|| PendingCharge {
            permit: self.charge.on_unknown(permit),
            charge: self.charge.clone(),
        })
    }
}
