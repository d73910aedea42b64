//! Counters of one upstream: plain relaxed atomics, so that a request takes no lock for them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use http::StatusCode;
use whichpod_access_log::Flags;
use whichpod_runtime::metrics::Histogram;

/// Upper bounds of the duration histogram: OpenTelemetry's advice for HTTP durations.
static BOUNDS: [Duration; 14] = [
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(75),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_millis(750),
    Duration::from_secs(1),
    Duration::from_millis(2_500),
    Duration::from_secs(5),
    Duration::from_millis(7_500),
    Duration::from_secs(10),
];

/// What is counted for one upstream.
#[derive(Debug, Default)]
pub struct Stats {
    /// Requests that are running.
    pub requests_active: AtomicU64,
    /// Ended requests by status class; index 0 is "no response".
    pub requests_by_class: [AtomicU64; 6],
    /// Ended requests and TCP connections by response flag, in the order of [`Flags::ALL`].
    pub requests_by_flag: [AtomicU64; Flags::ALL.len()],
    /// Requests that wait for a connection.
    pub pending_active: AtomicU64,
    /// Active health checks.
    pub checks: Checks,
    /// Retries that are running, for the budget.
    pub retries_active: AtomicU64,
    /// Retries made, fail-over of connects not counted.
    pub retries_total: AtomicU64,
    /// Requests that the budget or the attempts did not allow to be retried.
    pub retries_denied: AtomicU64,
    /// Connects to pods that were tried.
    pub connects_total: AtomicU64,
    /// Connects that a pod did not take.
    pub connects_failed: AtomicU64,
    /// Lines that name a virtual IP because nothing better was known.
    pub virtual_ip_requests: AtomicU64,
    /// Clients' connections that are open.
    pub downstream_active: AtomicU64,
    /// Clients' connections that do not take what is there for them.
    pub downstream_blocked: AtomicU64,
    /// Clients' connections accepted.
    pub downstream_total: AtomicU64,
    /// Body bytes from clients.
    pub bytes_received: AtomicU64,
    /// Body bytes to clients.
    pub bytes_sent: AtomicU64,
    /// TCP connections that are open.
    pub tcp_active: AtomicU64,
    /// TCP connections ever.
    pub tcp_total: AtomicU64,
    /// Bytes of TCP connections from clients.
    pub tcp_bytes_received: AtomicU64,
    /// Bytes of TCP connections to clients.
    pub tcp_bytes_sent: AtomicU64,
    /// TCP connections and tunnels whose clients may still say something, or have said what the pod does not have yet.
    pub tunnels_wanted: AtomicU64,
    /// Ended requests by duration.
    pub durations: Durations,
}

/// What active health checks came to.
#[derive(Debug, Default)]
pub struct Checks {
    /// Checks made.
    pub attempts: AtomicU64,
    /// Checks that failed.
    pub failures: AtomicU64,
}

/// The histogram of durations.
#[derive(Debug)]
pub struct Durations(pub Histogram);

impl Default for Durations {
    fn default() -> Self {
        Self(Histogram::new(&BOUNDS))
    }
}

impl Stats {
    /// Counts a request that has ended.
    pub fn ended(&self, status: Option<StatusCode>, flags: Flags, duration: Duration) {
        let class = status.map_or(0, |status| usize::from(status.as_u16() / 100));
        if let Some(counter) = self.requests_by_class.get(class) {
            counter.fetch_add(1, Relaxed);
        }
        self.flagged(flags);
        self.durations.0.observe(duration);
    }

    /// Counts the flags of what has ended.
    pub fn flagged(&self, flags: Flags) {
        if flags.is_empty() {
            return;
        }
        for (counter, (flag, ..)) in self.requests_by_flag.iter().zip(Flags::ALL) {
            if flags.contains(*flag) {
                counter.fetch_add(1, Relaxed);
            }
        }
    }

    /// All requests that have ended.
    #[must_use]
    pub fn requests_total(&self) -> u64 {
        self.requests_by_class.iter().map(|counter| counter.load(Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_counted_once_in_its_class_and_its_flags() {
        let stats = Stats::default();
        stats.ended(
            Some(StatusCode::SERVICE_UNAVAILABLE),
            Flags::CONNECT_FAILED | Flags::RETRY_LIMIT,
            Duration::from_millis(5),
        );
        stats.ended(None, Flags::DOWNSTREAM_CLOSED, Duration::from_secs(60));
        assert_eq!(stats.requests_total(), 2);
        assert_eq!(stats.requests_by_class[5].load(Relaxed), 1);
        assert_eq!(stats.requests_by_class[0].load(Relaxed), 1);
        assert_eq!(stats.requests_by_flag.iter().map(|c| c.load(Relaxed)).sum::<u64>(), 3);
    }
}
