//! What the targets of `fuzz/` hold true of this backend: see [`crate::fuzz`].

use ::redis::Value;

use super::decide::{self, ScriptRefusal};
use crate::decision::Decision;
use crate::fuzz::{Input, limits};
use crate::step::Step;
use crate::strategy::{Limit, Op};

/// The name of what is stored; of a lock, that of its owner. Grouped is any throttle.
#[cfg(feature = "memcached")]
pub(crate) fn name(named: &crate::fuzz::Named, is_grouped: bool) -> Vec<u8> {
    use super::groups::Groups;
    use super::keys::Keys;
    use crate::fuzz::Named;

    let groups = match named {
        Named::State { throttle, .. } if is_grouped => {
            Groups::new(&[("g".to_owned(), vec![throttle.clone()])]).expect("one group")
        }
        _ => Groups::default(),
    };
    let keys = Keys::new("app").with_groups(groups);
    match named {
        Named::Lock(name) => keys.of_lock(name).lock,
        _ => named.with_key(|key| keys.of(key)).expect("it has a key"),
    }
}

/// See [`crate::fuzz::script_reply`].
pub(crate) fn script_reply(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let limits = limits(input.byte());
    let op = match input.byte() % 5 {
        0 => Op::Peek,
        1 => Op::Take,
        2 => Op::TakeUpTo,
        3 => Op::Reserve { within: std::time::Duration::from_secs(1) },
        _ => Op::Charge,
    };
    let step = Step::new(&limits, input.byte().into(), op);
    let reply = match input.byte() % 3 {
        // As it comes from the server.
        0 => match ::redis::parse_redis_value(input.rest()) {
            Ok(reply) => reply,
            Err(_) => return,
        },
        1 => Value::Array(numbers(&mut input)),
        _ => plausible(&limits, &mut input),
    };
    if let Ok(read) = decide::read(&step, &reply) {
        judge(&step, &reply, &read);
    }
    if step.op() == Op::Take && step.cost() > 0 {
        for times in [2, 32] {
            if let Ok(outcomes) = decide::read_times(&step, times, reply.clone()) {
                assert!(
                    (1..=times).contains(&outcomes.len()),
                    "one for each hit, or for the first"
                );
            }
        }
    }
    let several = Value::Array(vec![Value::Int(1), reply.clone()]);
    for reply in [&reply, &several] {
        if let Ok(Some(decisions)) = decide::read_all([&step].into_iter(), reply) {
            assert_eq!(decisions.len(), 1, "one of each step");
        }
    }
}

/// What was read stands in the reply.
fn judge(step: &Step<'_>, reply: &Value, read: &Result<Decision, ScriptRefusal>) {
    let Value::Array(reply) = reply else { panic!("it is no list: {reply:?}") };
    let number = |index: usize| match reply[index] {
        Value::Int(number) => number,
        ref other => panic!("it is no number: {other:?}"),
    };
    let Ok(decision) = read else {
        return assert_ne!(number(2), 0, "a refusal that nobody said");
    };
    assert_eq!(number(2), 0, "a refusal is no decision");
    let answers: Vec<_> = decision.answers().collect();
    let is_blocked = reply.len() == 3 + 3 * step.limits().len() + 2;
    if is_blocked {
        return assert!(decision.is_denied(), "it is blocked");
    }
    assert_eq!(answers.len(), step.limits().len());
    let mut denies = false;
    for (index, answer) in answers.iter().enumerate() {
        denies |= number(3 + 3 * index) != 0;
        assert_eq!(i64::from(answer.remaining()), number(4 + 3 * index), "{decision:?}");
    }
    assert_eq!(decision.is_denied(), denies, "{decision:?}");
}

fn numbers(input: &mut Input<'_>) -> Vec<Value> {
    let count = input.byte() % 32;
    (0..count).map(|_| Value::Int(i64::from_le_bytes(input.take()))).collect()
}

/// As many numbers as belong there, of sizes that may do.
fn plausible(limits: &[Limit], input: &mut Input<'_>) -> Value {
    let mut small = |bits: u32| i64::from_le_bytes(input.take()) & ((1 << bits) - 1);
    let mut reply = vec![Value::Int(small(53)), Value::Int(small(53))];
    reply.push(Value::Int(small(2) - 1));
    for _ in limits {
        let verdict = match small(2) {
            0 => 0,
            1 => -1,
            _ => small(53),
        };
        reply.extend([verdict, small(32), small(53)].map(Value::Int));
    }
    let more = small(2);
    reply.extend((0..more).map(|_| Value::Int(small(40))));
    Value::Array(reply)
}
