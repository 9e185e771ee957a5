//! What a limiter says, line by line: random timelines against an exact model, and a named test for
//! each rule.

#![expect(clippy::unwrap_used, reason = "a test panics, in its helpers too")]

mod buckets;
mod changes;
mod corrupt;
mod mixes;
mod model;
mod place;
mod refunds;
mod several;
mod store;
mod table;
mod timeline;
mod waits;
mod windows;
mod world;
