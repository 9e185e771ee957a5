//! Equal hits in one script: each gets what it would have got alone.

use super::*;

impl Timeline<'_> {
    /// Hits so many times at one instant: what the pure function says one after the other must be what the server
    /// does in one go. Returns how many passed.
    pub(super) fn step_times(&mut self, (leave, cost): (u32, u32), times: usize) -> usize {
        let limits = self.limits.clone();
        let step = Step::new(&limits, cost, Op::Take).leave(leave);
        let asked_at = Timestamp::from_micros(self.now);
        let request = Request::new(&step, Some(asked_at)).expect("all limits are built in");
        let before = if self.of_another_type { Some(vec![]) } else { self.stored.clone() };
        let (mut stored, mut ttl_asked, mut expected) = (before.clone(), None, Vec::new());
        for _ in 0..times {
            let evaluated = step.evaluate(stored.as_deref(), asked_at);
            let write = match &evaluated {
                Ok(evaluation) => evaluation.write.clone(),
                Err(error) => error.write().cloned(),
            };
            match write {
                Some(Write::Put { value, ttl }) => (stored, ttl_asked) = (Some(value), Some(ttl)),
                Some(Write::Delete) => (stored, ttl_asked) = (None, None),
                None => {}
            }
            expected.push(evaluated);
        }
        if self.of_another_type && stored == before {
            // It cannot be read by GET afterwards.
            self.remove();
            return self.step_times((leave, cost), times);
        }
        let context = || {
            let before = before.as_deref().map(codec::decode);
            format!(
                "{times} times {cost} leaving {leave} at {} on {before:?}\n{limits:?}",
                self.now
            )
        };
        let mut outcomes: Vec<HitOutcome> = Vec::new();
        let (value, ttl) = loop {
            let left = times - outcomes.len();
            let count = left.to_string();
            let arguments: [&[u8]; 2] = [&request.argument, count.as_bytes()];
            let (reply, value, ttl) =
                self.server.ask(&self.key, request.script_for_times(), &arguments);
            let read = read_times(&step, left, reply.clone())
                .unwrap_or_else(|bad| panic!("{bad}: {reply:?}: {}", context()));
            assert!((1..=left).contains(&read.len()), "{}", context());
            outcomes.extend(read);
            if outcomes.len() == times {
                break (value, ttl);
            }
        };
        for (number, (outcome, expected)) in outcomes.iter().zip(&expected).enumerate() {
            match (outcome.as_ref().unwrap(), expected) {
                (Ok(decision), Ok(evaluation)) => {
                    assert_eq!(*decision, evaluation.decision, "{number}: {}", context());
                }
                (Err(ScriptRefusal::Corrupt(_)), Err(StepError::Corrupt { .. }))
                | (Err(ScriptRefusal::TooManyRates), Err(StepError::TooManyRates)) => {}
                (decided, evaluated) => {
                    panic!("{number}: {decided:?} and {evaluated:?}: {}", context());
                }
            }
        }
        assert_eq!(value, stored, "{}", context());
        if let Some(asked) = ttl_asked {
            let least = i64::try_from(asked.as_micros().div_ceil(1_000)).unwrap().max(HOUR);
            assert!((least - 5_000..=least).contains(&ttl), "{ttl}, not {least}: {}", context());
        }
        (self.stored, self.of_another_type) = (stored, false);
        let passed =
            |outcome: HitOutcome| matches!(outcome, Ok(Ok(decision)) if decision.is_allowed());
        outcomes.into_iter().map(passed).filter(|passed| *passed).count()
    }

    pub(super) fn random_times(&mut self, random: &mut Random) {
        self.now = self.random_instant(random);
        let burst = self.limits[random.index(self.limits.len())].rate().effective_burst();
        let times = 2 + random.index(20);
        let share = burst / u32::try_from(times).unwrap();
        let cost = random.pick(&[1, 1, 2, share, share.saturating_add(1), burst, u32::MAX]).max(1);
        let leave = if random.one_in(4) { random.pick(&[1, 2, burst, u32::MAX]) } else { 0 };
        self.step_times((leave, cost), times);
    }
}

#[test]
fn as_many_pass_as_there_is_room_for() {
    let mut server = Server::start();
    let rate = Rate::per_minute(100);
    let limits = [
        Limit::new(rate, TokenBucket::new()),
        Limit::new(rate, FixedWindow),
        Limit::new(rate, SlidingWindowCounter),
        Limit::new(rate, SlidingWindowLog::new()),
    ];
    for (number, limit) in limits.into_iter().enumerate() {
        let limit = limit.unwrap();
        let mut timeline = Timeline::new(&mut server, format!("room{number}"), vec![limit.clone()]);
        assert_eq!(timeline.step_times((0, 3), 256), 33);
        assert_eq!(timeline.step_times((1, 1), 256), 0, "one is left, and must stay");
        assert_eq!(timeline.step_times((0, 1), 256), 1);
        assert_eq!(timeline.step_times((0, 1), 2), 0);
        let day = Limit::new(Rate::per_day(7), TokenBucket::new()).unwrap();
        let mut timeline = Timeline::new(&mut server, format!("both{number}"), vec![limit, day]);
        assert_eq!(timeline.step_times((0, 2), 32), 3, "of two limits the lesser");
    }
}

/// A value with other parts is read and written for each hit. Others must get through in between.
#[test]
fn a_script_makes_no_more_than_sixteen_hits_beside_other_parts() {
    let mut server = Server::start();
    let limit = |rate| vec![Limit::new(rate, TokenBucket::new()).unwrap()];
    let mut timeline = Timeline::new(&mut server, "parts", limit(Rate::per_day(7)));
    assert_eq!(timeline.step_times((0, 1), 2), 2);
    timeline.limits = limit(Rate::per_hour(100));
    let before = timeline.server.calls("evalsha");
    assert_eq!(timeline.step_times((0, 1), 50), 50);
    assert_eq!(timeline.server.calls("evalsha") - before, 4);
}

#[test]
fn one_script_makes_the_hits_by_one_read_and_one_write() {
    let mut server = Server::start();
    let limits = vec![Limit::new(Rate::per_minute(100), TokenBucket::new()).unwrap()];
    let mut timeline = Timeline::new(&mut server, "once", limits);
    assert_eq!(timeline.step_times((0, 1), 50), 50);
    assert_eq!(server.calls("set"), 1);
}
