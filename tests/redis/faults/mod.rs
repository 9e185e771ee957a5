//! What becomes of hits, values and locks when the connection to a Redis server fails.
//!
//! A test's name begins with the fault's id. Time never decides: each wait has a long end, and each call
//! a generous one, to show that it ends at all. `TRAFFIK_SOAK=1` runs the long forms:
//! `scripts/test --soak`.

mod cancel;
mod common;
mod crash;
mod cuts;
mod effects;
mod reconnect;
mod runtimes;
mod secrets;
mod silence;
mod slow;
mod tls;
