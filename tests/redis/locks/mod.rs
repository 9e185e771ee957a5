//! Locks on real Redis servers, with what happens to servers, holders and clocks.
//!
//! `TRAFFIK_SOAK=1` runs the long form of the soak and of redlock: `scripts/test --soak`.

mod clocks;
mod common;
mod exclusion;
mod holders;
mod minority;
mod redlock;
mod rules;
mod slow;
mod soak;
mod waiting;
