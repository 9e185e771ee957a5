//! What a limiter says, line by line: random timelines against an exact model, and a named test for
//! each rule.

#![expect(clippy::unwrap_used, reason = "a test panics, in its helpers too")]

#[path = "semantics/buckets.rs"]
mod buckets;
#[path = "semantics/changes.rs"]
mod changes;
#[path = "semantics/corrupt.rs"]
mod corrupt;
#[path = "support/decisions.rs"]
mod decisions;
#[path = "semantics/mixes.rs"]
mod mixes;
#[path = "semantics/model.rs"]
mod model;
#[path = "semantics/place.rs"]
mod place;
#[path = "semantics/refunds.rs"]
mod refunds;
#[path = "semantics/several.rs"]
mod several;
#[path = "semantics/store.rs"]
mod store;
#[path = "semantics/table.rs"]
mod table;
#[path = "semantics/timeline.rs"]
mod timeline;
#[path = "semantics/waits.rs"]
mod waits;
#[path = "semantics/windows.rs"]
mod windows;
#[path = "semantics/world.rs"]
mod world;
