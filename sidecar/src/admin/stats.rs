//! `/stats`: counters and gauges by Envoy's names where the same thing is counted, and by our own where not.
//!
//! Requests are counted when they end; connections and connects are those of the pods that are known now. Histograms are in the Prometheus form only: Envoy's quantiles cannot be told
//! from buckets without guessing.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use serde_json::json;
use whichpod_access_log::Flags;
use whichpod_proxy::limits::Gate;
use whichpod_proxy::site::Site;
use whichpod_runtime::metrics::CONTENT_TYPE_OPENMETRICS;
use whichpod_runtime::readiness::Status;
use whichpod_upstream::Source;

use super::{Admin, Form, Params, bad_request, form, server};
use crate::metrics::{self, CLASSES, Pods};

const FORMS: &[(&str, Form)] =
    &[("text", Form::Text), ("json", Form::Json), ("prometheus", Form::Prometheus)];

/// What makes a filter a regular expression; no name has any of it.
const NOT_IN_NAMES: &[char] = &['^', '$', '*', '+', '?', '(', ')', '|', '\\', '{', '}'];

/// In the order of their names.
type Values = BTreeMap<String, u64>;

pub(super) async fn show(State(admin): State<Arc<Admin>>, params: Params) -> Response {
    let form = match form(&params, FORMS) {
        Ok(form) => form,
        Err(refusal) => return *refusal,
    };
    if form == Form::Prometheus {
        if let Some(key) = ["filter", "usedonly"].into_iter().find(|key| params.contains_key(*key)) {
            return bad_request(&format!("{key}: the Prometheus form is always whole; take out {key}"));
        }
        return prometheus(State(admin)).await;
    }
    let filter = params.get("filter").map_or("", String::as_str);
    if filter.contains(NOT_IN_NAMES) {
        return bad_request(&format!(
            "filter={filter}: a filter is a part of a name, not a regular expression; use a plain one, as filter=upstream_rq"
        ));
    }
    let mut values = values(&admin);
    values.retain(|name, value| name.contains(filter) && (*value > 0 || !params.contains_key("usedonly")));
    match form {
        Form::Json => {
            let stats: Vec<_> =
                values.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
            super::json(&json!({ "stats": stats }))
        }
        Form::Text | Form::Prometheus => text(&values).into_response(),
    }
}

/// The same as `/metrics` on the health port.
pub(super) async fn prometheus(State(admin): State<Arc<Admin>>) -> Response {
    ([(CONTENT_TYPE, CONTENT_TYPE_OPENMETRICS)], metrics::text(&admin)).into_response()
}

fn text(values: &Values) -> String {
    values.iter().fold(String::new(), |mut text, (name, value)| {
        let _ = writeln!(text, "{name}: {value}");
        text
    })
}

fn values(admin: &Admin) -> Values {
    let mut values = Values::new();
    let status = admin.readiness.status();
    values.extend([
        ("server.concurrency".to_owned(), u64::try_from(admin.workers).unwrap_or(u64::MAX)),
        ("server.live".to_owned(), u64::from(status == Status::Ready)),
        ("server.state".to_owned(), server::state(&status).1),
        ("server.uptime".to_owned(), admin.started.0.elapsed().as_secs()),
        ("access_log.dropped".to_owned(), admin.log.dropped()),
        ("access_log.lines".to_owned(), admin.log.lines()),
    ]);
    for site in &admin.shared.sites {
        let prefix = format!("cluster.{}", clean(&site.config.name));
        values.extend(of_site(site).into_iter().map(|(name, value)| (format!("{prefix}.{name}"), value)));
    }
    for (site, (_, address)) in std::iter::zip(&admin.shared.sites, &admin.listeners) {
        let prefix = format!("listener.{}", clean(&address.to_string()));
        let stats = &site.stats;
        values.extend([
            (format!("{prefix}.downstream_cx_active"), stats.downstream_active.load(Relaxed)),
            (format!("{prefix}.downstream_cx_total"), stats.downstream_total.load(Relaxed)),
        ]);
    }
    values
}

fn of_site(site: &Site) -> Vec<(String, u64)> {
    let stats = &site.stats;
    let dns = site.upstream.dns_stats();
    let set = site.upstream.snapshot();
    let pods = Pods::of(&site.upstream);
    let health = site.upstream.health_stats();
    let overflow = |gate: &Option<Arc<Gate>>| gate.as_ref().map_or(0, |gate| gate.refused());
    let classes: Vec<_> = std::iter::zip(CLASSES, &stats.requests_by_class)
        .skip(1) // No response: not in Envoy's numbers either.
        .map(|(class, count)| (format!("upstream_rq_{class}"), count.load(Relaxed)))
        .collect();
    let by_flag = |wanted: Flags| {
        let all = std::iter::zip(Flags::ALL, &stats.requests_by_flag);
        all.filter(|((flag, ..), _)| *flag == wanted).map(|(_, count)| count.load(Relaxed)).sum()
    };
    let mut values: Vec<(String, u64)> = [
        // Envoy's.
        ("membership_change", dns.sets_published.load(Relaxed)),
        ("health_check.attempt", stats.checks.attempts.load(Relaxed)),
        ("health_check.failure", stats.checks.failures.load(Relaxed)),
        ("lb_healthy_panic", health.panics_total.load(Relaxed)),
        ("membership_healthy", pods.available),
        ("membership_total", pods.total),
        ("update_attempt", dns.queries.load(Relaxed)),
        ("update_empty", dns.empty.load(Relaxed)),
        ("update_failure", dns.failures.load(Relaxed)),
        ("update_success", dns.answers.load(Relaxed)),
        ("outlier_detection.ejections_active", pods.ejected),
        ("outlier_detection.ejections_enforced_total", health.ejections.load(Relaxed)),
        ("outlier_detection.ejections_overflow", health.ejections_denied.load(Relaxed)),
        ("upstream_cx_active", pods.connections_active),
        ("upstream_cx_overflow", overflow(&site.limits.connections)),
        ("upstream_cx_connect_fail", stats.connects_failed.load(Relaxed)),
        ("upstream_cx_none_healthy", by_flag(Flags::NO_ENDPOINT)),
        ("upstream_cx_total", stats.connects_total.load(Relaxed)),
        ("upstream_rq_active", stats.requests_active.load(Relaxed)),
        ("upstream_rq_completed", classes.iter().map(|(_, count)| count).sum()),
        ("upstream_rq_overflow", overflow(&site.limits.requests)),
        ("upstream_rq_pending_active", stats.pending_active.load(Relaxed)),
        ("upstream_rq_pending_overflow", overflow(&site.limits.pending)),
        ("upstream_rq_retry_overflow", overflow(&site.limits.retries)),
        ("upstream_rq_retry", stats.retries_total.load(Relaxed)),
        ("upstream_rq_timeout", by_flag(Flags::UPSTREAM_TIMEOUT)),
        ("upstream_rq_total", stats.requests_total()),
        // Ours.
        ("body_bytes_received", stats.bytes_received.load(Relaxed)),
        ("body_bytes_sent", stats.bytes_sent.load(Relaxed)),
        ("dns_refused_answers", dns.refused.load(Relaxed)),
        ("fallback_in_use", u64::from(set.source() == Source::Fallback)),
        ("membership_aside", pods.aside),
        ("tcp_bytes_received", stats.tcp_bytes_received.load(Relaxed)),
        ("tcp_bytes_sent", stats.tcp_bytes_sent.load(Relaxed)),
        ("tcp_cx_active", stats.tcp_active.load(Relaxed)),
        ("tcp_cx_total", stats.tcp_total.load(Relaxed)),
        ("upstream_rq_retry_denied", stats.retries_denied.load(Relaxed)),
        ("virtual_ip", u64::from(set.virtual_ip())),
        ("virtual_ip_requests", stats.virtual_ip_requests.load(Relaxed)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    values.extend(classes);
    let flags = std::iter::zip(Flags::ALL, &stats.requests_by_flag);
    values.extend(flags.map(|((_, flag, _), count)| (format!("response_flags.{flag}"), count.load(Relaxed))));
    values
}

/// A colon in a name becomes an underscore, as in Envoy.
fn clean(name: &str) -> String {
    name.replace(':', "_")
}
