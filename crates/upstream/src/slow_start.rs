//! New pods get few requests first and more as they warm up (caches, JIT, connection pools), as Envoy's slow start does:
//! a pod that warms up turns down so large a part of its turns.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How new pods are warmed up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SlowStart {
    /// For how long after a pod joined, or passed a health check again.
    pub window: Duration,
    /// How soon the share grows: 1 is in step with time, more is sooner. Above zero.
    pub aggression: f64,
    /// The least share of its turns that a pod takes, 0.0 to 1.0.
    pub min_weight: f64,
}

impl SlowStart {
    /// The share of its turns that a pod of this age takes: `max(min_weight, (age / window) ^ (1 / aggression))`.
    fn weight(&self, age: Duration) -> f64 {
        let part = age.as_secs_f64() / self.window.as_secs_f64().max(f64::MIN_POSITIVE);
        part.min(1.0).powf(1.0 / self.aggression.max(f64::MIN_POSITIVE)).max(self.min_weight).min(1.0)
    }

    /// True if the pod turns this turn down; `random` is in 0..1.
    pub(crate) fn turns_down(&self, youth: &Youth, now: u64, random: impl FnOnce() -> f64) -> bool {
        let since = youth.0.load(Ordering::Relaxed);
        if since == 0 {
            return false;
        }
        let age = Duration::from_millis(now.saturating_sub(since));
        if age >= self.window {
            youth.0.store(0, Ordering::Relaxed);
            return false;
        }
        random() >= self.weight(age)
    }
}

/// Since when a pod warms up, in milliseconds since the upstream was made; zero: it is warm.
#[derive(Debug, Default)]
pub(crate) struct Youth(AtomicU64);

impl Youth {
    pub(crate) fn begin(&self, now: u64) {
        self.0.store(now.max(1), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: SlowStart = SlowStart { window: Duration::from_secs(10), aggression: 1.0, min_weight: 0.1 };

    #[test]
    fn a_new_pods_share_grows_as_envoys_does() {
        let weight = |aggression, seconds| {
            let share = SlowStart { aggression, ..RULE }.weight(Duration::from_secs(seconds));
            (share * 100.0).round()
        };
        assert_eq!(
            [0, 1, 2, 5, 9, 10, 99].map(|at| weight(1.0, at)),
            [10.0, 10.0, 20.0, 50.0, 90.0, 100.0, 100.0]
        );
        assert_eq!([1, 5].map(|at| weight(2.0, at)), [32.0, 71.0], "sooner");
        assert_eq!([1, 5].map(|at| weight(0.5, at)), [10.0, 25.0], "later");
    }

    #[test]
    fn a_pod_is_warm_after_the_window_and_takes_every_turn() {
        let youth = Youth::default();
        assert!(!RULE.turns_down(&youth, 5, || 0.99), "a pod that never was new");
        youth.begin(5);
        assert!(RULE.turns_down(&youth, 6, || 0.11) && !RULE.turns_down(&youth, 6, || 0.09));
        assert!(!RULE.turns_down(&youth, 10_005, || 0.99));
        assert!(!RULE.turns_down(&youth, 6, || 0.99), "once warm, always warm");
    }
}
