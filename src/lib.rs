//! guide
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod backend;
pub mod clock;
#[cfg(feature = "conformance")]
pub mod conformance;
mod decision;
mod error;
mod jitter;
pub mod key;
pub mod lifespan;
pub mod lock;
mod rate;
pub mod strategy;
mod text;
mod throttle;
mod unwind;

pub use backend::{Backend, InMemory};
pub use clock::{Clock, ManualClock, SystemClock, Timestamp, WallClock};
pub use decision::{Decision, Denial, Receipt, Source};
pub use error::{BackendError, BuildError, Effect, Error, ErrorKind};
pub use key::{Exempt, Key, ToKey};
pub use lifespan::{Lifespan, LifespanExt};
pub use lock::{LockError, LockGuard, LockOptions};
pub use rate::{Rate, RateError};
pub use strategy::{
    FixedWindow, Gcra, LeakyBucket, Limit, SlidingWindowCounter, SlidingWindowLog, Strategy,
    TokenBucket,
};
pub use throttle::{ErrorHandler, Failure, HitOptions, IntoRate, OnError, Throttle, ThrottleBuilder};
