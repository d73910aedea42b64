//! What the app calls, one destination per Service or host, with everything the sidecar must listen on for it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use whichpod_config::{Protocol, raw};

use crate::discover::{Discovered, Discovery, find_port};
use crate::options::HeadlessServices;
use crate::place::{Named, Place};
use crate::service::{Service, ServiceKind, ServicePort, TargetPort};
use crate::settings::Settings;
use crate::upstreams::{Endpoint, Entry, Host, Port};
use crate::warning::{Obstacle, Warning};
use crate::workload::Pod;

/// The most Services of `*`.
pub(crate) const MOST_SERVICES: usize = 100;

/// The most listeners of `*`: the configuration stands in one environment variable, which Linux limits to 128 KiB.
const MOST_LISTENERS: usize = 300;

/// A Service or host that the app calls.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Destination<'a> {
    /// `namespace/name`, or the host: what its loopback address depends on.
    pub(crate) key: String,
    /// In the log and in warnings.
    pub(crate) title: String,
    /// Every name the app may call it by.
    pub(crate) forms: Vec<String>,
    /// Where to listen, if the user says so.
    pub(crate) listen_on: Option<IpAddr>,
    pub(crate) listeners: Vec<Listener>,
    /// Why it cannot be redirected by `hosts` in whatever pod.
    pub(crate) obstacle: Option<Obstacle>,
    /// Ports that nobody named cannot be known.
    pub(crate) partial: bool,
    /// The Service that Kubernetes makes environment variables for in this pod.
    pub(crate) linked: Option<&'a Service>,
    /// One of `*`.
    pub(crate) lazy: bool,
    /// What to tell if it is redirected.
    pub(crate) notes: Vec<Warning>,
}

/// A port that the app may connect to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Listener {
    pub(crate) port: u16,
    /// Whether the user named it.
    pub(crate) named: bool,
    pub(crate) discovered: Discovered,
    pub(crate) protocol: Option<Protocol>,
    /// Why the sidecar cannot serve it at all.
    pub(crate) unspoken: Option<Obstacle>,
}

/// The Services of `*` that were not taken, by reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LeftOut(BTreeMap<&'static str, Vec<String>>);

impl LeftOut {
    pub(crate) fn add(&mut self, reason: &'static str, name: &str) {
        self.0.entry(reason).or_default().push(name.to_owned());
    }

    /// One warning for all of them.
    pub(crate) fn warning(&self, taken: usize) -> Option<Warning> {
        let reasons = self.0.iter().map(|(reason, names)| match names.as_slice() {
            [name] => format!("{name} ({reason})"),
            [name, ..] => format!("{name} and {} more ({reason})", names.len() - 1),
            [] => String::new(),
        });
        let left: Vec<String> = reasons.collect();
        (!left.is_empty()).then(|| Warning::LeftOut { taken, left: left.join(", ") })
    }
}

/// Ports that rarely speak HTTP.
const USUALLY_TCP: [u16; 11] = [25, 443, 587, 3306, 4444, 5432, 6379, 8443, 9300, 11211, 27017];

/// What is behind a port that an entry names.
type Discover<'d> = dyn Fn(&Entry, u16, &mut Vec<Warning>) -> Option<Discovered> + 'd;

/// Finds the destinations of a workload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Finder<'a> {
    pub(crate) discovery: Discovery<'a>,
    pub(crate) settings: &'a Settings,
}

impl<'a> Finder<'a> {
    /// The destinations that are named, in their order.
    pub(crate) fn named(self, warnings: &mut Vec<Warning>) -> Vec<Destination<'a>> {
        let mut groups: Vec<(String, Vec<&'a Entry>)> = Vec::new();
        for entry in &self.settings.upstreams.entries {
            let key = self.key(&entry.call);
            match groups.iter_mut().find(|(known, _)| *known == key) {
                Some((_, entries)) => entries.push(entry),
                None => groups.push((key, vec![entry])),
            }
        }
        groups.into_iter().filter_map(|(key, entries)| self.destination(key, &entries, warnings)).collect()
    }

    /// The Services of `*` besides those that are named already.
    pub(crate) fn all(
        self,
        pod: Pod<'_>,
        named: &[Destination<'_>],
        left: &mut LeftOut,
    ) -> Vec<Destination<'a>> {
        let view = self.discovery.viewpoint;
        let labels = pod.labels();
        let mut all: Vec<Destination<'a>> = Vec::new();
        let mut listeners = 0;
        for service in view.facts.services(view.namespace) {
            let key = service_key(&service.namespace, &service.name);
            let other = service.kind != ServiceKind::ClusterIp || service.twin_of.is_some();
            if other || service.selects(&labels) || named.iter().any(|destination| destination.key == key) {
                continue;
            }
            let name = &service.name;
            let reason = if service.node_local {
                "internalTrafficPolicy: Local"
            } else if service.client_ip_affinity {
                "sessionAffinity"
            } else if service.selector.is_empty() {
                "no selector"
            } else if service.tcp_ports().next().is_none() {
                "no TCP port"
            } else if all.len() == MOST_SERVICES || listeners + service.ports.len() > MOST_LISTENERS {
                "more than can be served"
            } else {
                // What would be told about each of a hundred Services is left unsaid.
                let found =
                    Named { namespace: service.namespace.clone(), name: name.clone(), known: Some(service) };
                let destination = self.cluster_ip(key, &found, service, &[], true, &mut Vec::new());
                let denied = self.discovery.options.headless_services == HeadlessServices::Deny;
                match destination {
                    Some(found)
                        if denied && found.listeners.iter().any(|l| l.discovered.not_headless.is_some()) =>
                    {
                        "no headless twin"
                    }
                    Some(found) => {
                        listeners += found.listeners.len();
                        all.push(found);
                        continue;
                    }
                    None => "no TCP port",
                }
            };
            left.add(reason, name);
        }
        all
    }

    fn key(self, call: &Endpoint) -> String {
        let Host::Name(host) = &call.host else { return call.to_string() };
        match self.discovery.viewpoint.place(host) {
            Place::Service(named) => service_key(&named.namespace, &named.name),
            Place::Pod | Place::Host => host.clone(),
        }
    }

    fn destination(
        self,
        key: String,
        entries: &[&'a Entry],
        warnings: &mut Vec<Warning>,
    ) -> Option<Destination<'a>> {
        let first = entries.first()?;
        let host = match &first.call.host {
            Host::Ip(ip) => return self.local(key, *ip, first, warnings),
            Host::Name(host) => host,
        };
        match self.discovery.viewpoint.place(host) {
            Place::Pod => {
                warnings.push(Warning::PodName { host: host.clone() });
                None
            }
            Place::Host => self.elsewhere(key, host, entries, warnings),
            Place::Service(named) => match named.known {
                Some(service) if service.kind == ServiceKind::Headless => {
                    self.headless(key, &named, service, entries, warnings)
                }
                Some(service) if service.kind == ServiceKind::ClusterIp => {
                    self.cluster_ip(key, &named, service, entries, false, warnings)
                }
                _ => self.unknown(key, &named, entries, warnings),
            },
        }
    }

    /// `127.0.0.1:10000=backend-service:10000`
    fn local(
        self,
        key: String,
        ip: IpAddr,
        entry: &Entry,
        warnings: &mut Vec<Warning>,
    ) -> Option<Destination<'a>> {
        let (Port::Number(port), Some(wanted)) = (&entry.call.port, &entry.discover) else { return None };
        let discovered = self.discovery.explicit(wanted, None, warnings)?;
        let title = match &wanted.host {
            Host::Name(host) => match self.discovery.viewpoint.place(host) {
                Place::Service(named) => self.discovery.title(&named),
                Place::Pod | Place::Host => host.clone(),
            },
            Host::Ip(ip) => ip.to_string(),
        };
        let listener = self.listener(*port, Some(entry), None, discovered, false);
        Some(Destination { listen_on: Some(ip), ..Destination::new(key, title, vec![listener]) })
    }

    /// A host that is no Service: only the named ports are known.
    fn elsewhere(
        self,
        key: String,
        host: &str,
        entries: &[&Entry],
        warnings: &mut Vec<Warning>,
    ) -> Option<Destination<'a>> {
        let discover = |entry: &Entry, port: u16, warnings: &mut Vec<Warning>| match &entry.discover {
            Some(wanted) => self.discovery.explicit(wanted, None, warnings),
            None => format!("{host}:{port}").parse().ok().map(Discovered::of),
        };
        let listeners = self.numbered(entries, &discover, warnings)?;
        let forms = vec![host.to_owned()];
        Some(Destination { forms, partial: true, ..Destination::new(key, host.to_owned(), listeners) })
    }

    /// A Service that is not known (yet), or one that is but another name.
    fn unknown(
        self,
        key: String,
        named: &Named<'_>,
        entries: &[&Entry],
        warnings: &mut Vec<Warning>,
    ) -> Option<Destination<'a>> {
        let fallback = |port| {
            let offline = !self.discovery.viewpoint.facts.is_complete();
            offline.then(|| self.discovery.target(named, &Port::Number(port))).flatten()
        };
        let discover = |entry: &Entry, port: u16, warnings: &mut Vec<Warning>| match &entry.discover {
            Some(wanted) => self.discovery.explicit(wanted, fallback(port), warnings),
            None if named.known.is_some() => {
                warnings.push(Warning::ExternalName { service: self.discovery.title(named) });
                None
            }
            None => self.discovery.missing(named, port, warnings),
        };
        let listeners = self.numbered(entries, &discover, warnings)?;
        let title = self.discovery.title(named);
        Some(Destination { forms: self.forms(named), ..Destination::new(key, title, listeners) })
    }

    fn headless(
        self,
        key: String,
        named: &Named<'_>,
        service: &'a Service,
        entries: &[&Entry],
        warnings: &mut Vec<Warning>,
    ) -> Option<Destination<'a>> {
        let number = |port: &ServicePort| match port.target {
            TargetPort::Number(number) => number,
            TargetPort::Name(_) => port.port,
        };
        let mut calls: BTreeMap<u16, Option<&Entry>> = BTreeMap::new();
        for port in service.tcp_ports() {
            calls.insert(port.port, None);
            calls.insert(number(port), None);
        }
        for entry in entries {
            match (&entry.call.port, find_port(service, &entry.call.port)) {
                (Port::Number(port), _) => drop(calls.insert(*port, Some(entry))),
                (Port::Name(_), Some(port)) => drop(calls.insert(number(port), Some(entry))),
                (port @ Port::Name(_), None) => {
                    warnings.push(self.discovery.port_not_found(named, service, port));
                }
            }
        }
        let mut listeners = Vec::new();
        for (port, entry) in calls {
            let explicit = entry.and_then(|entry| entry.discover.as_ref());
            let explicit = explicit.and_then(|wanted| self.discovery.explicit(wanted, None, warnings));
            let called = Port::Number(port);
            let Some(discovered) =
                explicit.or_else(|| self.discovery.headless(named, service, &called, warnings))
            else {
                continue;
            };
            let app_protocol = find_port(service, &called).and_then(|port| port.app_protocol.as_deref());
            listeners.push(self.listener(port, entry, app_protocol, discovered, false));
        }
        self.of_service(key, named, service, listeners, false)
    }

    /// A Service with a virtual IP; every TCP port of it is served, since a name in the hosts file knows no ports.
    fn cluster_ip(
        self,
        key: String,
        named: &Named<'_>,
        service: &'a Service,
        entries: &[&Entry],
        lazy: bool,
        warnings: &mut Vec<Warning>,
    ) -> Option<Destination<'a>> {
        let mut called: BTreeMap<u16, &Entry> = BTreeMap::new();
        for entry in entries {
            match find_port(service, &entry.call.port) {
                Some(port) => drop(called.insert(port.port, entry)),
                None => warnings.push(self.discovery.port_not_found(named, service, &entry.call.port)),
            }
        }
        if called.is_empty() && !lazy {
            return None;
        }
        let mut listeners = Vec::new();
        let mut seen = BTreeSet::new();
        for port in service.tcp_ports().filter(|port| seen.insert(port.port)) {
            let entry = called.get(&port.port).copied();
            let own = self.discovery.target(named, &Port::Number(port.port));
            let explicit = entry.and_then(|entry| entry.discover.as_ref());
            let explicit = explicit.and_then(|wanted| self.discovery.explicit(wanted, own, warnings));
            let Some(discovered) =
                explicit.or_else(|| self.discovery.cluster_ip(named, service, port, warnings))
            else {
                continue;
            };
            listeners.push(self.listener(port.port, entry, port.app_protocol.as_deref(), discovered, lazy));
        }
        self.of_service(key, named, service, listeners, lazy)
    }

    fn of_service(
        self,
        key: String,
        named: &Named<'_>,
        service: &'a Service,
        listeners: Vec<Listener>,
        lazy: bool,
    ) -> Option<Destination<'a>> {
        if listeners.is_empty() {
            return None;
        }
        let title = self.discovery.title(named);
        let own_namespace = service.namespace == self.discovery.viewpoint.namespace;
        let mut notes = Vec::new();
        if service.client_ip_affinity {
            notes.push(Warning::ClientIpAffinity { service: title.clone() });
        }
        if service.node_local {
            notes.push(Warning::NodeLocal { service: title.clone() });
        }
        if service.traffic_distribution.is_some() {
            notes.push(Warning::TrafficDistribution { service: title.clone() });
        }
        Some(Destination {
            forms: self.forms(named),
            obstacle: service.other_protocols().then_some(Obstacle::OtherProtocol),
            linked: (own_namespace && service.kind == ServiceKind::ClusterIp).then_some(service),
            lazy,
            notes,
            ..Destination::new(key, title, listeners)
        })
    }

    /// Listeners for entries whose host says nothing about its ports.
    fn numbered(
        self,
        entries: &[&Entry],
        discover: &Discover<'_>,
        warnings: &mut Vec<Warning>,
    ) -> Option<Vec<Listener>> {
        let mut listeners: BTreeMap<u16, Listener> = BTreeMap::new();
        for entry in entries {
            let Port::Number(port) = entry.call.port else {
                warnings.push(Warning::PortNumberNeeded { call: entry.call.to_string() });
                continue;
            };
            if let Some(discovered) = discover(entry, port, warnings) {
                listeners.insert(port, self.listener(port, Some(entry), None, discovered, false));
            }
        }
        (!listeners.is_empty()).then(|| listeners.into_values().collect())
    }

    /// A listener with the protocol that a scheme, the annotation or the Service's `appProtocol` gives, in this order.
    fn listener(
        self,
        port: u16,
        entry: Option<&Entry>,
        app_protocol: Option<&str>,
        discovered: Discovered,
        lazy: bool,
    ) -> Listener {
        let named = entry.is_some() || lazy;
        let scheme = entry.and_then(|entry| entry.scheme);
        let annotated = self.settings.configuration.of_named_ports.protocol.filter(|_| named);
        let usual = || USUALLY_TCP.contains(&port).then_some("tcp");
        let word = match (scheme, annotated) {
            (Some(scheme), _) => Some(scheme),
            (None, Some(_)) => None,
            (None, None) => app_protocol.and_then(protocol_word).or_else(usual),
        };
        // The port that the sidecar listens on may be another one, so it is told what the usual one means.
        let (protocol, unspoken) = match word.map(|word| (word, spoken(word))) {
            Some((_, Some(protocol))) => (Some(protocol), None),
            Some((word, None)) => (None, Some(Obstacle::Unspoken { port, protocol: word.to_owned() })),
            None => (annotated, None),
        };
        Listener { port, named, discovered, protocol, unspoken }
    }

    fn forms(self, named: &Named<'_>) -> Vec<String> {
        let view = self.discovery.viewpoint;
        named.forms(view.namespace, view.cluster_domain)
    }
}

impl Destination<'_> {
    fn new(key: String, title: String, listeners: Vec<Listener>) -> Self {
        Destination {
            key,
            title,
            forms: Vec::new(),
            listen_on: None,
            listeners,
            obstacle: None,
            partial: false,
            linked: None,
            lazy: false,
            notes: Vec::new(),
        }
    }
}

fn service_key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

/// What the sidecar speaks is known to its configuration alone.
fn spoken(word: &str) -> Option<Protocol> {
    let mut form = raw::Upstream::default();
    form.set_text("protocol", word).ok()?;
    form.protocol
}

/// What an `appProtocol` means to the sidecar; `None` if it has to look for itself.
fn protocol_word(app_protocol: &str) -> Option<&'static str> {
    match app_protocol.to_ascii_lowercase().as_str() {
        // Of whatever version: who says so may speak HTTP/2 without TLS, too.
        "http" => Some("auto"),
        "http1" | "kubernetes.io/ws" => Some("http1"),
        "kubernetes.io/h2c" | "h2c" | "http2" => Some("h2c"),
        "grpc" => Some("grpc"),
        "https" | "tls" | "tcp" | "kubernetes.io/wss" | "mongo" | "mysql" | "redis" | "postgres"
        | "postgresql" | "kafka" | "amqp" => Some("tcp"),
        _ => None,
    }
}
