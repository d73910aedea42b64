//! What is counted of reviews.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use whichpod_runtime::metrics::Histogram;

/// A review takes well below a millisecond; what takes a second is an outage.
static BOUNDS: [Duration; 10] = [
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_secs(5),
];

/// What came of a review.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Result {
    /// The object was changed.
    Patched,
    /// It passed as it was.
    Allowed,
    /// It was refused.
    Denied,
    /// Something went wrong inside, and the object passed as it was.
    Failed,
    /// The request could not be read, and was answered with an HTTP error.
    Malformed,
}

impl Result {
    /// The label's value.
    pub fn label(self) -> &'static str {
        match self {
            Self::Patched => "patched",
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Failed => "failed",
            Self::Malformed => "malformed",
        }
    }
}

/// Reviews by result and reason, and how long they took.
#[derive(Debug)]
pub struct Reviews {
    counts: Mutex<BTreeMap<(Result, &'static str), u64>>,
    /// From the whole body to the answer.
    pub duration: Histogram,
}

impl Reviews {
    /// Counts one; `reason` is of a small set.
    pub fn count(&self, result: Result, reason: &'static str) {
        *self.lock().entry((result, reason)).or_default() += 1;
    }

    /// Every count so far.
    pub fn counts(&self) -> Vec<((Result, &'static str), u64)> {
        self.lock().iter().map(|(key, count)| (*key, *count)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(Result, &'static str), u64>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Reviews {
    fn default() -> Self {
        Self { counts: Mutex::default(), duration: Histogram::new(&BOUNDS) }
    }
}
