//! What Prometheus reads on the health port.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use tokio::sync::watch;
use tokio::time::Instant;
use whichpod_runtime::metrics::{Collector, DescriptorEncoder, Exposition, Metrics};

use crate::admission::Reviews;
use crate::cache::Cache;
use crate::certificates::Served;
use crate::twins;

/// Where the numbers are.
pub struct Sources {
    /// Reviews.
    pub reviews: Arc<Reviews>,
    /// The mirrors of the cluster.
    pub cache: Cache,
    /// The certificate.
    pub served: Served,
    /// Whether this replica leads.
    pub leading: watch::Receiver<bool>,
    /// The twins that were written.
    pub twins: Arc<twins::Counts>,
    /// The workloads without the sidecar that they ask for.
    pub uninjected: Arc<Uninjected>,
}

/// What the last search for workloads without their sidecar found.
#[derive(Debug, Default)]
pub struct Uninjected {
    /// How many there are.
    pub workloads: AtomicUsize,
    /// How often was searched.
    pub searches: AtomicU64,
}

/// All metrics of the webhook.
pub fn metrics(sources: Sources) -> Metrics {
    let mut metrics = Metrics::new();
    metrics.register(sources);
    metrics
}

impl Collector for Sources {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut exposition = Exposition::new(encoder);
        let reviews = self.reviews.counts();
        let reviews = reviews
            .iter()
            .map(|((result, reason), count)| ([("result", result.label()), ("reason", *reason)], *count));
        exposition.counters("webhook_reviews", "Admission reviews by what came of them and why.", reviews)?;
        exposition.histograms(
            "webhook_review_duration_seconds",
            "Time from the whole request to its answer.",
            [([("path", "/mutate")], &self.reviews.duration)],
        )?;
        exposition.gauges(
            "webhook_cache_age_seconds",
            "For how long the webhook may have missed changes; 0 while its watch works.",
            self.cache
                .ages(Instant::now())
                .map(|(resource, age)| ([("resource", resource)], age.as_secs_f64())),
        )?;
        if let Some(not_after) = self.served.not_after() {
            exposition.gauge(
                "webhook_certificate_expiry_timestamp_seconds",
                "When the certificate that is served expires, in seconds since 1970.",
                not_after,
            )?;
        }
        let leading = *self.leading.borrow();
        exposition.gauge("webhook_leading", "1 on the replica that writes, else 0.", i64::from(leading))?;
        exposition.gauge(
            "webhook_twins",
            "Headless twins of whichpod's in the cluster.",
            number(self.cache.twins()),
        )?;
        exposition.counters(
            "webhook_twin_writes",
            "Twins that this replica made or changed, and attempts that failed.",
            [
                ([("result", "written")], self.twins.written.load(Relaxed)),
                ([("result", "failed")], self.twins.failed.load(Relaxed)),
            ],
        )?;
        // Only who has searched knows; a sum over the replicas is right.
        if leading && self.uninjected.searches.load(Relaxed) > 0 {
            exposition.gauge(
                "webhook_uninjected_workloads",
                "Workloads that ask for a sidecar and run without one; restart them.",
                number(self.uninjected.workloads.load(Relaxed)),
            )?;
        }
        Ok(())
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::Result;
    use std::time::Duration;

    #[test]
    fn every_number_has_its_name() {
        let (leading, receiver) = watch::channel(true);
        let sources = Sources {
            reviews: Arc::default(),
            cache: Cache::new(),
            served: Served::default(),
            leading: receiver,
            twins: Arc::default(),
            uninjected: Arc::default(),
        };
        sources.reviews.count(Result::Patched, "injected");
        sources.reviews.duration.observe(Duration::from_micros(300));
        sources.uninjected.searches.store(1, Relaxed);
        sources.uninjected.workloads.store(3, Relaxed);
        let metrics = metrics(sources);
        let text = metrics.encode();
        for line in [
            "whichpod_webhook_reviews_total{result=\"patched\",reason=\"injected\"} 1",
            "whichpod_webhook_review_duration_seconds_bucket{le=\"0.0005\",path=\"/mutate\"} 1",
            "whichpod_webhook_cache_age_seconds{resource=\"services\"} 0.0",
            "whichpod_webhook_leading 1",
            "whichpod_webhook_twins 0",
            "whichpod_webhook_twin_writes_total{result=\"failed\"} 0",
            "whichpod_webhook_uninjected_workloads 3",
            "# EOF",
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line} in\n{text}");
        }
        leading.send_replace(false);
        assert!(!metrics.encode().contains("uninjected"));
    }
}
