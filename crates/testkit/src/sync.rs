//! Locking without poisoning.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks although another thread panicked while it held the lock: what these locks guard is whole after every statement,
/// and one failed test must not fail the others.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
