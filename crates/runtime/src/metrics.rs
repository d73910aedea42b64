//! Metrics as OpenMetrics text.
//!
//! A request must not wait for a lock, so what is counted per request is a plain atomic (or a [`Histogram`] of them), and a
//! [`Collector`] reads it when Prometheus scrapes:
//!
//! ```
//! use std::sync::Arc;
//! use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
//! use whichpod_runtime::metrics::{Collector, DescriptorEncoder, Exposition, Metrics};
//!
//! #[derive(Debug, Default)]
//! struct Upstream {
//!     ok: AtomicU64,
//!     failed: AtomicU64,
//! }
//!
//! impl Collector for Upstream {
//!     fn encode(&self, encoder: DescriptorEncoder) -> std::fmt::Result {
//!         let mut exposition = Exposition::new(encoder);
//!         let results = [("ok", &self.ok), ("failed", &self.failed)];
//!         exposition.counters(
//!             "requests",
//!             "Requests by result.",
//!             results.map(|(result, count)| ([("result", result)], count.load(Relaxed))),
//!         )
//!     }
//! }
//!
//! let upstream = Arc::new(Upstream::default());
//! let mut metrics = Metrics::new();
//! metrics.register(Arc::clone(&upstream));
//! upstream.ok.fetch_add(1, Relaxed);
//! assert!(metrics.encode().contains("whichpod_requests_total{result=\"ok\"} 1\n"));
//! ```

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use prometheus_client::encoding::{EncodeGaugeValue, EncodeLabelSet, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;

pub use prometheus_client::collector::Collector;
pub use prometheus_client::encoding::DescriptorEncoder;

/// The content type of [`Metrics::encode`]'s text (OpenMetrics 1.0.0, "Overall Structure").
pub const CONTENT_TYPE_OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Everything that one process exposes; all names get the prefix `whichpod_`, unless made [`Self::without_prefix`].
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// Nothing yet.
    pub fn new() -> Self {
        Self { registry: Registry::with_prefix("whichpod") }
    }

    /// Nothing yet; names are exposed as they are given, for those that other conventions fix (OpenTelemetry's).
    pub fn without_prefix() -> Self {
        Self { registry: Registry::default() }
    }

    /// Adds what a collector writes on every scrape.
    pub fn register(&mut self, collector: impl Collector) {
        self.registry.register_collector(Box::new(collector));
    }

    /// The registry, for metrics of `prometheus_client`'s own types; those take locks, so keep them off the requests' way.
    pub fn registry_mut(&mut self) -> &mut Registry {
        &mut self.registry
    }

    /// All metrics as OpenMetrics text. If a collector fails, the text lacks its end mark, so that a scraper refuses it
    /// rather than take a part for the whole.
    pub fn encode(&self) -> String {
        let mut out = String::new();
        if text::encode(&mut out, &self.registry).is_err() {
            tracing::error!("a metrics collector failed, so the metrics are incomplete");
        }
        out
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Writes numbers as metrics: what a [`Collector`] needs, a line for each.
#[derive(Debug)]
pub struct Exposition<'a> {
    encoder: DescriptorEncoder<'a>,
}

impl<'a> Exposition<'a> {
    /// Wraps what [`Collector::encode`] is given.
    pub fn new(encoder: DescriptorEncoder<'a>) -> Self {
        Self { encoder }
    }

    /// One counter; `name` is without `_total`, which the format adds; `help` is a sentence.
    ///
    /// # Errors
    /// Only if the text cannot be written; so with all of these.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        write_counter(self.describe(name, help, MetricType::Counter)?, value)
    }

    /// A family of counters that differ by label; none at all if there are no values.
    pub fn counters<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Counter, values, write_counter)
    }

    /// One gauge.
    pub fn gauge(&mut self, name: &str, help: &str, value: impl EncodeGaugeValue + Copy) -> fmt::Result {
        write_gauge(self.describe(name, help, MetricType::Gauge)?, value)
    }

    /// A family of gauges that differ by label; none at all if there are no values.
    pub fn gauges<L: EncodeLabelSet, V: EncodeGaugeValue + Copy>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Gauge, values, write_gauge)
    }

    /// A family of histograms that differ by label; none at all if there are no values.
    pub fn histograms<'h, L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (L, &'h Histogram)>,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Histogram, values, write_histogram)
    }

    fn describe<'s>(
        &'s mut self,
        name: &'s str,
        help: &str,
        kind: MetricType,
    ) -> Result<MetricEncoder<'s>, fmt::Error> {
        self.encoder.encode_descriptor(name, help, None, kind)
    }

    fn family<L: EncodeLabelSet, V>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        values: impl IntoIterator<Item = (L, V)>,
        write: impl Fn(MetricEncoder<'_>, V) -> fmt::Result,
    ) -> fmt::Result {
        let mut values = values.into_iter().peekable();
        if values.peek().is_none() {
            return Ok(());
        }
        let mut family = self.encoder.encode_descriptor(name, help, None, kind)?;
        values.try_for_each(|(labels, value)| write(family.encode_family(&labels)?, value))
    }
}

fn write_counter(mut metric: MetricEncoder<'_>, value: u64) -> fmt::Result {
    metric.encode_counter(&value, None::<&Exemplar<NoLabelSet, u64>>)
}

fn write_gauge(mut metric: MetricEncoder<'_>, value: impl EncodeGaugeValue + Copy) -> fmt::Result {
    metric.encode_gauge(&value)
}

fn write_histogram(mut metric: MetricEncoder<'_>, histogram: &Histogram) -> fmt::Result {
    let buckets: Vec<(f64, u64)> = histogram.bounds().zip(histogram.counts()).collect();
    let count = buckets.iter().map(|(_, count)| count).sum();
    metric.encode_histogram::<NoLabelSet>(histogram.sum_seconds(), count, &buckets, None)
}

/// Durations in buckets, in seconds; counting takes no lock and allocates nothing.
#[derive(Debug)]
pub struct Histogram {
    /// Upper bounds, ascending; the last bucket, without bound, comes on top.
    bounds: &'static [Duration],
    counts: Box<[AtomicU64]>,
    sum_nanoseconds: AtomicU64,
}

impl Histogram {
    /// Empty; `bounds` are the buckets' upper bounds, ascending.
    pub fn new(bounds: &'static [Duration]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum_nanoseconds: AtomicU64::new(0) }
    }

    /// Counts one duration.
    pub fn observe(&self, duration: Duration) {
        let bucket = self.bounds.partition_point(|bound| *bound < duration);
        self.counts[bucket].fetch_add(1, Relaxed);
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.sum_nanoseconds.fetch_add(nanoseconds, Relaxed);
    }

    fn bounds(&self) -> impl Iterator<Item = f64> {
        self.bounds.iter().map(Duration::as_secs_f64).chain([f64::INFINITY])
    }

    fn counts(&self) -> impl Iterator<Item = u64> {
        self.counts.iter().map(|count| count.load(Relaxed))
    }

    fn sum_seconds(&self) -> f64 {
        Duration::from_nanos(self.sum_nanoseconds.load(Relaxed)).as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static BOUNDS: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(1)];

    #[derive(Debug)]
    struct Sample {
        duration: Histogram,
        fails: bool,
    }

    impl Collector for Sample {
        fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
            let mut exposition = Exposition::new(encoder);
            exposition.counter("dropped_lines", "Lines dropped.", 3)?;
            exposition.gauge("connections", "Open connections.", 7_u64)?;
            exposition.counters(
                "requests",
                "Requests.",
                [([("upstream", "a\"b")], 1), ([("upstream", "c")], 2)],
            )?;
            exposition.gauges("endpoints", "Pods.", [([("upstream", "c")], 0.5)])?;
            exposition.counters("absent", "Never there.", std::iter::empty::<([(&str, &str); 1], u64)>())?;
            if self.fails {
                return Err(fmt::Error);
            }
            exposition.histograms("duration_seconds", "Duration.", [([("upstream", "c")], &self.duration)])
        }
    }

    fn sample(fails: bool) -> Metrics {
        let duration = Histogram::new(&BOUNDS);
        for milliseconds in [1, 10, 11, 1000, 5000] {
            duration.observe(Duration::from_millis(milliseconds));
        }
        let mut metrics = Metrics::new();
        metrics.register(Sample { duration, fails });
        metrics
    }

    #[test]
    fn a_scrape_sees_every_number_in_openmetrics_words() {
        let expected = "\
# HELP whichpod_dropped_lines Lines dropped.
# TYPE whichpod_dropped_lines counter
whichpod_dropped_lines_total 3
# HELP whichpod_connections Open connections.
# TYPE whichpod_connections gauge
whichpod_connections 7
# HELP whichpod_requests Requests.
# TYPE whichpod_requests counter
whichpod_requests_total{upstream=\"a\\\"b\"} 1
whichpod_requests_total{upstream=\"c\"} 2
# HELP whichpod_endpoints Pods.
# TYPE whichpod_endpoints gauge
whichpod_endpoints{upstream=\"c\"} 0.5
# HELP whichpod_duration_seconds Duration.
# TYPE whichpod_duration_seconds histogram
whichpod_duration_seconds_sum{upstream=\"c\"} 6.022
whichpod_duration_seconds_count{upstream=\"c\"} 5
whichpod_duration_seconds_bucket{le=\"0.01\",upstream=\"c\"} 2
whichpod_duration_seconds_bucket{le=\"1.0\",upstream=\"c\"} 4
whichpod_duration_seconds_bucket{le=\"+Inf\",upstream=\"c\"} 5
# EOF
";
        assert_eq!(sample(false).encode(), expected);
    }

    #[test]
    fn a_scraper_refuses_metrics_of_which_a_part_is_missing() {
        let text = sample(true).encode();
        assert!(text.contains("whichpod_dropped_lines_total 3\n"), "{text}");
        assert!(!text.contains("# EOF"), "{text}");
    }
}
