//! The list of upstreams: their names, their listeners, and whether these can live together.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use serde_json::Value;

use crate::error::{Fault, Problems};
use crate::health::{resolve_health_check, resolve_outlier_detection, resolve_slow_start};
use crate::names;
use crate::raw;
use crate::resolve::{Layers, unless_zero};
use crate::settings::Layer;
use crate::types::{
    CircuitBreakers, ClientCertificate, Headers, Host, Limits, Protocol, Retry, RetryOn, Route, Target,
    TargetPort, Timeouts, Tls, Upstream,
};

/// Envoy's default, in percent.
const PANIC_THRESHOLD: u32 = 50;

/// One upstream and where it was written.
#[derive(Debug)]
pub(crate) struct Entry {
    /// `upstreams[0]`, `--upstream` or `WHICHPOD_UPSTREAM`.
    path: String,
    /// Known although other things may be wrong with the upstream.
    listen: Option<SocketAddr>,
    target: Option<Target>,
    /// `None` if it cannot be run.
    pub upstream: Option<Upstream>,
}

impl Entry {
    /// `upstreams[0].listen`, or just the flag.
    fn at(&self, field: &str) -> String {
        at(&self.path, field)
    }
}

/// Only in the document does a field of an upstream have a path of its own.
fn at(path: &str, field: &str) -> String {
    if path.ends_with(']') { format!("{path}.{field}") } else { path.to_owned() }
}

/// The upstreams of the strongest source that names any; takes them out of the layers.
pub(crate) fn resolve(
    layers: &mut Layers,
    problems: &mut Problems,
    warnings: &mut Vec<String>,
) -> Vec<Entry> {
    let origin = layers.origin("upstreams").to_owned();
    let document = layers.document.upstreams.take();
    let named = |layer: &mut Layer| layer.document.upstreams.take();
    let (environment, flags) = (named(&mut layers.environment), named(&mut layers.flags));
    let replaced = document.as_ref().map_or(0, Vec::len);
    let in_document = flags.is_none() && environment.is_none();
    if !in_document && replaced > 0 {
        warnings.push(format!("{origin} takes the place of the document's upstreams ({replaced})"));
    }
    let forms = flags.or(environment).or(document).unwrap_or_default();
    if forms.is_empty() && !layers.incomplete && !problems.under(&origin) {
        let remedy = format!(
            "name one: --{} HOST:PORT, {}=HOST:PORT, or upstreams in the document",
            names::flag::UPSTREAM,
            names::variable::UPSTREAM
        );
        problems.at(origin.as_str(), Fault::new("no upstream", remedy));
    }

    let weaker = layers.document.for_every_upstream();
    let flags = layers.flags.document.for_every_upstream();
    let stronger = layers.environment.document.for_every_upstream().overlay(flags);
    let forms: Vec<(String, raw::Upstream)> = forms
        .into_iter()
        .enumerate()
        .map(|(index, form)| {
            let path = if in_document { format!("upstreams[{index}]") } else { origin.clone() };
            (path, weaker.clone().overlay(form).overlay(stronger.clone()))
        })
        .collect();
    let names = choose_names(&forms, problems);
    let entries = forms.into_iter().zip(names);
    entries.map(|((path, form), name)| resolve_one(path, form, name, problems, warnings)).collect()
}

fn resolve_one(
    path: String,
    form: raw::Upstream,
    name: Arc<str>,
    problems: &mut Problems,
    warnings: &mut Vec<String>,
) -> Entry {
    if form.target.is_none() && !problems.under(&path) {
        problems.at(at(&path, "target"), Fault::new("missing", "write target: HOST:PORT"));
    }
    let listen = listen_address(&path, &form, problems);
    let retry = resolve_retry(form.retry.unwrap_or_default(), &name, warnings);
    let routes = resolve_routes(&path, form.routes.unwrap_or_default(), problems);
    let usual = listen.zip(form.target.as_ref()).filter(|_| routes.is_empty());
    let usual = usual.map(|(listen, target)| usual_protocol(listen, target));
    let protocol = form.protocol.or(usual).unwrap_or_default();
    if protocol == Protocol::Tcp && !routes.is_empty() {
        let remedy = "set protocol: http1, or take the routes out";
        problems.at(at(&path, "routes"), Fault::new("there are no paths in protocol tcp", remedy));
    }
    let tls = form
        .tls
        .zip(form.target.as_ref())
        .and_then(|(tls, target)| resolve_tls(&path, tls, target, protocol, problems));
    if tls.as_ref().is_some_and(|tls| tls.insecure_skip_verify) {
        warnings.push(format!(
            "upstream {name}: TLS WITHOUT VERIFICATION (tls.insecure_skip_verify): whoever answers is trusted, and may read \
             and change what is sent; set tls.ca_file instead"
        ));
    }
    let balance = form.balance.unwrap_or_default();
    let slow_start = resolve_slow_start(&at(&path, "slow_start"), form.slow_start, &balance, problems);
    let health_check = resolve_health_check(&at(&path, "health_check"), form.health_check, problems);
    let upstream = form.target.clone().zip(listen).map(|(target, listen)| Upstream {
        name,
        listen,
        target,
        fallback: form.fallback,
        protocol,
        balance,
        slow_start,
        outlier_detection: resolve_outlier_detection(form.outlier_detection),
        health_check,
        healthy_panic_threshold: form.healthy_panic_threshold.unwrap_or(PANIC_THRESHOLD),
        circuit_breakers: resolve_circuit_breakers(&form.circuit_breakers.unwrap_or_default()),
        routes,
        timeouts: resolve_timeouts(&form.timeouts.unwrap_or_default()),
        retry,
        limits: resolve_limits(&form.limits.unwrap_or_default()),
        headers: resolve_headers(&form.headers.unwrap_or_default()),
        tls,
        proxy_protocol: form.proxy_protocol,
        lazy: form.lazy.unwrap_or(false),
    });
    Entry { path, listen, target: form.target, upstream }
}

/// What is spoken on these ports unless somebody says otherwise.
fn usual_protocol(listen: SocketAddr, target: &Target) -> Protocol {
    let is_tcp = |port: u16| names::TCP_PORTS.contains(&port);
    match target.port {
        TargetPort::Number(port) if is_tcp(port) => Protocol::Tcp,
        _ if is_tcp(listen.port()) => Protocol::Tcp,
        _ => Protocol::Auto,
    }
}

/// The listener's address, or `127.0.0.1` and the target's port.
fn listen_address(path: &str, form: &raw::Upstream, problems: &mut Problems) -> Option<SocketAddr> {
    let at = at(path, "listen");
    let in_document = at != path;
    if form.listen.is_some() || in_document && problems.under(&at) {
        return form.listen;
    }
    let target = form.target.as_ref()?;
    match target.port {
        TargetPort::Number(port) => Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        TargetPort::Name(_) => {
            let remedy = if in_document {
                "write listen: IP:PORT, e.g. 127.0.0.1:10000".to_owned()
            } else {
                format!("write IP:PORT={target}, e.g. 127.0.0.1:10000={target}")
            };
            let reason = "a port name does not tell where to listen";
            problems.about(at, &Value::from(target.to_string()), Fault::new(reason, remedy));
            None
        }
    }
}

/// Given names as they are; else the target's first label, with the port where two would be alike.
fn choose_names(forms: &[(String, raw::Upstream)], problems: &mut Problems) -> Vec<Arc<str>> {
    let mut taken = HashSet::new();
    for (path, form) in forms {
        if let Some(name) = &form.name
            && !taken.insert(name.clone())
        {
            let fault = Fault::new("another upstream has this name", "give each a name of its own");
            problems.about(at(path, "name"), &Value::from(name.as_str()), fault);
        }
    }
    let mut alike: HashMap<String, usize> = HashMap::new();
    for (_, form) in forms {
        *alike.entry(form.name.clone().unwrap_or_else(|| first_label(form))).or_default() += 1;
    }
    forms
        .iter()
        .map(|(_, form)| match &form.name {
            Some(name) => Arc::from(name.as_str()),
            None => Arc::from(unused(form, &alike, &mut taken)),
        })
        .collect()
}

/// The first of `db`, `db-5432`, `db-5432-2`, `db-5432-3`, ... that is nobody's.
fn unused(form: &raw::Upstream, alike: &HashMap<String, usize>, taken: &mut HashSet<String>) -> String {
    let label = first_label(form);
    let alone = alike.get(&label).is_none_or(|count| *count < 2);
    let port = form.target.as_ref().map(|target| &target.port);
    let with_port = match port {
        Some(TargetPort::Number(port)) => format!("{label}-{port}"),
        Some(TargetPort::Name(port)) => format!("{label}-{port}"),
        None => label.clone(),
    };
    let numbered = (2..).map(|number: usize| format!("{with_port}-{number}"));
    let candidates = alone.then_some(label).into_iter().chain([with_port.clone()]).chain(numbered);
    // The numbers do not end before a name is found.
    candidates.into_iter().find(|name| taken.insert(name.clone())).unwrap_or_default()
}

fn first_label(form: &raw::Upstream) -> String {
    match form.target.as_ref().map(|target| &target.host) {
        Some(Host::Name(name)) => name.split('.').next().unwrap_or_default().to_owned(),
        Some(Host::Ip(ip)) => ip.to_string(),
        None => String::new(),
    }
}

fn resolve_routes(path: &str, forms: Vec<raw::Route>, problems: &mut Problems) -> Vec<Route> {
    let mut routes = Vec::with_capacity(forms.len());
    for (index, form) in forms.into_iter().enumerate() {
        let at = format!("{}[{index}]", at(path, "routes"));
        match form.prefix {
            Some(prefix) => routes.push(Route { prefix, name: form.name.unwrap_or_default() }),
            None if problems.under(&at) => {}
            None => problems.at(format!("{at}.prefix"), Fault::new("missing", "write prefix: /PATH")),
        }
    }
    routes
}

fn resolve_timeouts(form: &raw::Timeouts) -> Timeouts {
    let default = Timeouts::default();
    Timeouts {
        connect: form.connect.unwrap_or(default.connect),
        request: form.request.map_or(default.request, unless_zero),
        idle: form.idle.map_or(default.idle, unless_zero),
        head: form.head.map_or(default.head, unless_zero),
        downstream_idle: form.downstream_idle.map_or(default.downstream_idle, unless_zero),
        upstream_idle: form.upstream_idle.unwrap_or(default.upstream_idle),
    }
}

fn resolve_circuit_breakers(form: &raw::CircuitBreakers) -> CircuitBreakers {
    let raw::CircuitBreakers { max_connections, max_pending_requests, max_requests, max_retries } = *form;
    CircuitBreakers { max_connections, max_pending_requests, max_requests, max_retries }
}

fn resolve_retry(form: raw::Retry, name: &str, warnings: &mut Vec<String>) -> Retry {
    let default = Retry::default();
    let (budget, back_off) = (form.budget.unwrap_or_default(), form.back_off.unwrap_or_default());
    let retry = Retry {
        on: form.on.unwrap_or(default.on),
        status_codes: form.status_codes.unwrap_or(default.status_codes),
        headers: form.headers.unwrap_or(default.headers),
        attempts: form.attempts.unwrap_or(default.attempts),
        per_try_timeout: form.per_try_timeout.map_or(default.per_try_timeout, unless_zero),
        non_idempotent: form.non_idempotent.unwrap_or(default.non_idempotent),
        buffer_bytes: form.buffer_bytes.unwrap_or(default.buffer_bytes),
        budget_percent: budget.percent.unwrap_or(default.budget_percent),
        min_concurrency: budget.min_concurrency.unwrap_or(default.min_concurrency),
        back_off_base: back_off.base.unwrap_or(default.back_off_base),
        back_off_max: back_off.max.unwrap_or(default.back_off_max),
    };
    let retries_late_tries =
        |on: &RetryOn| matches!(on, RetryOn::ServerError | RetryOn::GatewayError | RetryOn::Reset);
    if retry.per_try_timeout.is_some() && !retry.on.iter().any(retries_late_tries) {
        warnings.push(format!(
            "upstream {name}: retry.per_try_timeout ends attempts that nothing tries again; add 5xx, gateway-error or reset to retry.on"
        ));
    }
    match (retry.on.contains(&RetryOn::Headers), retry.headers.is_empty()) {
        (true, true) => warnings.push(format!(
            "upstream {name}: retriable-headers does nothing without names; set retry.headers"
        )),
        (false, false) => warnings
            .push(format!("upstream {name}: retry.headers does nothing; add retriable-headers to retry.on")),
        _ => {}
    }
    match (retry.on.contains(&RetryOn::StatusCodes), retry.status_codes.is_empty()) {
        (true, true) => warnings.push(format!(
            "upstream {name}: retriable-status-codes does nothing without codes; set retry.status_codes"
        )),
        (false, false) => warnings.push(format!(
            "upstream {name}: retry.status_codes does nothing; add retriable-status-codes to retry.on"
        )),
        _ => {}
    }
    retry
}

fn resolve_limits(form: &raw::Limits) -> Limits {
    let default = Limits::default();
    Limits {
        head_bytes: form.head_bytes.unwrap_or(default.head_bytes),
        headers: form.headers.unwrap_or(default.headers),
        streams: form.streams.unwrap_or(default.streams),
        connections: form.connections,
    }
}

fn resolve_headers(form: &raw::Headers) -> Headers {
    Headers {
        append_x_forwarded_for: form.append_x_forwarded_for.unwrap_or(false),
        expose_upstream: form.expose_upstream.unwrap_or(false),
    }
}

fn resolve_tls(
    path: &str,
    form: raw::Tls,
    target: &Target,
    protocol: Protocol,
    problems: &mut Problems,
) -> Option<Tls> {
    let at = |field: &str| format!("{}.{field}", at(path, "tls"));
    let client_certificate = match (form.cert_file, form.key_file) {
        (Some(cert_file), Some(key_file)) => Some(ClientCertificate { cert_file, key_file }),
        (None, None) => None,
        (cert_file, _) => {
            let (given, missing) =
                if cert_file.is_some() { ("cert_file", "key_file") } else { ("key_file", "cert_file") };
            if !problems.under(&at(missing)) {
                let fault =
                    Fault::new(format!("missing, and {given} is of no use alone"), "give both or none");
                problems.at(at(missing), fault);
            }
            return None;
        }
    };
    let insecure_skip_verify = form.insecure_skip_verify.unwrap_or(false);
    if insecure_skip_verify && form.ca_file.is_some() {
        let fault = Fault::new("set together with ca_file, which it makes useless", "take one of them out");
        problems.at(at("insecure_skip_verify"), fault);
        return None;
    }
    let usual = match protocol {
        Protocol::Http1 => vec!["http/1.1".to_owned()],
        Protocol::H2c | Protocol::Grpc => vec!["h2".to_owned()],
        Protocol::Auto | Protocol::Tcp => Vec::new(),
    };
    Some(Tls {
        server_name: form.server_name.unwrap_or_else(|| match &target.host {
            Host::Name(name) => name.trim_end_matches('.').to_owned(),
            Host::Ip(ip) => ip.to_string(),
        }),
        ca_file: form.ca_file,
        client_certificate,
        alpn: form.alpn.unwrap_or(usual),
        insecure_skip_verify,
    })
}

/// No two listeners on one address, and none that is its own target.
pub(crate) fn check_addresses(
    entries: &[Entry],
    admin: SocketAddr,
    health: SocketAddr,
    layers: &Layers,
    problems: &mut Problems,
) {
    let server = |key: &'static str, address| (layers.origin(key).to_owned(), key.to_owned(), address);
    // Where an error is reported, how another error refers to it, the address.
    let mut listeners: Vec<(String, String, SocketAddr)> = Vec::new();
    for (path, name, address) in [server("admin.address", admin), server("health.address", health)] {
        if !problems.under(&path) {
            listeners.push((path, name, address));
        }
    }
    for entry in entries {
        if let Some(listen) = entry.listen {
            let path = entry.at("listen");
            let name = match &entry.target {
                Some(target) if path == entry.path => format!("{path} {target}"),
                _ => path.clone(),
            };
            listeners.push((path, name, listen));
        }
    }
    for (index, (path, _, address)) in listeners.iter().enumerate() {
        if let Some((_, other, taken)) = listeners[..index].iter().find(|(.., other)| clash(*address, *other))
        {
            let remedy = "give each its own address or port, e.g. 127.77.0.1 with the same port";
            let fault = Fault::new(format!("the same as, or part of, {other} ({taken})"), remedy);
            problems.about(path, &Value::from(address.to_string()), fault);
        }
    }
    for entry in entries {
        let own = entry.target.as_ref().and_then(literal).filter(|target| {
            listeners.iter().any(|(_, _, address)| {
                (target.ip().is_loopback() || target.ip().is_unspecified()) && clash(*address, *target)
            })
        });
        if let Some(target) = own {
            let remedy = "write the Service's name as the target, or listen on another address or port";
            let fault =
                Fault::new("this sidecar listens there itself, so requests would go round for ever", remedy);
            problems.about(entry.at("target"), &Value::from(target.to_string()), fault);
        }
    }
}

/// The address of a target that needs no discovery.
fn literal(target: &Target) -> Option<SocketAddr> {
    match (&target.host, &target.port) {
        (Host::Ip(ip), TargetPort::Number(port)) => Some(SocketAddr::new(*ip, *port)),
        _ => None,
    }
}

/// True if both cannot be bound. A wildcard covers every address of its family; `[::]` is dual stack.
fn clash(one: SocketAddr, other: SocketAddr) -> bool {
    let covers = |wide: IpAddr, narrow: IpAddr| match wide {
        IpAddr::V4(ip) => ip.is_unspecified() && narrow.is_ipv4(),
        IpAddr::V6(ip) => ip.is_unspecified(),
    };
    let (a, b) = (one.ip().to_canonical(), other.ip().to_canonical());
    one.port() == other.port() && one.port() != 0 && (a == b || covers(a, b) || covers(b, a))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_clashes_with_every_address_it_covers() {
        let clash = |a: &str, b: &str| {
            let (a, b) = (a.parse().unwrap(), b.parse().unwrap());
            assert_eq!(clash(a, b), clash(b, a));
            clash(a, b)
        };
        assert!(clash("127.0.0.1:80", "127.0.0.1:80"));
        assert!(clash("0.0.0.0:80", "127.0.0.1:80"));
        assert!(clash("[::]:80", "127.0.0.1:80"));
        assert!(clash("[::]:80", "0.0.0.0:80"));
        assert!(clash("[::]:80", "[::1]:80"));
        assert!(clash("[::ffff:127.0.0.1]:80", "127.0.0.1:80"));
        assert!(!clash("127.0.0.1:80", "127.0.0.2:80"));
        assert!(!clash("127.0.0.1:80", "127.0.0.1:81"));
        assert!(!clash("0.0.0.0:80", "[::1]:80"));
        assert!(!clash("127.0.0.1:0", "127.0.0.1:0"));
    }
}
