//! Synchronization primitives of the code that is model-checked: real ones, or, with the private `--cfg
//! traffik_model`, ones whose every interleaving the checker chooses.

#[cfg(not(all(test, traffik_model)))]
pub(crate) use {parking_lot::Mutex, std::sync::atomic::AtomicUsize};

#[cfg(all(test, traffik_model))]
pub(crate) use {model::Mutex, model::unlock_fair, shuttle::sync::atomic::AtomicUsize};

/// Hands a lock to who waits for it. One that is released and taken again at once is else taken by the same thread,
/// before the other has woken, until parking_lot's eventual fairness, some half a millisecond.
#[cfg(not(all(test, traffik_model)))]
pub(crate) fn unlock_fair<T>(guard: parking_lot::MutexGuard<'_, T>) {
    parking_lot::MutexGuard::unlock_fair(guard);
}

#[cfg(all(test, traffik_model))]
mod model {
    /// The model's mutex, with the interface of the real one.
    #[derive(Debug)]
    pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

    pub(crate) fn unlock_fair<T>(guard: shuttle::sync::MutexGuard<'_, T>) {
        drop(guard);
    }

    impl<T> Mutex<T> {
        pub(crate) const fn new(value: T) -> Self {
            Self(shuttle::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> shuttle::sync::MutexGuard<'_, T> {
            self.0.lock().expect("no thread of a model panics while it holds a lock")
        }
    }
}
