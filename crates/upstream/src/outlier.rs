//! A pod whose requests fail is ejected: left alone for a while that grows each time (Envoy's outlier detection).
//!
//! Failed connects are not counted here: one puts a pod aside at once, see `aside`. Times are milliseconds since the
//! upstream was made, and never zero.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::endpoint::Endpoint;
use crate::upstream::Shared;

/// When a pod is ejected, and for how long; a threshold of zero is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutlierRules {
    /// So many requests in a row got a status of 500 or more, or no response.
    pub consecutive_5xx: u32,
    /// So many requests in a row got 502, 503 or 504, or no response.
    pub consecutive_gateway_failure: u32,
    /// So many requests in a row took longer than `slow` to their response's head.
    pub consecutive_slow: u32,
    /// See `consecutive_slow`.
    pub slow: Duration,
    /// The first ejection lasts so long, the second in a row twice as long, and so on.
    pub base_ejection_time: Duration,
    /// No ejection lasts longer.
    pub max_ejection_time: Duration,
    /// Never more than this part of the set is ejected, 0 to 100.
    pub max_ejection_percent: u32,
    /// A pod that was not ejected for this long is forgiven one ejection.
    pub interval: Duration,
}

/// How a request to a pod went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The pod answered with this status.
    Status(u16),
    /// The pod took the request and gave no response: it closed, reset, timed out, or what it sent is not HTTP.
    NoResponse,
}

/// What a pod is ejected for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    ServerErrors,
    GatewayFailures,
    Slow,
}

impl Cause {
    const ALL: [Self; 3] = [Self::ServerErrors, Self::GatewayFailures, Self::Slow];

    /// In Envoy's words where it has some.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::ServerErrors => "consecutive_5xx",
            Self::GatewayFailures => "consecutive_gateway_failure",
            Self::Slow => "consecutive_slow",
        }
    }

    fn threshold(self, rules: &OutlierRules) -> u32 {
        match self {
            Self::ServerErrors => rules.consecutive_5xx,
            Self::GatewayFailures => rules.consecutive_gateway_failure,
            Self::Slow => rules.consecutive_slow,
        }
    }

    fn is_met(self, rules: &OutlierRules, outcome: Outcome, took: Duration) -> bool {
        match (self, outcome) {
            (Self::ServerErrors, Outcome::Status(status)) => status >= 500,
            (Self::GatewayFailures, Outcome::Status(status)) => (502..=504).contains(&status),
            (Self::ServerErrors | Self::GatewayFailures, Outcome::NoResponse) => true,
            (Self::Slow, _) => took > rules.slow,
        }
    }
}

/// What is known of one pod.
#[derive(Debug, Default)]
pub(crate) struct Outlier {
    /// In a row, by [`Cause`].
    failures: [AtomicU32; 3],
    /// Zero: not ejected.
    until: AtomicU64,
    /// Ejections that are not forgiven yet.
    times: AtomicU32,
    cause: AtomicU8,
    /// The ejection stands in the log.
    is_said: AtomicBool,
}

impl Outlier {
    pub(crate) fn is_ejected(&self) -> bool {
        self.until.load(Relaxed) != 0
    }

    /// Counts a request; some cause if that was one too many. Writes only what changes.
    pub(crate) fn count(&self, rules: &OutlierRules, outcome: Outcome, took: Duration) -> Option<Cause> {
        let mut ripe = None;
        for (cause, failures) in Cause::ALL.into_iter().zip(&self.failures) {
            let threshold = cause.threshold(rules);
            if threshold == 0 {
                continue;
            }
            if !cause.is_met(rules, outcome, took) {
                if failures.load(Relaxed) != 0 {
                    failures.store(0, Relaxed);
                }
            } else if failures.fetch_add(1, Relaxed).saturating_add(1) >= threshold {
                ripe = ripe.or(Some(cause));
            }
        }
        ripe
    }

    /// The pod is ejected from now on.
    pub(crate) fn eject(&self, rules: &OutlierRules, cause: Cause, now: u64) {
        let times = self.times.load(Relaxed).saturating_add(1);
        self.times.store(times, Relaxed);
        let longest = rules.max_ejection_time.max(rules.base_ejection_time);
        let time = rules.base_ejection_time.saturating_mul(times).min(longest);
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.cause.store(cause as u8, Relaxed);
        self.is_said.store(false, Relaxed);
        self.until.store(now.saturating_add(millis).max(1), Relaxed);
    }

    /// The failures so far count no longer.
    pub(crate) fn forget_failures(&self) {
        for failures in &self.failures {
            failures.store(0, Relaxed);
        }
    }

    fn cause(&self) -> &'static str {
        let cause = Cause::ALL.get(usize::from(self.cause.load(Relaxed)));
        cause.map_or("unknown", |cause| cause.name())
    }
}

/// Says which pods were ejected, and lets them back when their time is over; for as long as the upstream lives.
pub(crate) async fn keep_time(shared: Arc<Shared>, rules: OutlierRules) {
    let interval = rules.interval.max(Duration::from_millis(10));
    let mut forgive_at = Instant::now() + interval;
    loop {
        let (next_back, to_forgive) = look(&shared);
        let next = match (next_back, to_forgive) {
            (Some(back), true) => Some(back.min(forgive_at)),
            (Some(back), false) => Some(back),
            (None, true) => Some(forgive_at),
            (None, false) => None,
        };
        tokio::select! {
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            () = shared.ejected.notified() => {}
        }
        let now = Instant::now();
        let forgives = now >= forgive_at;
        if forgives {
            forgive_at = now + interval;
        }
        revise(&shared, now, forgives);
    }
}

/// When the next pod is back, and whether one has an ejection to be forgiven.
fn look(shared: &Shared) -> (Option<Instant>, bool) {
    let set = shared.set.load();
    let outliers = || set.endpoints().iter().map(|endpoint| &endpoint.outlier);
    let next = outliers().map(|outlier| outlier.until.load(Relaxed)).filter(|until| *until != 0).min();
    let to_forgive = outliers().any(|outlier| !outlier.is_ejected() && outlier.times.load(Relaxed) > 0);
    (next.map(|until| shared.at(until)), to_forgive)
}

fn revise(shared: &Shared, now: Instant, forgives: bool) {
    let millis = shared.millis(now);
    let set = shared.set.load_full();
    for endpoint in set.endpoints() {
        let outlier = &endpoint.outlier;
        let until = outlier.until.load(Relaxed);
        if until != 0 && !outlier.is_said.swap(true, Relaxed) {
            let seconds = Duration::from_millis(until.saturating_sub(millis)).as_secs_f64();
            say_ejected(shared, endpoint, seconds);
        }
        if until != 0 && millis >= until {
            outlier.forget_failures();
            outlier.until.store(0, Relaxed);
            tracing::info!(target: "whichpod::health", upstream = &*shared.name, address = %endpoint.address(), pod = name(endpoint), "the pod is no longer ejected");
        } else if until == 0 && forgives {
            let times = outlier.times.load(Relaxed);
            outlier.times.store(times.saturating_sub(1), Relaxed);
        }
    }
    shared.recount();
}

fn say_ejected(shared: &Shared, endpoint: &Endpoint, seconds: f64) {
    let (times, reason) = (endpoint.outlier.times.load(Relaxed), endpoint.outlier.cause());
    tracing::warn!(target: "whichpod::health", upstream = &*shared.name, address = %endpoint.address(), pod = name(endpoint), reason, seconds, times, "the pod is ejected: its requests fail");
}

fn name(endpoint: &Endpoint) -> &str {
    endpoint.identity().map_or("-", |name| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: OutlierRules = OutlierRules {
        consecutive_5xx: 3,
        consecutive_gateway_failure: 2,
        consecutive_slow: 4,
        slow: Duration::from_millis(100),
        base_ejection_time: Duration::from_secs(30),
        max_ejection_time: Duration::from_secs(100),
        max_ejection_percent: 50,
        interval: Duration::from_secs(10),
    };

    fn counted(outcomes: &[(Outcome, u64)]) -> Vec<Option<Cause>> {
        let outlier = Outlier::default();
        let count = |(outcome, millis): &(Outcome, u64)| {
            outlier.count(&RULES, *outcome, Duration::from_millis(*millis))
        };
        outcomes.iter().map(count).collect()
    }

    #[test]
    fn only_failures_in_a_row_count() {
        let (ok, bad) = ((Outcome::Status(200), 1), (Outcome::Status(500), 1));
        assert_eq!(counted(&[bad, bad, ok, bad, bad]), [None; 5]);
        assert_eq!(counted(&[bad, bad, bad])[2], Some(Cause::ServerErrors));
        assert_eq!(
            counted(&[(Outcome::Status(404), 1); 9]),
            [None; 9],
            "the caller's mistake is not the pod's"
        );
    }

    #[test]
    fn a_gateway_failure_is_a_server_error_too_but_not_the_other_way_round() {
        let (bad, worse) = ((Outcome::Status(500), 1), (Outcome::Status(503), 1));
        assert_eq!(counted(&[worse, worse])[1], Some(Cause::GatewayFailures));
        assert_eq!(counted(&[worse, bad, worse]), [None, None, Some(Cause::ServerErrors)]);
        assert_eq!(counted(&[(Outcome::NoResponse, 1), worse])[1], Some(Cause::GatewayFailures));
    }

    #[test]
    fn a_pod_that_is_slow_again_and_again_counts_although_it_answers() {
        let (slow, quick) = ((Outcome::Status(200), 101), (Outcome::Status(200), 100));
        assert_eq!(counted(&[slow, slow, slow, quick, slow, slow, slow]), [None; 7]);
        assert_eq!(counted(&[slow, slow, slow, slow])[3], Some(Cause::Slow));
    }

    #[test]
    fn ejections_grow_up_to_the_longest() {
        let outlier = Outlier::default();
        let times = [1, 2, 3, 4, 5].map(|_| {
            outlier.eject(&RULES, Cause::Slow, 1);
            outlier.until.load(Relaxed) / 1_000
        });
        assert_eq!(times, [30, 60, 90, 100, 100]);
        assert_eq!(outlier.cause(), "consecutive_slow");
    }

    #[test]
    fn a_rule_that_is_off_counts_nothing() {
        let off =
            OutlierRules { consecutive_5xx: 0, consecutive_gateway_failure: 0, consecutive_slow: 0, ..RULES };
        let outlier = Outlier::default();
        assert!((0..99).all(|_| outlier.count(&off, Outcome::NoResponse, Duration::MAX).is_none()));
    }
}
