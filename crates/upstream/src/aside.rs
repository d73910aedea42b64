//! A pod that refuses connections is put aside: avoided for a while, then tried by one request at a time.
//!
//! Times are milliseconds since the upstream was made, and never zero.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// How long a pod is avoided after its first failed connect.
const FIRST: u64 = 1_000;
/// The longest time a pod is avoided without being tried again.
const LONGEST: u64 = 30_000;

/// Whether, and until when, one pod is avoided.
#[derive(Debug, Default)]
pub(crate) struct Aside {
    /// Zero: not aside. Else: nobody tries the pod before.
    until: AtomicU64,
    /// When the last failure that counted allows the first trial. Failures before belong to connects that were
    /// under way at the same time, and say nothing new.
    ripe: AtomicU64,
    failures: AtomicU32,
}

/// What a request may do with a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Not aside.
    Free,
    /// Aside, the time is over, and the caller is the one to try it.
    Trial,
    /// Aside.
    No,
}

impl Aside {
    /// True from a failed connect until the next one that works.
    pub(crate) fn is_set(&self) -> bool {
        self.until.load(Ordering::Relaxed) != 0
    }

    /// A connect failed; `random` is in 0..1.
    pub(crate) fn fail(&self, now: u64, random: f64) {
        if self.is_set() && now < self.ripe.load(Ordering::Relaxed) {
            return;
        }
        let failures = self.failures.load(Ordering::Relaxed).saturating_add(1);
        let until = now.saturating_add(delay(failures, random)).max(1);
        self.failures.store(failures, Ordering::Relaxed);
        self.ripe.store(until, Ordering::Relaxed);
        self.until.store(until, Ordering::Relaxed);
    }

    /// The pod took a connection. Writes only if there is something to clear, so that the cache line stays shared.
    pub(crate) fn clear(&self) {
        if self.is_set() {
            self.failures.store(0, Ordering::Relaxed);
            self.ripe.store(0, Ordering::Relaxed);
            self.until.store(0, Ordering::Relaxed);
        }
    }

    /// Whether the caller may use the pod. A [`Admission::Trial`] is given to one caller only; if neither success
    /// nor failure is reported, to another one after the same delay again.
    pub(crate) fn admit(&self, now: u64) -> Admission {
        let until = self.until.load(Ordering::Relaxed);
        if until == 0 {
            return Admission::Free;
        }
        if now < until {
            return Admission::No;
        }
        let next = now.saturating_add(delay(self.failures.load(Ordering::Relaxed), 1.0));
        match self.until.compare_exchange(until, next, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => Admission::Trial,
            Err(_) => Admission::No,
        }
    }
}

/// 1 s, 2 s, 4 s … 30 s, less up to 20 % so that many callers do not try a pod in step.
fn delay(failures: u32, random: f64) -> u64 {
    let full = FIRST.checked_shl(failures.saturating_sub(1).min(30)).unwrap_or(LONGEST).min(LONGEST);
    let jittered = Duration::from_millis(full).mul_f64(0.8 + 0.2 * random);
    u64::try_from(jittered.as_millis()).unwrap_or(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusing_pod_is_avoided_at_once_and_free_again_after_a_connect() {
        let aside = Aside::default();
        assert_eq!(aside.admit(10), Admission::Free);
        aside.fail(10, 1.0);
        assert!(aside.is_set());
        assert_eq!(aside.admit(10), Admission::No);
        aside.clear();
        assert!(!aside.is_set());
        assert_eq!(aside.admit(10), Admission::Free);
    }

    #[test]
    fn exactly_one_request_tries_a_pod_whose_time_is_over() {
        let aside = Aside::default();
        aside.fail(1, 1.0);
        assert_eq!(aside.admit(1_000), Admission::No);
        let tried = (0..100).filter(|_| aside.admit(1_001) == Admission::Trial).count();
        assert_eq!(tried, 1);
        assert_eq!(aside.admit(2_000), Admission::No, "the others go on avoiding it");
        assert_eq!(aside.admit(2_001), Admission::Trial, "a trial that was never reported is given again");
    }

    #[test]
    fn exactly_one_of_many_threads_tries_a_pod_whose_time_is_over() {
        let aside = Aside::default();
        aside.fail(1, 1.0);
        let tried = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..1_000 {
                        if aside.admit(1_500) == Admission::Trial {
                            tried.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(tried.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn the_time_aside_doubles_to_thirty_seconds_while_trials_fail() {
        let aside = Aside::default();
        let mut now = 1;
        let mut gaps = Vec::new();
        for _ in 0..8 {
            aside.fail(now, 1.0);
            let start = now;
            while aside.admit(now) != Admission::Trial {
                now += 1;
            }
            gaps.push(now - start);
        }
        assert_eq!(gaps, [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]);
        aside.clear();
        aside.fail(now, 1.0);
        assert_eq!(aside.admit(now + 1_000), Admission::Trial, "a connect that worked forgives everything");
    }

    #[test]
    fn a_hundred_connects_failing_together_count_once() {
        let aside = Aside::default();
        for _ in 0..100 {
            aside.fail(5, 1.0);
        }
        assert_eq!(aside.admit(1_005), Admission::Trial);
    }

    #[test]
    fn the_time_aside_is_spread_by_a_fifth() {
        assert_eq!(delay(1, 0.0), 800);
        assert_eq!(delay(1, 1.0), 1_000);
        assert_eq!(delay(u32::MAX, 0.0), 24_000);
        assert_eq!(delay(0, 1.0), 1_000);
    }
}
