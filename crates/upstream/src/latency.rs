//! How long a pod takes to answer: a moving average that jumps to every peak and forgets it slowly (peak EWMA, as in
//! Finagle).

use std::sync::atomic::{AtomicU64, Ordering};

/// After this time, a measurement counts for a third.
const DECAY_MS: f64 = 10_000.0;
/// What a pod costs of which nothing is known but that it is at work, in microseconds: more than any that has answered.
const UNKNOWN: f64 = 1e9;

/// The average in microseconds (low half), and when it was last brought up to date, in milliseconds (high half). An update
/// that is lost to another one at the same time does no harm.
#[derive(Debug, Default)]
pub(crate) struct Latency(AtomicU64);

impl Latency {
    /// An answer took so many microseconds; `now` is in milliseconds.
    pub(crate) fn observe(&self, now: u64, micros: u64) {
        let (measured, decayed) = (as_f64(micros), self.decayed(now));
        let average = if measured >= decayed.value {
            measured
        } else {
            decayed.value * decayed.keeps + measured * (1.0 - decayed.keeps)
        };
        // A float is clamped by the cast.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped, and never negative"
        )]
        let average = average.round().min(f64::from(u32::MAX)) as u64;
        self.0.store((now & u64::from(u32::MAX)) << 32 | average, Ordering::Relaxed);
    }

    /// What another request is expected to cost a pod that has so many.
    pub(crate) fn cost(&self, now: u64, active: u32) -> f64 {
        let Decayed { value, keeps } = self.decayed(now);
        let average = value * keeps;
        if average < 1.0 && active > 0 {
            return UNKNOWN * f64::from(active);
        }
        average * (f64::from(active) + 1.0)
    }

    fn decayed(&self, now: u64) -> Decayed {
        let packed = self.0.load(Ordering::Relaxed);
        let (at, value) = (packed >> 32, packed & u64::from(u32::MAX));
        // Both are the low halves of milliseconds, which come round after 49 days. Another worker's clock may be ahead.
        let since = (now & u64::from(u32::MAX)).wrapping_sub(at) & u64::from(u32::MAX);
        let since = if since > u64::from(u32::MAX / 2) { 0 } else { since };
        Decayed { value: as_f64(value), keeps: (-as_f64(since) / DECAY_MS).exp() }
    }
}

struct Decayed {
    /// As it was when it was last brought up to date.
    value: f64,
    /// How much of it still counts.
    keeps: f64,
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn as_f64(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten_slowly() {
        let latency = Latency::default();
        latency.observe(1_000, 2_000);
        latency.observe(1_001, 50_000);
        assert!((latency.cost(1_001, 0) - 50_000.0).abs() < 1.0);
        latency.observe(1_101, 2_000);
        assert!(latency.cost(1_101, 0) > 45_000.0, "one good answer does not make up for it");
        for at in 0..300 {
            latency.observe(1_200 + 100 * at, 2_000);
        }
        assert!(latency.cost(31_100, 0) < 5_000.0);
    }

    #[test]
    fn a_slow_pod_that_is_left_alone_is_given_another_chance() {
        let latency = Latency::default();
        latency.observe(1, 1_000_000);
        assert!(latency.cost(60_001, 0) < 3_000.0);
    }

    #[test]
    fn work_under_way_makes_a_pod_dearer() {
        let latency = Latency::default();
        latency.observe(1, 1_000);
        assert!((latency.cost(1, 3) - 4_000.0).abs() < 1.0);
    }

    #[test]
    fn a_new_pod_gets_a_first_request_and_no_second_before_it_has_answered() {
        let latency = Latency::default();
        assert!(latency.cost(1, 0) < f64::EPSILON);
        assert!(latency.cost(1, 1) >= UNKNOWN);
    }

    #[test]
    fn a_clock_that_came_round_or_is_behind_does_no_harm() {
        let latency = Latency::default();
        latency.observe(u64::from(u32::MAX), 1_000);
        assert!(latency.cost(u64::from(u32::MAX) + 11, 0) > 900.0);
        assert!((latency.cost(u64::from(u32::MAX) - 5, 0) - 1_000.0).abs() < 1.0);
        latency.observe(5, u64::MAX);
        assert!(latency.cost(5, u32::MAX).is_finite());
    }
}
