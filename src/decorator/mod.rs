//! Decorators: backends around backends, which add what to do when a store is slow, down or asked too often.

mod forward;
