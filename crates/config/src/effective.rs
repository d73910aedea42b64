//! The checked configuration as a document again, with everything in it.

use std::path::PathBuf;
use std::time::Duration;

use crate::health::{write_health_check, write_outlier_detection, write_slow_start};
use crate::names;
use crate::raw::{self, Document};
use crate::types::{AccessLog, Config, Dns, Tls, Upstream};

impl Config {
    /// The document that loads to exactly this configuration; every default is written out.
    #[must_use]
    pub fn to_document(&self) -> Document {
        Document {
            upstreams: Some(self.upstreams.iter().map(upstream).collect()),
            dns: Some(dns(&self.dns)),
            access_log: Some(access_log(&self.access_log)),
            admin: Some(raw::Admin { address: Some(self.admin) }),
            health: Some(raw::Health { address: Some(self.health) }),
            workers: self.workers,
            shutdown: Some(raw::Shutdown {
                grace_period: Some(self.shutdown.grace_period),
                native_sidecar: Some(self.shutdown.native_sidecar),
            }),
            memory: Some(raw::Memory {
                limit: self.memory.limit,
                shed_at_percent: Some(self.memory.shed_at_percent),
            }),
            log_level: Some(self.log_level.clone()),
            // Every upstream says it for itself.
            protocol: None,
            balance: None,
            slow_start: None,
            outlier_detection: None,
            health_check: None,
            healthy_panic_threshold: None,
            circuit_breakers: None,
            timeouts: None,
            retry: None,
            limits: None,
            headers: None,
        }
    }
}

/// "No limit" is written as zero.
fn zero_if_none(limit: Option<Duration>) -> Option<Duration> {
    Some(limit.unwrap_or(Duration::ZERO))
}

fn upstream(upstream: &Upstream) -> raw::Upstream {
    let Upstream { timeouts, retry, limits, headers, circuit_breakers, .. } = upstream;
    raw::Upstream {
        name: Some(upstream.name.to_string()),
        listen: Some(upstream.listen),
        target: Some(upstream.target.clone()),
        fallback: upstream.fallback.clone(),
        protocol: Some(upstream.protocol),
        balance: Some(upstream.balance.clone()),
        slow_start: upstream.slow_start.as_ref().map(write_slow_start),
        outlier_detection: upstream.outlier_detection.as_ref().map(write_outlier_detection),
        health_check: upstream.health_check.as_ref().map(write_health_check),
        healthy_panic_threshold: Some(upstream.healthy_panic_threshold),
        circuit_breakers: Some(raw::CircuitBreakers {
            max_connections: circuit_breakers.max_connections,
            max_pending_requests: circuit_breakers.max_pending_requests,
            max_requests: circuit_breakers.max_requests,
            max_retries: circuit_breakers.max_retries,
        }),
        routes: Some(
            upstream
                .routes
                .iter()
                .map(|route| raw::Route {
                    prefix: Some(route.prefix.clone()),
                    name: Some(route.name.clone()).filter(|name| !name.is_empty()),
                })
                .collect(),
        ),
        timeouts: Some(raw::Timeouts {
            connect: Some(timeouts.connect),
            request: zero_if_none(timeouts.request),
            idle: zero_if_none(timeouts.idle),
            head: zero_if_none(timeouts.head),
            downstream_idle: zero_if_none(timeouts.downstream_idle),
            upstream_idle: Some(timeouts.upstream_idle),
        }),
        retry: Some(raw::Retry {
            on: Some(retry.on.clone()),
            status_codes: Some(retry.status_codes.clone()),
            headers: Some(retry.headers.clone()),
            attempts: Some(retry.attempts),
            per_try_timeout: zero_if_none(retry.per_try_timeout),
            non_idempotent: Some(retry.non_idempotent),
            buffer_bytes: Some(retry.buffer_bytes),
            budget: Some(raw::Budget {
                percent: Some(retry.budget_percent),
                min_concurrency: Some(retry.min_concurrency),
            }),
            back_off: Some(raw::BackOff { base: Some(retry.back_off_base), max: Some(retry.back_off_max) }),
        }),
        limits: Some(raw::Limits {
            head_bytes: Some(limits.head_bytes),
            headers: Some(limits.headers),
            streams: Some(limits.streams),
            connections: limits.connections,
        }),
        headers: Some(raw::Headers {
            append_x_forwarded_for: Some(headers.append_x_forwarded_for),
            expose_upstream: Some(headers.expose_upstream),
        }),
        tls: upstream.tls.as_ref().map(tls),
        proxy_protocol: upstream.proxy_protocol,
        lazy: Some(upstream.lazy),
    }
}

fn tls(tls: &Tls) -> raw::Tls {
    let certificate = tls.client_certificate.as_ref();
    raw::Tls {
        server_name: Some(tls.server_name.clone()),
        ca_file: tls.ca_file.clone(),
        cert_file: certificate.map(|files| files.cert_file.clone()),
        key_file: certificate.map(|files| files.key_file.clone()),
        alpn: Some(tls.alpn.clone()),
        insecure_skip_verify: Some(tls.insecure_skip_verify),
    }
}

fn dns(dns: &Dns) -> raw::Dns {
    raw::Dns {
        servers: Some(dns.servers.clone()),
        resolv_conf: Some(dns.resolv_conf.clone()),
        cluster_domain: dns.cluster_domain.clone(),
        namespace: dns.namespace.clone(),
        refresh_floor: Some(dns.refresh_floor),
        refresh_cap: Some(dns.refresh_cap),
        hold_empty: Some(dns.hold_empty),
        allow_loopback: Some(dns.allow_loopback),
    }
}

fn access_log(log: &AccessLog) -> raw::AccessLog {
    let filter = &log.filter;
    raw::AccessLog {
        format: Some(log.format.clone()),
        path: Some(log.path.clone().unwrap_or_else(|| PathBuf::from(names::OFF))),
        filter: Some(raw::LogFilter {
            min_status: filter.min_status,
            min_duration: filter.min_duration,
            flags: Some(filter.flags.clone()),
            header: filter.header.as_ref().map(|header| raw::HeaderMatch {
                name: Some(header.name.clone()),
                value: header.value.clone(),
            }),
            sample: filter.sample,
        }),
    }
}
