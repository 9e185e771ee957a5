//! What the tests of traffik have in common: real servers, and a backend that fails as told.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]
#![allow(
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    clippy::new_without_default,
    reason = "for tests, which fail by a panic"
)]

mod counting;
mod decisions;
mod dice;
mod distant;
mod failing;
mod log;
mod memory;
pub mod plain;
pub mod remote;
mod runtime_clock;
mod scripted;
pub mod servers;
pub mod together;
mod values_only;

pub use counting::Counting;
pub use decisions::wait_of;
pub use dice::Dice;
pub use distant::{Distant, Place, Wire};
pub use failing::{Failing, Gates, Mode};
pub use log::Log;
pub use memory::{resident_kib, threads};
pub use runtime_clock::RuntimeClock;
pub use scripted::{Play, Scripted};
pub use values_only::ValuesOnly;
