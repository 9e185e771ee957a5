//! Holds the scripts to the pure function, step by step, on a real server.

mod random;
mod server;
mod times;

use std::time::Duration;

use ::redis::Value;

use super::*;
use crate::backend::redis::blocks;
use crate::decision::Outcome;
use crate::rate::Rate;
use crate::step::codec::{self, Part};
use crate::step::{BlockChange, StepError, Write};
use crate::strategy::{
    FixedWindow, PartId, SlidingWindowCounter, SlidingWindowLog, State, StrategyId, TokenBucket,
};
use random::{KINDS, Place, Random, spoil};
use server::Server;

/// An hour: the least TTL with a clock that was given to us.
const HOUR: i64 = 3_600_000;

/// One key as it develops: what the pure function says must be what the server does.
struct Timeline<'a> {
    server: &'a mut Server,
    key: String,
    limits: Vec<Limit>,
    now: u64,
    stored: Option<Vec<u8>>,
    /// The key has a list or a hash on the server.
    of_another_type: bool,
    /// Instants and costs of hits, and the waits that were said.
    taken: Vec<(Timestamp, u32)>,
    waits: Vec<u64>,
}

impl<'a> Timeline<'a> {
    fn new(server: &'a mut Server, key: impl Into<String>, limits: Vec<Limit>) -> Self {
        Self {
            server,
            key: key.into(),
            limits,
            now: 1_704_067_200_000_000,
            stored: None,
            of_another_type: false,
            taken: Vec::new(),
            waits: Vec::new(),
        }
    }

    fn step(&mut self, cost: u32, op: Op) -> Result<Decision, ScriptRefusal> {
        self.step_leaving(0, cost, op)
    }

    fn step_leaving(&mut self, leave: u32, cost: u32, op: Op) -> Result<Decision, ScriptRefusal> {
        let limits = self.limits.clone();
        let step = Step::new(&limits, cost, op).leave(leave);
        let asked_at = Timestamp::from_micros(self.now);
        let request = Request::new(&step, Some(asked_at)).expect("all limits are built in");
        let before = if self.of_another_type { Some(&[][..]) } else { self.stored.as_deref() };
        let evaluated = step.evaluate(before, asked_at);
        let write = match &evaluated {
            Ok(evaluation) => evaluation.write.clone(),
            Err(error) => error.write().cloned(),
        };
        if self.of_another_type && write.is_none() {
            // It cannot be read by GET afterwards.
            self.remove();
            return self.step_leaving(leave, cost, op);
        }
        let (reply, value, ttl) =
            self.server.ask(&self.key, request.script(), &[&request.argument]);
        let context = || {
            let (limits, before) = (&limits, before.map(codec::decode));
            let after = value.as_deref().map(codec::decode);
            let hit = format!("{op:?} {cost} leaving {leave} at {}", self.now);
            format!("{hit} on {before:?}\n{limits:?}\n{after:?}")
        };
        let decided = read(&step, &reply).unwrap_or_else(|bad| {
            panic!("{bad}: {reply:?}: {}", context());
        });
        match (&decided, &evaluated) {
            (Ok(decision), Ok(evaluation)) => {
                assert_eq!(*decision, evaluation.decision, "{}", context());
            }
            (Err(ScriptRefusal::Corrupt(_)), Err(StepError::Corrupt { .. }))
            | (Err(ScriptRefusal::TooManyRates), Err(StepError::TooManyRates)) => {}
            _ => panic!("{decided:?} and {evaluated:?}: {}", context()),
        }
        let expected = match &write {
            None => self.stored.clone(),
            Some(Write::Delete) => None,
            Some(Write::Put { value, ttl: asked }) => {
                let least = i64::try_from(asked.as_micros().div_ceil(1_000)).unwrap().max(HOUR);
                assert!(
                    (least - 5_000..=least).contains(&ttl),
                    "{ttl}, not {least}: {}",
                    context()
                );
                Some(value.clone())
            }
        };
        assert_eq!(
            value.as_deref().map(codec::decode),
            expected.as_deref().map(codec::decode),
            "{}",
            context()
        );
        assert_eq!(value, expected, "{}", context());
        self.stored = expected;
        self.of_another_type = false;
        decided
    }

    fn remove(&mut self) {
        let () = self.server.run(::redis::pipe().del(&self.key));
        (self.stored, self.of_another_type) = (None, false);
    }

    fn store(&mut self, value: Vec<u8>) {
        let () = self.server.run(::redis::pipe().set(&self.key, &value[..]));
        (self.stored, self.of_another_type) = (Some(value), false);
    }

    fn store_another_type(&mut self, random: &mut Random) {
        let mut pipeline = ::redis::pipe();
        pipeline.del(&self.key);
        match random.below(2) {
            0 => pipeline.rpush(&self.key, "entry"),
            _ => pipeline.hset(&self.key, "field", 1),
        };
        let () = self.server.run(&pipeline);
        (self.stored, self.of_another_type) = (None, true);
    }

    /// Blocks the key or ends its block: what the pure function says must be what the server does.
    fn random_block(&mut self, random: &mut Random) {
        let time = Duration::from_micros(random.up_to_bits(36));
        let time = if random.one_in(20) { Duration::MAX } else { time };
        let change = match random.below(3) {
            0 => BlockChange::Replace(time),
            1 => BlockChange::Lengthen(time),
            _ => BlockChange::Remove,
        };
        let now = Timestamp::from_micros(self.now);
        let before = if self.of_another_type { Some(&[][..]) } else { self.stored.as_deref() };
        let (was_blocked, write) = change.evaluate(before, now).expect("there is room");
        if self.of_another_type && write.is_none() {
            // It cannot be read by GET afterwards.
            return self.remove();
        }
        let argument = blocks::argument(change, Some(now));
        let (reply, value, ttl) = self.server.ask(&self.key, &blocks::CHANGE_BLOCK, &[&argument]);
        let context = || format!("{change:?} at {now:?} on {:?}", before.map(codec::decode));
        assert_eq!(blocks::read(&reply).unwrap(), Some(was_blocked), "{}", context());
        let expected = match &write {
            None => self.stored.clone(),
            Some(Write::Delete) => None,
            Some(Write::Put { value, ttl: asked }) => {
                let least = i64::try_from(asked.as_micros().div_ceil(1_000)).unwrap().max(HOUR);
                assert!(
                    (least - 5_000..=least).contains(&ttl),
                    "{ttl}, not {least}: {}",
                    context()
                );
                Some(value.clone())
            }
        };
        assert_eq!(value, expected, "{}", context());
        (self.stored, self.of_another_type) = (expected, false);
    }

    fn random_step(&mut self, random: &mut Random) {
        self.now = self.random_instant(random);
        let limit = &self.limits[random.index(self.limits.len())];
        let burst = limit.rate().effective_burst();
        let debt = match limit.builtin() {
            Some(Builtin::Bucket { debt }) => debt,
            _ => 0,
        };
        let capacity = burst.saturating_add(debt);
        let cost = match random.below(5) {
            0 => random.pick(&[burst, burst.saturating_add(1), capacity, capacity / 2]),
            1 => random.pick(&[0, u32::MAX, capacity.saturating_add(1)]),
            2 => u32::try_from(random.below(u64::from(burst) + 1)).unwrap(),
            _ => random.pick(&[1, 1, 1, 2]),
        };
        let (cost, op) = match random.below(12) {
            0 => (cost, Op::Peek),
            8 => (cost, Op::Charge),
            9 => (cost, Op::TakeUpTo),
            10 if random.one_in(2) => (0, Op::Drain),
            11 => {
                let most = random.pick(&[1_000, 1_000_000, 1 << 40]);
                (cost, Op::Reserve { within: std::time::Duration::from_micros(random.below(most)) })
            }
            1 | 2 => {
                let somewhere =
                    Timestamp::from_micros(self.now - self.now.min(random.below(9_000)));
                let (taken_at, taken) = match self.taken.len() {
                    0 => (somewhere, cost),
                    count => self.taken.swap_remove(random.index(count)),
                };
                let cost = if random.one_in(3) { cost } else { taken };
                (cost, Op::Refund { taken_at })
            }
            _ => (cost, Op::Take),
        };
        let leave = if random.one_in(4) { random.pick(&[1, 2, burst, u32::MAX]) } else { 0 };
        let Ok(decision) = self.step_leaving(leave, cost, op) else { return };
        let mut waits = vec![decision.reset_after()];
        if let Outcome::Denied { retry_after } = decision.outcome() {
            waits.push(retry_after);
        }
        self.waits = waits.into_iter().map(crate::clock::micros_ceil).collect();
        if let Some(receipt) = decision.receipt() {
            self.taken.push((receipt.taken_at(), receipt.cost()));
        }
    }

    fn random_instant(&self, random: &mut Random) -> u64 {
        let rate = self.limits[random.index(self.limits.len())].rate();
        let period = rate.period_micros().max(1);
        let unit = (period / u64::from(rate.limit().max(1))).max(1);
        let now = self.now;
        let next = match random.below(12) {
            0..=2 => now,
            3 => now + random.below(2 * unit + 2),
            4 => now + random.below(2 * period),
            5 => now - random.below(2 * period).min(now),
            6 => now - now % period + period - random.below(2),
            7 => now + random.up_to_bits(20),
            8 if random.one_in(20) => random.up_to_bits(53),
            _ => match self.waits.len() {
                0 => now,
                count => {
                    (now + self.waits[random.index(count)] + random.below(3)).saturating_sub(1)
                }
            },
        };
        // Now and then in the last century that can be written.
        if random.one_in(5_000) { Timestamp::MAX.as_micros() - random.below(3) } else { next }
    }
}

/// Limits with their states at pairwise different places.
fn limits(random: &mut Random, pool: &[Place], most: usize) -> Vec<Limit> {
    let mut limits: Vec<Limit> = Vec::new();
    for _ in 0..=random.index(most) {
        let limit = random.pick(pool).limit(random);
        let place = |limit: &Limit| limit.part();
        let limit = if random.one_in(6) { limit.clone().brought_beside(&limit) } else { limit };
        if limits.iter().all(|other| place(other) != place(&limit)) {
            limits.push(limit);
        }
    }
    limits
}

fn timelines(seeds: std::ops::Range<u64>, steps: usize, most: usize, spoils: bool) {
    let mut server = Server::start();
    for seed in seeds {
        let random = &mut Random::new(seed);
        let pool: Vec<Place> = if most == 1 {
            let place = Place { kind: seed % KINDS, ..Place::any(random) };
            // Mostly one part, sometimes another beside it.
            vec![place, place, place, Place::any(random)]
        } else {
            (0..5).map(|_| Place::any(random)).collect()
        };
        let first = limits(random, &pool, most);
        let mut timeline = Timeline::new(&mut server, format!("{{{seed}}}"), first);
        for _ in 0..steps {
            if random.one_in(12) {
                timeline.limits = limits(random, &pool, most);
            }
            if spoils && random.one_in(3) {
                let spoiled = spoil(random, timeline.stored.as_deref().unwrap_or_default());
                timeline.store(spoiled);
            } else if spoils && random.one_in(20) {
                timeline.store_another_type(random);
            }
            if random.one_in(15) {
                timeline.random_block(random);
            }
            timeline.random_step(random);
            if random.one_in(3) {
                timeline.random_times(random);
            }
        }
        timeline.remove();
    }
}

#[test]
fn one_limit_goes_as_the_pure_function_says() {
    timelines(0..600, 60, 1, false);
}

#[test]
fn several_limits_go_as_the_pure_function_says() {
    timelines(1_000..1_500, 60, 4, false);
}

#[test]
fn spoiled_values_heal_as_the_pure_function_says() {
    timelines(2_000..2_500, 60, 1, true);
    timelines(3_000..3_300, 60, 4, true);
}

#[test]
fn refunds_over_several_limits_give_back_once_when_one_is_corrupt() {
    let mut server = Server::start();
    let rate = Rate::per_minute(10);
    let limits =
        vec![Limit::new(rate, TokenBucket::new()).unwrap(), Limit::new(rate, FixedWindow).unwrap()];
    let mut timeline = Timeline::new(&mut server, "refund", limits);
    let receipt = timeline.step(5, Op::Take).unwrap().receipt().unwrap();
    let mut value = timeline.stored.clone().unwrap();
    // The count of the window, the last word.
    *value.last_chunk_mut().unwrap() = u64::MAX.to_le_bytes();
    timeline.store(value);
    let refund = Op::Refund { taken_at: receipt.taken_at() };
    assert!(matches!(timeline.step(2, refund), Err(ScriptRefusal::Corrupt(_))));
    let peeked = timeline.step(1, Op::Peek).unwrap();
    assert_eq!(peeked.answers().next().unwrap().remaining(), 7, "of the bucket");
}

#[test]
fn beyond_254_parts_one_that_is_over_goes_or_the_hit_is_refused() {
    let mut server = Server::start();
    let limit = |rate| Limit::new(rate, TokenBucket::new()).unwrap();
    let limits = vec![limit(Rate::per_minute(10)), limit(Rate::per_hour(10))];
    let mut timeline = Timeline::new(&mut server, "many", limits);
    // A block is besides, at any place.
    let blocks = [None, Some(0), Some(1), Some(200)];
    for (count, over, block) in (251..=254u64).flat_map(|count| {
        let over = [0, 1, 2].into_iter();
        over.flat_map(move |over| blocks.map(|block| (count, over, block)))
    }) {
        {
            let part = |index| Part {
                id: PartId { strategy: StrategyId::of("mine"), period: index, limit: 0, burst: 0 },
                reset_at: match index < over {
                    true => Timestamp::from_micros(timeline.now - index),
                    false => Timestamp::from_micros(timeline.now + 100 + index * 7 % 100),
                },
                state: State::new(Timestamp::ZERO, vec![index; 2]),
            };
            let mut parts: Vec<Part> = (0..count).map(part).collect();
            if let Some(place) = block {
                let reset_at = Timestamp::from_micros(timeline.now + 1);
                let state = State::new(Timestamp::ZERO, vec![0]);
                parts.insert(place, Part { id: PartId::BLOCK, reset_at, state });
            }
            timeline.store(codec::encode(&parts));
            let fits = count + 2 - over <= 254;
            let done = timeline.step(1, Op::Charge);
            assert_eq!(done.is_ok(), fits, "{count} parts, {over} over, block {block:?}");
            let parts = codec::decode(timeline.stored.as_deref().unwrap()).unwrap();
            let expected = if fits { (count + 2).min(254) } else { count };
            assert_eq!(parts.len() as u64, expected + u64::from(block.is_some()));
            let kept = parts.iter().any(|part| part.id == PartId::BLOCK);
            assert_eq!(kept, block.is_some());
        }
    }
}

#[test]
fn numbers_at_the_borders_of_their_ranges() {
    let mut server = Server::start();
    let period = 60_000_000;
    let rate = Rate::per_minute(1_000);
    let limits = [
        Limit::new(rate, TokenBucket::new()),
        Limit::new(rate, FixedWindow),
        Limit::new(rate, SlidingWindowCounter),
        Limit::new(rate, SlidingWindowLog::new()),
    ];
    for limit in limits {
        let mut timeline = Timeline::new(&mut server, "border", vec![limit.unwrap()]);
        timeline.remove();
        let first = timeline.now;
        for _ in 0..3 {
            let _ = timeline.step(2, Op::Take);
            timeline.now += 1_000;
        }
        let value = timeline.stored.clone().unwrap();
        // The instants of the part, then its words.
        for at in [22, 30].into_iter().chain((42..value.len()).step_by(8)) {
            let now = timeline.now;
            for border in [1, 2, 6, 1_000, 1 << 32, 1 << 33, 1 << 53, period, first, now, u64::MAX]
            {
                for number in [border - 1, border, border.wrapping_add(1)] {
                    let refunds = [0, 1_000, 2_000]
                        .map(|later| Timestamp::from_micros(first + later))
                        .map(|taken_at| Op::Refund { taken_at });
                    for op in [Op::Take, Op::Peek].into_iter().chain(refunds) {
                        let mut spoiled = value.clone();
                        spoiled[at..at + 8].copy_from_slice(&number.to_le_bytes());
                        timeline.store(spoiled);
                        let _ = timeline.step(1, op);
                        let _ = timeline.step(1_000, Op::Take);
                    }
                }
            }
        }
    }
}

#[test]
fn other_parts_stay_as_they_are_while_they_count() {
    let mut server = Server::start();
    let limit = Limit::new(Rate::per_minute(10), TokenBucket::new()).unwrap();
    let mut timeline = Timeline::new(&mut server, "others", vec![limit]);
    let part = |index: u64, reset_at: u64, words| Part {
        id: match index {
            3 => PartId { strategy: StrategyId::BUCKET, period: 60_000_000, limit: 0, burst: 0 },
            _ => PartId { strategy: StrategyId::of("mine"), period: index, limit: 0, burst: 0 },
        },
        reset_at: Timestamp::from_micros(reset_at),
        state: State::new(Timestamp::from_micros(timeline.now + index), vec![1; words]),
    };
    let later = timeline.now + 1_000;
    // Dropped: one that is over for an hour, and one without words. The last two have the same place.
    let hour = 3_600_000_000;
    let parts = [
        part(1, later, 3),
        part(2, timeline.now - hour, 1),
        part(4, later, 0),
        part(5, timeline.now + 1 - hour, 1),
    ];
    let same = [part(3, later, 2), part(3, later, 5)];
    timeline.store(codec::encode(&[&parts[..], &same].concat()));
    let _ = timeline.step(1, Op::Take);
    let kept = codec::decode(timeline.stored.as_deref().unwrap()).unwrap();
    assert_eq!(kept.len(), 4);
    assert_eq!((&kept[0], &kept[1], &kept[3]), (&parts[0], &parts[3], &same[1]));
}

#[test]
fn a_value_of_another_type_is_replaced() {
    let mut server = Server::start();
    let limit = Limit::new(Rate::per_minute(10), TokenBucket::new()).unwrap();
    let mut timeline = Timeline::new(&mut server, "typed", vec![limit]);
    let random = &mut Random::new(1);
    for _ in 0..4 {
        timeline.store_another_type(random);
        assert!(matches!(timeline.step(1, Op::Take), Err(ScriptRefusal::Corrupt(_))));
        assert!(timeline.step(1, Op::Take).is_ok());
    }
}

#[test]
fn by_the_time_of_the_server() {
    let mut server = Server::start();
    let places = (0..KINDS).map(|kind| Place { kind, period: Duration::from_millis(700) });
    let random = &mut Random::new(7);
    let (mut written, mut as_computed) = (0, 0);
    for (place, key) in places.zip(["0", "1", "2", "3", "4", "5"]) {
        let mut stored = None;
        let limits = [place.limit(random)];
        for _ in 0..200 {
            let cost = random.pick(&[1, 1, 2]);
            let step = Step::new(&limits, cost, Op::Take);
            let request = Request::new(&step, None).unwrap();
            let (reply, value, ttl) = server.ask(key, request.script(), &[&request.argument]);
            let Value::Array(numbers) = &reply else { panic!("{reply:?}") };
            let asked_at = instant(&numbers[0]).unwrap();
            let decision = read(&step, &reply).unwrap().unwrap();
            let evaluation = step.evaluate(stored.as_deref(), asked_at).unwrap();
            assert_eq!(decision, evaluation.decision);
            if let Some(write) = evaluation.write {
                let Write::Put { value: expected, ttl: asked } = write else { panic!("{write:?}") };
                let most = i64::try_from(asked.as_micros().div_ceil(1_000)).unwrap();
                assert_eq!(value.as_ref(), Some(&expected));
                assert!((most - 500..=most).contains(&ttl), "{ttl} of {most}");
                let pipeline = ::redis::pipe().cmd("PEXPIRETIME").arg(key).clone();
                let (expires,): (i64,) = server.run(&pipeline);
                let asked_at = i64::try_from(asked_at.as_micros() / 1_000).unwrap();
                // Unless a millisecond begins between the server's two looks at its clock.
                written += 1;
                as_computed += u32::from(expires == asked_at + most);
            }
            stored = value;
        }
    }
    assert!(2 * as_computed > written, "{as_computed} of {written} values expire when they should");
}

#[test]
fn products_are_divided_exactly() {
    const WORD: usize = 8;
    let mut server = Server::start();
    let script = [
        include_str!("../../lua/arithmetic.lua"),
        "local results = {}
         for from = 1, #ARGV[1], 24 do
           local a, b, m = struct.unpack('<I8I8I8', ARGV[1], from)
           local quotient, rest = muldiv(a, b, m)
           results[#results + 1] = struct.pack('<I8I8', math.min(quotient, 2 ^ 53), rest)
         end
         return table.concat(results)",
    ]
    .concat();
    let random = &mut Random::new(3);
    let number = |random: &mut Random, bits| {
        let border = 1 << random.below(bits);
        let number = match random.below(3) {
            0 => random.up_to_bits(bits),
            1 => random.below(1 << bits),
            _ => border + random.below(5) - random.below(border.min(3)),
        };
        number.min((1 << bits) - 1)
    };
    for _ in 0..40 {
        let mut cases = Vec::new();
        for _ in 0..1_000 {
            let m = if random.one_in(20) { 1 << 45 } else { number(random, 45).max(1) };
            let factor = |random: &mut Random| match random.below(4) {
                0 => m - 1,
                1 => m * random.below(((1 << 53) / m).max(1)),
                _ => number(random, 53),
            };
            cases.push([factor(random), factor(random), m]);
        }
        let bytes: Vec<u8> = cases.iter().flatten().flat_map(|n| n.to_le_bytes()).collect();
        let Value::BulkString(results) = server.eval(&script, &bytes) else { panic!() };
        let (results, _) = results.as_chunks::<WORD>();
        for ([a, b, m], result) in cases.iter().zip(results.chunks(2)) {
            let product = u128::from(*a) * u128::from(*b);
            let quotient = (product / u128::from(*m)).min(1 << 53);
            let expected = [quotient, product % u128::from(*m)];
            let result = [result[0], result[1]].map(|word| u128::from(u64::from_le_bytes(word)));
            assert_eq!(result, expected, "{a} * {b} / {m}");
        }
    }
}

#[test]
fn long_logs_go_as_the_pure_function_says() {
    let mut server = Server::start();
    let random = &mut Random::new(11);
    for round in 0..50 {
        let limit = 200 + u32::try_from(random.below(200)).unwrap();
        let log = SlidingWindowLog::new();
        let limits = vec![Limit::new(Rate::per_second(limit), log).unwrap()];
        let mut timeline = Timeline::new(&mut server, format!("long{round}"), limits);
        // From well below the piece that is read first to well beyond it.
        for _ in 0..random.below(400) {
            timeline.now += random.below(8_000);
            let _ = timeline.step(1, Op::Take);
        }
        for _ in 0..60 {
            if random.one_in(15) {
                let spoiled = spoil(random, timeline.stored.as_deref().unwrap_or_default());
                timeline.store(spoiled);
            }
            timeline.now += random.pick(&[0, 0, 3, 2_000, 5_000, 20_000, 300_000]);
            timeline.random_step(random);
            timeline.random_times(random);
        }
    }
}
