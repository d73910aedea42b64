//! Readiness: named conditions, each held by a guard; ready when all are gone.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Whether the process may get traffic; clones share one state.
///
/// Without any condition it is ready, so take the first [`Pending`] before anybody can ask.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    state: Arc<Mutex<State>>,
}

/// A condition that is awaited; dropping it says that it is met.
#[derive(Debug)]
pub struct Pending {
    number: u64,
    state: Arc<Mutex<State>>,
}

/// What a probe is told; its text is one line without a line end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Nothing is awaited.
    Ready,
    /// What is awaited, oldest first.
    Waiting(Vec<String>),
    /// The process is about to leave.
    ShuttingDown,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    pending: BTreeMap<u64, String>,
    shutting_down: bool,
}

impl Readiness {
    /// Ready until the first condition is taken.
    pub fn new() -> Self {
        Self::default()
    }

    /// Not ready until the returned guard is dropped; `what` completes the sentence "waiting for …".
    pub fn pending(&self, what: &str) -> Pending {
        let mut state = lock(&self.state);
        let number = state.next;
        state.next += 1;
        state.pending.insert(number, what.to_owned());
        Pending { number, state: Arc::clone(&self.state) }
    }

    /// Not ready from now on, for good: the first step of a shutdown.
    pub fn not_ready(&self) {
        lock(&self.state).shutting_down = true;
    }

    /// Whether the process is ready and, if not, why.
    pub fn status(&self) -> Status {
        let state = lock(&self.state);
        if state.shutting_down {
            Status::ShuttingDown
        } else if state.pending.is_empty() {
            Status::Ready
        } else {
            Status::Waiting(state.pending.values().cloned().collect())
        }
    }

    /// Whether nothing is awaited and no shutdown has begun.
    pub fn is_ready(&self) -> bool {
        self.status() == Status::Ready
    }
}

impl Pending {
    /// Says that the condition is met; the same as dropping the guard.
    pub fn done(self) {
        drop(self);
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        lock(&self.state).pending.remove(&self.number);
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("ready"),
            Self::Waiting(what) => write!(f, "not ready: waiting for {}", what.join(", ")),
            Self::ShuttingDown => f.write_str("not ready: shutting down"),
        }
    }
}

/// The state is whole after every statement, so a panic elsewhere cannot have broken it.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_ready_only_when_every_condition_is_met() {
        let readiness = Readiness::new();
        let listener = readiness.pending("listener 127.77.0.1:10000");
        let upstream = readiness.pending("upstream backend-service");
        assert_eq!(
            readiness.status().to_string(),
            "not ready: waiting for listener 127.77.0.1:10000, upstream backend-service"
        );
        listener.done();
        assert!(!readiness.is_ready());
        assert_eq!(readiness.status().to_string(), "not ready: waiting for upstream backend-service");
        drop(upstream);
        assert!(readiness.is_ready());
        assert_eq!(readiness.status().to_string(), "ready");
    }

    #[test]
    fn two_conditions_of_one_name_are_two() {
        let readiness = Readiness::new();
        let first = readiness.pending("an upstream");
        let second = readiness.pending("an upstream");
        drop(first);
        assert!(!readiness.is_ready());
        drop(second);
        assert!(readiness.is_ready());
    }

    #[test]
    fn a_pod_that_leaves_never_becomes_ready_again() {
        let readiness = Readiness::new();
        let late = readiness.pending("an upstream");
        readiness.clone().not_ready();
        drop(late);
        assert!(!readiness.is_ready());
        assert_eq!(readiness.status().to_string(), "not ready: shutting down");
    }
}
