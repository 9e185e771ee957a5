//! What the throttles of a layer are asked about a request, and what they answer; at once, if they are in memory.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http::request::Parts;

use super::charge::PendingCharge;
use super::conclude::Admitted;
use super::decisions::{Decisions, RequestDecision, narrowest_shadow};
use super::identity::Refusal;
use super::rule::{RequestOptions, Rule};
use super::settings::{Said, Settings};
use crate::decision::Decision;
use crate::error::Error;
use crate::hit_options::HitOptions;
use crate::join::join_all;
use crate::key::{OwnedKey, ToKey};
use crate::throttle::{Mode, Permit, all};

/// What the throttles say about a request.
#[derive(Debug, Default)]
pub(super) struct RequestAnswer {
    pub(super) decisions: Decisions,
    pub(super) denied: Option<DeniedBy>,
    /// It is only looked at, and served all the same.
    pub(super) is_shadow: bool,
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
    mode: Mode,
}

/// The hits that are to be made for a request.
#[derive(Default)]
struct RuleHits {
    hits: Vec<RuleHit>,
    /// What a rule that is only looked at would have refused.
    shadowed: Option<DeniedBy>,
}

impl Settings {
    /// Asks the throttles of the rules that concern a request, and admits or denies it if they answer at once.
    #[inline]
    pub(super) fn ask(&self, request: &mut Parts) -> Asking {
        if self.mode.get() == Mode::Off || self.skips(request) {
            return Asking::Nobody;
        }
        let is_on = |rule: &Rule| rule.throttle.mode() != Mode::Off;
        let rules = self.rules.iter().enumerate();
        let mut concerned = rules.filter(|(_, rule)| is_on(rule) && rule.concerns(request));
        let Some(first) = concerned.next() else { return Asking::Nobody };
        let Some(second) = concerned.next() else { return self.ask_one(first, request) };
        let rules = [first, second].into_iter().chain(concerned);
        match self.hits_of(rules, request) {
            Ok(hits) => Asking::Later(Box::pin(ask_all(hits, Arc::clone(&self.said)))),
            Err(refused) => self.answered(refused, request),
        }
    }

    fn hits_of<'r>(
        &self,
        rules: impl Iterator<Item = (usize, &'r Arc<Rule>)>,
        request: &Parts,
    ) -> Result<RuleHits, RequestAnswer> {
        let mut all = RuleHits::default();
        for (index, rule) in rules {
            let mode = self.mode_of(rule);
            match RuleHit::of((index, mode), rule, request) {
                Ok(hit) => all.hits.push(hit),
                // It leaves no other rule unasked.
                Err(refused) if mode != Mode::Enforce => {
                    all.shadowed = all.shadowed.or(refused.denied);
                }
                Err(refused) => return Err(refused),
            }
        }
        Ok(all)
    }

    fn mode_of(&self, rule: &Rule) -> Mode {
        self.mode.get().or_milder(rule.throttle.mode())
    }

    /// Asks one throttle; at once if it is in memory.
    #[inline]
    fn ask_one(&self, (index, rule): (usize, &Arc<Rule>), request: &mut Parts) -> Asking {
        let identified = rule.identity.identify(request);
        let mode = self.mode_of(rule);
        let mut room = None;
        let answer = match identified.key_in(&mut room) {
            Err(refusal) => RequestAnswer::refused(refusal).seen_in(mode),
            Ok(key) => {
                let options = rule.options.of(request);
                let mut decision = match &options {
                    RequestOptions::Ready(options) if mode == Mode::Enforce => {
                        rule.throttle.try_hit(key, options)
                    }
                    _ => None,
                };
                let is_allowed = decision.as_ref().is_some_and(Decision::is_allowed);
                if is_allowed && !rule.charge.is_of_outcome() {
                    drop(identified);
                    return Asking::Admitted(self.admit((index, rule), &mut decision, request));
                }
                match decision {
                    Some(decision) => RequestAnswer::of_one(index, rule, key, Ok(decision)),
                    None => match RuleHit::with_key((index, mode), rule, key, options) {
                        Ok(hit) => {
                            let hits = RuleHits { hits: vec![hit], shadowed: None };
                            let said = Arc::clone(&self.said);
                            return Asking::Later(Box::pin(ask_all(hits, said)));
                        }
                        Err(failed) => failed.seen_in(mode),
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
    fn of(at: (usize, Mode), rule: &Arc<Rule>, request: &Parts) -> Result<Self, RequestAnswer> {
        let identified = rule.identity.identify(request);
        match identified.to_key() {
            Ok(key) => Self::with_key(at, rule, &key, rule.options.of(request)),
            Err(refusal) => Err(RequestAnswer::refused(refusal)),
        }
    }

    fn with_key(
        (index, mode): (usize, Mode),
        rule: &Arc<Rule>,
        key: &impl ToKey,
        options: RequestOptions,
    ) -> Result<Self, RequestAnswer> {
        let key = OwnedKey::new(key).map_err(|error| RequestAnswer::failed(error.into()))?;
        Ok(Self { index, rule: Arc::clone(rule), key, options, mode })
    }
}

/// Asks several throttles, all or nothing.
async fn ask_all(RuleHits { hits, shadowed }: RuleHits, said: Arc<Said>) -> RequestAnswer {
    let (asked, options): (Vec<_>, Vec<_>) =
        hits.into_iter().map(|it| ((it.index, it.rule, it.key, it.mode), it.options)).unzip();
    let options = join_all(options.into_iter().map(RequestOptions::get)).await;
    let answer = match (&asked[..], &options[..]) {
        ([], _) => RequestAnswer::default(),
        ([(index, rule, key, mode)], [options]) => {
            let decision = rule.throttle.hit_in(*mode, key, options).await;
            RequestAnswer::of_one(*index, rule, key, decision).failed_in(*mode)
        }
        _ => ask_together(&asked, options, &said).await,
    };
    match (answer.denied.is_some(), shadowed) {
        (false, Some(refused)) => {
            RequestAnswer { denied: Some(refused), is_shadow: true, ..answer }
        }
        _ => answer,
    }
}

type AskedRule = (usize, Arc<Rule>, OwnedKey, Mode);

async fn ask_together(asked: &[AskedRule], options: Vec<HitOptions>, said: &Said) -> RequestAnswer {
    for (place, (_, rule, key, _)) in asked.iter().enumerate() {
        let is_same = |(_, other, its_key, _): &AskedRule| {
            other.throttle.name() == rule.throttle.name() && its_key == key
        };
        if asked[..place].iter().any(is_same) {
            said.twice(rule.throttle.name());
        }
    }
    let mut together = all();
    for ((_, rule, key, mode), options) in asked.iter().zip(options) {
        together = together.hit_in(*mode, &rule.throttle, key, options);
    }
    let combined = match together.await {
        Ok(combined) => combined,
        Err(error) => {
            let mode = asked.iter().map(|(_, _, _, mode)| *mode).min().unwrap_or_default();
            return RequestAnswer::failed(error).seen_in(mode);
        }
    };
    let mut answer = RequestAnswer::default();
    let mut decisions = Vec::with_capacity(asked.len());
    for (place, (index, rule, _, _)) in asked.iter().enumerate() {
        if combined.denied_by() == Some(place) {
            answer.denied = Some(DeniedBy::Decision(decisions.len()));
        }
        if let Some(decision) = combined.decision(place) {
            decisions.push(RequestDecision::of(*index, rule, decision.clone()));
        }
    }
    if answer.denied.is_none() {
        // Of several that would deny, the one that would be felt first.
        answer.denied = narrowest_shadow(&decisions).map(DeniedBy::Decision);
        answer.is_shadow = true;
    }
    answer.decisions = Decisions::of(decisions);
    if let Ok(permits) = combined.into_permits() {
        let taken = permits.into_iter().zip(asked);
        answer.pending =
            taken.filter_map(|(permit, (_, rule, _, _))| rule.pending(permit)).collect();
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

    /// Of a rule in that mode: what a shadow refuses is served all the same.
    fn seen_in(self, mode: Mode) -> Self {
        Self { is_shadow: mode != Mode::Enforce, ..self }
    }

    fn failed_in(self, mode: Mode) -> Self {
        match self.denied {
            Some(DeniedBy::Error(_)) => self.seen_in(mode),
            _ => self,
        }
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
        let denial = decision.denial_or_shadowed();
        let (denied, is_shadow) = (denial.map(|_| DeniedBy::Decision(0)), decision.is_allowed());
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
        Self { decisions, denied, is_shadow, pending }
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
