//! The system's allocator, which counts when it is told to.
//!
//! It is off while anything is timed; all it costs then is to look at a flag that nobody writes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};

static COUNTS: AtomicBool = AtomicBool::new(false);
static CALLS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicI64 = AtomicI64::new(0);

pub(crate) struct Counting;

fn note(calls: u64, freed: usize, taken: usize) {
    if COUNTS.load(Relaxed) {
        CALLS.fetch_add(calls, Relaxed);
        BYTES.fetch_add(taken as i64 - freed as i64, Relaxed);
    }
}

// SAFETY: hands every call on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(1, 0, layout.size());
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(1, 0, layout.size());
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        note(0, layout.size(), 0);
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(1, layout.size(), size);
        // SAFETY: the caller keeps the contract.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// What `work` took from the heap: how often it asked, and how many bytes it still holds.
pub(crate) fn taken_by(work: impl FnOnce()) -> (u64, i64) {
    let before = (CALLS.load(Relaxed), BYTES.load(Relaxed));
    COUNTS.store(true, Relaxed);
    work();
    COUNTS.store(false, Relaxed);
    (CALLS.load(Relaxed) - before.0, BYTES.load(Relaxed) - before.1)
}
