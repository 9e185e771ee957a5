//! One key of a snapshot: what is copied of it as bytes, and these as what is put into a table.

use std::sync::Arc;
use std::time::Duration;

use super::super::slot::{Body, Brought};
use super::super::state_ids::{StateIds, StateInfo};
use super::super::stored_key::StoredKey;
use super::copied::CopiedState;
use super::fields::Fields;
use super::held_back::{held_at, hold_back};
use crate::clock::Timestamp;
use crate::error::RestoreError;
use crate::rate::Rate;
use crate::step::codec::{self, Part};
use crate::step::{Form, KEPT_MICROS, MAX_PARTS};
use crate::strategy::{AnyMeter, PartId, StrategyId};

/// A part, and the limit by which its writer drains.
pub(super) type DrainedPart = (Part, u32);

/// Returns the parts of a key that may count again, as of now.
pub(super) fn parts_of(
    states: Vec<(u32, CopiedState)>,
    ids: &StateIds,
    now: Timestamp,
) -> Vec<DrainedPart> {
    let mut parts = Vec::new();
    for (id, state) in states {
        let Some(info) = ids.get(id) else { continue };
        match state {
            CopiedState::Packed { count, last } => parts.extend(packed(info, count, last)),
            CopiedState::Large(Body::Words { state, reset_at }) => {
                parts.push((Part { id: info.part(), reset_at, state }, 0));
            }
            CopiedState::Large(Body::Brought(brought)) => {
                parts.extend(brought.into_iter().filter_map(drained));
            }
        }
    }
    // As the tables keep what is over: a clock that steps back by less finds it.
    parts.retain(|(part, _)| part.reset_at.saturating_add_micros(KEPT_MICROS) > now);
    if parts.len() > MAX_PARTS {
        // The block and the throttle's own come first, then what counts longest.
        parts.sort_by_key(|(part, _)| (part.id.is_per_hit(), std::cmp::Reverse(part.reset_at)));
        parts.truncate(MAX_PARTS + 1);
    }
    parts
}

fn packed(info: &StateInfo, count: u64, last: Timestamp) -> Option<DrainedPart> {
    let (state, reset_at) = (info.meter()?.words(count, last), info.reset_at(count, last));
    Some((Part { id: info.part(), reset_at, state }, info.drain()))
}

fn drained(Brought { id, form, reset_at }: Brought) -> Option<DrainedPart> {
    match form {
        Form::Words(state) => Some((Part { id, reset_at, state }, 0)),
        Form::Packed { count, last } => {
            let meter = AnyMeter::of_counts(id.strategy, id.period, id.limit)?;
            Some((
                Part { id, reset_at, state: meter.words(count, last) },
                drain_of(&meter, id.limit),
            ))
        }
    }
}

const fn drain_of(meter: &AnyMeter, limit: u32) -> u32 {
    if matches!(meter, AnyMeter::Bucket(_)) { limit } else { 1 }
}

/// Appends a key.
pub(super) fn encode(out: &mut Vec<u8>, throttle: u32, key: &StoredKey, parts: Vec<DrainedPart>) {
    let (parts, drains): (Vec<Part>, Vec<u32>) = parts.into_iter().unzip();
    let state = codec::encode(&parts);
    out.extend_from_slice(&throttle.to_le_bytes());
    out.push(key.shape);
    out.extend_from_slice(key.words.map(u64::to_le_bytes).as_flattened());
    out.extend_from_slice(&u32::try_from(state.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&state);
    for drain in drains {
        out.extend_from_slice(&drain.to_le_bytes());
    }
}

/// A key as it is read.
#[derive(Debug)]
pub(super) struct KeyRecord {
    /// Where it lies.
    pub(super) at: u64,
    pub(super) throttle: u32,
    pub(super) key: StoredKey,
    parts: Vec<DrainedPart>,
}

/// What a state becomes in memory.
#[derive(Debug)]
pub(super) enum Placed {
    Packed { count: u64, last: Timestamp },
    Large(Body),
}

impl KeyRecord {
    pub(super) fn decode(fields: &mut Fields<'_>) -> Result<Self, RestoreError> {
        let at = fields.at();
        let damaged = |problem: String| RestoreError::damaged(at, problem);
        let throttle = fields.u32()?;
        let shape = fields.u8()?;
        let words = [fields.u64()?, fields.u64()?];
        let key = StoredKey::from_raw(words, shape).ok_or_else(|| {
            damaged(format!("a key of the shape {shape}; a length up to 16, or 31, would be right"))
        })?;
        let length = fields.u32()?;
        let state_at = fields.at();
        let parts = codec::decode(fields.bytes(length.into())?).map_err(|error| {
            RestoreError::damaged(state_at, format!("the state of a key: {error}"))
        })?;
        let mut drained = Vec::with_capacity(parts.len());
        for part in parts {
            let drain_at = fields.at();
            let drain = fields.u32()?;
            check(&part, drain).map_err(|problem| RestoreError::damaged(drain_at, problem))?;
            drained.push((part, drain));
        }
        Ok(Self { at, throttle, key, parts: drained })
    }

    /// Returns what becomes of the states that count now, of a key of that throttle. None, if all are over.
    pub(super) fn place(
        self,
        throttle: &str,
        ids: &StateIds,
        now: Timestamp,
    ) -> Result<Vec<(Arc<StateInfo>, Placed)>, RestoreError> {
        let at = self.at;
        let held_at = held_at(self.parts.iter().map(|(part, _)| part), now);
        let mut placed = Vec::with_capacity(self.parts.len());
        let mut brought = Vec::new();
        for (mut part, drain) in self.parts {
            hold_back(&mut part, held_at);
            let (id, last) = (part.id, part.state.last());
            let meter = AnyMeter::of_counts(id.strategy, id.period, drain);
            let count = meter.as_ref().map(|meter| meter.pack(&part.state)).transpose();
            let count = count.map_err(|error| RestoreError::damaged(at, error.to_string()))?;
            let (form, reset_at) = match meter.zip(count) {
                Some((meter, count)) => (Form::Packed { count, last }, meter.reset_at(count, last)),
                None => (Form::Words(part.state), part.reset_at),
            };
            if reset_at <= now {
                continue;
            }
            match form {
                form if id.is_per_hit() => brought.push(Brought { id, form, reset_at }),
                Form::Packed { count, last } => {
                    placed.push((ids.of_part(throttle, id, drain), Placed::Packed { count, last }));
                }
                Form::Words(state) => {
                    let body = Body::Words { state, reset_at };
                    placed.push((ids.of_part(throttle, id, drain), Placed::Large(body)));
                }
            }
        }
        if let Some(Brought { id, .. }) = brought.first() {
            let info = ids.of_part(throttle, *id, 0);
            placed.push((info, Placed::Large(Body::Brought(brought))));
        }
        Ok(placed)
    }
}

/// Checks that a part is one that memory can have.
fn check(Part { id, state, .. }: &Part, drain: u32) -> Result<(), String> {
    let PartId { strategy, period, limit, .. } = *id;
    if *id == PartId::BLOCK {
        return match (state.words().len(), drain) {
            (1, 0) => Ok(()),
            (words, drain) => Err(format!(
                "a block of {words} words that drains by {drain}; one, by 0, would be right"
            )),
        };
    }
    if [StrategyId::BLOCK, StrategyId::BROUGHT].contains(&strategy) {
        let raw = strategy.raw();
        return Err(format!("a state of the strategy {raw}, which has none of its own"));
    }
    Rate::new(limit, Duration::from_micros(period)).map_err(|error| error.to_string())?;
    let right = match (strategy, limit) {
        (_, _) if drain == 0 => true,
        (StrategyId::FIXED_WINDOW | StrategyId::SLIDING_WINDOW_COUNTER, _) => drain == 1,
        (StrategyId::BUCKET, 0) => true,
        (StrategyId::BUCKET, limit) => drain == limit,
        _ => false,
    };
    match right {
        true => Ok(()),
        false => Err(format!("a state that drains by {drain}, which its strategy and rate do not")),
    }
}
