//! What Prometheus scrapes: read from the counters of the request path, which knows nothing of it.
//!
//! No series is labelled by pod: pods come and go, and every name would stay for as long as the process. The access log
//! and the admin server's `/clusters` name pods.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::UNIX_EPOCH;

use tokio::time::Instant;
use whichpod_access_log::Flags;
use whichpod_proxy::limits::Gate;
use whichpod_proxy::site::Site;
use whichpod_proxy::stats::Stats;
use whichpod_runtime::metrics::{Collector, DescriptorEncoder, Exposition, Metrics};
use whichpod_upstream::{DnsStats, SetState, Source, Upstream};

use crate::admin::Admin;

/// All metrics as OpenMetrics text.
pub fn text(admin: &Arc<Admin>) -> String {
    let mut metrics = Metrics::without_prefix();
    metrics.register(Sidecar(Arc::clone(admin)));
    metrics.encode()
}

/// The status classes of [`Stats::requests_by_class`].
pub(crate) const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// A metric's name, its help, and where its value is.
type Row<S> = (&'static str, &'static str, fn(&S) -> &AtomicU64);

/// Counters of one upstream that need no other label.
const COUNTERS: &[Row<Stats>] = &[
    ("whichpod_retries", "Requests sent again; fail-over of connects is not counted.", |stats| {
        &stats.retries_total
    }),
    (
        "whichpod_retries_denied",
        "Retries that the budget or the number of attempts did not allow.",
        |stats| &stats.retries_denied,
    ),
    (
        "whichpod_virtual_ip_requests",
        "Requests sent to a Service's virtual IP, so that the pod is not known.",
        |stats| &stats.virtual_ip_requests,
    ),
    ("whichpod_upstream_connects", "Connects to pods that were begun.", |stats| &stats.connects_total),
    ("whichpod_upstream_connects_failed", "Connects that a pod did not take.", |stats| {
        &stats.connects_failed
    }),
    ("whichpod_connections", "Connections accepted from clients.", |stats| &stats.downstream_total),
    ("whichpod_received_bytes", "Bytes of request bodies.", |stats| &stats.bytes_received),
    ("whichpod_sent_bytes", "Bytes of response bodies.", |stats| &stats.bytes_sent),
    ("whichpod_tcp_connections", "TCP connections (of protocol tcp, or found out to be) ever.", |stats| {
        &stats.tcp_total
    }),
    ("whichpod_tcp_received_bytes", "Bytes of TCP connections from clients.", |stats| {
        &stats.tcp_bytes_received
    }),
    ("whichpod_tcp_sent_bytes", "Bytes of TCP connections to clients.", |stats| &stats.tcp_bytes_sent),
];

/// Gauges of one upstream that need no other label.
const GAUGES: &[Row<Stats>] = &[
    ("whichpod_requests_active", "Requests that are running.", |stats| &stats.requests_active),
    ("whichpod_requests_pending", "Requests that wait for a connection.", |stats| &stats.pending_active),
    ("whichpod_connections_active", "Connections of clients that are open.", |stats| {
        &stats.downstream_active
    }),
    ("whichpod_tcp_connections_active", "TCP connections that are open.", |stats| &stats.tcp_active),
];

/// Counters of one upstream's discovery.
const DNS: &[Row<DnsStats>] = &[
    ("whichpod_dns_queries", "Questions sent to DNS.", |dns| &dns.queries),
    ("whichpod_dns_answers", "Refreshes that brought pods.", |dns| &dns.answers),
    ("whichpod_dns_failures", "Refreshes without a usable answer: timeout, SERVFAIL, refused.", |dns| {
        &dns.failures
    }),
    ("whichpod_dns_empty", "Refreshes that found no name or no pods.", |dns| &dns.empty),
    ("whichpod_dns_refused_answers", "Addresses in answers that no pod can have.", |dns| &dns.refused),
    ("whichpod_endpoint_sets", "Changes of the set of pods.", |dns| &dns.sets_published),
    ("whichpod_fallbacks", "How often the fallback came into use.", |dns| &dns.fallbacks),
];

const STATES: [SetState; 4] = [SetState::Pending, SetState::Ready, SetState::Empty, SetState::Failed];

struct Sidecar(Arc<Admin>);

impl fmt::Debug for Sidecar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sidecar")
    }
}

impl Collector for Sidecar {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut exposition = Exposition::new(encoder);
        // Every name that somebody may call (`"*"`) has an upstream: what was never called costs no series.
        let sites: Vec<&Site> =
            self.0.shared.sites.iter().map(AsRef::as_ref).filter(|site| is_used(site)).collect();
        process(&mut exposition, &self.0)?;
        requests(&mut exposition, &sites)?;
        pods(&mut exposition, &sites)?;
        health(&mut exposition, &sites)?;
        discovery(&mut exposition, &sites)
    }
}

fn is_used(site: &Site) -> bool {
    !site.config.lazy || site.stats.downstream_total.load(Relaxed) > 0
}

fn process(out: &mut Exposition<'_>, admin: &Admin) -> fmt::Result {
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    out.gauges("whichpod_build_info", "1, labelled by version.", [(version, 1_u64)])?;
    let started = admin.started.1.duration_since(UNIX_EPOCH).unwrap_or_default();
    out.gauge(
        "process_start_time_seconds",
        "When the process started, since the epoch.",
        started.as_secs_f64(),
    )?;
    out.gauge("whichpod_workers", "Worker threads.", u64::try_from(admin.workers).unwrap_or(u64::MAX))?;
    out.gauge(
        "whichpod_memory_pressure",
        "0: enough, 1: new requests are shed, 2: new connections are closed too.",
        admin.shared.memory.pressure() as u64,
    )?;
    out.counter("whichpod_access_log_lines", "Lines written to the access log.", admin.log.lines())?;
    out.counter(
        "whichpod_access_log_dropped",
        "Lines lost because nobody read the access log in time.",
        admin.log.dropped(),
    )
}

fn requests(out: &mut Exposition<'_>, sites: &[&Site]) -> fmt::Result {
    out.histograms(
        "http_server_request_duration_seconds",
        "From a request's head to the end of its response (OpenTelemetry: http.server.request.duration).",
        sites.iter().map(|site| (label(site), &site.stats.durations.0)),
    )?;
    out.counters(
        "whichpod_requests",
        "Requests that have ended, by status class; none: the client went away before a response.",
        sites.iter().flat_map(|site| {
            let classes = std::iter::zip(CLASSES, &site.stats.requests_by_class);
            classes.map(|(class, count)| (labels(site, "class", class), count.load(Relaxed)))
        }),
    )?;
    out.counters(
        "whichpod_requests_flagged",
        "Requests and TCP connections that have ended with a response flag, by flag; one can have several.",
        sites.iter().flat_map(|site| {
            let flags = std::iter::zip(Flags::ALL, &site.stats.requests_by_flag);
            flags.map(|((_, flag, _), count)| (labels(site, "flag", flag), count.load(Relaxed)))
        }),
    )?;
    for (name, help, counter) in COUNTERS {
        out.counters(name, help, sites.iter().map(|site| (label(site), counter(&site.stats).load(Relaxed))))?;
    }
    for (name, help, gauge) in GAUGES {
        out.gauges(name, help, sites.iter().map(|site| (label(site), gauge(&site.stats).load(Relaxed))))?;
    }
    Ok(())
}

fn pods(out: &mut Exposition<'_>, sites: &[&Site]) -> fmt::Result {
    let pods: Vec<(&Site, Pods)> = sites.iter().map(|site| (*site, Pods::of(&site.upstream))).collect();
    out.gauges(
        "whichpod_endpoints",
        "Pods that are known, by state; aside: left alone after a failed connect, ejected: after failed requests, \
         failed_checks: by health checks. A pod can be in several states but available.",
        pods.iter().flat_map(|(site, pods)| {
            [
                ("available", pods.available),
                ("aside", pods.aside),
                ("ejected", pods.ejected),
                ("failed_checks", pods.fail_checks),
            ]
                .map(|(state, count)| (labels(site, "state", state), count))
        }),
    )?;
    out.gauges(
        "whichpod_upstream_connections_active",
        "Connections to the pods that are known now, in use or idle.",
        pods.iter().map(|(site, pods)| (label(site), pods.connections_active)),
    )
}

fn health(out: &mut Exposition<'_>, sites: &[&Site]) -> fmt::Result {
    type Row = (&'static str, &'static str, fn(&Site) -> u64);
    let counters: [Row; 5] = [
        ("whichpod_ejections", "Pods that were ejected because their requests fail.", |site| {
            site.upstream.health_stats().ejections.load(Relaxed)
        }),
        ("whichpod_ejections_denied", "Pods that were not ejected because too many were already.", |site| {
            site.upstream.health_stats().ejections_denied.load(Relaxed)
        }),
        ("whichpod_panics", "How often too few pods were well, so that all were used.", |site| {
            site.upstream.health_stats().panics_total.load(Relaxed)
        }),
        ("whichpod_health_checks", "Active health checks made.", |site| {
            site.stats.checks.attempts.load(Relaxed)
        }),
        ("whichpod_health_checks_failed", "Active health checks that failed.", |site| {
            site.stats.checks.failures.load(Relaxed)
        }),
    ];
    for (name, help, value) in counters {
        out.counters(name, help, sites.iter().map(|site| (label(site), value(site))))?;
    }
    out.gauges(
        "whichpod_panic",
        "1 while too few pods are well, so that all are used.",
        sites.iter().map(|site| (label(site), u64::from(site.upstream.health_stats().panics.load(Relaxed)))),
    )?;
    out.counters(
        "whichpod_overflows",
        "Requests, connections and retries that a limit turned away, by the limit's name.",
        sites.iter().flat_map(|site| {
            site.limits
                .by_name()
                .map(|(limit, gate)| (labels(site, "limit", limit), gate.map_or(0, Gate::refused)))
        }),
    )
}

fn discovery(out: &mut Exposition<'_>, sites: &[&Site]) -> fmt::Result {
    let now = Instant::now();
    let sets: Vec<_> = sites.iter().map(|site| (*site, site.upstream.snapshot())).collect();
    out.gauges(
        "whichpod_discovery_state",
        "1 for the state that the set of pods is in; failed: DNS has never answered.",
        sets.iter().flat_map(|(site, set)| {
            STATES.map(|state| (labels(site, "state", name(state)), u64::from(state == set.state())))
        }),
    )?;
    out.gauges(
        "whichpod_fallback_in_use",
        "1 while the pods come from the fallback name, because the target does not exist.",
        sets.iter().map(|(site, set)| (label(site), u64::from(set.source() == Source::Fallback))),
    )?;
    out.gauges(
        "whichpod_virtual_ip",
        "1 while the only address is a Service's virtual IP, which hides the pod.",
        sets.iter().map(|(site, set)| (label(site), u64::from(set.virtual_ip()))),
    )?;
    out.gauges(
        "whichpod_dns_answer_age_seconds",
        "Time since the last good answer.",
        sets.iter().filter_map(|(site, set)| {
            let answered = set.answered_at()?;
            Some((label(site), now.saturating_duration_since(answered).as_secs_f64()))
        }),
    )?;
    for (name, help, counter) in DNS {
        let stats = sites.iter().map(|site| (label(site), site.upstream.dns_stats()));
        out.counters(name, help, stats.map(|(label, stats)| (label, counter(stats).load(Relaxed))))?;
    }
    Ok(())
}

fn label(site: &Site) -> [(&'static str, &str); 1] {
    [("upstream", &*site.config.name)]
}

fn labels<'a>(site: &'a Site, name: &'static str, value: &'static str) -> [(&'static str, &'a str); 2] {
    [("upstream", &*site.config.name), (name, value)]
}

/// A set's state, in a word.
pub(crate) const fn name(state: SetState) -> &'static str {
    match state {
        SetState::Pending => "pending",
        SetState::Ready => "ready",
        SetState::Empty => "empty",
        SetState::Failed => "failed",
    }
}

/// What the pods that an upstream knows now add up to.
pub(crate) struct Pods {
    pub total: u64,
    /// Those that nothing speaks against.
    pub available: u64,
    pub aside: u64,
    pub ejected: u64,
    pub fail_checks: u64,
    pub connections_active: u64,
}

impl Pods {
    pub fn of(upstream: &Upstream) -> Self {
        let mut sum =
            Self { total: 0, available: 0, aside: 0, ejected: 0, fail_checks: 0, connections_active: 0 };
        for endpoint in upstream.snapshot().endpoints() {
            let counts = endpoint.counts();
            sum.total += 1;
            let (aside, ejected) = (upstream.aside(endpoint), endpoint.is_ejected());
            sum.available += u64::from(!(aside || ejected || endpoint.fails_checks()));
            sum.aside += u64::from(aside);
            sum.ejected += u64::from(ejected);
            sum.fail_checks += u64::from(endpoint.fails_checks());
            sum.connections_active += u64::from(counts.connections_active.load(Relaxed));
        }
        sum
    }
}
