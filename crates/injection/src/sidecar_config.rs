//! The sidecar's configuration as one line of JSON, in the document form of `whichpod-config`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use whichpod_config::names::DNS_PORT;
use whichpod_config::{Document, raw};

use crate::options::Options;
use crate::redirect::Bound;
use crate::settings::Settings;
use crate::workload::Pod;

/// The ports of the sidecar's own servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OwnPorts {
    pub(crate) admin: u16,
    pub(crate) health: u16,
}

impl OwnPorts {
    pub(crate) fn admin_address(self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), self.admin)
    }

    pub(crate) fn health_address(self) -> SocketAddr {
        SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), self.health)
    }
}

/// The document, safe to stand in an environment value: Kubernetes takes `$(NAME)` there for a reference and `$$` for a
/// dollar sign, so each is written as JSON's escape.
pub(crate) fn inline(
    upstreams: &[Bound],
    settings: &Settings,
    pod: Pod<'_>,
    namespace: &str,
    native: bool,
    ports: OwnPorts,
    options: &Options,
) -> String {
    let document = Document {
        upstreams: Some(upstreams.iter().map(upstream).collect()),
        balance: settings.balance.clone(),
        dns: Some(dns(pod, namespace, options)),
        access_log: settings
            .log_format
            .as_ref()
            .map(|format| raw::AccessLog { format: Some(format.clone()), ..raw::AccessLog::default() }),
        admin: Some(raw::Admin { address: Some(ports.admin_address()) }),
        health: Some(raw::Health { address: Some(ports.health_address()) }),
        shutdown: Some(raw::Shutdown {
            grace_period: Some(Duration::from_secs(pod.grace_period())),
            native_sidecar: Some(native),
        }),
        ..Document::default()
    };
    // A document of texts, numbers and lists always has a JSON form.
    serde_json::to_string(&document).unwrap_or_default().replace('$', "\\u0024")
}

fn upstream(bound: &Bound) -> raw::Upstream {
    raw::Upstream {
        name: Some(bound.name.clone()),
        listen: Some(bound.listen),
        target: Some(bound.discovered.target.clone()),
        fallback: bound.discovered.fallback.clone(),
        protocol: bound.protocol,
        lazy: bound.lazy.then_some(true),
        ..raw::Upstream::default()
    }
}

fn dns(pod: Pod<'_>, namespace: &str, options: &Options) -> raw::Dns {
    let mut dns = raw::Dns { cluster_domain: Some(options.cluster_domain.clone()), ..raw::Dns::default() };
    if !pod.asks_cluster_dns() {
        dns.servers = Some(options.cluster_dns.iter().map(|ip| SocketAddr::new(*ip, DNS_PORT)).collect());
        dns.namespace = Some(namespace.to_owned());
    }
    dns
}
