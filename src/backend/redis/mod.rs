//! The Redis backend.

#![allow(dead_code, reason = "used by the backend, which follows")]

mod decide;
mod scripts;
