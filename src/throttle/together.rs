//! How [`all`](super::all) decides: one group of entries for each backend, in order.

use std::any::Any;
use std::sync::Arc;

use super::all::Entry;
use super::backend_call::AskedKey;
use super::combined::{CombinedDecision, EntryDecision};
use super::{Permit, PermitDrop, Throttle};
use crate::backend::Backend;
use crate::decision::Decision;
use crate::error::{BackendError, Effect, Error, ErrorKind};
use crate::join::join_all;
use crate::key::{Key, OwnedKey, ToKey};
use crate::step::Step;
use crate::strategy::{Limit, Op};
use crate::timer::Deadline;

/// A key that a backend is asked about, for one entry or for several of the same throttle.
struct Question {
    throttle: Throttle,
    key: OwnedKey,
    backend: Arc<dyn Backend>,
    /// The limits of hits that brought some.
    brought: Option<Arc<[Limit]>>,
    cost: u32,
    leave: u32,
    /// The entries, with the cost of each.
    entries: Vec<(usize, u32)>,
}

/// What was taken for a question.
struct Taken {
    permit: Permit,
    entries: Vec<(usize, u32)>,
}

pub(super) async fn decide(entries: Vec<Entry>) -> Result<CombinedDecision, Error> {
    if entries.is_empty() {
        return Err(Error::NoEntries);
    }
    let mut decided: Vec<EntryDecision> =
        entries.iter().map(|_| EntryDecision::default()).collect();
    let mut taken: Vec<Taken> = Vec::new();
    for group in groups(questions(entries, &mut decided)?) {
        let decisions = ask(&group).await;
        let mut failure = None;
        let mut is_denied = false;
        for (question, decision) in group.into_iter().zip(decisions) {
            let decision = match decision {
                Ok(decision) => match &question.brought {
                    None => decision,
                    Some(brought) => question.throttle.with_brought(decision, brought),
                },
                Err(error) => {
                    failure.get_or_insert(error);
                    continue;
                }
            };
            for (index, _) in &question.entries {
                decided[*index].decision = Some(decision.clone());
            }
            is_denied |= decision.is_denied();
            if decision.is_allowed() {
                // Given back also by a caller who goes away before all is decided.
                let permit = Permit::of(question.throttle, question.key, decision);
                let permit = permit.on_drop(PermitDrop::Refund);
                taken.push(Taken { permit, entries: question.entries });
            }
        }
        if is_denied || failure.is_some() {
            let kept = give_back(taken).await;
            return match failure {
                None => Ok(CombinedDecision::denied(decided, kept)),
                Some(error) => Err(error),
            };
        }
    }
    for Taken { permit, entries } in taken {
        let costs: Vec<u32> = entries.iter().map(|(_, cost)| *cost).collect();
        for ((index, _), permit) in
            entries.iter().zip(permit.on_drop(PermitDrop::Keep).divide(&costs))
        {
            decided[*index].permit = Some(permit);
        }
    }
    Ok(CombinedDecision::allowed(decided))
}

/// Makes questions of the entries, but for those that nobody needs to be asked about.
fn questions(entries: Vec<Entry>, decided: &mut [EntryDecision]) -> Result<Vec<Question>, Error> {
    let mut questions: Vec<Question> = Vec::new();
    for (index, Entry { throttle, key, options }) in entries.into_iter().enumerate() {
        let key = key?;
        let brought = throttle.brought_by(&options)?;
        let step = throttle.step_of(&options, brought.as_deref(), Op::Take);
        let (cost, leave) = (step.cost(), step.units_to_leave());
        let unasked = AskedKey::new(&key.to_key(), &mut None, &step).err();
        if let Some(unasked) = unasked {
            let decision = unasked.into_decision()?;
            decided[index].decision = Some(decision.clone());
            decided[index].permit = Some(Permit::of(throttle, key, decision));
            continue;
        }
        let backend = Arc::clone(&*throttle.backend()?);
        let entries = vec![(index, cost)];
        let question = Question { throttle, key, backend, brought, cost, leave, entries };
        match questions.iter_mut().find(|other| other.is_of_same_state(&question)) {
            Some(other) => other.merge(question)?,
            None => questions.push(question),
        }
    }
    Ok(questions)
}

impl Question {
    fn limits(&self) -> &[Limit] {
        self.brought.as_deref().unwrap_or(&self.throttle.inner.limits)
    }

    fn step(&self) -> Step<'_> {
        Step::of_apart(self.limits(), self.cost, Op::Take).leave(self.leave)
    }

    fn is_of_same_state(&self, other: &Self) -> bool {
        is_same_backend(&self.backend, &other.backend)
            && self.throttle.name() == other.throttle.name()
            && self.key == other.key
    }

    /// Adds another about the same state.
    fn merge(&mut self, other: Self) -> Result<(), Error> {
        let problem = |problem: &str| Error::HitOptions {
            throttle: other.throttle.name().to_owned(),
            problem: format!("{problem} of key {:?} in one `all`", other.key),
        };
        let alike = |(mine, its): (&Limit, &Limit)| {
            mine.counts_like(its) && mine.is_per_hit() == its.is_per_hit()
        };
        let is_alike = self.limits().len() == other.limits().len()
            && self.limits().iter().zip(other.limits()).all(alike);
        if !is_alike {
            return Err(problem("give the same rates to all hits"));
        }
        let cost = self.cost.checked_add(other.cost);
        self.cost = cost.ok_or_else(|| problem("the costs are together above 4294967295"))?;
        self.leave = self.leave.max(other.leave);
        self.entries.extend(other.entries);
        Ok(())
    }
}

/// Returns whether one can decide for the other. A wrapper may have the settings of what it wraps, and decides
/// otherwise.
fn is_same_backend(one: &Arc<dyn Backend>, other: &Arc<dyn Backend>) -> bool {
    let type_of = |backend: &Arc<dyn Backend>| Any::type_id(&**backend);
    std::ptr::eq(one.core(), other.core()) && type_of(one) == type_of(other)
}

/// Returns the questions of each backend, in the order in which these come first.
fn groups(questions: Vec<Question>) -> Vec<Vec<Question>> {
    let mut groups: Vec<Vec<Question>> = Vec::new();
    for question in questions {
        let of_same = |group: &&mut Vec<Question>| {
            group.first().is_some_and(|first| is_same_backend(&first.backend, &question.backend))
        };
        match groups.iter_mut().find(of_same) {
            Some(group) => group.push(question),
            None => groups.push(vec![question]),
        }
    }
    groups
}

/// Asks the backend of a group: about all in one step if it can, and else in order, until one is denied. Returns
/// the decisions as far as they were made.
async fn ask(group: &[Question]) -> Vec<Result<Decision, Error>> {
    let steps: Vec<Step<'_>> = group.iter().map(Question::step).collect();
    let parts: Vec<_> = group.iter().map(|question| question.key.to_key()).collect();
    let mut rooms: Vec<_> = group.iter().map(|_| None).collect();
    let asked = parts.iter().zip(&mut rooms).zip(&steps);
    let asked: Vec<AskedKey<'_>> =
        asked.filter_map(|((parts, room), step)| AskedKey::new(parts, room, step).ok()).collect();
    if let Some(outcomes) = ask_in_one_step(group, &asked, &steps).await {
        let concluded =
            group.iter().zip(outcomes).enumerate().map(|(index, (question, outcome))| {
                let Question { throttle, backend, .. } = question;
                throttle.conclude(&**backend, asked[index], &steps[index], outcome)
            });
        return join_all(concluded).await;
    }
    let mut decisions = Vec::with_capacity(group.len());
    for ((question, asked), step) in group.iter().zip(asked).zip(&steps) {
        let Question { throttle, backend, .. } = question;
        let outcome = throttle.apply(&**backend, asked.stored, step).await;
        let decision = throttle.conclude(&**backend, asked, step, outcome).await;
        let goes_on = decision.as_ref().is_ok_and(Decision::is_allowed);
        decisions.push(decision);
        if !goes_on {
            break;
        }
    }
    decisions
}

/// `None` if the backend cannot, or there is only one question.
async fn ask_in_one_step(
    group: &[Question],
    asked: &[AskedKey<'_>],
    steps: &[Step<'_>],
) -> Option<Vec<Result<Decision, BackendError>>> {
    let [first, _, ..] = group else { return None };
    let hits = group.iter().zip(asked).zip(steps);
    let hits: Vec<(Key<'_>, Step<'_>)> = hits
        .map(|((question, asked), step)| (Key::new(question.throttle.name(), asked.stored), *step))
        .collect();
    let deadlines = group.iter().map(|question| question.throttle.inner.deadline);
    let deadline = deadlines.min().unwrap_or(Throttle::DEFAULT_DEADLINE);
    let name = first.backend.core().name();
    let answer = async { Ok(first.backend.apply_all(&hits).await) };
    let decided = match Deadline::after(deadline).bound(name, "apply_all", answer).await {
        Ok(decided) => decided?,
        Err(error) => Err(error),
    };
    let error = match decided {
        Ok(decisions) if decisions.len() == group.len() => {
            return Some(decisions.into_iter().map(Ok).collect());
        }
        Ok(decisions) => {
            let message = format!("{} answers to {} questions", decisions.len(), group.len());
            let error = BackendError::new(name, "apply_all", ErrorKind::Other);
            error.with_effect(Effect::Ambiguous).with_message(message)
        }
        Err(error) => error,
    };
    Some(group.iter().map(|_| Err(error.shared())).collect())
}

/// Gives back what was taken. Returns the entries whose units stay used, because that failed.
async fn give_back(taken: Vec<Taken>) -> Vec<usize> {
    let given_back = taken.into_iter().map(|Taken { permit, entries }| async move {
        let throttle = permit.throttle().name().to_owned();
        match permit.refund().await {
            Ok(()) => Vec::new(),
            Err(error) => {
                tracing::warn!(throttle, %error, "a hit among several was not given back; it stays used");
                entries.into_iter().map(|(index, _)| index).collect()
            }
        }
    });
    join_all(given_back).await.concat()
}
