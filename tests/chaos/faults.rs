//! What is done to a place, and for how long.

use std::time::Duration;

use test_support::Dice;
use test_support::servers::wait::holds_within;
use test_support::servers::{Direction, Workers, pause};

use crate::history::{Fault, now};
use crate::places::{Place, ask};

/// By so much clocks are stepped, forward and back again: a multiple of each period.
pub(crate) const STEP: Duration = Duration::from_secs(4);
/// How long a place may take until it is whole again. It heals long before.
const WHOLE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sort {
    /// Killed, and started again with what it had stored.
    Kill,
    /// ... without.
    KillAndForget,
    /// Stopped (SIGSTOP), and resumed.
    Stop,
    /// A partition: requests do not arrive.
    HoldRequests,
    /// ... replies do not.
    HoldReplies,
    /// ... nothing does.
    HoldAll,
    /// Open connections are dead without a word; new ones are not.
    Strand,
    /// All connections are closed.
    Cut,
    /// ... and new ones refused.
    Refuse,
    /// Answers take a part of the deadline.
    Slow,
    /// ... more than it.
    TooSlow,
    /// The server forgets its scripts again and again.
    FlushScripts,
    /// The server's clock goes forward and back.
    ServerClock,
    /// The clock of one of the processes does.
    ClientClock,
    /// The server has no memory left.
    FullMemory,
    /// Another server is told to take over.
    Failover,
    KillSentinel,
    StopSentinel,
}

/// What was asked for and did not happen, so that it excuses nothing.
const REFUSED: &str = ", refused";

/// All sorts of a place in random order, again and again.
pub(crate) struct Schedule {
    sorts: Vec<Sort>,
    next: usize,
    dice: Dice,
}

impl Schedule {
    pub(crate) fn new(sorts: &[Sort], seed: u64) -> Self {
        Self { sorts: sorts.to_vec(), next: 0, dice: Dice::new(seed) }
    }

    fn next(&mut self) -> Sort {
        if self.next == 0 {
            self.dice.shuffle(&mut self.sorts);
        }
        let sort = self.sorts[self.next];
        self.next = (self.next + 1) % self.sorts.len();
        sort
    }

    /// Makes the next fault, and waits until nothing of it is left; then a while in which each worker must
    /// come back.
    pub(crate) fn inflict(&mut self, place: &mut dyn Place, workers: &mut Workers) -> Fault {
        let sort = self.next();
        let hold = self.millis(200, 2200);
        let node = place.target(&mut self.dice);
        let begun = now();
        let detail = self.inflict_sort(sort, node, hold, place, workers);
        let (lifted, is_refused) = (now(), detail == REFUSED);
        let whole = holds_within(WHOLE, || place.is_whole());
        assert!(whole, "{} is not whole after {sort:?} of node {node}", place.kind().name());
        let settled = now();
        pause::blocking::pace(self.millis(1200, 2200));
        Fault {
            what: format!("{sort:?} of node {node}{detail}"),
            begun,
            lifted,
            settled,
            grants: if is_refused { 0 } else { place.grants(sort) },
            heals_before: place.heals_before(sort),
        }
    }

    /// Until it is lifted; what more a reader must know.
    fn inflict_sort(
        &mut self,
        sort: Sort,
        node: usize,
        hold: Duration,
        place: &mut dyn Place,
        workers: &mut Workers,
    ) -> String {
        match sort {
            Sort::Kill | Sort::KillAndForget => {
                place.instance(node).kill();
                pause::blocking::lasts(hold);
                place.start_again(node, sort == Sort::Kill);
            }
            Sort::Stop => {
                place.instance(node).pause();
                pause::blocking::lasts(hold);
                place.instance(node).resume();
            }
            Sort::Strand => place.proxy(node).strand(),
            Sort::Cut => place.proxy(node).cut(),
            Sort::HoldRequests | Sort::HoldReplies | Sort::HoldAll | Sort::Refuse => {
                partition(sort, node, hold, place);
            }
            Sort::Slow | Sort::TooSlow => return self.slow_down(sort, node, hold, place),
            Sort::FlushScripts => flush_scripts(place, hold),
            Sort::ServerClock => {
                place.shift_clock(STEP);
                pause::blocking::lasts(hold);
                place.shift_clock(Duration::ZERO);
                // What was written ahead is in the past again after so long; a clock that goes back while
                // a server forgets its fences would else be two faults at once.
                pause::blocking::expires(STEP);
            }
            Sort::ClientClock => {
                let process = usize::try_from(self.dice.roll(4)).unwrap();
                workers.send(process, &format!("clock {}", STEP.as_millis()));
                pause::blocking::lasts(hold);
                workers.send(process, "clock 0");
                // A hit that read the clock before.
                pause::blocking::pace(Duration::from_millis(300));
                return format!(", process {process}");
            }
            Sort::FullMemory => {
                let server = place.redis(node);
                ask(server, "CONFIG SET maxmemory 1");
                pause::blocking::lasts(hold);
                ask(server, "CONFIG SET maxmemory 0");
            }
            Sort::Failover if place.fail_over(node) => {}
            Sort::Failover => return REFUSED.to_owned(),
            Sort::KillSentinel | Sort::StopSentinel => {
                let number = usize::try_from(self.dice.roll(3)).unwrap();
                place.disturb_sentinel(number, sort == Sort::KillSentinel, hold);
                return format!(", sentinel {number}");
            }
        }
        String::new()
    }

    fn slow_down(&mut self, sort: Sort, node: usize, hold: Duration, place: &dyn Place) -> String {
        // Memcached takes two turns for a hit.
        let each = match sort {
            Sort::Slow => self.millis(5, 25),
            _ => self.millis(150, 400),
        };
        place.proxy(node).delay(each, each);
        pause::blocking::lasts(hold);
        place.proxy(node).forward();
        format!(", {each:?} each way")
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.dice.roll(to - from))
    }
}

fn partition(sort: Sort, node: usize, hold: Duration, place: &dyn Place) {
    let proxy = place.proxy(node);
    match sort {
        Sort::HoldRequests => proxy.hold(Direction::Request),
        Sort::HoldReplies => proxy.hold(Direction::Reply),
        Sort::HoldAll => proxy.blackhole(),
        _ => {
            proxy.refuse();
            proxy.cut();
        }
    }
    pause::blocking::lasts(hold);
    proxy.forward();
}

fn flush_scripts(place: &dyn Place, hold: Duration) {
    const PAUSE: Duration = Duration::from_millis(20);
    for _ in 0..hold.as_millis() / PAUSE.as_millis() {
        (0..place.nodes()).for_each(|node| drop(ask(place.redis(node), "SCRIPT FLUSH")));
        pause::blocking::pace(PAUSE);
    }
}
