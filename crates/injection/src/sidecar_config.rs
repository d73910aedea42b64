//! The sidecar's configuration as one line of JSON, in the document form of `whichpod-config`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use whichpod_config::names::DNS_PORT;
use whichpod_config::{Document, Host, Target, raw};

use crate::configuration::{self, Configuration};
use crate::malformed::Malformed;
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

/// Everything the sidecar is to know: what the annotations say, and what whichpod found out.
pub(crate) fn document(
    upstreams: &[Bound],
    settings: &Settings,
    pod: Pod<'_>,
    namespace: &str,
    native: bool,
    ports: OwnPorts,
    options: &Options,
) -> Document {
    let Configuration { document, of_named_ports, .. } = &settings.configuration;
    let grace_period = Duration::from_secs(pod.grace_period());
    // More than the pod has is nothing to count on.
    let wanted = document.shutdown.as_ref().and_then(|shutdown| shutdown.grace_period);
    Document {
        upstreams: Some(upstreams.iter().map(|bound| upstream(bound, of_named_ports)).collect()),
        dns: Some(dns(document.dns.clone().unwrap_or_default(), pod, namespace, options)),
        admin: Some(raw::Admin { address: Some(ports.admin_address()) }),
        health: Some(raw::Health { address: Some(ports.health_address()) }),
        shutdown: Some(raw::Shutdown {
            grace_period: Some(wanted.map_or(grace_period, |wanted| wanted.min(grace_period))),
            native_sidecar: Some(native),
        }),
        ..document.clone()
    }
}

/// The document, safe to stand in an environment value: Kubernetes takes `$(NAME)` there for a reference and `$$` for a
/// dollar sign, so each is written as JSON's escape. Settings of single upstreams may not go with what these are.
pub(crate) fn inline(
    document: Document,
    settings: &Settings,
    options: &Options,
) -> Result<String, Vec<Malformed>> {
    // A document of texts, numbers and lists always has a JSON form.
    let text = serde_json::to_string(&document).unwrap_or_default().replace('$', "\\u0024");
    if settings.configuration.singles.is_empty() {
        return Ok(text);
    }
    let upstreams = document.upstreams.as_deref().unwrap_or_default();
    let names: Vec<_> = upstreams.iter().map(|upstream| upstream.name.clone()).collect();
    let name = |index: usize| names.get(index).cloned().flatten();
    match configuration::check(document, options) {
        Ok(_) => Ok(text),
        Err(problems) => Err(configuration::attributed(problems, &BTreeMap::new(), name)),
    }
}

fn upstream(bound: &Bound, of_named_ports: &raw::Upstream) -> raw::Upstream {
    let of_port = if bound.named { of_named_ports.clone() } else { raw::Upstream::default() };
    let lazy = of_port.lazy.or(bound.lazy.then_some(true));
    let upstream = raw::Upstream {
        name: Some(bound.name.clone()),
        listen: Some(bound.listen),
        target: Some(bound.discovered.target.clone()),
        fallback: bound.discovered.fallback.clone(),
        protocol: bound.protocol,
        lazy,
        ..of_port
    };
    let mut upstream = match &bound.own {
        Some(own) => upstream.overlay((**own).clone()),
        None => upstream,
    };
    // A certificate has the Service's name, not that of its headless twin.
    if let (Some(tls), Some(Target { host: Host::Name(service), .. })) =
        (&mut upstream.tls, &bound.discovered.fallback)
    {
        tls.server_name.get_or_insert_with(|| service.trim_end_matches('.').to_owned());
    }
    upstream
}

fn dns(mut dns: raw::Dns, pod: Pod<'_>, namespace: &str, options: &Options) -> raw::Dns {
    dns.cluster_domain.get_or_insert_with(|| options.cluster_domain.clone());
    if !pod.asks_cluster_dns() {
        let servers = || options.cluster_dns.iter().map(|ip| SocketAddr::new(*ip, DNS_PORT)).collect();
        dns.servers.get_or_insert_with(servers);
        dns.namespace.get_or_insert_with(|| namespace.to_owned());
    }
    dns
}
