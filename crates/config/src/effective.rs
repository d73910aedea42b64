//! The checked configuration as a document again, with everything in it.

use std::path::PathBuf;
use std::time::Duration;

use crate::names;
use crate::raw::{self, Document};
use crate::types::{AccessLog, Config, Dns, Upstream};

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
            log_level: Some(self.log_level.clone()),
            // Every upstream says it for itself.
            protocol: None,
            balance: None,
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
    let Upstream { timeouts, retry, limits, headers, .. } = upstream;
    raw::Upstream {
        name: Some(upstream.name.to_string()),
        listen: Some(upstream.listen),
        target: Some(upstream.target.clone()),
        fallback: upstream.fallback.clone(),
        protocol: Some(upstream.protocol),
        balance: Some(upstream.balance),
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
            attempts: Some(retry.attempts),
        }),
        limits: Some(raw::Limits {
            head_bytes: Some(limits.head_bytes),
            headers: Some(limits.headers),
            streams: Some(limits.streams),
        }),
        headers: Some(raw::Headers {
            append_x_forwarded_for: Some(headers.append_x_forwarded_for),
            expose_upstream: Some(headers.expose_upstream),
        }),
        lazy: Some(upstream.lazy),
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
