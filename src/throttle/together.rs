//! How [`all`](super::all) decides: one group of entries for each backend, in order.

use std::any::Any;
use std::sync::Arc;

use tracing::{Instrument, Span};

use super::acquire::unanswered;
use super::backend_call::{AskedKey, Unasked};
use super::begun::BegunHit;
use super::combined::{CombinedDecision, EntryDecision, WatchedEntry};
use super::span::record_failure;
use super::{Mode, Permit, PermitDrop, Throttle};
use crate::backend::Backend;
use crate::background;
use crate::decision::{BroughtLimits, DecidedBy, Decision};
use crate::error::{BackendError, Effect, Error, ErrorKind};
use crate::hit_options::HitOptions;
use crate::join::join_all;
use crate::key::{Key, KeyError, OwnedKey, ToKey};
use crate::on_error::OnError;
use crate::step::Step;
use crate::strategy::{Limit, Op};
use crate::timer::{self, Deadline};

/// The most entries: each is compared with the others.
const MOST_ENTRIES: usize = 256;

/// A hit as it was given.
pub(super) struct HitEntry {
    pub(super) throttle: Throttle,
    pub(super) key: Result<OwnedKey, KeyError>,
    pub(super) options: HitOptions,
    pub(super) mode: Mode,
}

/// A key that a backend is asked about, for one entry or for several of the same throttle.
struct KeyQuestion {
    throttle: Throttle,
    hit: BegunHit,
    key: OwnedKey,
    backend: Arc<dyn Backend>,
    /// The limits of hits that brought some.
    brought: Option<BroughtLimits>,
    cost: u32,
    leave: u32,
    /// The entries, with the cost of each.
    entries: Vec<(usize, u32)>,
}

/// What was taken for a question.
struct TakenEntries {
    permit: Permit,
    entries: Vec<(usize, u32)>,
}

/// What has come of the entries so far.
struct Progress {
    decided: Vec<EntryDecision>,
    /// Given back by a drop, also of a caller who goes away before all is decided.
    taken: Vec<TakenEntries>,
    is_denied: bool,
    failure: Option<Error>,
}

/// Decides, to the end: what was taken is given back if the caller goes away meanwhile.
pub(super) async fn decide(entries: Vec<HitEntry>) -> Result<CombinedDecision, Error> {
    let deadline = entries.iter().map(|entry| entry.throttle.inner.deadline).max();
    let deadline = Deadline::after(deadline.ok_or(Error::NoEntries)?);
    if entries.len() > MOST_ENTRIES {
        return Err(Error::TooManyEntries { entries: entries.len(), most: MOST_ENTRIES });
    }
    let mut decided: Vec<_> = entries.iter().map(|_| EntryDecision::default()).collect();
    let questions = questions(entries, &mut decided)?;
    let Some(first) = questions.first() else {
        return Ok(CombinedDecision::allowed(decided));
    };
    let name = first.backend.core().name();
    let progress = Progress { decided, taken: Vec::new(), is_denied: false, failure: None };
    match background::to_end(progress.ask_all(questions, deadline)).await {
        Some(decision) => decision.map(CombinedDecision::claimed),
        None => Err(unanswered(name, "all")),
    }
}

impl Progress {
    async fn ask_all(
        mut self,
        questions: Vec<KeyQuestion>,
        deadline: Deadline,
    ) -> Result<CombinedDecision, Error> {
        let is_shadow = |question: &KeyQuestion| question.hit.mode == Mode::Shadow;
        let (shadows, enforced): (Vec<_>, Vec<_>) = questions.into_iter().partition(is_shadow);
        for group in groups(enforced) {
            ask(group, &mut self, deadline).await;
            if self.has_ended() {
                return self.conclude(deadline).await;
            }
        }
        // Apart and after: in one step with the others, one that denies would leave these untaken.
        let decisions = join_all(shadows.iter().map(|question| question.ask(deadline))).await;
        for (question, decision) in shadows.into_iter().zip(decisions) {
            self.note(question, decision);
        }
        self.conclude(deadline).await
    }

    fn note(&mut self, question: KeyQuestion, decision: Result<Decision, Error>) {
        let KeyQuestion { throttle, hit, key, brought, entries, .. } = question;
        let decision = match decision {
            Ok(decision) => Ok(hit.told(decision)),
            Err(error) if hit.mode == Mode::Shadow => Ok(throttle.passes_in_spite_of(&error, hit)),
            Err(error) => Err(error),
        };
        let decision = match (decision, &brought) {
            (Ok(decision), None) => decision,
            (Ok(decision), Some(brought)) => throttle.with_brought(decision, brought),
            (Err(error), _) => {
                self.failure.get_or_insert(error);
                return;
            }
        };
        for (index, cost) in &entries {
            let watched = WatchedEntry::new(&throttle, hit, &key, brought.as_ref(), *cost);
            self.decided[*index].watched = watched;
            self.decided[*index].decision = Some(decision.clone());
        }
        if decision.is_denied() {
            self.is_denied = true;
            return;
        }
        let permit = Permit::of(throttle, key, decision).on_drop(PermitDrop::Refund);
        self.taken.push(TakenEntries { permit, entries });
    }

    const fn has_ended(&self) -> bool {
        self.is_denied || self.failure.is_some()
    }

    async fn conclude(self, deadline: Deadline) -> Result<CombinedDecision, Error> {
        let has_ended = self.has_ended();
        let Self { mut decided, taken, failure, .. } = self;
        if has_ended {
            let kept = give_back(taken, deadline).await;
            return match failure {
                None => Ok(CombinedDecision::denied(decided, kept)),
                Some(error) => Err(error),
            };
        }
        for TakenEntries { permit, entries } in taken {
            let costs: Vec<u32> = entries.iter().map(|(_, cost)| *cost).collect();
            let permits = permit.divide(&costs);
            for ((index, _), permit) in entries.iter().zip(permits) {
                decided[*index].permit = Some(permit);
            }
        }
        Ok(CombinedDecision::allowed(decided))
    }
}

/// Makes questions of the entries, but for those that nobody needs to be asked about.
fn questions(
    entries: Vec<HitEntry>,
    decided: &mut [EntryDecision],
) -> Result<Vec<KeyQuestion>, Error> {
    let mut questions: Vec<KeyQuestion> = Vec::new();
    for (index, entry) in entries.into_iter().enumerate() {
        let hit = entry.throttle.begin_in(entry.mode);
        let lenient = (hit.mode != Mode::Enforce).then(|| entry.throttle.clone());
        let asked = question(index, entry, hit, &mut decided[index]);
        let asked = asked.and_then(|question| {
            let Some(question) = question else { return Ok(()) };
            match questions.iter_mut().find(|other| other.is_of_same_state(&question)) {
                Some(other) => other.merge(question),
                None => {
                    questions.push(question);
                    Ok(())
                }
            }
        });
        match (asked, lenient) {
            (Err(error), Some(throttle)) => {
                let decision = throttle.passes_in_spite_of(&error, hit);
                let permit = Permit::of(throttle, OwnedKey::EXEMPT, decision.clone());
                (decided[index].decision, decided[index].permit) = (Some(decision), Some(permit));
            }
            (asked, _) => asked?,
        }
    }
    Ok(questions)
}

/// Makes a question of an entry; or `None`, and the decision, if nobody needs to be asked.
fn question(
    index: usize,
    HitEntry { throttle, key, options, mode }: HitEntry,
    hit: BegunHit,
    decided: &mut EntryDecision,
) -> Result<Option<KeyQuestion>, Error> {
    let (key, brought) = (key?, throttle.brought_by(&options)?);
    let step = throttle.step_of(&options, brought.as_deref(), Op::Take);
    let (cost, leave) = (step.cost(), step.units_to_leave());
    let unasked = match mode {
        Mode::Off => Some(Unasked::Passes(DecidedBy::Off)),
        _ => AskedKey::new(&key.to_key(), &mut None, &step).err(),
    };
    if let Some(unasked) = unasked {
        let decision = unasked.into_decision()?;
        decided.watched = WatchedEntry::new(&throttle, hit, &key, brought.as_ref(), cost);
        decided.decision = Some(decision.clone());
        decided.permit = Some(Permit::of(throttle, key, decision));
        return Ok(None);
    }
    let backend = Arc::clone(&*throttle.backend()?);
    let entries = vec![(index, cost)];
    Ok(Some(KeyQuestion { throttle, hit, key, backend, brought, cost, leave, entries }))
}

impl Throttle {
    /// Returns what a hit is told that is a mistake, of a throttle that turns nobody away: it must not fail those
    /// beside it.
    #[cold]
    fn passes_in_spite_of(&self, error: &Error, hit: BegunHit) -> Decision {
        if let Some(suppressed) = self.inner.log.pass() {
            let throttle = self.name();
            tracing::error!(throttle, %error, suppressed, "a mistake of a throttle that only looks on; those beside it go on");
        }
        match hit.mode {
            Mode::Off => Decision::pass(DecidedBy::Off),
            Mode::Shadow | Mode::Enforce => hit.told(Decision::deny(OnError::DEFAULT_RETRY_AFTER)),
        }
    }
}

impl KeyQuestion {
    fn limits(&self) -> &[Limit] {
        self.brought.as_deref().unwrap_or(&self.throttle.inner.limits)
    }

    fn step(&self) -> Step<'_> {
        Step::of_apart(self.limits(), self.cost, Op::Take).leave(self.leave)
    }

    /// Asks about this one alone, within the deadline of its throttle and of all.
    async fn ask(&self, deadline: Deadline) -> Result<Decision, Error> {
        let Self { throttle, key, backend, .. } = self;
        let (parts, mut room, step) = (key.to_key(), None, self.step());
        let asked = match AskedKey::new(&parts, &mut room, &step) {
            Ok(asked) => asked,
            Err(unasked) => return unasked.into_decision(),
        };
        let its_own = Some(deadline.earlier(throttle.deadline()));
        let outcome = throttle.apply_by(&**backend, asked.stored, &step, its_own).await;
        let ends = (Some(deadline), self.hit);
        throttle.conclude(&**backend, asked, &step, outcome, ends).await
    }

    fn is_of_same_state(&self, other: &Self) -> bool {
        is_same_backend(&self.backend, &other.backend)
            && self.throttle.name() == other.throttle.name()
            && self.hit.mode == other.hit.mode
            && self.key == other.key
    }

    /// Adds another about the same state.
    fn merge(&mut self, other: Self) -> Result<(), Error> {
        let problem = |problem: &str| Error::HitOptions {
            throttle: other.throttle.name().to_owned(),
            problem: format!("two entries of one `all` have the same key: {problem}"),
        };
        let alike = |(mine, its): (&Limit, &Limit)| {
            mine.counts_like(its) && mine.is_per_hit() == its.is_per_hit()
        };
        let is_alike = self.limits().len() == other.limits().len()
            && self.limits().iter().zip(other.limits()).all(alike);
        if !is_alike {
            return Err(problem("give the same rates to all its hits"));
        }
        let cost = self.cost.checked_add(other.cost);
        self.cost = cost.ok_or_else(|| problem("its costs are together above 4294967295"))?;
        self.leave = self.leave.max(other.leave);
        self.entries.extend(other.entries);
        Ok(())
    }
}

/// Returns whether one can decide for the other. A wrapper may have the settings of what it wraps, and decides
/// otherwise.
fn is_same_backend(one: &Arc<dyn Backend>, other: &Arc<dyn Backend>) -> bool {
    let type_of = |backend: &Arc<dyn Backend>| Any::type_id(&**backend);
    one.id() == other.id() && type_of(one) == type_of(other)
}

/// Returns the questions of each backend, in the order in which these come first.
fn groups(questions: Vec<KeyQuestion>) -> Vec<Vec<KeyQuestion>> {
    let mut groups: Vec<Vec<KeyQuestion>> = Vec::new();
    for question in questions {
        let of_same = |group: &&mut Vec<KeyQuestion>| {
            group.first().is_some_and(|first| is_same_backend(&first.backend, &question.backend))
        };
        match groups.iter_mut().find(of_same) {
            Some(group) => group.push(question),
            None => groups.push(vec![question]),
        }
    }
    groups
}

/// Asks the backend of a group: about all in one step if it can, and else in order, until one is denied.
async fn ask(group: Vec<KeyQuestion>, progress: &mut Progress, deadline: Deadline) {
    if let Some(decisions) = ask_in_one_step(&group, deadline).await {
        for (question, decision) in group.into_iter().zip(decisions) {
            progress.note(question, decision);
        }
        return;
    }
    for question in group {
        let decision = question.ask(deadline).await;
        progress.note(question, decision);
        if progress.has_ended() {
            return;
        }
    }
}

/// `None` if the backend cannot, or there is only one question.
async fn ask_in_one_step(
    group: &[KeyQuestion],
    deadline: Deadline,
) -> Option<Vec<Result<Decision, Error>>> {
    let [first, _, ..] = group else { return None };
    let steps: Vec<Step<'_>> = group.iter().map(KeyQuestion::step).collect();
    let parts: Vec<_> = group.iter().map(|question| question.key.to_key()).collect();
    let mut rooms: Vec<_> = group.iter().map(|_| None).collect();
    let asked = parts.iter().zip(&mut rooms).zip(&steps);
    let asked: Vec<AskedKey<'_>> =
        asked.filter_map(|((parts, room), step)| AskedKey::new(parts, room, step).ok()).collect();
    let hits = group.iter().zip(&asked).zip(&steps);
    let hits: Vec<(Key<'_>, Step<'_>)> = hits
        .map(|((question, asked), step)| (Key::new(question.throttle.name(), asked.stored), *step))
        .collect();
    let name = first.backend.core().name();
    let is_in_memory = group.iter().all(|it| it.throttle.inner.prepared.is_some());
    let span = match is_in_memory {
        true => Span::none(),
        false => first.throttle.call_span(name, "apply_all"),
    };
    let answer = async {
        // In memory nothing is too late, for it takes no time.
        match deadline.is_over() && !is_in_memory {
            true => Err(timer::too_late(name, "apply_all")),
            false => Ok(first.backend.apply_all(&hits).instrument(span.clone()).await),
        }
    };
    let decided = match deadline.bound(name, "apply_all", answer).await {
        Ok(decided) => decided?,
        Err(error) => Err(error),
    };
    let decided = decided.inspect_err(|error| record_failure(&span, error));
    let outcomes = each(decided, group.len(), name);
    let concluded = outcomes.into_iter().enumerate().map(|(index, outcome)| {
        let KeyQuestion { throttle, backend, hit, .. } = &group[index];
        let ends = (Some(deadline), *hit);
        throttle.conclude(&**backend, asked[index], &steps[index], outcome, ends)
    });
    Some(join_all(concluded).await)
}

/// Returns the outcome of each question of what the backend said about all.
fn each(
    decided: Result<Vec<Decision>, BackendError>,
    questions: usize,
    backend: &'static str,
) -> Vec<Result<Decision, BackendError>> {
    let error = match decided {
        Ok(decisions) if decisions.len() == questions => {
            return decisions.into_iter().map(Ok).collect();
        }
        Ok(decisions) => {
            let message = format!("{} answers to {questions} questions", decisions.len());
            let error = BackendError::new(backend, "apply_all", ErrorKind::Other);
            error.with_effect(Effect::Ambiguous).with_message(message)
        }
        Err(error) => error,
    };
    (0..questions).map(|_| Err(error.shared())).collect()
}

/// Gives back what was taken. Returns the entries whose units are then still used, because that failed or its
/// time was over; in that case it goes on.
async fn give_back(taken: Vec<TakenEntries>, deadline: Deadline) -> Vec<usize> {
    let given_back = taken.into_iter().map(|TakenEntries { permit, entries }| async move {
        let refund = background::to_end(async move {
            let throttle = permit.throttle().clone();
            permit.refund().await.inspect_err(|error| {
                if let Some(suppressed) = throttle.inner.log.pass() {
                    let throttle = throttle.name();
                    tracing::warn!(throttle, %error, suppressed, "a hit among several was not given back; it stays used");
                }
            })
        });
        match deadline.run(refund).await {
            Ok(Some(Ok(()))) => Vec::new(),
            _ => entries.into_iter().map(|(index, _)| index).collect(),
        }
    });
    join_all(given_back).await.concat()
}
