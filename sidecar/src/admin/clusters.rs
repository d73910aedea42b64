//! `/clusters`: who the pods are, how they do, and how that is known.

use std::fmt::{self, Display, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::time::Instant;
use whichpod_config::{Host, Target};
use whichpod_proxy::site::Site;
use whichpod_upstream::{Endpoint, Source};

use super::server::socket_address;
use super::{Admin, Form, Params, TEXT_OR_JSON, form};
use crate::metrics;

pub(super) async fn show(State(admin): State<Arc<Admin>>, params: Params) -> Response {
    let now = Instant::now();
    let clusters = admin.shared.sites.iter().map(|site| Cluster::of(site, now)).collect::<Vec<_>>();
    match form(&params, TEXT_OR_JSON) {
        Err(refusal) => *refusal,
        Ok(Form::Json) => {
            let clusters: Vec<_> = clusters.iter().map(Cluster::json).collect();
            super::json(&json!({ "cluster_statuses": clusters }))
        }
        Ok(_) => clusters.iter().map(ToString::to_string).collect::<String>().into_response(),
    }
}

/// One upstream at one moment.
struct Cluster {
    name: Arc<str>,
    target: String,
    fallback: Option<String>,
    state: &'static str,
    source: &'static str,
    virtual_ip: bool,
    /// Since the last good answer.
    dns_age_ms: Option<u64>,
    last_error: Option<String>,
    /// Too few pods are well: all are used.
    panic: bool,
    pods: Vec<Pod>,
}

/// One endpoint at one moment.
struct Pod {
    address: SocketAddr,
    /// The name that was discovered.
    hostname: String,
    pod: Option<Arc<str>>,
    node: Option<Arc<str>>,
    zone: Option<Arc<str>>,
    aside: bool,
    ejected: bool,
    fails_checks: bool,
    counts: [(&'static str, Kind, u64); 7],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
}

impl Cluster {
    fn of(site: &Site, now: Instant) -> Self {
        let set = site.upstream.snapshot();
        let discovered = match set.source() {
            Source::Target => &site.config.target,
            Source::Fallback => site.config.fallback.as_ref().unwrap_or(&site.config.target),
        };
        let age = set.answered_at().map(|answered| now.saturating_duration_since(answered));
        Self {
            name: Arc::clone(&site.config.name),
            target: site.config.target.to_string(),
            fallback: site.config.fallback.as_ref().map(ToString::to_string),
            state: metrics::name(set.state()),
            source: match set.source() {
                Source::Target => "target",
                Source::Fallback => "fallback",
            },
            virtual_ip: set.virtual_ip(),
            dns_age_ms: age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            last_error: set.last_error().map(one_line),
            panic: site.upstream.health_stats().panics.load(Relaxed),
            pods: set
                .endpoints()
                .iter()
                .map(|endpoint| Pod::of(endpoint, host(discovered), site.upstream.aside(endpoint)))
                .collect(),
        }
    }

    fn count(&self, which: impl Fn(&Pod) -> bool) -> usize {
        self.pods.iter().filter(|pod| which(pod)).count()
    }

    /// In the form of Envoy's `ClusterStatus` message; what Envoy has no field for is under `whichpod`.
    fn json(&self) -> Value {
        json!({
            "name": self.name.as_ref(),
            "added_via_api": false,
            "host_statuses": self.pods.iter().map(Pod::json).collect::<Vec<_>>(),
            "whichpod": {
                "target": self.target,
                "fallback": self.fallback,
                "state": self.state,
                "source": self.source,
                "virtual_ip": self.virtual_ip,
                "endpoints": self.pods.len(),
                "aside": self.count(|pod| pod.aside),
                "ejected": self.count(|pod| pod.ejected),
                "failed_active_hc": self.count(|pod| pod.fails_checks),
                "panic": self.panic,
                "dns_age_ms": self.dns_age_ms,
                "last_error": self.last_error,
            },
        })
    }
}

/// Envoy's lines, `NAME::KEY::VALUE` and `NAME::ADDRESS::KEY::VALUE`; what is not known is `-`.
impl Display for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        let own: [(&str, &dyn Display); 13] = [
            ("added_via_api", &false),
            ("target", &self.target),
            ("fallback", &known(self.fallback.as_deref())),
            ("state", &self.state),
            ("source", &self.source),
            ("virtual_ip", &self.virtual_ip),
            ("endpoints", &self.pods.len()),
            ("aside", &self.count(|pod| pod.aside)),
            ("ejected", &self.count(|pod| pod.ejected)),
            ("failed_active_hc", &self.count(|pod| pod.fails_checks)),
            ("panic", &self.panic),
            ("dns_age_ms", &self.dns_age_ms.map_or_else(|| "-".to_owned(), |age| age.to_string())),
            ("last_error", &known(self.last_error.as_deref())),
        ];
        for (key, value) in own {
            writeln!(f, "{name}::{key}::{value}")?;
        }
        for pod in &self.pods {
            let address = pod.address;
            for (key, _, value) in pod.counts {
                writeln!(f, "{name}::{address}::{key}::{value}")?;
            }
            let about: [(&str, &dyn Display); 7] = [
                ("hostname", &pod.hostname),
                ("health_flags", &pod.health_flags()),
                ("weight", &1),
                ("zone", &pod.zone.as_deref().unwrap_or_default()),
                ("pod", &known(pod.pod.as_deref())),
                ("node", &known(pod.node.as_deref())),
                ("aside", &pod.aside),
            ];
            for (key, value) in about {
                writeln!(f, "{name}::{address}::{key}::{value}")?;
            }
        }
        Ok(())
    }
}

impl Pod {
    fn of(endpoint: &Endpoint, hostname: String, aside: bool) -> Self {
        let counts = endpoint.counts();
        Self {
            address: endpoint.address(),
            hostname,
            pod: endpoint.identity().cloned(),
            node: endpoint.node().cloned(),
            zone: endpoint.zone().cloned(),
            aside,
            ejected: endpoint.is_ejected(),
            fails_checks: endpoint.fails_checks(),
            counts: [
                ("cx_active", Kind::Gauge, counts.connections_active.load(Relaxed).into()),
                ("cx_connect_fail", Kind::Counter, counts.connects_failed.load(Relaxed)),
                ("cx_total", Kind::Counter, counts.connects_total.load(Relaxed)),
                ("rq_active", Kind::Gauge, counts.requests_active.load(Relaxed).into()),
                ("rq_error", Kind::Counter, counts.requests_error.load(Relaxed)),
                ("rq_success", Kind::Counter, counts.requests_success.load(Relaxed)),
                ("rq_total", Kind::Counter, counts.requests_total.load(Relaxed)),
            ],
        }
    }

    /// In Envoy's words; a pod is left alone because of its failed connects or its failed requests.
    fn health_flags(&self) -> &'static str {
        match (self.fails_checks, self.aside || self.ejected) {
            (false, false) => "healthy",
            (true, false) => "/failed_active_hc",
            (false, true) => "/failed_outlier_check",
            (true, true) => "/failed_active_hc/failed_outlier_check",
        }
    }

    /// In the form of Envoy's `HostStatus` message, in which 64-bit numbers are strings.
    fn json(&self) -> Value {
        let stats = self.counts.iter().map(|(name, kind, value)| {
            let kind = if *kind == Kind::Counter { "COUNTER" } else { "GAUGE" };
            json!({ "name": name, "value": value.to_string(), "type": kind })
        });
        json!({
            "address": socket_address(self.address),
            "stats": stats.collect::<Vec<_>>(),
            "health_status": {
                "eds_health_status": "HEALTHY",
                "failed_active_health_check": self.fails_checks,
                "failed_outlier_check": self.aside || self.ejected,
            },
            "weight": 1,
            "hostname": self.hostname,
            "locality": { "zone": self.zone.as_deref().unwrap_or_default() },
            "whichpod": { "pod": self.pod.as_deref(), "node": self.node.as_deref(), "aside": self.aside },
        })
    }
}

fn known(value: Option<&str>) -> &str {
    value.unwrap_or("-")
}

fn host(target: &Target) -> String {
    match &target.host {
        Host::Name(name) => name.clone(),
        Host::Ip(ip) => ip.to_string(),
    }
}

/// An error may quote what came over the network; here it is one line of many.
fn one_line(text: &str) -> String {
    text.chars().fold(String::new(), |mut line, c| {
        if c.is_control() {
            let _ = write!(line, "{}", c.escape_default());
        } else {
            line.push(c);
        }
        line
    })
}
